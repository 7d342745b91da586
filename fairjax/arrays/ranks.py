"""Sorted cells with integer ranks: the numerics under the barycenter map.

A table holds scores sorted inside cells, a cell being a contiguous slice. Ranks are
counts, or cumulative weights in integer units, so no rank is off by one at any size.
Equal scores are ordered by a second key, the tie, where a table has one.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Shaped, UInt32

from . import samples

MAX_ROWS = 2**25  # above it `proportion` could leave 32 bits
_TIE_BITS = 16  # with 32 for the score and 15 for the cell, one sortable 64-bit word
_MASS_BITS, _FRACTION_BITS = 24, 30  # of a cell's weight, and below its unit
LAST_TIE = 2**_TIE_BITS - 1


class Table(NamedTuple):
    """Scores sorted inside cells; the cells' slices belong to the user of the table.

    Attributes:
        scores: sorted inside each cell.
        ties: order of equal scores; shape (0,) where they have none.
        first: index of the first entry of the same cell and score.
        last: one after the last such index.
        mass: cumulative weight inside the cell, in integer units; shape (0,) when
            all weights are equal, and ranks are counts.
    """

    scores: Float[Array, " n"]
    ties: UInt32[Array, " t"]
    first: Int[Array, " n"]
    last: Int[Array, " n"]
    mass: Int[Array, " m"]


def build(
    scores: Float[Array, " n"],
    cells: Int[Array, " n"],
    ties: UInt32[Array, " n"] | None,
    weights: Float[Array, " n"] | None,
    *,
    n_cells: int,
) -> tuple[Table, Int[Array, "c 2"], Float[Array, " c"]]:
    """The table, the bounds of each cell's slice, and each cell's weight.

    Rows of a cell `n_cells` or above stand at the end of the table, in no slice. Sorts
    once, in O(n log n): one 64-bit integer per row for float32 scores without weights.
    """
    n = scores.shape[0]
    sizes = jnp.zeros(n_cells + 1, jnp.int32).at[cells].add(1)[:-1]
    stops = jnp.cumsum(sizes)
    slices = jnp.stack([stops - sizes, stops], axis=1)
    keys = jnp.zeros(0, jnp.uint32) if ties is None else ties
    if weights is None:
        scores, keys = _sort(scores, cells, keys, n_cells)
        mass, totals = jnp.zeros(0, jnp.int32), sizes.astype(scores.dtype)
    else:
        order = _argsort(lax.stop_gradient(scores), cells, keys, n_cells)
        scores, keys = scores[order], keys if ties is None else keys[order]
        mass, totals = _cumulative(weights[order], cells[order], slices)
    index = jnp.arange(n, dtype=jnp.int32)
    opens = jnp.zeros(n + 1, bool).at[stops].set(True)[:n].at[0].set(True)
    fresh = opens | jnp.concatenate([jnp.ones(1, bool), scores[1:] != scores[:-1]])
    first = lax.cummax(jnp.where(fresh, index, 0))
    ending = jnp.concatenate([fresh[1:], jnp.ones(1, bool)])
    last = lax.cummin(jnp.where(ending, index + 1, n), reverse=True)
    return Table(scores, keys, first, last, mass), slices, totals


def position(
    table: Table,
    scores: Float[Array, " k"],
    ties: UInt32[Array, " k"],
    start: Int[Array, " k"],
    stop: Int[Array, " k"],
) -> Int[Array, " k"]:
    """Index after the last entry of the slice at or below (score, tie)."""
    entries, x = lax.stop_gradient((table.scores, scores))

    def before(index):
        entry = gather(entries, index)
        if not table.ties.shape[0]:
            return entry <= x
        return (entry < x) | ((entry == x) & (gather(table.ties, index) <= ties))

    return _bisect(before, start, stop, entries.shape[0])


def locate(
    table: Table, mass: Int[Array, " k"], start: Int[Array, ""], stop: Int[Array, ""]
) -> Int[Array, " k"]:
    """Index of the entry that covers this much mass, the nearest one if none does."""
    if not table.mass.shape[0]:
        return start + jnp.clip(mass, 0, jnp.maximum(stop - start - 1, 0))
    n = table.mass.shape[0]
    begin, end = jnp.full(mass.shape, start), jnp.full(mass.shape, stop)
    index = _bisect(lambda i: gather(table.mass, i) <= mass, begin, end, n)
    return jnp.clip(index, 0, jnp.maximum(stop - 1, start))


def mass_before(
    table: Table, index: Int[Array, "*k"], start: Int[Array, "*#k"]
) -> Int[Array, "*k"]:
    """Integer mass of the entries from `start` to before `index`."""
    if not table.mass.shape[0]:
        return index - start
    return jnp.where(index > start, gather(table.mass, jnp.maximum(index - 1, 0)), 0)


def proportion(
    amount: Int[Array, "*k"], size: Int[Array, "*#k"], total: Int[Array, "*#k"]
) -> tuple[Int[Array, "*k"], Int[Array, "*k"]]:
    """Quotient and rest of `amount * size / total`, exact without 64-bit integers.

    With amounts and totals below 2^26, the float quotient is off by less than 18, so
    the remainder fits in 32 bits, and wrapped products give it exactly.
    """
    total = jnp.maximum(total, 1)
    divisor = total.astype(jnp.float32)
    guess = jnp.floor(amount.astype(jnp.float32) * (size.astype(jnp.float32) / divisor))
    whole = guess.astype(jnp.int32)
    rest = amount * size - whole * total
    miss = jnp.floor(rest.astype(jnp.float32) / divisor).astype(jnp.int32)
    whole, rest = whole + miss, rest - miss * total
    miss = jnp.where(rest < 0, -1, jnp.where(rest >= total, 1, 0))
    return whole + miss, rest - miss * total


def variance(
    table: Table, slices: Int[Array, "g 2"], shares: Float[Array, " g"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Share-weighted W2 variance of the slices, as a number times `unit^2`.

    Exact for unequal sizes, weights and ties: all quantile functions are walked at
    once, one step per entry. O(n log n + g n) time, O(n) memory.
    """
    index = jnp.arange(table.scores.shape[0], dtype=jnp.int32)
    cell = jnp.searchsorted(slices[:, 0], index, side="right").astype(jnp.int32) - 1
    start, stop = slices[cell, 0], slices[cell, 1]
    inside = index < stop
    scores, unit = samples.rescaled(table.scores, inside)
    total = jnp.maximum(mass_before(table, stop, start), 1).astype(scores.dtype)
    levels = mass_before(table, index + 1, start).astype(scores.dtype) / total
    steps = jnp.argsort(jnp.where(inside, levels, 2))
    widths = jnp.where(inside, levels, 1)[steps]
    widths = jnp.diff(widths, prepend=0)
    cell = jnp.where(inside, cell, -1)[steps]

    def quantile(group, start, stop):
        # On each step, the next member of the group at or after that level.
        member = (cell == group).astype(jnp.int32)
        at = start + jnp.cumsum(member, dtype=jnp.int32) - member
        return gather(scores, jnp.clip(at, 0, jnp.maximum(stop - 1, 0)))

    groups = (jnp.arange(shares.shape[0], dtype=jnp.int32), *slices.T, shares)

    @jax.checkpoint
    def average(total, group):
        *where, share = group
        return total + share * quantile(*where), None

    @jax.checkpoint
    def spread(total, group):
        *where, share = group
        gaps = jnp.square(quantile(*where) - middle)
        return total + share * jnp.sum(widths * gaps), None

    middle = lax.scan(average, jnp.zeros_like(scores), groups)[0]
    return lax.scan(spread, jnp.zeros((), scores.dtype), groups)[0], unit


