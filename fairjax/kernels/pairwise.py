"""Sums over all pairs of samples, `sum_ij c_ij k(z_i, z_j)`, without an n x n array.

The kernel matrix is visited tile by tile. `c` and the kernel are symmetric, so half of
the tiles is enough: with an odd number of blocks on a circle, the pairs (i, i + k) of
blocks for k = 0 .. (blocks - 1) / 2 hit each unordered pair once.

Derivatives come in two ways, because no single one is fast for both uses of a sum:

- `_alone`: value and slopes in the same visit of a tile, for one matrix `c`.
- `together`: plain JAX with rematerialised tiles, so that `vmap` over `c` alone turns
  into one matrix product per tile and direction, with the kernel evaluated once.

`choose` picks the way that the batching asks for.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

# Samples in a tile, whose tables stay in the caches of a CPU (2 MB each) or of a GPU
# (17 MB), where work must also last longer than starting the dozen kernels of a tile.
BLOCK, BLOCK_OF_ACCELERATOR = 768, 2_048

Kernel = Callable[..., Float[Array, "n m"]]


class Unbound(NamedTuple):
    """A kernel taken apart, so that `jit` traces its hyper-parameters.

    Attributes:
        static: the function, the structure of its arguments, and those that are not
            numbers with a fraction (`degree=3`).
        traced: the others, such as a bandwidth.
    """

    static: Hashable
    traced: list[Any]


def unbind(kernel: Kernel) -> Unbound:
    """Takes a `functools.partial` apart; any other callable is static as a whole."""
    if not isinstance(kernel, functools.partial):
        return Unbound(kernel, [])
    leaves, tree = jax.tree.flatten((kernel.args, kernel.keywords))
    traced = [hasattr(leaf, "dtype") or isinstance(leaf, float) for leaf in leaves]
    fixed = [None if t else leaf for t, leaf in zip(traced, leaves, strict=True)]
    static = (kernel.func, tree, tuple(traced), tuple(fixed))
    return Unbound(static, [x for t, x in zip(traced, leaves, strict=True) if t])


def bind(static: Any, traced: list[Any]) -> Kernel:
    """The kernel that `unbind` took apart."""
    if not isinstance(static, tuple):
        return static
    function, tree, where, fixed = static
    values = iter(traced)
    leaves = [next(values) if t else x for t, x in zip(where, fixed, strict=True)]
    args, keywords = jax.tree.unflatten(tree, leaves)
    return functools.partial(function, *args, **keywords)


def form(
    kernel: Kernel,
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
    *,
    block: int,
) -> Float[Array, ""]:
    """`sum_ij c_ij k(z_i, z_j)` for a symmetric `c = left' right`.

    Args:
        kernel: symmetric; what it closes over is differentiated too.
        points: the samples z.
        left: rows of weights.
        right: as many rows.
        block: static; most samples in a tile, which holds `block ** 2` numbers.

    Returns:
        The sum. Value or value and slopes take one pass over half of the pairs; under
        `vmap` over left and right alone, the kernel is evaluated in one pass for the
        values and in one for the slopes, whatever the size of the batch.
    """
    n_blocks = -(-points.shape[0] // block)
    n_blocks += 1 - n_blocks % 2
    tile = points[: -(-points.shape[0] // n_blocks)]
    pure, closed_over = jax.closure_convert(kernel, tile, tile)
    return choose(
        functools.partial(together, pure, n_blocks),
        functools.partial(with_slopes, pure, n_blocks),
        *(tuple(closed_over), points, left, right),
    )


def choose(
    value: Callable[..., Array],
    value_and_slopes: Callable[..., Any],
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
) -> Float[Array, ""]:
    """The way of derivatives that the batching asks for.

    Args:
        value: the sum in plain JAX, of the arguments that follow.
        value_and_slopes: the sum and its slopes in those that are `wanted`.
        closed_over: what the kernel closes over.
        points: the samples.
        left: rows of weights.
        right: as many rows.
    """
    return jax.lax.cond(
        _is_alone(jax.lax.stop_gradient(points[0] == 0), left[0] != 0),
        functools.partial(_alone, value, value_and_slopes),
        value,
        *(closed_over, points, left, right),
    )


def block_size(block: int | None) -> int:
    """How many samples a tile has: as asked for, or what suits the device.

    Raises:
        ValueError: for a block without a sample.
    """
    if block is None:
        return BLOCK if jax.default_backend() == "cpu" else BLOCK_OF_ACCELERATOR
    if block < 1:
        raise ValueError(f"`block` must be at least 1, but is {block}.")
    return block


def in_use(
    points: Float[Array, "n d"], weights: Float[Array, " n"]
) -> Bool[Array, " n"]:
    """Which samples have weight, in any member of a batch of weights.

    Were it a batch of masks, whatever depends on it would be computed per member, the
    kernel included. Points that are batched themselves have a mask each.
    """
    return _in_use(points[0] == 0, weights != 0)


def tamed(points: Float[Array, "n d"], used: Bool[Array, " n"]) -> Float[Array, "n d"]:
    """Moves samples without weight into three times the range of the others.

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


