"""Flax modules: parameters, and calls to the pure functions.

All are thin. What they compute is in `erm`, `penalties` and `barycenters`, which take
any model: your own nnx module, a linen one, or a bare function `apply(params, x)`.
`functional` turns an nnx module into such functions, for `training.fit` and for loops
of your own.

Importing this module imports Flax; `import fairjax` alone does not.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree, Real

from . import barycenters
from .erm import Batch, Objective, Outputs, Parts, evaluate


class LinearModel(nnx.Module):
    """Scores `features @ w + b`; the features are their own representation.

    Args:
        n_features: width of the features.
        rngs: `nnx.Rngs(seed)`.

    Example:
        >>> model = LinearModel(3, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((2, 3))).scores.shape
        (2,)
    """

    def __init__(self, n_features: int, *, rngs: nnx.Rngs):
        self.head = nnx.Linear(n_features, 1, rngs=rngs)

    def __call__(self, features: Float[Array, "n d"]) -> Outputs:
        """Scores and representation of each row."""
        return Outputs(self.head(features)[:, 0], features)


class Encoder(nnx.Module):
    """Dense layers, each with an activation: features to a representation.

    Args:
        n_features: width of the features.
        widths: of the layers, at least one.
        activation: of one number, such as `nnx.relu`.
        rngs: `nnx.Rngs(seed)`.

    Raises:
        ValueError: for no layers.
    """

    def __init__(
        self,
        n_features: int,
        widths: Sequence[int],
        *,
        activation: Callable[[Array], Array] = nnx.relu,
        rngs: nnx.Rngs,
    ):
        if not widths:
            raise ValueError("`widths` must name at least one layer, but is empty.")
        sizes = [n_features, *widths]
        self.layers = nnx.List(
            nnx.Linear(before, after, rngs=rngs)
            for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.activation = activation

    def __call__(self, features: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """The representation of each row."""
        for layer in self.layers:
            features = self.activation(layer(features))
        return features


class MLP(nnx.Module):
    """An encoder and a linear head: the representation is the last hidden layer.

    Args:
        n_features: width of the features.
        widths: of the hidden layers, at least one.
        activation: of one number.
        rngs: `nnx.Rngs(seed)`.

    Example:
        >>> model = MLP(3, [8, 4], rngs=nnx.Rngs(0))
        >>> found = model(jnp.ones((2, 3)))
        >>> found.scores.shape, found.representation.shape
        ((2,), (2, 4))
    """

    def __init__(
        self,
        n_features: int,
        widths: Sequence[int],
        *,
        activation: Callable[[Array], Array] = nnx.relu,
        rngs: nnx.Rngs,
    ):
        self.encoder = Encoder(n_features, widths, activation=activation, rngs=rngs)
        self.head = nnx.Linear(widths[-1], 1, rngs=rngs)

    def __call__(self, features: Float[Array, "n d"]) -> Outputs:
        """Scores and representation of each row."""
        hidden = self.encoder(features)
        return Outputs(self.head(hidden)[:, 0], hidden)


class SharedRepresentation(nnx.Module):
    """One encoder for all tasks, and a linear head for each.

    A new task needs a new head only: `model.encoder(features)` is what transfers.

    Args:
        n_features: width of the features.
        widths: of the encoder's layers, at least one.
        n_tasks: how many heads.
        activation: of one number.
        rngs: `nnx.Rngs(seed)`.

    Example:
        >>> model = SharedRepresentation(3, [4], n_tasks=5, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((2, 3)), jnp.array([0, 4])).scores.shape
        (2,)

    References:
        Oneto et al., NeurIPS 2020, section 3: `f_t = h_t . phi` with a shared `phi`.
    """

    def __init__(
        self,
        n_features: int,
        widths: Sequence[int],
        *,
        n_tasks: int,
        activation: Callable[[Array], Array] = nnx.relu,
        rngs: nnx.Rngs,
    ):
        self.encoder = Encoder(n_features, widths, activation=activation, rngs=rngs)
        spread = widths[-1] ** -0.5
        start = jax.random.normal(rngs.params(), (n_tasks, widths[-1]))
        self.heads = nnx.Param(spread * start)
        self.intercepts = nnx.Param(jnp.zeros(n_tasks))

    def __call__(
        self, features: Float[Array, "n d"], tasks: Int[Array, " n"]
    ) -> Outputs:
        """Scores by the head of each row's task, and the shared representation."""
        hidden = self.encoder(features)
        own = self.heads[...][tasks], self.intercepts[...][tasks]
        return Outputs((own[0] * hidden).sum(axis=-1) + own[1], hidden)


class FairModel(nnx.Module):
    """A model with its objective.

    Args:
        model: any module that returns scores or `erm.Outputs`.
        objective: from `erm.objective`.

    Example:
        >>> from fairjax import erm, notions, penalties
        >>> objective = erm.objective(
        ...     loss=erm.logistic, notion=notions.demographic_parity, n_groups=2,
        ...     on_scores=penalties.mean_gap_info)
        >>> model = FairModel(LinearModel(2, rngs=nnx.Rngs(0)), objective)
        >>> batch = erm.Batch(jnp.eye(2), jnp.array([0, 1]), jnp.array([0, 1]))
        >>> value, parts = model.loss(batch, lam=0.5)
        >>> bool(value == parts.risk + 0.5 * parts.penalty)
        True
    """

    def __init__(self, model: nnx.Module, objective: Objective):
        self.model = model
        self.objective = objective

    def __call__(self, features: Float[Array, "n d"], *tasks: Array) -> Any:
        """The outputs of the model."""
        return self.model(features, *tasks)

    def loss(
        self, batch: Batch, *, lam: float | Real[Array, ""]
    ) -> tuple[Float[Array, ""], Parts]:
        """The objective on a batch: for `nnx.value_and_grad(..., has_aux=True)`."""

        def call(_, *inputs):
            return self.model(*inputs)

        return self.objective(evaluate(call, None, batch), batch, lam)


