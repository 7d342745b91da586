"""Summaries of the cells of a notion, and the intervals that bounds make of them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from ..arrays import checks
from ..notions import Conditionals
from ..notions.cells import check_values
from . import formulas
from .formulas import Number

Values = Real[ArrayLike, " n"] | Bool[ArrayLike, " n"]


class Bound(NamedTuple):
    """Estimates from the sample, and intervals that hold the true values.

    Attributes:
        estimate: on the sample.
        low: lower end.
        high: upper end.
    """

    estimate: Float[Array, "..."]
    low: Float[Array, "..."]
    high: Float[Array, "..."]


class MeanBounds(NamedTuple):
    """Bounds on the means of all cells, or on their conditional risks.

    `jax.tree.map(jnp.max, bounds.largest)` bounds the largest gap of all strata.

    Attributes:
        means: per stratum and group `(s, g)`; the estimate of an empty cell is the
            number of the range next to 0.
        gaps: per stratum and pair `(s, g, g)`: the mean of the first group minus that
            of the second; the estimate is 0 where one of them is empty.
        largest: per stratum `(s,)`, the largest absolute gap. The estimate is that of
            `metrics.max_gap`, over occupied cells; `high` is the whole range where a
            group has no samples, since its gap may be anything.
    """

    means: Bound
    gaps: Bound
    largest: Bound


class Cells(NamedTuple):
    """Counts and moments of each cell, which the bounds on means read."""

    mean: Float[Array, "s g"]
    squares: Float[Array, "s g"]  # sum of squared weights; 1 / n for equal ones
    peak: Float[Array, "s g"]  # largest weight
    members: Float[Array, "s g"]  # their number
    deviation: Float[Array, "s g"]  # of the members, each counted once
    occupied: Bool[Array, "s g"]
    sound: Bool[Array, "s g"]  # all values are in the range


def summarise(
    values: Values,
    cond: Conditionals,
    value_range: tuple[Number, Number],
    *,
    name: str = "values",
) -> tuple[Cells, Float[Array, ""]]:
    """The cells and the length of the range, inside `jit`; see `check_sample`."""
    values = check_values(values, cond, name)
    low, high = (cast(end, values.dtype) for end in value_range)
    weights = cond.weights.astype(values.dtype)
    member = weights > 0
    # A sample outside all cells may hold anything.
    values = jnp.where(member.any(axis=(0, 1)), values, low)
    # Not a matrix product: a NaN in one cell must stay there.
    mean = jnp.where(member, weights * values[None, None], 0).sum(axis=-1)
    count = member.sum(axis=-1).astype(values.dtype)
    safe = jnp.maximum(count, 1)
    centre = jnp.where(member, values[None, None], 0).sum(axis=-1) / safe
    off = jnp.where(member, values[None, None] - centre[..., None], 0)
    variance = jnp.square(off).sum(axis=-1) / jnp.maximum(count - 1, 1)
    inside = (values >= low) & (values <= high)
    sound = jnp.where(member, inside[None, None], True) & disjoint(member)
    sound = sound.all(axis=-1)
    cells = Cells(
        mean=jnp.clip(jnp.where(cond.occupied, mean, 0), low, high),
        squares=jnp.square(weights).sum(axis=-1),
        peak=weights.max(axis=-1, initial=0),
        members=count,
        deviation=formulas.sqrt(variance),
        occupied=cond.occupied,
        sound=sound,
    )
    return cells, high - low


def mean_bounds(
    cells: Cells,
    half: Float[Array, "s g"],
    of_pairs: Float[Array, "s g g"],
    value_range: tuple[Number, Number],
) -> MeanBounds:
    """Intervals of these half-widths, which empty cells have no say in."""
    low, high = (cast(end, half.dtype) for end in value_range)
    span = high - low
    half = jnp.where(cells.occupied, half, span)
    bottom = jnp.clip(cells.mean - half, low, high)
    top = jnp.clip(cells.mean + half, low, high)
    means = Bound(
        cells.mean,
        jnp.where(cells.sound, bottom, -jnp.inf),
        jnp.where(cells.sound, top, jnp.inf),
    )
    filled = both(cells.occupied)
    gap = jnp.where(filled, cells.mean[:, :, None] - cells.mean[:, None, :], 0)
    of_pairs = jnp.where(filled, of_pairs, span)
    sound = both(cells.sound)
    below = jnp.where(sound, jnp.clip(gap - of_pairs, -span, span), -jnp.inf)
    above = jnp.where(sound, jnp.clip(gap + of_pairs, -span, span), jnp.inf)
    gaps = antisymmetric(cells.mean, cells.occupied, below, above)
    return MeanBounds(means, gaps, largest_of(gaps))


def antisymmetric(
    means: Float[Array, "s g"],
    occupied: Bool[Array, "s g"],
    low: Float[Array, "s g g"],
    high: Float[Array, "s g g"],
) -> Bound:
    """Gaps of all pairs; a group has none with itself."""
    off = ~jnp.eye(means.shape[1], dtype=bool)[None]
    gaps = means[:, :, None] - means[:, None, :]
    gaps = jnp.where(off & both(occupied), gaps, 0)
    return Bound(gaps, jnp.where(off, low, 0), jnp.where(off, high, 0))


def largest_of(pairs: Bound) -> Bound:
    """Over the pairs of each stratum, of which each stands in both orders."""
    return Bound(*(end.max(axis=(1, 2), initial=0) for end in pairs))


def pairs(cells: Float[Array, "s g"]) -> Float[Array, "s g g"]:
    """Sums over both cells of a pair."""
    return cells[:, :, None] + cells[:, None, :]


def both(cells: Bool[Array, "s g"]) -> Bool[Array, "s g g"]:
    """True where it holds for both cells of a pair."""
    return cells[:, :, None] & cells[:, None, :]


def numbers_of(occupied: Bool[Array, "s g"]) -> tuple[Array, Array, Array]:
    """Numbers of cells, of pairs, and of the cells that are in a pair."""
    per_stratum = occupied.sum(axis=1)
    pairs = (per_stratum * (per_stratum - 1) // 2).sum()
    compared = jnp.where(per_stratum > 1, per_stratum, 0).sum()
    return per_stratum.sum(), pairs, compared


def widened(cond: Conditionals) -> Conditionals:
    """Weights of 32 bits at least: halves can neither count members nor events."""
    narrow = cond.weights.dtype.itemsize < 4
    weights = cond.weights.astype(jnp.float32) if narrow else cond.weights
    return Conditionals(weights, cond.occupied)


def equal_members(
    cond: Conditionals,
) -> tuple[Bool[Array, "s g n"], Bool[Array, "s g"]]:
    """Who is in each cell, and in which cells all members weigh the same.

    Inside `jit`; see `check_alike`.
    """
    member = cond.weights > 0
    peak = cond.weights.max(axis=-1, keepdims=True, initial=0)
    least = peak * (1 - 8 * jnp.finfo(peak.dtype).eps)
    alike = (~member | (cond.weights >= least)).all(axis=-1)
    return member, alike & disjoint(member).all(axis=-1)


def check_alike(cond: Conditionals) -> None:
    """Raises `ValueError` for cells that share a sample or weigh members unequally."""
    checks.check_disjoint(cond.weights)
    if not checks.concrete(cond.weights):
        return
    weights = np.asarray(cond.weights)
    if weights.dtype.itemsize < 4:
        weights = weights.astype(np.float32)
    peak = weights.max(axis=-1, keepdims=True, initial=0)
    least = peak * (1 - 8 * np.finfo(weights.dtype).eps)
    alike = ((weights <= 0) | (weights >= least)).all(axis=-1)
    if not alike.all():
        stratum, group = np.argwhere(~alike)[0]
        row = weights[stratum, group]
        raise ValueError(
            f"`cond` must weigh the members of a cell alike, but the weights of "
            f"stratum {stratum}, group {group} go from {row[row > 0].min():.3g} to "
            f"{row.max():.3g}. Leave the sample weights out, use a mask, or take a "
            f"bound for weighted means: `hoeffding` or `empirical_bernstein`."
        )


def disjoint(member: Bool[Array, "s g n"]) -> Bool[Array, "s 1 n"]:
    """True for samples in at most one group of a stratum; bounds cover no others."""
    return member.sum(axis=1, keepdims=True) <= 1


def cast(number: Any, dtype: jnp.dtype) -> Float[Array, "..."]:
    """As an array of this dtype, under strict promotion."""
    return jnp.asarray(number).astype(dtype)


def check_sample(
    values: Values,
    cond: Conditionals,
    value_range: tuple[Number, Number],
    *,
    name: str = "values",
) -> None:
    """Raises `ValueError` for what `summarise` cannot see inside `jit`."""
    checks.check_disjoint(cond.weights)
    check_range(values, cond, value_range, name)
    check_finite(values, cond, name)


def check_finite(values: Values, cond: Conditionals, name: str) -> None:
    """Raises `ValueError` for values not finite, or not one per sample of `cond`."""
    checks.check_length(values, n=cond.weights.shape[-1], name=name, to="groups")
    checks.check_finite(values, name=name)


def check_range(
    values: Values, cond: Conditionals, value_range: tuple[Number, Number], name: str
) -> None:
    """Raises `ValueError` for a bad range, or members that are not in it."""
    formulas.check_ends(value_range)
    if not checks.concrete(value_range, values, cond.weights):
        return
    low, high = (float(np.asarray(end)) for end in value_range)
    checks.check_length(values, n=cond.weights.shape[-1], name=name, to="groups")
    checks.check_finite(values, name=name)
    numbers = np.asarray(values, float)
    counted = (np.asarray(cond.weights) > 0).any(axis=(0, 1))
    bad = np.flatnonzero(counted & ((numbers < low) | (numbers > high)))
    if bad.size:
        raise ValueError(
            f"`{name}` must lie in `value_range`, ({low}, {high}), but "
            f"{name}[{bad[0]}] = {numbers[bad[0]]}. Give the range that the values can "
            f"have, or clip them to it."
        )


def check_binary(decisions: Values) -> None:
    """Raises `ValueError` for a decision that is neither 0 nor 1."""
    if not checks.concrete(decisions):
        return
    numbers = np.asarray(decisions)
    bad = np.flatnonzero((numbers != 0) & (numbers != 1))
    if bad.size:
        raise ValueError(
            f"`decisions` must be 0 or 1, but decisions[{bad[0]}] = {numbers[bad[0]]}. "
            f"Threshold scores first, for example with `scores > 0`."
        )
