"""Statistics of the cells of a notion: means, distribution functions, distances.

The only ones of the package; metrics, bounds and penalties read them. Cells are rows of
weights. Distribution and quantile functions are steps over the samples in the order of
their scores, exact for unequal weights, sizes and ties. Of arrays `(s, g, n)` no more
than a few are held at a time: pairs of groups are compared one group after the other.
Without jit, a call would compile each operation on its own.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from ..arrays import checks, samples
from .notions import Conditionals


class Quantiles(NamedTuple):
    """Quantile functions as steps: `values * unit`, on intervals of these `widths`."""

    values: Float[Array, "s g n"]
    widths: Float[Array, "s n"]
    unit: Float[Array, ""]


def check_values(
    values: ArrayLike, cond: Conditionals, name: str, *, columns: bool = False
) -> Float[Array, " n"] | Float[Array, "n k"]:
    """The values as floats, after the checks that all statistics of cells share.

    Integers and booleans get the dtype of the weights, floats the wider of both.

    Args:
        values: one per sample.
        cond: from a notion.
        name: of the values, for errors.
        columns: static; whether a sample may have several values.

    Raises:
        ValueError: for values that are not finite, or not one per sample of `cond`.
    """
    n = cond.weights.shape[-1]
    checks.check_length(values, n=n, name=name, to="groups", columns=columns)
    checks.check_finite(values, name=name)
    values = jnp.asarray(values)
    # Strict promotion would refuse to choose.
    wider = jnp.issubdtype(values.dtype, jnp.floating) and (
        jnp.finfo(values.dtype).bits > jnp.finfo(cond.weights.dtype).bits
    )
    return values if wider else values.astype(cond.weights.dtype)


@jax.jit
def cell_means(
    values: Float[Array, "n *k"], cond: Conditionals
) -> Float[Array, "s g *k"]:
    """Mean of the values in every cell, 0 where it is empty; cost O(s g n k).

    Args:
        values: from `check_values`.
        cond: from a notion.
    """
    rows = cond.weights.astype(values.dtype)
    # Accelerators otherwise multiply in TF32, which is off by 5e-4.
    means = jnp.einsum("sgn,n...->sg...", rows, values, precision=Precision.HIGHEST)
    # A mean of the largest numbers may round to infinity, and a gap of two to NaN.
    largest = jnp.finfo(values.dtype).max
    return jnp.clip(means, -largest, largest)


@jax.jit
def cell_extremes(
    means: Float[Array, "*#s g"], occupied: Bool[Array, "*#s g"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Largest and smallest mean of each stratum; both 0 without two to compare."""
    top = jnp.where(occupied, means, -jnp.inf).max(axis=-1)
    bottom = jnp.where(occupied, means, jnp.inf).min(axis=-1)
    comparable = occupied.sum(axis=-1) >= 2
    return jnp.where(comparable, top, 0), jnp.where(comparable, bottom, 0)


def cell_cdfs(weights: Float[Array, "*s n"]) -> Float[Array, "*s n"]:
    """Distribution function of each cell at every sample, samples in score order.

    Cells of equal weights have levels that tie exactly, whatever their sizes.

    Args:
        weights: not negative, of any sum; a cell without weight has levels of 0.
    """
    # Equal weights become ones, so that their sums are whole numbers and their levels
    # tie exactly across groups; XLA's w * (1 / w) need not be 1, hence the correction.
    peak = jax.lax.stop_gradient(weights.max(axis=-1, keepdims=True, initial=0))
    occupied = peak > 0
    mass = weights / jnp.where(occupied, peak, 1)
    whole = occupied & (weights == peak)
    mass += jax.lax.stop_gradient(jnp.where(whole, 1 - mass, 0))
    # Between members the level stays at the last one's, whatever the sums' rounding.
    index = jnp.arange(weights.shape[-1]).reshape((1,) * (weights.ndim - 1) + (-1,))
    member = jnp.where(weights > 0, index, 0)
    latest = jax.lax.cummax(member, axis=weights.ndim - 1)
    sums = jnp.take_along_axis(jnp.cumsum(mass, axis=-1), latest, axis=-1)
    # Equal to the last sum everywhere, but not a broadcast: again no reciprocal.
    total = jnp.maximum(sums, sums[..., -1:])
    return sums / jnp.where(occupied, total, 1)


def last_of_ties(ordered: Float[Array, " n"]) -> Bool[Array, " n"]:
    """Samples at which a distribution function can be read: the last of equal scores.

    Between tied scores it has no value of its own.
    """
    return jnp.append(ordered[1:] != ordered[:-1], True)[: ordered.size]


