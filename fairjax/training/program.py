"""The compiled programs of a training, for all points of a sweep at once.

Each epoch is a scan over its batches, and a few epochs are one call of one program,
between which the host reports progress and saves the state.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import sweeps
from ..erm import Apply, Batch, Objective, Parts, evaluate
from ..sweeps import checkpoints, devices
from .batches import Plan

Init = Callable[[Array], PyTree]
Data = tuple[Batch, Batch | None, Array]  # training, validation, dual rate


class History(NamedTuple):
    """One number per epoch, from its batches; NaN after the end of a point's training.

    Attributes:
        value: of the objective.
        risk: mean loss.
        penalty: unfairness, without its weight.
        missing: share of the pairs of groups that batches could not compare.
        converged: share of the batches in which an iterative divergence converged.
        validation: objective on the validation samples at the end of the epoch; NaN
            without any.
        multiplier: weight of the unfairness in that epoch.
    """

    value: Float[Array, "*m e"]
    risk: Float[Array, "*m e"]
    penalty: Float[Array, "*m e"]
    missing: Float[Array, "*m e"]
    converged: Float[Array, "*m e"]
    validation: Float[Array, "*m e"]
    multiplier: Float[Array, "*m e"]


class Fit(NamedTuple):
    """A trained model, or one per point of a sweep.

    Attributes:
        params: those of the best validation objective, or without validation those at
            the end; where training diverged, the last finite ones before.
        multiplier: last weight of the unfairness: `lam`, or in constraint mode
            the dual variable, a warm start for a neighbouring tolerance.
        finite: False where a value, slope or parameter became NaN or infinite.
        epochs: how many were trained, fewer than asked for after an early stop.
        history: what happened meanwhile.
    """

    params: PyTree
    multiplier: Float[Array, "*m"]
    finite: Bool[Array, "*m"]
    epochs: Int[Array, "*m"]
    history: History


class State(NamedTuple):
    """Everything that an exact resume needs."""

    params: PyTree
    optimizer: PyTree
    multiplier: Array  # of the unfairness
    peak: Array  # largest unfairness so far
    best: PyTree
    best_value: Array
    waited: Array  # epochs since the best
    running: Array
    finite: Array
    epochs: Array


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings that all points of a sweep share, static for `jit`."""

    apply: Apply
    init: Init
    objective: Objective
    optimizer: optax.GradientTransformation
    epochs: int
    patience: int | None
    constrained: bool
    validated: bool
    plan: Plan | None
    every: int
    strategy: sweeps.Strategy
    mesh: Mesh | None

    def run(
        self,
        data: Data,
        points: dict[str, Array],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        manifest: dict[str, str] | None = None,
        progress: sweeps.Progress | None = None,
    ) -> Fit:
        """Trained models of some points, state by state kept in a checkpoint."""
        start, advance = self._programs
        if self.mesh is not None:
            data = jax.device_put(data, devices.replicated(self.mesh))
            # Arrays that were made under `jax.set_mesh` remember that mesh.
            points = jax.device_get(points)
        state = start((), points)
        state = state if self.mesh is None else jax.device_get(state)
        shapes = advance.eval_shape(data, (points, state))
        lines = checkpoints.describe_shapes("state", shapes) | (manifest or {})
        store = checkpoints.Checkpoint(checkpoint, lines, shapes, name="epochs")
        histories = []
        for number, done in enumerate(range(0, self.epochs, self.every)):
            found = store.load(number)
            if found is None:
                found = jax.device_get(advance(data, (points, state)))
                store.save(number, found)
            state, history = found
            histories.append(history)
            if progress:
                progress(min(done + self.every, self.epochs), self.epochs)
        history = jax.tree.map(
            lambda *parts: np.concatenate(parts, axis=1)[:, : self.epochs], *histories
        )
        return self._as_fit(state, history)

    def shapes(self, points: dict[str, Array]) -> Fit:
        """Shapes and dtypes of what `run` returns."""
        nothing = jnp.zeros((points["seed"].size, self.epochs), jnp.float32)
        history = History(*[nothing] * len(History._fields))
        initial = self.strategy(self.initial_state)
        return jax.eval_shape(lambda p: self._as_fit(initial(p), history), points)

    def digests(self, data: Data, points: dict[str, Array]) -> dict[str, str]:
        """Lines of a manifest: the programs of one point."""
        point = {
            name: jax.ShapeDtypeStruct((), column.dtype)
            for name, column in points.items()
        }
        start, state = jax.make_jaxpr(self.initial_state, return_shape=True)(point)
        epochs = jax.make_jaxpr(self.advance)(data, (point, state))
        return {
            "program of the start": checkpoints.program_digest(start),
            "program of an epoch": checkpoints.program_digest(epochs),
        }

    @functools.cached_property
    def _programs(self) -> tuple[Any, Any]:
        """Compiled `initial_state` and `advance` of many points."""

        def start(_: tuple[()], points: PyTree) -> PyTree:
            return self.strategy(self.initial_state)(points)

        def advance(data: Data, states: PyTree) -> PyTree:
            return self.strategy(functools.partial(self.advance, data))(states)

        return devices.program(start, self.mesh), devices.program(advance, self.mesh)

    def _as_fit(self, state: State, history: History) -> Fit:
        return Fit(
            state.best if self.validated else state.params,
            state.multiplier,
            state.finite,
            state.epochs,
            history,
        )

    def initial_state(self, point: dict[str, Array]) -> State:
        """State of one point before its first epoch."""
        params = self.init(jax.random.fold_in(jax.random.key(point["seed"]), 0))
        params = jax.tree.map(jnp.asarray, params)
        return State(
            params,
            self.optimizer.init(params),
            point["lam"],
            jnp.float32(0),
            params,
            jnp.float32(jnp.inf),
            jnp.int32(0),
            jnp.array(True),
            jnp.array(True),
            jnp.int32(0),
        )

    def advance(
        self, data: Data, start: tuple[dict[str, Array], State]
    ) -> tuple[State, History]:
        """State and history of one point after `every` more epochs."""
        train, validation, dual_rate = data
        point, state = start
        nothing = History(*[jnp.float32(jnp.nan)] * len(History._fields))

        def epoch(state: State, _: None) -> tuple[State, History]:
            weight = state.multiplier
            key = jax.random.fold_in(jax.random.key(point["seed"]), 1)
            key = jax.random.fold_in(key, state.epochs)
            if self.plan is None:
                state, logs = self.step(train, weight, state)
                logs = jax.tree.map(lambda a: a[None], logs)
            else:
                batches = self.plan.draw(key)

                def update(state, rows):
                    return self.step(_take(train, *rows), weight, state)

                state, logs = jax.lax.scan(update, state, batches)
            value, parts = jax.tree.map(lambda a: a.astype(jnp.float32).mean(), logs)
            if self.constrained:
                peak = jnp.maximum(state.peak, parts.penalty)
                excess = (parts.penalty - point["tolerance"]) / jnp.where(
                    peak > 0, peak, 1
                )
                # A multiplier is loss per unfairness: so the rate is a plain number.
                unit = parts.risk / jnp.where(peak > 0, peak, 1)
                grown = jnp.maximum(weight + dual_rate * unit * excess, 0)
                usable = jnp.isfinite(grown) & state.finite
                state = state._replace(
                    multiplier=jnp.where(usable, grown, weight),
                    peak=jnp.where(usable, peak, state.peak),
                )
            checked = jnp.float32(jnp.nan)
            if validation is not None:
                outputs = evaluate(self.apply, state.params, validation)
                checked = self.objective(outputs, validation, weight)[0]
                checked = checked.astype(jnp.float32)
                better = checked < state.best_value
                state = state._replace(
                    best=_where(better, state.params, state.best),
                    best_value=jnp.where(better, checked, state.best_value),
                    waited=jnp.where(better, 0, state.waited + 1),
                )
            state = state._replace(epochs=state.epochs + 1)
            running = state.finite & (state.epochs < self.epochs)
            if self.patience is not None:
                running &= state.waited < self.patience
            state = state._replace(running=running)
            history = History(
                value=value,
                risk=parts.risk,
                penalty=parts.penalty,
                missing=parts.missing,
                converged=parts.converged,
                validation=checked,
                multiplier=weight,
            )
            return state, history

        def guarded(state: State, _: None) -> tuple[State, History]:
            return jax.lax.cond(
                state.running, lambda s: epoch(s, None), lambda s: (s, nothing), state
            )

        return jax.lax.scan(guarded, state, length=self.every)

    def step(
        self, batch: Batch, weight: Array, state: State
    ) -> tuple[State, tuple[Array, Parts]]:
        """State after one update, or after none where it would not be finite."""

        def value(params: PyTree) -> tuple[Array, Parts]:
            return self.objective(evaluate(self.apply, params, batch), batch, weight)

        logs, slopes = jax.value_and_grad(value, has_aux=True)(state.params)
        # optax's arithmetic mixes dtypes and ranks.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, optimizer = self.optimizer.update(
                slopes, state.optimizer, state.params
            )
            params = optax.apply_updates(state.params, updates)
        sound = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
        finite = state.finite & jnp.isfinite(logs[0]) & jnp.stack(sound).all()
        state = state._replace(
            params=_where(finite, params, state.params),
            optimizer=_where(finite, optimizer, state.optimizer),
            finite=finite,
        )
        return state, logs


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _take(train: Batch, rows: Array, weights: Array) -> Batch:
    taken = jax.tree.map(lambda a: a[rows], train._replace(weights=None))
    return taken._replace(weights=weights)
