"""Rows sharded over a mesh of devices: the same program on one or on a thousand.

A fairness notion becomes weights, and whatever reads them is a sum over rows. So
sharded data need no other functions: `shard_rows` places the rows, JAX runs each
function where they are, and an all-reduce of a few numbers adds up the devices' sums.
Results are those of one device up to the order of sums. Where that is not enough, a
function takes the `mesh`:

- `solvers.fit_linear(..., mesh=mesh)` splits the rows of each device into blocks;
- `divergences.mmd_squared(..., mesh=mesh)`, and `energy_distance`, needs all pairs of
  rows: each device gathers the samples of all. Bind it for `penalties.divergence_gap`.

Kolmogorov-Smirnov and Wasserstein distances sort, and JAX brings all scores and
weights of the sample to every device: right, but O(s g n) bytes and memory. For many
rows use `barycenters.update_sketch`, whose sums reduce; cumulated `counts` are the
groups' distribution functions, exact at every edge. Sinkhorn divergences and
the barycenter maps of `barycenters.fit_map` gather too.

**Bytes.** The bytes that one device hands to the collectives of a program do not depend
on the number of rows, except for all pairs. With D devices, 4 bytes per number, s
strata, g groups, d features, p = d + 1 coordinates, m configurations:

======================================================  =============================
all-reduced per step                                    numbers
======================================================  =============================
weights of a notion (largest weight and sum per cell)   `2 s g`
`penalties.mean_gap` or `risk_gap`, value               `s g k` for k units
`orthogonality.directions`                              `d + s g d`
a data-parallel training step                           one per parameter, and those
                                                        of its risk and penalties
`barycenters.update_sketch` with c edges                 `2 g (c + 1)`
`fit_linear`, a first-order step                        `p m`
`fit_linear`, every eighth, with a certificate          `(p + 1) m`
`fit_linear`, its first metric                          `1 + 2 d + d^2`
`fit_linear`, a later one (at most 5 a batch)           `1 + p^2`
`fit_linear`, a second-order step                       `p^2` and O(p)
======================================================  =============================

An all-reduce of V bytes over a ring makes each device send `2 V (D - 1) / D`: under
2 V, whatever D. At D = 1,000, d = 100 and m = 64, a step of `fit_linear` sends under
52 kB per device.

The squared MMD of n samples with r rows of weights (1; 2 if unbiased) gathers
`n (d + r)` numbers on every device for its value, and reduces `n d` more to their rows
for the gradient in the samples. At D = 1,000 with 1,000 rows of d = 64 on each that is
516 MB per device and step, for 2e11 operations: about `3 / 8 (n / D)` operations per
byte, so that rows per device decide whether it is worth its bytes, not their number.
`divergences.mmd_random_features` all-reduces `2 n_features` numbers instead.

**Values are not checked** where an array lies in several processes: none of them holds
it whole, and one that raised alone would leave the others waiting. Check the rows of a
process before `shard_rows`, which checks that they are finite. And pass such arrays to
`jit` as arguments: JAX refuses to close over them.

**Explicit axes**, those of `jax.make_mesh` unless told otherwise, may be those of any
`mesh` here: `shard_rows` lays rows on the same devices by axes of `AxisType.Auto`, as
all functions want them. Rows of your own `jax.device_put` should lie on such axes too.
JAX carries explicit ones in the types of arrays and mixes neither with the other:
functions with `mesh=` then give values but no derivatives, and those without may be
refused by JAX. Inside `jax.set_mesh` with explicit axes, `shard_rows` and functions of
rows raise; sweeps, training and frontiers with `mesh=` step outside for their work.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, PyTree

from .arrays import checks
from .arrays import mesh as meshes


class Sharded(NamedTuple):
    """Rows on a mesh, padded so that each device holds as many.

    Attributes:
        rows: the arrays, in the structure given.
        mask: False for padding rows; pass it as `weights`, or padded sample weights,
            which are 0 there.
    """

    rows: Any
    mask: Bool[Array, " n"]


def shard_rows(rows: PyTree, *, mesh: Mesh) -> Sharded:
    """The rows sharded over all devices of a mesh, padded with zeros.

    Args:
        rows: pytree of arrays with the same leading axis, such as an `erm.Batch`. If
            the mesh spans processes, each gives rows of its own, as many as it has.
        mesh: the devices, for example `jax.make_mesh((8,), ("rows",))`.

    Returns:
        The same tree of arrays on the devices, and the mask of real rows. A device of D
        holds `ceil(n / D)` rows, or of several processes as many as the fullest needs.

    Raises:
        ValueError: for arrays that are not finite or differ in length, no rows, a
            bad `mesh`, and inside `jax.set_mesh` with explicit axes; of
            several processes, in the one at fault, which ends them all.

    Example:
        >>> from fairjax import erm, notions, penalties
        >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",))
        >>> batch = erm.Batch(np.array([[0.0], [1.0], [3.0]]), np.array([0, 1, 1]),
        ...     np.array([0, 1, 1]))
        >>> batch, mask = shard_rows(batch, mesh=mesh)
        >>> @jax.jit
        ... def loss(coefficients, batch, mask):
        ...     scores = batch.features @ coefficients
        ...     cond = notions.demographic_parity(batch.groups, n_groups=2,
        ...         weights=mask)
        ...     risk = erm.empirical_risk(scores, batch.labels, loss=erm.squared,
        ...         weights=mask)
        ...     return risk + penalties.mean_gap(scores, cond)
        >>> print(jax.grad(loss)(np.ones(1, np.float32), batch, mask))
        [12.]
        >>> unshard_rows(batch.labels, mask).tolist()
        [0, 1, 1]
    """
    mesh = meshes.check_auto(mesh)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(rows)]
    if not leaves or not leaves[0].ndim or not len(leaves[0]):
        raise ValueError("`rows` must hold arrays with at least one row each.")
    n = len(leaves[0])
    for leaf in leaves:
        checks.check_length(
            leaf, n=n, name="rows", to="the first array of `rows`", columns=True
        )
        checks.check_finite(leaf, name="rows")
    here = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    if not here:
        raise ValueError(
            f"`mesh` must hold a device of each process, but has none of process "
            f"{jax.process_index()}."
        )
    size = -(-n // len(here))
    if len(here) < mesh.size:
        from jax.experimental import multihost_utils

        size = int(np.max(multihost_utils.process_allgather(np.int32(size))))
    sharding = NamedSharding(mesh, meshes.row_spec(mesh))

    def place(leaf: np.ndarray) -> Array:
        extra = [(0, size * len(here) - n)] + [(0, 0)] * (leaf.ndim - 1)
        parts = np.split(np.pad(leaf, extra), len(here))
        parts = [jax.device_put(p, d) for p, d in zip(parts, here, strict=True)]
        shape = (size * mesh.size, *leaf.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    return Sharded(
        jax.tree.unflatten(jax.tree.structure(rows), [place(leaf) for leaf in leaves]),
        place(np.ones(n, bool)),
    )


def unshard_rows(rows: PyTree, mask: Bool[Array, " n"]) -> PyTree:
    """The rows of this process as NumPy arrays, without padding.

    Args:
        rows: pytree of arrays with a row per entry of the mask, such as scores.
        mask: from `shard_rows`.

    Returns:
        The same tree, in the order that `shard_rows` was given.

    Raises:
        ValueError: for arrays with another number of rows.

    Example:
        >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",))
        >>> x, mask = shard_rows(np.arange(5.0), mesh=mesh)
        >>> unshard_rows(2 * x, mask).tolist()
        [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    for leaf in jax.tree.leaves(rows):
        checks.check_length(leaf, n=mask.shape[0], name="rows", to="mask", columns=True)
    # Results may be sharded differently from the data that they came from.
    rows = jax.device_put(rows, mask.sharding)
    real = _local_rows(mask)
    return jax.tree.map(lambda leaf: _local_rows(leaf)[real], rows)


def _local_rows(array: Array) -> np.ndarray:
    """The rows on the devices of this process, in order, each once."""
    parts = {part.index[0].start or 0: part.data for part in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