class BarycenterHead(nnx.Module):
    """A trained model whose scores go through the map to their barycenter.

    Args:
        model: any module that returns scores or `erm.Outputs`.
        fair_map: from `barycenters.fit_map`, of this model's scores.

    Example:
        >>> model = LinearModel(2, rngs=nnx.Rngs(0))
        >>> features, groups = jnp.eye(2)[jnp.array([0, 1, 0, 1])], jnp.arange(4) // 2
        >>> fair_map = barycenters.fit_map(
        ...     model(features).scores, groups, n_groups=2)
        >>> head = BarycenterHead(model, fair_map)
        >>> head(features, groups).shape
        (4,)

    References:
        Chzhen et al., NeurIPS 2020, the optimal fair predictor.
    """

    def __init__(self, model: nnx.Module, fair_map: barycenters.BarycenterMap):
        self.model = model
        self.fair_map = nnx.data(fair_map)

    def __call__(
        self,
        features: Float[Array, "n d"],
        groups: Int[Array, " n"],
        *,
        repair: float | Real[Array, ""] = 1.0,
    ) -> Float[Array, " n"]:
        """Fair scores; see `barycenters.apply_map`."""
        found = self.model(features)
        scores = found.scores if isinstance(found, Outputs) else found
        return barycenters.apply_map(
            self.fair_map, scores.reshape(-1), groups, repair=repair
        )


class Functional(NamedTuple):
    """A module as pure functions.

    Attributes:
        apply: `apply(params, *inputs)`, what the module returns.
        init: from a key to parameters.
        build: from parameters to a module.
    """

    apply: Callable[..., Any]
    init: Callable[[Key[Array, ""]], PyTree]
    build: Callable[[PyTree], Any]


def functional(make: Callable[[nnx.Rngs], nnx.Module]) -> Functional:
    """Takes a module apart, for `training.fit` or a loop of your own.

    Args:
        make: makes the module from `nnx.Rngs`.

    Returns:
        Pure functions. Everything the module holds counts as a parameter; modules with
        running statistics or dropout want a loop of their own.

    Example:
        >>> apply, init, build = functional(lambda rngs: MLP(3, [4], rngs=rngs))
        >>> params = init(jax.random.key(0))
        >>> apply(params, jnp.ones((2, 3))).scores.shape
        (2,)
        >>> type(build(params)).__name__
        'MLP'
    """
    shapes = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    structure = nnx.graphdef(shapes)

    def init(key: Array) -> PyTree:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key))))

    def build(params: PyTree) -> Any:
        state = nnx.state(shapes)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(structure, state)

    def apply(params: PyTree, *inputs: Array) -> Any:
        return build(params)(*inputs)

    return Functional(apply, init, build)


def save(module: nnx.Module, directory: str | os.PathLike[str]) -> None:
    """Writes the parameters of a module to a new directory, with orbax.

    Args:
        module: any nnx module.
        directory: must not exist yet; nothing half-written is ever left there.

    Raises:
        ValueError: for a directory that is there already, or cannot be made.
    """
    import orbax.checkpoint as ocp

    path = pathlib.Path(directory).absolute()
    if path.exists():
        raise ValueError(
            f"`directory` {str(path)!r} is there already. Name a new one, or remove it."
        )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, nnx.to_pure_dict(nnx.state(module)))
    except OSError as error:
        raise ValueError(
            f"`directory` {str(path)!r} cannot be made: {error}."
        ) from error


def load(module: nnx.Module, directory: str | os.PathLike[str]) -> None:
    """Reads parameters into a module of the same structure.

    Args:
        module: made like the one that was saved; its parameters are replaced.
        directory: that `save` wrote.

    Raises:
        ValueError: for no checkpoint there, or one of another model: the message names
            the parameters that differ, and the module stays as it was.
    """
    import orbax.checkpoint as ocp

    path = pathlib.Path(directory).absolute()
    if not path.is_dir():
        raise ValueError(f"`directory` {str(path)!r} holds no checkpoint.")
    state = nnx.state(module)
    want = nnx.to_pure_dict(state)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            found = _forms(checkpointer.metadata(path).item_metadata.tree)
        except (AttributeError, FileNotFoundError, ValueError) as error:
            raise ValueError(
                f"`directory` {str(path)!r} holds no checkpoint: {error}."
            ) from error
        here = _forms(want)
        differ = [
            f"{name} is {found.get(name, 'absent')} there, {here.get(name, 'absent')} "
            f"here"
            for name in sorted(found.keys() | here.keys())
            if found.get(name) != here.get(name)
        ]
        if differ:
            raise ValueError(
                f"`directory` {str(path)!r} holds another model: {'; '.join(differ)}."
            )
        nnx.replace_by_pure_dict(state, checkpointer.restore(path, want))
    nnx.update(module, state)


def _forms(tree: PyTree) -> dict[str, str]:
    """Dtype and shape of every leaf, by its path."""
    return {
        # On disk the places in a list are names, too.
        "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): (
            f"{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