def fraction(
    values: Float[Array, " k"], left: Float[Array, " k"], right: Float[Array, " k"]
) -> Float[Array, " k"]:
    """Position of values between `left` and `right`, in [0, 1]; 0 where these agree."""
    small = _small(left, right)
    gap = right * small - left * small
    way = values * small - left * small
    return jnp.where(gap > 0, way / jnp.where(gap > 0, gap, 1), 0)


def blend(
    start: Float[Array, " k"], end: Float[Array, " k"], t: Float[Array, "*#k"]
) -> Float[Array, " k"]:
    """`(1 - t) start + t end`, exact at both ends and never beyond them."""
    small = _small(start, end)
    way = end * small - start * small
    t, back = t / small, (1 - t) / small
    return jnp.where(t * small < 0.5, start + t * way, end - back * way)


def first_half(
    cells: Int[Array, " n"], bits: UInt32[Array, " n"], *, n_cells: int
) -> Array:
    """True for rows in the random first half of their cell, the larger one if odd."""
    with jax.enable_x64(True):
        high = lax.shift_left(_wide(cells), jnp.int64(32))
        ranked = lax.sort(high | _wide(bits)).astype(jnp.uint32)
    sizes = jnp.zeros(n_cells + 1, jnp.int32).at[cells].add(1)
    middle = jnp.cumsum(sizes, dtype=jnp.int32) - sizes + (sizes + 1) // 2 - 1
    return bits <= ranked[jnp.maximum(middle, 0)][cells]


