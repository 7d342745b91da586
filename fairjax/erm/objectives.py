"""Objectives of training: risk plus `lam` times unfairness, for one task or many.

An objective reads what a model puts out and the batch that it was given; it does not
know the model. Unfairness is any function of values and conditionals, so a penalty acts
on scores, on a representation, or on both at once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from .. import notions
from ..arrays import checks

Apply = Callable[..., Any]
Penalty = Callable[[Array, notions.Conditionals], Any]


class Batch(NamedTuple):
    """Samples: a whole part of the data, or a mini-batch of it.

    Attributes:
        features: inputs of the model.
        labels: 0 or 1, or real for a regression.
        groups: codes.
        weights: non-negative sample weights, or a mask; None counts all alike.
        tasks: which task a sample belongs to; None if there is only one.
    """

    features: Float[Array, "n d"]
    labels: Real[Array, " n"]
    groups: Int[Array, " n"]
    weights: Real[Array, " n"] | Bool[Array, " n"] | None = None
    tasks: Int[Array, " n"] | None = None


class Outputs(NamedTuple):
    """Scores and representation that a model gives to samples.

    Attributes:
        scores: real outputs.
        representation: of the last hidden layer; the scores again if there is none.
    """

    scores: Float[Array, " n"]
    representation: Float[Array, "n k"]


class Parts(NamedTuple):
    """The named parts of an objective, for a training log.

    Attributes:
        risk: mean loss, averaged over tasks.
        penalty: unfairness, not yet multiplied by `lam`.
        missing: share of the pairs of groups that the samples could not compare, as far
            as the penalty tells (`*_info` functions do).
        converged: False if an iterative divergence was cut short somewhere.
    """

    risk: Float[Array, ""]
    penalty: Float[Array, ""]
    missing: Float[Array, ""]
    converged: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class Objective:
    """Risk plus `lam` times unfairness; made by `erm.objective`."""

    loss: Callable[[Array, Array], Array]
    notion: notions.Notion
    n_groups: int
    on_scores: Penalty | None
    on_representation: Penalty | None
    n_tasks: int | None
    per_task: bool

    def __call__(
        self, outputs: Outputs, batch: Batch, lam: float | Real[Array, ""]
    ) -> tuple[Float[Array, ""], Parts]:
        """The value to minimise and its parts: `value_and_grad(..., has_aux=True)`.

        Args:
            outputs: of the model on the batch.
            batch: the samples.
            lam: weight of the unfairness, traced.

        Returns:
            `risk + lam * penalty`, and both with what there is to log.

        Raises:
            ValueError: for a batch without tasks where there are several, scores that
                are not one per label, and as the penalties and notions do.
        """
        if self.n_tasks is not None and batch.tasks is None:
            raise ValueError(
                f"`batch.tasks` must say which of {self.n_tasks} tasks each sample "
                f"belongs to, but is None."
            )
        scores = outputs.scores
        n = jnp.shape(batch.labels)[0]
        checks.check_length(scores, n=n, name="outputs.scores", to="batch.labels")
        risk, present = self._risk(scores, batch)
        cond = self.conditionals(batch)
        found = []
        for penalty, values in (
            (self.on_scores, scores),
            (self.on_representation, outputs.representation),
        ):
            if penalty is not None:
                found.append(_logged(penalty(values, cond), scores.dtype))
        per = present if self.per_task else jnp.ones_like(risk)
        total = sum((f[0] for f in found), jnp.zeros_like(risk)) / per
        parts = Parts(
            risk,
            total,
            jnp.max(jnp.stack([f[1] for f in found])) if found else 0 * risk,
            jnp.all(jnp.stack([f[2] for f in found])) if found else jnp.array(True),
        )
        return risk + jnp.asarray(lam).astype(risk.dtype) * total, parts

    def conditionals(self, batch: Batch) -> notions.Conditionals:
        """The distributions that the penalties compare in a batch."""
        cond = self.notion(
            batch.groups, batch.labels, n_groups=self.n_groups, weights=batch.weights
        )
        if self.per_task and self.n_tasks is not None and batch.tasks is not None:
            return notions.within(cond, batch.tasks, n_strata=self.n_tasks)
        return cond

    def _risk(self, scores: Array, batch: Batch) -> tuple[Array, Array]:
        """Mean loss over samples, then over the tasks that have any; and how many."""
        values = self.loss(scores, batch.labels)
        mass = jnp.ones_like(values)
        if batch.weights is not None:
            checks.check_weights(batch.weights, n=len(values))
            mass = batch.weights.astype(values.dtype)
        tasks, n_tasks = jnp.zeros(values.shape, jnp.int32), 1
        if self.n_tasks is not None and batch.tasks is not None:
            tasks, n_tasks = batch.tasks, self.n_tasks
        totals = jax.ops.segment_sum(mass, tasks, n_tasks)
        sums = jax.ops.segment_sum(mass * values, tasks, n_tasks)
        some = totals > 0
        risks = jnp.where(some, sums / jnp.where(some, totals, 1), 0)
        present = jnp.maximum(some.sum(), 1).astype(values.dtype)
        return risks.sum() / present, present


def evaluate(apply: Apply, params: PyTree, batch: Batch) -> Outputs:
    """Scores and representation of a model on samples, as objectives read them.

    Args:
        apply: `apply(params, features)` to scores (n,) or (n, 1), or to `Outputs`;
            called with `tasks` as a third argument where the batch has them.
        params: of one model.
        batch: samples; their tasks are passed on where there are any.

    Raises:
        ValueError: for scores that are not one per sample.

    Example:
        >>> batch = Batch(jnp.eye(2), jnp.array([0, 1]), jnp.array([0, 1]))
        >>> evaluate(lambda w, x: x @ w, jnp.array([1.0, 2.0]), batch).scores.tolist()
        [1.0, 2.0]
    """
    extra = () if batch.tasks is None else (batch.tasks,)
    found = apply(params, batch.features, *extra)
    scores, hidden = found if isinstance(found, tuple) else (found, None)
    n = batch.features.shape[0]
    if scores.shape not in ((n,), (n, 1)):
        raise ValueError(
            f"`apply` must return scores of shape ({n},) or ({n}, 1), but they have "
            f"shape {scores.shape}."
        )
    scores = scores.reshape(n)
    return Outputs(scores, scores[:, None] if hidden is None else hidden)


def objective(
    *,
    loss: Callable[[Array, Array], Array],
    notion: notions.Notion,
    n_groups: int,
    on_scores: Penalty | None = None,
    on_representation: Penalty | None = None,
    n_tasks: int | None = None,
    per_task: bool = False,
) -> Objective:
    """Composes `risk + lam * penalty` for training, with its parts by name.

    Args:
        loss: pointwise, such as `erm.logistic`.
        notion: a function of `notions`.
        n_groups: how many groups there are.
        on_scores: a penalty of the scores (n,), such as `penalties.mean_gap_info`.
        on_representation: a penalty of the representation (n, k), such as
            `functools.partial(penalties.divergence_gap_info, divergence=...)`. With
            both, they are added.
        n_tasks: how many tasks share the model; the risk is then the mean over tasks of
            each one's mean loss, whatever their sizes. None for one task.
        per_task: whether groups are compared inside each task, and the penalties
            averaged over tasks; else samples of all tasks are compared together.

    Returns:
        A function of outputs, batch and `lam`. Weights of a batch, as
        `training.stratified_batches` gives them, enter the risk and the notion alike.
        Without a penalty it is the risk alone, at any `lam`.

    Raises:
        ValueError: for fewer than two groups, or `per_task` without tasks.

    Example:
        >>> from fairjax import erm, penalties
        >>> composed = erm.objective(
        ...     loss=erm.squared, notion=notions.demographic_parity, n_groups=2,
        ...     on_scores=penalties.mean_gap_info)
        >>> scores = jnp.array([0.0, 2.0])
        >>> batch = erm.Batch(scores[:, None], scores, jnp.array([0, 1]))
        >>> value, parts = composed(erm.Outputs(scores, scores[:, None]), batch, 0.5)
        >>> value.item(), parts.risk.item(), parts.penalty.item()
        (2.0, 0.0, 4.0)

    References:
        Oneto, Donini, Luise, Ciliberto, Maurer, Pontil, *Exploiting MMD and Sinkhorn
        divergences for fair and transferable representation learning*, NeurIPS 2020:
        the average risk of the tasks plus a penalty on their shared representation.
    """
    if n_groups < 2:
        raise ValueError(f"`n_groups` must be at least 2, but is {n_groups}.")
    if n_tasks is not None and n_tasks < 1:
        raise ValueError(f"`n_tasks` must be at least 1, but is {n_tasks}.")
    if per_task and n_tasks is None:
        raise ValueError("`per_task` needs `n_tasks`, but it is None.")
    return Objective(
        loss, notion, n_groups, on_scores, on_representation, n_tasks, per_task
    )


def _logged(found: Any, dtype: Any) -> tuple[Array, Array, Array]:
    """Value, missing share and convergence, whatever a penalty returns."""
    if hasattr(found, "dtype"):
        return found.astype(dtype), jnp.zeros((), dtype), jnp.array(True)
    details = getattr(found, "details", None)
    converged = getattr(details, "converged", jnp.array(True))
    return found.value.astype(dtype), found.missing.astype(dtype), converged.all()
