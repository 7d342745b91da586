"""Guaranteed selection, `fairjax sweep --guarantee`: rows set aside, points tested."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .. import bounds, sweeps
from ..datasets import Dataset, Samples
from ..frontiers import Frontier
from ..notions import Notion


class Guarantee(NamedTuple):
    """Limit and confidence as asked for; the confidence is that of all notions."""

    limit: float
    confidence: float


class GuaranteeResult(NamedTuple):
    """The guarantee of one notion.

    Attributes:
        selection: the test of all points.
        guarantee: as it was asked for.
        n_rows: of the safety set.
    """

    selection: bounds.Selection
    guarantee: Guarantee
    n_rows: int


def parse(limit: float | None, confidence: float | None) -> Guarantee | None:
    """Reads both options."""
    if limit is None:
        if confidence is not None:
            raise ValueError("`--confidence` has no use without `--guarantee`.")
        return None
    found = Guarantee(limit, 0.95 if confidence is None else confidence)
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
    features = _standardised(data.features, rows[~safe])
    learn = data._replace(
        features=features[kept],
        labels=data.labels[kept],
        groups=data.groups[kept],
        is_train=data.is_train[kept],
    )
    safety = Samples(features[rows[safe]], part.labels[safe], part.groups[safe])
    return learn, safety


def select(
    found: Frontier,
    decisions: Bool[np.ndarray, "m n"],
    safety: Samples,
    *,
    notion: Notion,
    guarantee: Guarantee,
    n_notions: int,
    names: Sequence[Sequence[str]],
) -> tuple[Frontier, GuaranteeResult]:
    """Tests the points on the front of the cross-validated numbers.

    Args:
        found: fitted without the safety set.
        decisions: of all points on the safety set.
        safety: from `set_aside`.
        notion: that of the frontier.
        guarantee: as the user asks for it.
        n_notions: which share the probability of an error.
        names: of the cells, by stratum and group.

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
        limit=guarantee.limit,
        confidence=1 - (1 - guarantee.confidence) / n_notions,
        decisions=decisions,
        cond=notion(
            jnp.asarray(safety.groups),
            jnp.asarray(safety.labels),
            n_groups=len(names[0]),
        ),
        names=names,
    )
    index = -1 if selection.chosen is None else selection.chosen
    result = GuaranteeResult(selection, guarantee, len(safety.labels))
    return found._replace(selected=index), result


def _standardised(
    features: Float[np.ndarray, "n d"], rows: np.ndarray
) -> Float[np.ndarray, "n d"]:
    """Numbers with mean 0 and variance 1 over these rows; 0 where these are alike."""
    part = features[rows].astype(float)
    one_hot = ((features == 0) | (features == 1)).all(axis=0)
    alike = part.min(axis=0) == part.max(axis=0)
    shift = np.where(one_hot, 0, part.mean(axis=0))
    spread = np.where(one_hot | alike, 1, part.std(axis=0))
    return np.where(alike, 0, (features - shift) / spread).astype(features.dtype)