@jax.jit
def max_cdf_gap(
    cdfs: Float[Array, "s g n"], occupied: Bool[Array, "s g"], last: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Largest Kolmogorov-Smirnov distance of two cells of a stratum.

    Args:
        cdfs: from `cell_cdfs`.
        occupied: cells to compare.
        last: from `last_of_ties`.
    """
    top, bottom = cell_extremes(cdfs.swapaxes(1, 2), occupied[:, None])
    return jnp.where(last, top - bottom, 0).max(initial=0)


@jax.jit
def pairwise_ks_distances(
    cdfs: Float[Array, "s g n"], last: Bool[Array, " n"]
) -> Float[Array, "s g g"]:
    """Kolmogorov-Smirnov distance of each pair of cells; cost O(s g^2 n).

    Args:
        cdfs: from `cell_cdfs`.
        last: from `last_of_ties`.
    """

    def distances_from(group: Array) -> Array:
        gaps = jnp.abs(cdfs - cdfs[:, group, None])
        return jnp.where(last[None, None], gaps, 0).max(axis=-1, initial=0)

    # One group at a time, so that memory stays O(s g n).
    return jax.lax.map(distances_from, jnp.arange(cdfs.shape[1])).swapaxes(0, 1)


@jax.jit
def ordered_cdfs(
    scores: Float[Array, " n"], cond: Conditionals
) -> tuple[Float[Array, "s g n"], Bool[Array, " n"]]:
    """Distribution functions in score order, and where they can be read."""
    order = jnp.argsort(scores)
    return cell_cdfs(cond.weights[..., order]), last_of_ties(scores[order])


@jax.jit
def max_ks_distance(scores: Float[Array, " n"], cond: Conditionals) -> Float[Array, ""]:
    """Largest Kolmogorov-Smirnov distance of two groups of a stratum."""
    cdfs, last = ordered_cdfs(scores, cond)
    return max_cdf_gap(cdfs, cond.occupied, last)


def cell_quantiles(
    scores: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"], cond: Conditionals
) -> Quantiles:
    """Quantile functions of all cells, on the levels at which any of them steps.

    At most one step per sample; cost O(s n log n + s g n).

    Raises:
        ValueError: as `check_values`, and for a sample in two groups of one stratum.
    """
    checks.check_disjoint(cond.weights)
    return _quantiles(check_values(scores, cond, "scores"), cond)


@jax.jit
def _quantiles(scores: Float[Array, " n"], cond: Conditionals) -> Quantiles:
    # Inside `jit`, too, one that is in two groups must not pass for a number.
    shared = ((cond.weights > 0).sum(axis=1) > 1).any()
    scores = jnp.where(shared, jnp.nan, scores)
    scaled, unit = samples.rescaled(scores, (cond.weights > 0).any(axis=(0, 1)))
    order = jnp.argsort(scores)
    values, widths = quantile_steps(scaled[order], cond.weights[..., order])
    return Quantiles(values, widths, unit)


@jax.jit
def quantile_steps(
    ordered: Float[Array, " n"], weights: Float[Array, "s g n"]
) -> tuple[Float[Array, "s g n"], Float[Array, "s n"]]:
    """Values and widths of the quantile functions, for samples in score order."""
    ends = jnp.where(weights > 0, cell_cdfs(weights), 0).sum(axis=1)
    turns = jnp.argsort(ends, axis=-1)
    ends = jnp.take_along_axis(ends, turns, axis=-1).astype(ordered.dtype)
    widths = jnp.diff(ends, axis=-1, prepend=0)
    # On each step, a cell's quantile is its next member at or after that level.
    member = jnp.take_along_axis(weights > 0, turns[:, None], axis=-1)
    ranks = jnp.where(member, turns[:, None], ordered.shape[0] - 1)
    ranks = jax.lax.cummin(ranks, axis=2, reverse=True)
    return ordered[ranks], widths


@functools.partial(jax.jit, static_argnames="p")
def max_quantile_distance(
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


def max_wasserstein(
    scores: Float[Array, " n"], cond: Conditionals, p: int
) -> Float[Array, ""]:
    """Largest p-Wasserstein distance of two groups of a stratum."""
    steps = cell_quantiles(scores, cond)
    distance = max_quantile_distance(steps.values, steps.widths, cond.occupied, p)
    return distance * steps.unit