def cell_order(
    scores: Float[Array, " k"], cells: Int[Array, " k"], *, n_cells: int
) -> Int[Array, " k"]:
    """An order by cell and about by score, in which searches use the cache.

    One integer sort: the leading bits of both stand above those of the row's index. It
    is exact if all 32 bits of the scores have room (`_spare_bits`).
    """
    index = jnp.arange(scores.shape[0], dtype=jnp.int32)
    spare = _spare_bits(index, n_cells)
    index_bits = index.shape[0].bit_length()
    with jax.enable_x64(True):
        bits = _wide(_ordered_bits(scores.astype(jnp.float32)))
        bits = lax.shift_right_logical(bits, jnp.int64(max(32 - spare, 0)))
        place = lax.shift_left(_wide(cells), jnp.int64(min(32, spare))) | bits
        packed = lax.sort(lax.shift_left(place, jnp.int64(index_bits)) | _wide(index))
        return (packed & jnp.int64(2**index_bits - 1)).astype(jnp.int32)


def random_bits(key: PRNGKeyArray, rows: Int[Array, " n"]) -> UInt32[Array, " n"]:
    """Random bits of each row, a function of key and identifier alone."""
    # Only threefry keys promise that a vmapped draw is that of a loop.
    data = jax.random.bits(key, (2,), jnp.uint32)
    seed = jax.random.wrap_key_data(data, impl="threefry2x32")
    draw = jax.vmap(
        lambda r: jax.random.bits(jax.random.fold_in(seed, r), dtype=jnp.uint32)
    )
    return draw(rows.astype(jnp.uint32))


def jitter(
    scores: Float[Array, " n"], sigma: Float[Array, ""], bits: UInt32[Array, " n"]
) -> tuple[Float[Array, " n"], UInt32[Array, " n"]]:
    """Scores moved by up to `sigma`, and ties that order those which stay equal."""
    info = jnp.finfo(scores.dtype)
    # Few digits, so that the product is exact: whether a compiler fuses it with the
    # sum must not decide the rank of a calibration score that is looked up again.
    half = lax.reduce_precision(sigma, info.nexp, 11)
    uniform = (bits >> 20).astype(scores.dtype) * 2.0**-11 - 1
    moved = jnp.clip(scores + half * uniform, -info.max, info.max)
    return moved, bits & LAST_TIE


def gather(table: Shaped[Array, " n"], index: Int[Array, "*k"]) -> Shaped[Array, "*k"]:
    """Entries at indices that are known to lie inside the table."""
    return table.at[index].get(mode="promise_in_bounds")


def codes(groups: ArrayLike, n_groups: int) -> Int[Array, " n"]:
    """The codes as int32, with `n_groups` for an unknown one."""
    groups = jnp.asarray(groups)
    if groups.dtype.itemsize < 4:
        groups = groups.astype(jnp.int32)
    known = (groups >= 0) & (groups < n_groups)
    return jnp.where(known, groups, n_groups).astype(jnp.int32)


def floating(values: ArrayLike) -> Float[Array, "..."]:
    """The values as floats of at least 32 bits."""
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return values.astype(jax.dtypes.canonicalize_dtype(float))
    return values.astype(jnp.float32) if values.dtype.itemsize < 4 else values


