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

from ..arrays import checks


class Batches(NamedTuple):
    """Mini-batches of one static shape, ready for `jax.lax.scan`.

    Attributes:
        indices: of samples, without repetition inside a batch.
        weights: for the risk; they sum to 1 in each batch.
    """

    indices: Int[Array, "b k"]
    weights: Float[Array, "b k"]


class Plan(NamedTuple):
    """The part of stratified batches that does not depend on chance, on the host.

    Attributes:
        members: samples, each as often as it can be drawn; one shuffle after the other.
        shuffle: which shuffle of which cell a member belongs to.
        places: of each batch, among the shuffled members.
        weights: of the places in a batch.
    """

    members: Int[np.ndarray, " m"]
    shuffle: Int[np.ndarray, " m"]
    places: Int[np.ndarray, "b k"]
    weights: Float[np.ndarray, " k"]

    def draw(self, key: Key[Array, ""] | UInt32[Array, "2"]) -> Batches:
        """Shuffles; the only part that needs a key."""
        chance = jax.random.bits(key, self.shuffle.shape)
        # Two stable sorts of one key: on CPUs a third of the time of `lexsort`.
        order = jnp.argsort(chance)
        order = order[jnp.argsort(jnp.asarray(self.shuffle)[order])]
        indices = jnp.asarray(self.members)[order][self.places]
        weights = jnp.asarray(self.weights)
        return Batches(indices, jnp.broadcast_to(weights, indices.shape))


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
        Indices and weights. The places depend on the sizes of the cells, so groups and
        labels must be concrete; the key may be traced, as in a sweep over seeds. Cost
        O(m log m) for m = n_batches * batch_size, and n log n once.

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
    plan = stratified(
        groups,
        labels,
        batch_size=batch_size,
        n_batches=n_batches,
        min_members=min_members,
    )
    return plan.draw(key)


def stratified(
    groups: Shaped[Array | np.ndarray, " n"],
    labels: Shaped[Array | np.ndarray, " n"] | None,
    *,
    batch_size: int,
    n_batches: int | None = None,
    min_members: int = 2,
) -> Plan:
    """The plan of `stratified_batches`, checked: draw from it as often as you like."""
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
    shares = _shares(sizes, batch_size, min_members)
    own = np.split(np.argsort(cell.ravel(), kind="stable"), np.cumsum(sizes)[:-1])
    members, shuffle, places, start = [], [], [], 0
    for rows, share in zip(own, shares, strict=True):
        # A shuffle serves whole blocks only: so every batch is a simple random sample.
        blocks = len(rows) // share
        shuffles = -(-n_batches // blocks)
        batch = np.arange(n_batches)
        first = start + batch // blocks * len(rows) + batch % blocks * share
        places.append(first[:, None] + np.arange(share))
        members.append(np.tile(rows, shuffles))
        number = len(shuffle) and shuffle[-1][-1] + 1
        shuffle.append(number + np.repeat(np.arange(shuffles), len(rows)))
        start += shuffles * len(rows)
    return Plan(
        np.concatenate(members).astype(np.int32),
        np.concatenate(shuffle).astype(np.int32),
        np.concatenate(places, axis=1).astype(np.int32),
        np.repeat(sizes / (n * shares), shares).astype(np.float32),
    )


def _shares(sizes: np.ndarray, batch_size: int, min_members: int) -> np.ndarray:
    """Places of each cell: proportional, at least `min_members`, at most its size."""
    least = np.minimum(sizes, min_members)
    if not least.sum() <= batch_size <= sizes.sum():
        raise ValueError(
            f"`batch_size` must be at least {least.sum()}, for {min_members} of each "
            f"of {len(sizes)} cells, and at most the {sizes.sum()} samples, but is "
            f"{batch_size}."
        )
    shares = least.copy()
    while shares.sum() < batch_size:
        # One place at a time, to the cell that has the fewest for its size.
        want = np.where(shares < sizes, sizes / (shares + 0.5), -np.inf)
        shares[np.argmax(want)] += 1
    return shares
