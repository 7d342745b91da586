"""The formulas behind `metrics`: from the cells of a notion to numbers.

None of them looks at values: checks and units are in `metrics`. Those of means read a
table of means and of which cells are occupied, so that a resample needs two matrix
products and no row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped

from .. import notions
from ..arrays import checks
from ..notions import Conditionals
from ..notions import cells as _distributions


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


def means(values: Float[Array, " n"], cond: Conditionals) -> Float[Array, "s g"]:
    """Mean of the values in every cell, 0 where it is empty."""
    rows = cond.weights.astype(values.dtype)
    # Accelerators otherwise multiply in TF32, which is off by 5e-4.
    found = jnp.einsum("sgn,n->sg", rows, values, precision=Precision.HIGHEST)
    # A mean of the largest numbers may round to infinity, and a gap of two to NaN.
    largest = jnp.finfo(values.dtype).max
    return jnp.clip(found, -largest, largest)


def each(table: Float[Array, "s g"], occupied: Bool[Array, "s g"]) -> Array:
    """The means themselves."""
    del occupied
    return table


def middle(table: Float[Array, "s g"], occupied: Bool[Array, "s g"]) -> Array:
    """Mean of the means of occupied cells."""
    total = jnp.where(occupied, table, 0).sum()
    return total / jnp.maximum(occupied.sum(), 1).astype(table.dtype)


def gap(table: Float[Array, "s g"], occupied: Bool[Array, "s g"]) -> Array:
    """Largest difference of means between two groups of a stratum."""
    top, bottom = extremes(table, occupied)
    return (top - bottom).max(initial=0)


def ratio(table: Float[Array, "s g"], occupied: Bool[Array, "s g"]) -> Array:
    """Smallest ratio of means between two groups of a stratum; 0/0 is 1."""
    top, bottom = extremes(table, occupied)
    some = top >= jnp.finfo(top.dtype).tiny
    return jnp.where(some, bottom / jnp.where(some, top, 1), 1).min(initial=1)


def extremes(
    table: Float[Array, "*#s g"], occupied: Bool[Array, "*#s g"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Largest and smallest mean of each stratum; both 0 without two to compare."""
    top = jnp.where(occupied, table, -jnp.inf).max(axis=-1)
    bottom = jnp.where(occupied, table, jnp.inf).min(axis=-1)
    comparable = occupied.sum(axis=-1) >= 2
    return jnp.where(comparable, top, 0), jnp.where(comparable, bottom, 0)


def last_of_ties(ordered: Float[Array, " n"]) -> Bool[Array, " n"]:
    """Between tied scores the distribution functions have no value of their own."""
    return jnp.append(ordered[1:] != ordered[:-1], True)[: ordered.size]


