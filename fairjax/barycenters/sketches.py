"""Calibration in chunks, for data that do not fit memory or lie on several devices.

A sketch is a histogram of scores per group that also knows the mean of each bin. Adding
rows and merging sketches are sums, so neither adds to the error: `F` stays exact at
every edge, and any rank is off by no more than the weight of a bin
(`sketch_rank_error`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Real, Shaped

from ..arrays import checks, ranks, samples
from . import maps
from .maps import BarycenterMap


class Sketch(NamedTuple):
    """A mergeable summary of calibration scores; a pytree of arrays.

    Attributes:
        edges: increasing inner bin edges, the same in all sketches to be merged.
        counts: weight per group and bin.
        offsets: weighted sum of (score - edge on the left; in the first bin, on the
            right).
    """

    edges: Float[Array, " b"]
    counts: Float[Array, "g b+1"]
    offsets: Float[Array, "g b+1"]


def init_sketch(edges: Real[ArrayLike, " b"], *, n_groups: int) -> Sketch:
    """An empty sketch with `len(edges) + 1` bins per group, the outer two open.

    With `step`, any rank is then off by at most the share of its group's largest bin,
    with `interp` by 1.5 times that, and with `step` any quantile between the edges by
    at most its bin's width. Even edges suit probabilities; quantiles of a first chunk,
    `jnp.quantile(chunk, jnp.linspace(0, 1, 4097)[1:-1])`, other scores.

    Args:
        edges: increasing, finite, at least one [score].
        n_groups: static.

    Returns:
        The sketch, in O(g b) time and memory.

    Raises:
        ValueError: unless the edges are finite and increase strictly.

    Example:
        >>> sketch = init_sketch(jnp.linspace(0, 1, 129), n_groups=2)
        >>> sketch = update_sketch(sketch, jnp.array([0.25, 0.75]), jnp.array([0, 1]))
        >>> fitted = fit_map_from_sketch(sketch)
        >>> maps.apply_map(fitted, jnp.array([0.25]), jnp.array([0]))
        Array([0.5], dtype=float32)
    """
    checks.check_finite(edges, name="edges")
    values = ranks.floating(edges)
    if not values.shape[0]:
        raise ValueError("`edges` must hold at least one edge, but is empty.")
    if checks.concrete(values) and not (np.diff(np.asarray(values)) > 0).all():
        raise ValueError(
            "`edges` must increase strictly. Drop repeated ones with `jnp.unique`."
        )
    empty = jnp.zeros((n_groups, values.shape[0] + 1), values.dtype)
    return Sketch(values, empty, empty)


def update_sketch(
    sketch: Sketch,
    scores: Real[ArrayLike, " n"],
    groups: Shaped[ArrayLike, " n"],
    *,
    weights: Shaped[ArrayLike, " n"] | None = None,
) -> Sketch:
    """The sketch with a chunk of rows added.

    Args:
        sketch: of the chunks before.
        scores: a chunk of calibration scores.
        groups: their codes; a group may be missing from a chunk.
        weights: non-negative sample weights, or a mask.

    Returns:
        A new sketch, in O(n log b) time and O(n + g b) memory. Inside `jit`, a score
        that is not finite or a negative weight makes all predictions NaN, and a row of
        unknown group is not counted.

    Raises:
        ValueError: for codes out of range, scores that are not finite, bad weights,
            lengths that differ, and sums of weights or weighted scores that overflow.
    """
    n, n_groups = np.size(scores), sketch.counts.shape[0]
    checks.check_length(scores, n=n, name="scores", to="groups")
    checks.check_length(groups, n=n, name="groups", to="scores")
    checks.check_groups(groups, n_groups=n_groups)
    checks.check_finite(scores, name="scores")
    scores = ranks.floating(scores).astype(sketch.edges.dtype)
    mass = jnp.ones(n, scores.dtype)
    if weights is not None:
        checks.check_weights(weights, n=n)
        mass = ranks.constant(ranks.floating(weights).astype(scores.dtype))
    return _check_overflow(_update(sketch, scores, ranks.codes(groups, n_groups), mass))


def merge_sketches(left: Sketch, right: Sketch) -> Sketch:
    """The sketch of both data sets; on a device mesh, `psum` counts and offsets.

    Addition: commutative, and associative exactly for counts below 2^24 per bin
    (above, and for `offsets`, to rounding). Cost O(g b).

    Raises:
        ValueError: for sketches with other edges or another number of groups, and sums
            that overflow.
    """
    same = left.counts.shape == right.counts.shape
    if same and checks.concrete(left.edges, right.edges):
        same = np.array_equal(np.asarray(left.edges), np.asarray(right.edges))
    if not same:
        raise ValueError(
            "sketches to be merged must have equal `edges` and groups: start each "
            "from a copy of one `init_sketch`."
        )
    same_edges = jnp.all(left.edges == right.edges)
    counts = jnp.where(same_edges, left.counts + right.counts, jnp.nan)
    return _check_overflow(Sketch(left.edges, counts, left.offsets + right.offsets))


def sketch_rank_error(sketch: Sketch) -> Float[Array, " g"]:
    """Bound on the error of any rank, per group: 1.5 times the largest bin's share.

    That is for `interp`; for `step` the largest bin's share itself. 0 for a group
    without members. Cost O(g b).
    """
    return 1.5 * samples.shares(sketch.counts).max(axis=1)


def fit_map_from_sketch(sketch: Sketch) -> BarycenterMap:
    """The deterministic map of the sketched data.

    Each bin stands for its mean score with its weight.

    Args:
        sketch: all chunks, merged.

    Returns:
        As `barycenters.fit_map`, in O(g b log(g b)) time.

    Raises:
        ValueError: for a group without members.
    """
    means, groups = bin_means(sketch)
    return maps.fit_map(
        means.ravel(),
        groups,
        n_groups=sketch.counts.shape[0],
        weights=sketch.counts.ravel(),
    )


def bin_means(sketch: Sketch) -> tuple[Float[Array, "g _"], Int[Array, " _"]]:
    """Mean score of each group's bins, 0 members or more, and the group of each entry.

    Cost O(g b).

    Example:
        >>> sketch = init_sketch(jnp.array([0.0]), n_groups=1)
        >>> sketch = update_sketch(sketch, jnp.array([1.0, 3.0]), np.zeros(2, int))
        >>> bin_means(sketch)[0].tolist()
        [[0.0, 2.0]]
    """
    n_groups, n_bins = sketch.counts.shape
    anchor = sketch.edges[jnp.maximum(jnp.arange(n_bins) - 1, 0)]
    filled = jnp.where(sketch.counts > 0, sketch.counts, 1)
    means = anchor[None, :] + sketch.offsets / filled
    return means, jnp.repeat(jnp.arange(n_groups, dtype=jnp.int32), n_bins)


def _check_overflow(sketch: Sketch) -> Sketch:
    """The sketch; raises `ValueError` if a sum of it has overflowed."""
    sums = sketch.offsets, sketch.counts.sum(axis=1)
    if checks.concrete(*sums) and any(np.isinf(part).any() for part in sums):
        raise ValueError(
            f"`weights`, and `weights` times `scores`, must have sums that "
            f"{sketch.counts.dtype} can hold. Divide the weights of all chunks by one "
            f"number."
        )
    return sketch


@jax.jit
def _update(sketch, scores, codes, mass):
    known = codes < sketch.counts.shape[0]
    mass = jnp.where(known, mass, 0)
    mass = jnp.where(known & ((mass < 0) | ~jnp.isfinite(scores)), jnp.nan, mass)
    bins = jnp.searchsorted(sketch.edges, scores, side="right", method="scan")
    offset = scores - sketch.edges[jnp.maximum(bins - 1, 0)]
    offset = jnp.where(mass > 0, mass * offset, 0)
    # Sums of the chunk alone: single rows would be lost next to 2^24 others, to which
    # XLA would add them without the barrier.
    empty = jnp.zeros_like(sketch.counts)
    counts = empty.at[codes, bins].add(mass, mode="drop")
    offsets = empty.at[codes, bins].add(offset, mode="drop")
    counts, offsets = jax.lax.optimization_barrier((counts, offsets))
    return Sketch(sketch.edges, sketch.counts + counts, sketch.offsets + offsets)
