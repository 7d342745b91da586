"""The audit of rows that are read once, in chunks.

Counts of labels, groups and decisions are all that rates need, and a histogram per
group all that the distances of scores need.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Real, Shaped

from .. import barycenters, notions
from ..arrays import checks
from ..notions import cells
from . import rates
from .audit import Audit, audit_of_mass


def audit_stream(
    chunks: Iterable[tuple[ArrayLike, ...]],
    *,
    n_groups: int,
    threshold: float = 0.0,
    edges: Real[ArrayLike, " b"] | None = None,
    rank_error: float = 0.01,
) -> Audit:
    """`audit` of rows that do not fit into memory, in one pass.

    Counts are exact, and so is every number that comes from them: all but the
    distances of scores. Those come from a histogram per group (see
    `barycenters.Sketch`). `ks` is exact at its edges, and so too small by no more than
    `rank_error`. `wasserstein` moves the scores of a bin to their mean.

    Args:
        chunks: read once; each is `(scores, labels, groups)` or `(scores, labels,
            groups, weights)`, of any lengths, such as `streams.scored` makes.
        n_groups: how many groups there are.
        threshold: what a score must exceed.
        edges: increasing inner edges of the histogram [score]; quantiles of the first
            chunk when None, 4,096 to 8,192 of them.
        rank_error: how much smaller than the truth `ks` may be, in [0, 1].

    Returns:
        The audit; memory O(g b) and a chunk.

    Raises:
        ValueError: for chunks and a threshold that `audit` refuses, no chunk, weights
            that are all zero, and where the histogram is coarser than `rank_error`: a
            first chunk that is not like the others needs `edges`.

    Example:
        >>> rows = [([1.0, -1.0], [1, 1], [0, 0]), ([2.0], [1], [1])]
        >>> chunks = [tuple(map(np.array, chunk)) for chunk in rows]
        >>> numbers = audit_stream(chunks, n_groups=2, edges=np.array([0.0, 1.5]))
        >>> numbers.equal_opportunity.item(), numbers.counts.tolist()
        (0.5, [[0, 0], [2, 1]])
    """
    checks.check_finite(threshold, name="threshold")
    empty, number, dtype = None, -1, np.dtype(np.float32)
    mass = np.zeros((2, n_groups, 2))
    counts = np.zeros((2, n_groups), np.int64)
    bins, offsets = 0.0, 0.0
    for number, chunk in enumerate(chunks):
        if len(chunk) not in (3, 4):
            raise ValueError(
                f"`chunks` must yield (scores, labels, groups) or these and weights, "
                f"but chunk {number} has {len(chunk)} parts."
            )
        scores, labels, groups = (np.asarray(a) for a in chunk[:3])
        place = f"chunk {number}: "
        checks.check_finite(scores, name=f"{place}scores")
        positive = np.asarray(rates.binary(labels, f"{place}labels")).astype(int)
        checks.check_groups(groups, n_groups=n_groups, name=f"{place}groups")
        weights = np.asarray(chunk[3] if len(chunk) > 3 else np.ones(len(groups)))
        named = {"scores": scores, "labels": positive, "weights": weights}
        for name, values in named.items():
            checks.check_length(
                values, n=len(groups), name=f"{place}{name}", to="groups"
            )
        checks.check_finite(weights, name=f"{place}weights")
        checks.check_nonnegative(weights, name=f"{place}weights")
        if not (weights > 0).any():
            continue
        own = _floating(scores)
        dtype = np.promote_types(dtype, own)
        scores = scores.astype(own)
        decided = (scores > own.type(threshold)).astype(int)
        np.add.at(counts, (positive, groups), weights > 0)
        np.add.at(mass, (positive, groups, decided), weights)
        if empty is None:
            if edges is None:
                edges = _edges(scores[weights > 0])
            checks.check_finite(edges, name="edges")
            # Edges are scores too, and as such in the precision of the scores.
            given = np.asarray(edges).astype(own).astype(np.float64)
            with jax.enable_x64(True):
                empty = barycenters.init_sketch(given, n_groups=n_groups)
        # Single precision would lose rows next to 2^24 others of the same chunk.
        with jax.enable_x64(True):
            sketch = barycenters.update_sketch(
                empty, scores.astype(np.float64), groups, weights=weights
            )
        bins = bins + np.asarray(sketch.counts)
        offsets = offsets + np.asarray(sketch.offsets)
    if empty is None:
        raise ValueError(
            "`chunks` must hold rows of positive weight, but "
            + ("is empty." if number < 0 else "all weights are zero.")
        )
    bins, offsets = np.asarray(bins), np.asarray(offsets)
    _check_bins(bins, offsets, rank_error)
    # A power of 2, so that sums of weights that float32 cannot hold do no harm.
    unit = 2.0 ** -np.frexp(mass.sum())[1]
    whole = barycenters.Sketch(
        *(jnp.asarray(a, dtype) for a in (empty.edges, bins * unit, offsets * unit))
    )
    places = np.tile(np.arange(bins.shape[1]), n_groups)
    found = _audit_of_bins(
        jnp.asarray(mass * unit, dtype), whole, jnp.asarray(places, dtype)
    )
    return found._replace(counts=_integers(counts))


def _floating(scores: Shaped[np.ndarray, " n"]) -> np.dtype:
    """The precision in which JAX holds scores, float32 at least."""
    dtype = jax.dtypes.canonicalize_dtype(scores.dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        return jax.dtypes.canonicalize_dtype(float)
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def _integers(counts: Int[np.ndarray, "2 g"]) -> Int[Array, "2 g"]:
    """Counts of any size: of 64 bits where 32 are too few."""
    if counts.max() <= np.iinfo(np.int32).max:
        return jnp.asarray(counts)
    with jax.enable_x64(True):
        return jnp.asarray(counts)


@jax.jit
def _audit_of_bins(
    mass: Float[Array, "2 g 2"],
    sketch: barycenters.Sketch,
    places: Float[Array, " _"],
) -> Audit:
    """The audit of few samples with weights: one for each label, group and decision.

    Those for the distances stand for a bin each: at its place for `ks`, so that groups
    are tied inside it, and at its mean for `wasserstein`. Counts, which may need 64
    bits, are left to the caller.
    """
    n_groups = sketch.counts.shape[0]
    means, owners = barycenters.bin_means(sketch)
    parity = notions.demographic_parity(
        owners, n_groups=n_groups, weights=sketch.counts.ravel()
    )
    return audit_of_mass(
        mass,
        ks=cells.max_ks_distance(places, parity),
        wasserstein=cells.max_wasserstein(means.ravel(), parity, 1),
        counts=jnp.zeros(mass.shape[:2], jnp.int32),
    )


def _edges(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " b"]:
    """Quantiles of a chunk: scores themselves, so that each of a few values is an edge.

    And points between them, where there are fewer scores than edges.
    """
    levels = np.linspace(0, 1, 4096)
    between = np.quantile(scores, levels).astype(scores.dtype)
    among = np.quantile(scores, levels, method="inverted_cdf")
    return np.unique(np.concatenate([between, among]))


def _check_bins(
    bins: Float[np.ndarray, "g b"], offsets: Float[np.ndarray, "g b"], most: float
) -> None:
    """Raises `ValueError` where two groups may part unseen inside a bin.

    There `|F_a - F_b|` exceeds its values at the edges by no more than the smaller one
    of the shares of a and b; not at all if each has its scores at the edge.
    """
    total = bins.sum(axis=1, keepdims=True)
    shares = bins / np.where(total > 0, total, 1)
    second = np.sort(shares, axis=0)[-2:].min(axis=0) * (len(bins) > 1)
    second = np.where((offsets == 0).all(axis=0), 0, second)
    if second.max() > most:
        raise ValueError(
            f"the histogram of scores is too coarse: bin {second.argmax()} of "
            f"{bins.shape[1]} holds {second.max():.3g} of each of two groups, more "
            f"than `rank_error` = {most:g}. Pass `edges`, such as quantiles of scores "
            f"from all over the data, or a larger `rank_error`."
        )