def highest(
    levels: Float[Array, "s g n"], occupied: Bool[Array, "s g"], last: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Largest difference of distribution functions, samples in score order."""
    top, bottom = extremes(levels.swapaxes(1, 2), occupied[:, None])
    return jnp.where(last, top - bottom, 0).max(initial=0)


def ks(scores: Float[Array, " n"], cond: Conditionals) -> Float[Array, ""]:
    """Largest Kolmogorov-Smirnov distance of two groups of a stratum."""
    order = jnp.argsort(scores)
    levels = _distributions.levels(cond.weights[..., order], cond.occupied)
    return highest(levels, cond.occupied, last_of_ties(scores[order]))


def farthest(
    values: Float[Array, "s g n"],
    widths: Float[Array, "s n"],
    occupied: Bool[Array, "s g"],
    p: int,
) -> Float[Array, ""]:
    """Largest p-Wasserstein distance, from quantile functions as steps."""

    def costs_from(group: Int[Array, ""]) -> Float[Array, "s g"]:
        gaps = jnp.abs(values - values[:, group, None])
        return (gaps**p * widths[:, None]).sum(axis=-1)

    # One group at a time, so that memory stays O(s g n).
    costs = jax.lax.map(costs_from, jnp.arange(occupied.shape[1]))
    pair = occupied[None] & occupied.T[:, :, None] & ~(costs <= 0)
    distances = jnp.where(pair, costs, 1) ** (1 / p)
    return jnp.where(pair, distances, 0).max(initial=0)


def transport(
    scores: Float[Array, " n"], cond: Conditionals, p: int
) -> Float[Array, ""]:
    """Largest p-Wasserstein distance of two groups of a stratum."""
    table = _distributions.quantiles(scores, cond)
    return farthest(table.values, table.widths, cond.occupied, p) * table.unit


def price(
    values: Float[Array, "1 g n"],
    widths: Float[Array, "1 n"],
    shares: Float[Array, " g"],
) -> Float[Array, ""]:
    """Weighted variance of quantile functions around their barycenter."""
    shares = shares.astype(values.dtype)
    barycenter = (shares[:, None] * values[0]).sum(axis=0)
    costs = (jnp.square(values[0] - barycenter[None]) * widths).sum(axis=-1)
    return (shares * costs).sum()


def tabulated(
    decisions: Bool[Array, " n"],
    labels: Bool[Array, " n"],
    cells: Bool[Array, "g n"],
) -> Bool[Array, "2 g 2 n"]:
    """Which samples are of which label, group and decision."""
    sides = jnp.array([False, True])[:, None]
    own_label = (labels[None] == sides)[:, None, None]
    own_decision = (decisions[None] == sides)[None, None]
    return own_label & cells[None, :, None] & own_decision


def gathered(
    mass: Float[Array, "2 g 2"],
    *,
    ks: Float[Array, ""],
    wasserstein: Float[Array, ""],
    counts: Shaped[Array, "2 g"],
) -> Audit:
    """The audit of 4 g samples: one for each label, group and decision."""
    n_groups, weights = mass.shape[1], mass.ravel()
    label, group, decision = (a.ravel() for a in np.indices(mass.shape))
    decisions = jnp.asarray(decision, mass.dtype)
    odds = notions.equalized_odds(group, label, n_groups=n_groups, weights=weights)
    parity = notions.demographic_parity(group, n_groups=n_groups, weights=weights)
    recalls = notions.equalized_odds(
        np.zeros_like(group), label, n_groups=1, weights=weights
    )
    right = jnp.asarray(decision == label, mass.dtype)
    rates, selected = means(decisions, odds), means(decisions, parity)
    return Audit(
        accuracy=means(right, everyone(weights.size, weights))[0, 0],
        balanced_accuracy=middle(means(right, recalls), recalls.occupied),
        demographic_parity=gap(selected, parity.occupied),
        demographic_parity_ratio=ratio(selected, parity.occupied),
        equal_opportunity=gap(rates[1:], odds.occupied[1:]),
        equalized_odds=gap(rates, odds.occupied),
        ks=ks,
        wasserstein=wasserstein,
        selection_rates=selected[0],
        rates=rates,
        counts=counts,
    )


def everyone(n: int, weights: ArrayLike | None) -> Conditionals:
    """All samples as one group: its row is the weights, normalised."""
    zeros = jnp.zeros(n, jnp.int32)
    return notions.demographic_parity(zeros, n_groups=1, weights=weights)


def binary(values: ArrayLike, name: str) -> Bool[Array, " n"]:
    """Checks that values are 0 or 1, one per sample, and returns which are 1."""
    checks.check_length(values, n=np.size(values), name=name)
    checks.check_finite(values, name=name)
    if checks.concrete(values):
        numbers = np.asarray(values)
        bad = np.flatnonzero((numbers != 0) & (numbers != 1))
        if bad.size:
            raise ValueError(
                f"`{name}` must be 0 or 1, but {name}[{bad[0]}] = {numbers[bad[0]]}. "
                f"Threshold scores first, for example with `scores > 0`."
            )
    values = jnp.asarray(values)
    return values if values.dtype == bool else values == 1