@jax.custom_jvp
def constant(weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """The weights, for which a gradient is refused: ranks are integers."""
    return weights


@partial(constant.defjvp, symbolic_zeros=True)
def _constant_jvp(primals, tangents):
    if not isinstance(tangents[0], SymbolicZero):
        raise TypeError(
            "`weights` count as repetitions, in integers, so there is no gradient with "
            "respect to them. Pass them through `jax.lax.stop_gradient`."
        )
    return primals[0], jnp.zeros_like(primals[0])


def _bisect(before, start, stop, n):
    """First index of each slice `[start, stop)` where `before` is False."""
    steps = n.bit_length()

    def halve(i, at):
        ahead = at + lax.shift_left(jnp.int32(1), jnp.int32(steps - 1) - i)
        good = (ahead <= stop) & before(jnp.clip(ahead, 1, n) - 1)
        return jnp.where(good, ahead, at)

    return lax.fori_loop(jnp.int32(0), jnp.int32(steps), halve, start)


def _cumulative(weights, cells, slices):
    """Cumulative integer mass inside each cell, and each cell's weight.

    Scaling by powers of two keeps integer weights exact, so they count as repetitions;
    fractions of a unit are summed too, so a rank is within 2^-24 of the cell's weight.
    """
    kept = cells < slices.shape[0]
    weights = jnp.where(kept & jnp.isfinite(weights), weights, 0)
    # By cell, so that no group vanishes next to one of much larger weights.
    zeros = jnp.zeros(slices.shape[0] + 1, weights.dtype)
    peak = jnp.frexp(zeros.at[cells].max(weights))[1]
    weights = jnp.ldexp(weights, -peak[cells])
    exponent = _MASS_BITS - jnp.frexp(zeros.at[cells].add(weights))[1]
    weights = jnp.ldexp(weights, exponent[cells] + _FRACTION_BITS)
    with jax.enable_x64(True):
        # Wraps with many cells, which differences inside a cell do not notice.
        units = jnp.cumsum(_wide(jnp.round(weights)))
        begin = jnp.concatenate([slices[:, 0], slices[-1:, 1]])
        base = jnp.where(begin > 0, units[jnp.maximum(begin - 1, 0)], jnp.int64(0))
        mass = units - base[cells] + jnp.int64(2 ** (_FRACTION_BITS - 1))
        mass = lax.shift_right_arithmetic(mass, jnp.int64(_FRACTION_BITS))
        mass = mass.astype(jnp.int32)
    full = jnp.where(slices[:, 1] > slices[:, 0], mass[slices[:, 1] - 1], 0)
    filled = full > 0
    scale = jnp.where(filled, peak[:-1] - exponent[:-1], jnp.iinfo(jnp.int32).min // 2)
    return mass, jnp.ldexp(full.astype(weights.dtype), scale - jnp.max(scale))


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _sort(scores, cells, ties, n_cells):
    """Sorts by cell, then score, then tie; without the permutation, which is slow."""
    tied = (ties,) if ties.shape[0] else ()
    if not _packs(scores, n_cells):
        ordered = lax.sort((cells, scores, *tied), num_keys=2 + len(tied))
        return ordered[1], ordered[2] if tied else ties
    with jax.enable_x64(True):
        packed = lax.sort(_pack(scores, cells, ties))
        bits = lax.shift_right_logical(packed, jnp.int64(_TIE_BITS)).astype(jnp.uint32)
        if tied:
            ties = (packed & jnp.int64(LAST_TIE)).astype(jnp.uint32)
    sign = jnp.uint32(1 << 31)
    bits = jnp.where(bits >= sign, bits ^ sign, ~bits)
    return lax.bitcast_convert_type(bits, jnp.float32), ties


@_sort.defjvp
def _sort_jvp(n_cells, primals, tangents):
    scores, cells, ties = primals
    order = _argsort(scores, cells, ties, n_cells)
    none = np.zeros(ties.shape, jax.dtypes.float0)
    ties = ties[order] if ties.shape[0] else ties
    return (scores[order], ties), (tangents[0][order], none)


def _argsort(scores, cells, ties, n_cells):
    index = jnp.arange(scores.shape[0], dtype=jnp.int32)
    tied = (ties,) if ties.shape[0] else ()
    if scores.dtype == jnp.float32 and not tied and _spare_bits(index, n_cells) >= 32:
        return cell_order(scores, cells, n_cells=n_cells)
    if not _packs(scores, n_cells):
        keys = (cells, scores, *tied)
        return lax.sort((*keys, index), num_keys=len(keys))[-1]
    with jax.enable_x64(True):
        return lax.sort((_pack(scores, cells, ties), index), num_keys=1)[1]


def _spare_bits(index, n_cells):
    """Bits of a non-negative 64-bit integer that a row's index and cell leave free."""
    return 63 - index.shape[0].bit_length() - n_cells.bit_length()


def _packs(scores, n_cells):
    return scores.dtype == jnp.float32 and n_cells < 2 ** (31 - _TIE_BITS)


def _pack(scores, cells, ties):
    """One integer whose order is that of (cell, score, tie); needs 64 bits.

    XLA sorts one integer operand on CPU several times faster than floats or pairs.
    """
    high = lax.shift_left(_wide(cells), jnp.int64(32 + _TIE_BITS))
    low = lax.shift_left(_wide(_ordered_bits(scores)), jnp.int64(_TIE_BITS))
    return high | low | _wide(ties) if ties.shape[0] else high | low


def _ordered_bits(scores):
    """The bits of 32-bit floats as integers of the same order."""
    bits = lax.bitcast_convert_type(scores, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    bits = jnp.where(scores == 0, jnp.uint32(0), bits)  # -0.0 and 0.0 are equal
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _small(left, right):
    """1, or 1/2 where the difference of the two could overflow."""
    large = jnp.maximum(jnp.abs(left), jnp.abs(right)) > jnp.finfo(left.dtype).max / 2
    return lax.stop_gradient(jnp.where(large, 0.5, 1).astype(left.dtype))


def _wide(array):
    return lax.convert_element_type(array, jnp.int64)
