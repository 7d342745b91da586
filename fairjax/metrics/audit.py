"""All numbers of a classifier, from the mass of each label, group and decision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped

from .. import notions
from ..arrays import checks
from ..notions import Conditionals
from ..notions.cells import (
    cell_means,
    check_values,
    max_ks_distance,
    max_wasserstein,
)
from . import rates
from .rates import Numbers


class Audit(NamedTuple):
    """The numbers of one classifier on one sample; `g` is the number of groups.

    Attributes:
        accuracy: share of right decisions, in [0, 1].
        balanced_accuracy: mean of the two labels' accuracies, in [0, 1].
        demographic_parity: largest difference of selection rates, in [0, 1].
        demographic_parity_ratio: smallest ratio of selection rates, in [0, 1]; the
            "four-fifths rule" asks for 0.8.
        equal_opportunity: largest difference of true positive rates, in [0, 1].
        equalized_odds: the larger one of the differences of true and of false positive
            rates, in [0, 1].
        ks: Kolmogorov-Smirnov distance of the groups' scores, in [0, 1].
        wasserstein: first Wasserstein distance of the groups' scores [score].
        selection_rates: per group, 0 for a group without members.
        rates: per label and group: false positive rates, then true positive rates.
        counts: samples with positive weight, per label and group.
    """

    accuracy: Float[Array, ""]
    balanced_accuracy: Float[Array, ""]
    demographic_parity: Float[Array, ""]
    demographic_parity_ratio: Float[Array, ""]
    equal_opportunity: Float[Array, ""]
    equalized_odds: Float[Array, ""]
    ks: Float[Array, ""]
    wasserstein: Float[Array, ""]
    selection_rates: Float[Array, " g"]
    rates: Float[Array, "2 g"]
    counts: Int[Array, "2 g"]


def audit(
    scores: Numbers,
    labels: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    threshold: float | Float[Array, ""] = 0.0,
    weights: Numbers | None = None,
) -> Audit:
    """All numbers for a classifier whose decisions are `scores > threshold`.

    Args:
        scores: real outputs of a model; for bare decisions pass `threshold=0.5`.
        labels: 0 or 1; 1 is the favourable outcome.
        groups: codes in `[0, n_groups)`.
        n_groups: static.
        threshold: what a score must exceed.
        weights: non-negative sample weights, or a mask.

    Returns:
        The audit; cost O(n log n + g^2 n).

    Raises:
        ValueError: for scores or a threshold that are not finite, labels other than 0
            and 1, codes out of range, bad weights, or lengths that differ.

    Example:
        >>> numbers = audit(jnp.array([1.0, -1.0, 2.0]), jnp.array([1, 1, 1]),
        ...     jnp.array([0, 0, 1]), n_groups=2)
        >>> numbers.equal_opportunity.item(), numbers.counts.tolist()
        (0.5, [[0, 0], [2, 1]])
    """
    scores, parity, cells, mass = audit_values(
        scores, labels, groups, n_groups=n_groups, threshold=threshold, weights=weights
    )
    return _audit(scores, parity, cells, mass)


@jax.jit
def _audit(
    scores: Float[Array, " n"],
    parity: Conditionals,
    cells: Bool[Array, "2 g 2 n"],
    mass: Float[Array, " n"],
) -> Audit:
    """`audit` after its checks; one program."""
    return audit_of_mass(
        jnp.where(cells, mass[None, None, None], 0).sum(axis=-1),
        ks=max_ks_distance(scores, parity),
        wasserstein=max_wasserstein(scores, parity, 1),
        counts=cells.sum(axis=(2, 3)),
    )


def audit_values(
    scores: Numbers,
    labels: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    threshold: float | Float[Array, ""] = 0.0,
    weights: Numbers | None = None,
) -> tuple[
    Float[Array, " n"], Conditionals, Bool[Array, "2 g 2 n"], Float[Array, " n"]
]:
    """Scores, cells of demographic parity, entries of `audit_of_mass`, and weights.

    The third says which samples are of which label, group and decision.
    """
    checks.check_finite(threshold, name="threshold")
    positive = rates.binary(labels, "labels")
    parity = notions.demographic_parity(groups, n_groups=n_groups, weights=weights)
    checks.check_disjoint(parity.weights)
    n = parity.weights.shape[-1]
    checks.check_length(positive, n=n, name="labels", to="groups")
    scores = check_values(scores, parity, "scores")
    decisions = scores > jnp.asarray(threshold).astype(scores.dtype)
    mass = rates.everyone(n, weights).weights[0, 0]
    sides = jnp.array([False, True])[:, None]
    own_label = (positive[None] == sides)[:, None, None]
    own_decision = (decisions[None] == sides)[None, None]
    member = (parity.weights[0] > 0)[None, :, None]
    return scores, parity, own_label & member & own_decision, mass


@jax.jit
def audit_of_mass(
    mass: Float[Array, "2 g 2"],
    *,
    ks: Float[Array, ""],
    wasserstein: Float[Array, ""],
    counts: Shaped[Array, "2 g"],
) -> Audit:
    """The audit of 4 g samples: one for each label, group and decision."""
    n_groups, weights = mass.shape[1], mass.ravel()
    label, group, decision = (a.ravel() for a in np.indices(mass.shape))
    odds = notions.equalized_odds(group, label, n_groups=n_groups, weights=weights)
    parity = notions.demographic_parity(group, n_groups=n_groups, weights=weights)
    recalls = notions.equalized_odds(
        np.zeros_like(group), label, n_groups=1, weights=weights
    )
    decisions = jnp.asarray(decision, mass.dtype)
    right = jnp.asarray(decision == label, mass.dtype)
    by_label, selected = cell_means(decisions, odds), cell_means(decisions, parity)
    by_truth = cell_means(right, recalls)
    return Audit(
        accuracy=cell_means(right, rates.everyone(weights.size, weights))[0, 0],
        balanced_accuracy=rates.mean_of_means(by_truth, recalls.occupied),
        demographic_parity=rates.mean_gap(selected, parity.occupied),
        demographic_parity_ratio=rates.mean_ratio(selected, parity.occupied),
        equal_opportunity=rates.mean_gap(by_label[1:], odds.occupied[1:]),
        equalized_odds=rates.mean_gap(by_label, odds.occupied),
        ks=ks,
        wasserstein=wasserstein,
        selection_rates=selected[0],
        rates=by_label,
        counts=counts,
    )
