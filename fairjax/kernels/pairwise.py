"""Sums over all pairs of samples, `sum_ij c_ij k(z_i, z_j)`, without an n x n array.

The kernel matrix is visited tile by tile. `c` and the kernel are symmetric, so half of
the tiles is enough: with the blocks of samples on a circle, the pairs (i, i + k) of
blocks for k = 0 .. blocks / 2 hit each unordered pair once, or with an even number of
blocks those of the last k twice.

Over several devices each one visits the tiles of its own rows, a strip of the matrix,
with samples and right weights gathered from all: n^2 work forbids numbers of samples
that do not fit into one memory. Slopes of the gathered arrays are summed and scattered
to where their rows lie. For n samples of d coordinates and r rows of weights, a device
receives `n (d + r)` numbers for the value, and about as many again for slopes.

Derivatives come in two ways, because no single one is fast for both uses of a sum:

- `_fused_sum`: value and slopes in the same visit of a tile, for one matrix `c`.
- `_plain_sum`: plain JAX with rematerialised tiles, so that `vmap` over `c` alone turns
  into one matrix product per tile and direction, with the kernel evaluated once.

`pair_sum` takes the one that the batching asks for.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from ..arrays import mesh as meshes

# Samples in a tile, whose tables stay in the caches of a CPU (2 MB each) or of a GPU
# (17 MB), where work must also last longer than starting the dozen kernels of a tile.
BLOCK, BLOCK_OF_ACCELERATOR = 768, 2_048

Kernel = Callable[..., Float[Array, "n m"]]


class Partitioned(NamedTuple):
    """A kernel taken apart, so that `jit` traces its hyper-parameters.

    Attributes:
        static: the function, the structure of its arguments, and those that are not
            numbers with a fraction (`degree=3`).
        traced: the others, such as a bandwidth.
    """

    static: Hashable
    traced: list[Any]


def partition(kernel: Kernel) -> Partitioned:
    """Static and traced parts of a `functools.partial`; other functions are static."""
    if not isinstance(kernel, functools.partial):
        return Partitioned(kernel, [])
    leaves, tree = jax.tree.flatten((kernel.args, kernel.keywords))
    traced = [hasattr(leaf, "dtype") or isinstance(leaf, float) for leaf in leaves]
    fixed = [None if t else leaf for t, leaf in zip(traced, leaves, strict=True)]
    static = (kernel.func, tree, tuple(traced), tuple(fixed))
    return Partitioned(static, [x for t, x in zip(traced, leaves, strict=True) if t])


def combine(static: Any, traced: list[Any]) -> Kernel:
    """The kernel that `partition` took apart."""
    if not isinstance(static, tuple):
        return static
    function, tree, is_traced, fixed = static
    values = iter(traced)
    leaves = [next(values) if t else x for t, x in zip(is_traced, fixed, strict=True)]
    args, keywords = jax.tree.unflatten(tree, leaves)
    return functools.partial(function, *args, **keywords)


def pair_sum(
    kernel: Kernel,
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
    *,
    block: int,
    mesh: Mesh | None = None,
) -> Float[Array, ""]:
    """`sum_ij c_ij k(z_i, z_j)` for a symmetric `c = left' right`.

    Args:
        kernel: symmetric; what it closes over is differentiated too.
        points: the samples z; on a mesh as many on each device.
        left: rows of weights.
        right: as many rows.
        block: static; most samples in a tile, which holds `block ** 2` numbers.
        mesh: static; devices that share the rows.

    Returns:
        The sum. Value or value and slopes take one pass over half of the pairs; under
        `vmap` over left and right alone, the kernel is evaluated in one pass for the
        values and in one for the slopes, whatever the size of the batch.
    """
    rows = points.shape[0] // (1 if mesh is None else mesh.size)
    n_blocks = -(-rows // block)
    n_blocks += 1 - n_blocks % 2
    size = -(-rows // n_blocks)
    # A slice carries the axes of a `shard_map` of the caller's along; inside ours there
    # must be no trace of a mesh.
    tile = points[:size] if mesh is None else jnp.zeros((size, *points.shape[1:]))
    tile = tile.astype(points.dtype)
    pure, closed_over = jax.closure_convert(kernel, tile, tile)
    plain = functools.partial(_plain_sum, pure, n_blocks, mesh)
    with_slopes = functools.partial(_sum_and_slopes, pure, n_blocks, mesh)
    return jax.lax.cond(
        _is_unbatched(jax.lax.stop_gradient(points[0] == 0), left[0] != 0),
        functools.partial(_fused_sum, plain, with_slopes),
        plain,
        *(tuple(closed_over), points, left, right),
    )


def block_size(block: int | None) -> int:
    """Number of samples in a tile: as asked for, or what suits the device.

    Raises:
        ValueError: for a block without a sample.
    """
    if block is None:
        return BLOCK if jax.default_backend() == "cpu" else BLOCK_OF_ACCELERATOR
    if block < 1:
        raise ValueError(f"`block` must be at least 1, but is {block}.")
    return block


def used_by_any(
    points: Float[Array, "n d"], weights: Float[Array, " n"]
) -> Bool[Array, " n"]:
    """Mask of the samples with weight in any member of a batch of weights.

    Were it a batch of masks, all that depends on it would be computed per member, the
    kernel included. Points that are batched themselves have a mask each.
    """
    return _used_by_any(points[0] == 0, weights != 0)


def clip_masked_points(
    points: Float[Array, "n d"], used: Bool[Array, " n"]
) -> Float[Array, "n d"]:
    """Points, those without weight clipped to three times the range of the others.

    Padding may lie anywhere; far away, it would spoil the centring of the others.
    """
    low = jnp.where(used[:, None], points, jnp.inf).min(axis=0)
    high = jnp.where(used[:, None], points, -jnp.inf).max(axis=0)
    some = used.any()
    low, high = jnp.where(some, low, 0), jnp.where(some, high, 0)
    spread = high - low
    bounds = jax.lax.stop_gradient((low - spread, high + spread))
    inside = jnp.clip(points, bounds[0][None], bounds[1][None])
    return jnp.where(used[:, None], points, inside)


def in_blocks(array: Float[Array, "n ..."], n_blocks: int, *, mode: str) -> Array:
    """The first axis in blocks of equal size, padded at the end."""
    size = -(-array.shape[0] // n_blocks)
    pad = [(0, n_blocks * size - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
    padded = jnp.pad(array, pad, mode=mode)
    return padded.reshape(n_blocks, size, *array.shape[1:])


@jax.custom_batching.custom_vmap
def _is_unbatched(
    points: Bool[Array, " d"], weights: Bool[Array, " n"]
) -> Bool[Array, ""]:
    return jnp.array(True)


@_is_unbatched.def_vmap
def _(axis_size: int, batched: list[bool], points: Array, weights: Array) -> Any:
    return jnp.array(batched[0] or not batched[1]), False


@jax.custom_batching.custom_vmap
def _used_by_any(
    points: Bool[Array, " d"], weights: Bool[Array, " n"]
) -> Bool[Array, " n"]:
    return weights


@_used_by_any.def_vmap
def _(axis_size: int, batched: list[bool], points: Array, weights: Array) -> Any:
    if batched[0] or not batched[1]:
        return weights, batched[1]
    return _used_by_any(points, weights.any(axis=0)), False


class _Strip(NamedTuple):
    """Rows of a device in blocks, and the columns that they meet.

    Attributes:
        points: own samples.
        left: own weights.
        others: samples of all devices.
        right: weights of all devices.
        first: number of the first own block among all.
    """

    points: Float[Array, "own b d"]
    left: Float[Array, "own r b"]
    others: Float[Array, "blocks b d"]
    right: Float[Array, "blocks r b"]
    first: Int[Array, ""] | int

    def columns(self, offset: Any) -> Int[Array, " own"]:
        """Numbers of the blocks that are `offset` after the own ones."""
        own = jnp.arange(self.points.shape[0])
        return (self.first + offset + own) % self.others.shape[0]


def _strip(
    n_blocks: int, mesh: Mesh | None, points: Array, left: Array, right: Array
) -> _Strip:
    """Own rows, and columns gathered from all devices."""
    # Copies of a sample as padding: zeros could be far away from all others.
    samples = in_blocks(points, n_blocks, mode="edge")
    rows = (in_blocks(w.T, n_blocks, mode="constant") for w in (left, right))
    lefts, rights = (jnp.swapaxes(row, 1, 2) for row in rows)
    if mesh is None:
        return _Strip(samples, lefts, samples, rights, 0)
    gather = functools.partial(
        jax.lax.all_gather, axis_name=mesh.axis_names, tiled=True
    )
    first = jax.lax.axis_index(mesh.axis_names) * n_blocks
    return _Strip(samples, lefts, gather(samples), gather(rights), first)


def _offsets(strip: _Strip) -> tuple[Int[Array, " k"], Float[Array, " k"]]:
    """Offsets k of the tiles (i, i + k), and how often each counts.

    Twice each, as `c` and the kernel are symmetric; the diagonal counts once, and so
    does the offset of half the circle, whose pairs are visited from both ends.
    """
    n_blocks = strip.others.shape[0]
    offsets = jnp.arange(n_blocks // 2 + 1)
    once = (offsets == 0) | (2 * offsets == n_blocks)
    return offsets, jnp.where(once, 1, 2).astype(strip.points.dtype)


def _tile(
    kernel: Callable[..., Array],
    closed_over: tuple[Array, ...],
    points: Float[Array, "b d"],
    others: Float[Array, "b d"],
    left: Float[Array, "r b"],
    right: Float[Array, "r b"],
) -> Float[Array, ""]:
    """The sum over the pairs of one tile."""
    table = kernel(points, others, *closed_over)
    return (left.T * jnp.matmul(table, right.T, precision="highest")).sum()


def _plain_sum(
    kernel: Callable[..., Array],
    n_blocks: int,
    mesh: Mesh | None,
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
) -> Float[Array, ""]:
    """The sum as plain JAX; nothing of a tile is kept for the derivatives."""

    def strip_sum(closed_over, points, left, right):
        strip = _strip(n_blocks, mesh, points, left, right)
        offsets, times = _offsets(strip)

        @jax.checkpoint
        def tile(at: tuple[Array, ...]) -> Array:
            return _tile(kernel, closed_over, *at)

        @jax.checkpoint
        def tiles(offset: Array) -> Array:
            at = strip.columns(offset)
            pairs = (strip.points, strip.others[at], strip.left, strip.right[at])
            return jax.lax.map(tile, pairs).sum()

        return (times * jax.lax.map(tiles, offsets)).sum()[None]

    # Each device's part of the sum: adding them is the one all-reduce.
    return _on_strips(strip_sum, mesh)(closed_over, points, left, right).sum()


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fused_sum(
    plain: Callable[..., Array],
    with_slopes: Callable[..., Any],
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
) -> Float[Array, ""]:
    return plain(closed_over, points, left, right)


@functools.partial(_fused_sum.defjvp, symbolic_zeros=True)
def _(plain: Any, with_slopes: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    def is_nonzero(tangent: Any) -> bool:
        return any(not isinstance(t, SymbolicZero) for t in jax.tree.leaves(tangent))

    wanted = [is_nonzero(tangent) for tangent in tangents]
    value, slopes = with_slopes(*primals, wanted=wanted)
    change = jnp.zeros_like(value)
    for slope, tangent in zip(slopes, tangents, strict=True):
        for s, t in zip(jax.tree.leaves(slope), jax.tree.leaves(tangent), strict=False):
            if not isinstance(t, SymbolicZero):
                change += jnp.vdot(s, t, precision="highest")
    return value, change


def _sum_and_slopes(
    kernel: Callable[..., Array],
    n_blocks: int,
    mesh: Mesh | None,
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
    *,
    wanted: list[bool],
) -> tuple[Array, tuple[Any, ...]]:
    """The sum and its slopes in the four arguments, None where not wanted."""
    strip_slopes = functools.partial(_strip_slopes, kernel, n_blocks, mesh, wanted)
    parts, (of_constants, *others) = _on_strips(strip_slopes, mesh, slopes=True)(
        closed_over, points, left, right
    )
    of_constants = jax.tree.map(lambda s: s.sum(axis=0), of_constants)
    return parts.sum(), (of_constants, *others)


def _strip_slopes(
    kernel: Callable[..., Array],
    n_blocks: int,
    mesh: Mesh | None,
    wanted: list[bool],
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
) -> tuple[Array, tuple[Any, ...]]:
    """One device's part of the sum, and the slopes in its own rows."""
    n = points.shape[0]
    strip = _strip(n_blocks, mesh, points, left, right)
    of_constants, of_points, of_left, of_right = wanted
    # Arguments of `_tile` whose slopes are wanted; 3 and 5 are those of the columns.
    flags = (of_constants, of_points, of_points, of_left, of_right)
    positions = [i for i, flag in enumerate(flags, start=1) if flag]
    arguments = (closed_over, strip.points, strip.others, strip.left, strip.right)
    zeros = {i: jax.tree.map(jnp.zeros_like, arguments[i - 1]) for i in positions}

    def add_tiles(total: Any, offset: Any, times: Any, positions: list[int]) -> Any:
        value, slopes = total
        at = strip.columns(offset)

        @jax.checkpoint
        def tile(pair: tuple[Array, ...]) -> Any:
            slopes_at = jax.value_and_grad(_tile, argnums=positions)
            return slopes_at(kernel, closed_over, *pair)

        pairs = (strip.points, strip.others[at], strip.left, strip.right[at])
        values, found = jax.lax.map(tile, pairs)
        slopes = dict(slopes)
        for i, slope in zip(positions, found, strict=True):
            if i == 1:
                slope = jax.tree.map(lambda s: s.sum(axis=0), slope)
            slope = jax.tree.map(lambda s: times.astype(s.dtype) * s, slope)
            if i in (3, 5):
                slopes[i] = slopes[i].at[at].add(slope)
            else:
                slopes[i] = jax.tree.map(jnp.add, slopes[i], slope)
        return value + times * values.sum(), slopes

    offsets, times = _offsets(strip)
    # On the diagonal both sides are the same samples: one slope, counted twice.
    start = (jnp.zeros((), times.dtype), zeros)
    value, slopes = add_tiles(start, 0, times[0], [i for i in positions if i != 3])
    if of_points:
        slopes[2] *= 2
    if len(offsets) > 1:
        (value, slopes), _ = jax.lax.scan(
            jax.checkpoint(
                lambda total, at: (add_tiles(total, at[0], at[1], positions), None)
            ),
            (value, slopes),
            (offsets[1:], times[1:]),
        )
    for i in {3, 5} & set(positions):
        slopes[i] = _scatter_sum(slopes[i], mesh)
    by_sample = slopes[2] + slopes[3] if of_points else None
    return value[None], (
        jax.tree.map(lambda s: s[None], slopes[1]) if of_constants else None,
        None if by_sample is None else by_sample.reshape(-1, points.shape[1])[:n],
        _concatenate_blocks(slopes[4], n) if of_left else None,
        _concatenate_blocks(slopes[5], n) if of_right else None,
    )


def _scatter_sum(blocks: Array, mesh: Mesh | None) -> Array:
    """Slopes of the gathered blocks, summed where those came from."""
    if mesh is None:
        return blocks
    return jax.lax.psum_scatter(blocks, mesh.axis_names, tiled=True)


def _concatenate_blocks(blocks: Float[Array, "blocks r b"], n: int) -> Array:
    """Rows of weights from their blocks."""
    return jnp.swapaxes(blocks, 1, 2).reshape(-1, blocks.shape[1])[:n].T


def _on_strips(
    fn: Callable[..., Any], mesh: Mesh | None, *, slopes: bool = False
) -> Any:
    """`fn` of each device's rows, which lie on the second axis of the weights."""
    if mesh is None:
        return fn
    rows, columns = meshes.row_spec(mesh), meshes.row_spec(mesh, axis=1)
    return meshes.shard_map(
        fn,
        mesh,
        in_specs=(PartitionSpec(), rows, columns, columns),
        out_specs=(rows, (rows, rows, columns, columns)) if slopes else rows,
    )
