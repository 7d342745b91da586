"""Mini-batches for training under a fairness penalty.

A batch drawn at random may lack a group, or have one member of it, and then a penalty
cannot see the gap. A stratified batch has members of every cell. Its composition
differs from that of the data, for which its weights make up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

from . import checks


class Batches(NamedTuple):
    """Mini-batches of one static shape, ready for `jax.lax.scan`.

    Attributes:
        indices: of samples, without repetition inside a batch.
        weights: for the risk; they sum to 1 in each batch.
    """

    indices: Int[np.ndarray, "b k"]
    weights: Float[np.ndarray, "b k"]


def stratified_batches(
    groups: Shaped[Array | np.ndarray, " n"],
    labels: Shaped[Array | np.ndarray, " n"] | None = None,
    *,
    batch_size: int,
    key: Key[Array, ""] | UInt32[Array, "2"],
    n_batches: int | None = None,
    min_members: int = 2,
) -> Batches:
    """Draws mini-batches with members of each (label, group) cell in every batch.

    The cells share the batch in proportion to their sizes, but get at least
    `min_members` places each, or their size if that is smaller. The members are a
    simple random sample of the cell, without replacement: a cell is shuffled, its
    blocks serve one batch each, and when it is used up it is shuffled again.

    Therefore, averaged over the draws, these equal their values on all samples:

    - the risk, and its gradient, with `weights` (a cell's share of the data, divided
      among its members in the batch): `erm.empirical_risk(..., weights=weights)`;
    - every U-statistic of the cells, such as the unbiased MMD, and its gradient,
      without weights. The cells must be those that the notion compares: pass `labels`
      for equalized odds and equal opportunity, and none for demographic parity.

    Biased statistics, such as the Sinkhorn divergence, stay biased by the batch size.

    Args:
        groups: integer codes.
        labels: integer codes; None makes a cell of each group.
        batch_size: places in a batch, from what the cells need up to n.
        key: source of the shuffles.
        n_batches: as many as fit into the data by default: about an epoch.
        min_members: least number of members of a cell; the unbiased MMD needs 2.

    Returns:
        Indices and weights. Made on the host, before training, since the places
        depend on the sizes of the cells. Cost O(n_batches * batch_size + n log n).

    Raises:
        ValueError: for codes that are not integers, lengths that differ, a batch that
            is too small for its cells or larger than the data, and numbers below 1.

    Example:
        >>> batches = stratified_batches(
        ...     np.array([0, 0, 0, 0, 0, 0, 1, 1]), batch_size=4, key=jax.random.key(0))
        >>> batches.indices.shape, batches.weights[0].tolist()
        ((2, 4), [0.375, 0.375, 0.125, 0.125])

    References:
        Cochran, *Sampling techniques*, 1977, chapter 5, for stratified estimates of a
        mean; Hoeffding, *A class of statistics with asymptotically normal
        distribution*, 1948, for U-statistics.
    """
    groups = np.asarray(groups)
    n = groups.shape[0]
    codes = [groups]
    if labels is not None:
        checks.check_length(labels, n=n, name="labels", to="groups")
        codes = [np.asarray(labels), groups]
    for name, values in zip(("groups", "labels"), codes[::-1], strict=False):
        if values.ndim != 1 or values.dtype.kind not in "iub":
            raise ValueError(
                f"`{name}` must be integer codes of shape (n,), but have dtype "
                f"{values.dtype} and shape {values.shape}. "
                f"Encode with `np.unique(..., return_inverse=True)`."
            )
    n_batches = max(1, n // max(1, batch_size)) if n_batches is None else n_batches
    for name, count in (("n_batches", n_batches), ("min_members", min_members)):
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {count}.")
    _, cell, sizes = np.unique(
        np.stack(codes), axis=1, return_inverse=True, return_counts=True
    )
    places = _places(sizes, batch_size, min_members)
    rng = np.random.default_rng(np.asarray(_key_data(key)))
    members = np.split(np.argsort(cell.ravel(), kind="stable"), np.cumsum(sizes)[:-1])
    indices = [
        _blocks(rng, own, int(k), n_batches)
        for own, k in zip(members, places, strict=True)
    ]
    weights = np.repeat(sizes / (n * places), places).astype(np.float32)
    return Batches(
        np.concatenate(indices, axis=1).astype(np.int32),
        np.broadcast_to(weights, (n_batches, batch_size)),
    )


def _places(sizes: np.ndarray, batch_size: int, min_members: int) -> np.ndarray:
    """Places of each cell: proportional, at least `min_members`, at most its size."""
    least = np.minimum(sizes, min_members)
    if not least.sum() <= batch_size <= sizes.sum():
        raise ValueError(
            f"`batch_size` must be at least {least.sum()}, for {min_members} of each "
            f"of {len(sizes)} cells, and at most the {sizes.sum()} samples, but is "
            f"{batch_size}."
        )
    places = least.copy()
    while places.sum() < batch_size:
        # One place at a time, to the cell that has the fewest for its size.
        want = np.where(places < sizes, sizes / (places + 0.5), -np.inf)
        places[np.argmax(want)] += 1
    return places


def _blocks(
    rng: np.random.Generator, members: np.ndarray, size: int, n_batches: int
) -> np.ndarray:
    """Random samples of the members, as disjoint as their number allows."""
    whole = len(members) // size
    shuffles = -(-n_batches // whole)
    drawn = [rng.permutation(members)[: whole * size] for _ in range(shuffles)]
    return np.concatenate(drawn).reshape(-1, size)[:n_batches]


def _key_data(key: Array) -> Array:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(key) if typed else key