def blocks_of(array: Float[Array, "n ..."], n_blocks: int, *, mode: str) -> Array:
    """Cuts the first axis into blocks of equal size, padded at the end."""
    size = -(-array.shape[0] // n_blocks)
    pad = [(0, n_blocks * size - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
    padded = jnp.pad(array, pad, mode=mode)
    return padded.reshape(n_blocks, size, *array.shape[1:])


@jax.custom_batching.custom_vmap
def _is_alone(points: Bool[Array, " d"], weights: Bool[Array, " n"]) -> Bool[Array, ""]:
    return jnp.array(True)


@_is_alone.def_vmap
def _(axis_size: int, batched: list[bool], points: Array, weights: Array) -> Any:
    return jnp.array(batched[0] or not batched[1]), False


@jax.custom_batching.custom_vmap
def _in_use(points: Bool[Array, " d"], weights: Bool[Array, " n"]) -> Bool[Array, " n"]:
    return weights


@_in_use.def_vmap
def _(axis_size: int, batched: list[bool], points: Array, weights: Array) -> Any:
    if batched[0] or not batched[1]:
        return weights, batched[1]
    return _in_use(points, weights.any(axis=0)), False


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


def cut(n_blocks: int, points: Array, left: Array, right: Array) -> tuple[Array, ...]:
    """Samples and rows of weights in blocks, filled up with what has no weight."""
    # Copies of a sample as padding: zeros could be far away from all others.
    samples = blocks_of(points, n_blocks, mode="edge")
    rows = (blocks_of(w.T, n_blocks, mode="constant") for w in (left, right))
    return samples, *(jnp.swapaxes(row, 1, 2) for row in rows)


def together(
    kernel: Callable[..., Array],
    n_blocks: int,
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
) -> Float[Array, ""]:
    """The sum as plain JAX; nothing of a tile is kept for the derivatives."""
    samples, left, right = cut(n_blocks, points, left, right)

    ring = functools.partial(
        sum_tiles, kernel, closed_over, samples, samples, left, right
    )
    sums = jax.lax.map(jax.checkpoint(ring), jnp.arange(n_blocks // 2 + 1))
    return 2 * sums.sum() - sums[0]


def sum_tiles(
    kernel: Callable[..., Array],
    closed_over: tuple[Array, ...],
    points: Float[Array, "blocks b d"],
    others: Float[Array, "blocks b d"],
    left: Float[Array, "blocks r b"],
    right: Float[Array, "blocks r b"],
    k: Any,
) -> Float[Array, ""]:
    """The sum over the tiles (i, i + k); arguments as in `visit_tiles`."""

    @jax.checkpoint
    def tile(at: tuple[Array, ...]) -> Array:
        return _tile(kernel, closed_over, *at)

    turned = (jnp.roll(others, -k, axis=0), left, jnp.roll(right, -k, axis=0))
    return jax.lax.map(tile, (points, *turned)).sum()


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _alone(
    value: Callable[..., Array],
    value_and_slopes: Callable[..., Any],
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
) -> Float[Array, ""]:
    return value(closed_over, points, left, right)


@functools.partial(_alone.defjvp, symbolic_zeros=True)
def _(
    value: Any, value_and_slopes: Any, primals: Any, tangents: Any
) -> tuple[Array, Array]:
    def moves(tangent: Any) -> bool:
        return any(not isinstance(t, SymbolicZero) for t in jax.tree.leaves(tangent))

    wanted = [moves(tangent) for tangent in tangents]
    found, slopes = value_and_slopes(*primals, wanted=wanted)
    change = jnp.zeros_like(found)
    for slope, tangent in zip(slopes, tangents, strict=True):
        for s, t in zip(jax.tree.leaves(slope), jax.tree.leaves(tangent), strict=False):
            if not isinstance(t, SymbolicZero):
                change += jnp.vdot(s, t, precision="highest")
    return found, change


def with_slopes(
    kernel: Callable[..., Array],
    n_blocks: int,
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
    *,
    wanted: list[bool],
) -> tuple[Array, tuple[Any, ...]]:
    """The sum and its slopes in the four arguments, None where not wanted."""
    n = points.shape[0]
    samples, left, right = cut(n_blocks, points, left, right)
    of_constants, of_points, of_left, of_right = wanted
    flags = (of_constants, of_points, of_points, of_left, of_right)
    positions = [i for i, flag in enumerate(flags, start=1) if flag]

    def visit(k: Any, positions: list[int]) -> tuple[Array, dict[int, Any]]:
        found, slopes = visit_tiles(
            kernel, closed_over, samples, samples, left, right, k, positions=positions
        )
        if 3 in slopes:
            slopes[2] += slopes.pop(3)
        return found, slopes

    # On the diagonal both sides are the same samples: one slope, counted twice.
    value, slopes = visit(0, [i for i in positions if i != 3])
    if of_points:
        slopes[2] *= 2

    def ring(total: Any, k: Array) -> tuple[Any, None]:
        return jax.tree.map(lambda t, s: t + 2 * s, total, visit(k, positions)), None

    if n_blocks > 1:
        (value, slopes), _ = jax.lax.scan(
            jax.checkpoint(ring), (value, slopes), jnp.arange(1, n_blocks // 2 + 1)
        )
    found = iter([slopes[i] for i in sorted(set(slopes) - {1})])

    return value, (
        slopes[1] if of_constants else None,
        next(found).reshape(-1, points.shape[1])[:n] if of_points else None,
        uncut(next(found), n) if of_left else None,
        uncut(next(found), n) if of_right else None,
    )


def visit_tiles(
    kernel: Callable[..., Array],
    closed_over: tuple[Array, ...],
    points: Float[Array, "blocks b d"],
    others: Float[Array, "blocks b d"],
    left: Float[Array, "blocks r b"],
    right: Float[Array, "blocks r b"],
    k: Any,
    *,
    positions: list[int],
) -> tuple[Array, dict[int, Any]]:
    """Values of the tiles (i, i + k), and their slopes added up in their places.

    Args:
        kernel: with what it closes over as further arguments.
        closed_over: those.
        points: samples of the tiles' rows.
        others: samples of their columns.
        left: weights of the rows.
        right: weights of the columns.
        k: how far the columns are turned.
        positions: which slopes, counted among the arguments from `closed_over`, 1.
    """
    tile = jax.value_and_grad(_tile, argnums=positions)
    turned = (jnp.roll(others, -k, axis=0), left, jnp.roll(right, -k, axis=0))
    values, slopes = jax.lax.map(
        jax.checkpoint(lambda at: tile(kernel, closed_over, *at)), (points, *turned)
    )
    found = dict(zip(positions, slopes, strict=True))
    if 1 in found:
        found[1] = jax.tree.map(lambda s: s.sum(axis=0), found[1])
    # Slopes of the turned blocks go back to where those came from.
    for back in {3, 5} & set(found):
        found[back] = jnp.roll(found[back], k, axis=0)
    return values.sum(), found


def uncut(blocks: Float[Array, "blocks r b"], n: int) -> Float[Array, "r n"]:
    """Rows of weights from their blocks."""
    return jnp.swapaxes(blocks, 1, 2).reshape(-1, blocks.shape[1])[:n].T
