"""What `fairjax sweep --guarantee` adds: rows set aside, a point that is promised."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .. import bounds, frontiers, kernels, solvers, sweeps
from ..datasets import Dataset, Samples
from ..frontiers.network import decide as network_decisions
from ..notions import Notion

Decide = Callable[[frontiers.Frontier, Samples, Samples], Bool[np.ndarray, "m n"]]


class Wish(NamedTuple):
    """What the options ask for; the confidence is that of all notions together."""

    limit: float
    confidence: float


class Promise(NamedTuple):
    """What one notion was promised.

    Attributes:
        selection: the test of all points.
        wish: what was asked for.
        n_rows: of the safety set.
    """

    selection: bounds.Selection
    wish: Wish
    n_rows: int


def wish(guarantee: float | None, confidence: float | None) -> Wish | None:
    """Reads both options."""
    if guarantee is None:
        if confidence is not None:
            raise ValueError("`--confidence` has no use without `--guarantee`.")
        return None
    found = Wish(guarantee, 0.95 if confidence is None else confidence)
    for option, value in zip(("--guarantee", "--confidence"), found, strict=True):
        if not 0 < value < 1:
            raise ValueError(f"`{option}` must lie in (0, 1), but is {value:g}.")
    return found


def set_aside(data: Dataset, seed: int) -> tuple[Dataset, Samples]:
    """Splits a safety set off the training part, of which the rest knows nothing.

    Scales of numbers were learned from the whole training part: they are learned again
    from what is left of it, which undoes the first ones.

    Args:
        data: with labels 0 and 1.
        seed: of the split.

    Returns:
        The dataset without the safety set, and the safety set.
    """
    rows, part = np.flatnonzero(data.is_train), data.train
    safe = np.asarray(
        sweeps.safety_split(part.labels, part.groups, key=jax.random.key(seed))
    )
    kept = np.ones(data.is_train.size, bool)
    kept[rows[safe]] = False
    features = _scaled(data.features, rows[~safe])
    learn = data._replace(
        features=features[kept],
        labels=data.labels[kept],
        groups=data.groups[kept],
        is_train=data.is_train[kept],
    )
    safety = Samples(features[rows[safe]], part.labels[safe], part.groups[safe])
    return learn, safety


def by_coefficients(
    found: frontiers.Frontier, train: Samples, safety: Samples
) -> Bool[np.ndarray, "m n"]:
    """Decisions of linear models."""
    del train
    scores = found.coefficients.astype(float) @ safety.features.T.astype(float)
    return scores + found.intercept[:, None] > 0


def by_kernel(
    found: frontiers.Frontier,
    train: Samples,
    safety: Samples,
    *,
    kernel: kernels.Kernel,
) -> Bool[np.ndarray, "m n"]:
    """Decisions of kernel machines."""
    fit = solvers.KernelFit(
        coefficients=found.coefficients,
        intercept=found.intercept,
        dual=found.coefficients,
        multipliers=np.zeros((found.strength.size, 0)),
        objective=found.objective,
        gap=found.gap,
        violation=found.violation,
        iterations=found.iterations,
        converged=found.converged,
        bandwidth=found.bandwidth,
    )
    return solvers.predict(fit, train.features, safety.features, kernel=kernel) > 0


def by_network(
    found: frontiers.Frontier,
    train: Samples,
    safety: Samples,
    *,
    widths: Sequence[int],
) -> Bool[np.ndarray, "m n"]:
    """Decisions of networks."""
    del train
    return network_decisions(found, widths, safety.features)


def promise(
    found: frontiers.Frontier,
    data: Dataset,
    safety: Samples,
    *,
    notion: Notion,
    wanted: Wish,
    n_notions: int,
    decide: Decide,
    names: Sequence[Sequence[str]],
) -> tuple[frontiers.Frontier, Promise]:
    """Tests the points on the front of the cross-validated numbers.

    Args:
        found: fitted without the safety set.
        data: what it was fitted on.
        safety: from `set_aside`.
        notion: that of the frontier.
        wanted: by the user.
        n_notions: which share the probability of a false promise.
        decide: the decisions of all points on the safety set.
        names: of the cells.

    Returns:
        The frontier, its selection replaced (-1 for none), and what was tested.
    """
    front = sweeps.pareto_front(
        np.where(found.converged, found.cv_accuracy, np.nan), found.cv_unfairness
    )
    selection = bounds.select_guaranteed(
        found.cv_accuracy,
        found.cv_unfairness,
        valid=front if found.converged.any() else None,
        limit=wanted.limit,
        confidence=1 - (1 - wanted.confidence) / n_notions,
        decisions=decide(found, data.train, safety),
        cond=notion(
            jnp.asarray(safety.groups),
            jnp.asarray(safety.labels),
            n_groups=data.n_groups,
        ),
        names=names,
    )
    index = -1 if selection.chosen is None else selection.chosen
    made = Promise(selection, wanted, len(safety.labels))
    return found._replace(selected=index), made


def _scaled(
    features: Float[np.ndarray, "n d"], rows: np.ndarray
) -> Float[np.ndarray, "n d"]:
    """Numbers with mean 0 and variance 1 over these rows; 0 where these are alike."""
    part = features[rows].astype(float)
    one_hot = ((features == 0) | (features == 1)).all(axis=0)
    alike = part.min(axis=0) == part.max(axis=0)
    shift = np.where(one_hot, 0, part.mean(axis=0))
    spread = np.where(one_hot | alike, 1, part.std(axis=0))
    return np.where(alike, 0, (features - shift) / spread).astype(features.dtype)
