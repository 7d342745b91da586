"""Sums over all pairs of samples whose rows lie on several devices.

Each device keeps its own samples and hands a copy of them round a ring, so that all
pairs meet without any device holding all samples. `c` and the kernel are symmetric, so
half of the ring is enough: after `k` hops device i sees the samples of device i + k,
for k up to half the number of devices; where that number is even, both ends of the last
hop see the same pairs, and each visits half of them. Slopes of the travelling samples
travel with them, and go home in one last hop.

Memory of a device of D: its rows, those that came by, and a tile; in a program for
gradients JAX plans for both ways of `_kernel_sums.choose`, of which the one for batches
of weights keeps `2 sqrt(D / 2)` times a device's rows. Numbers sent by a device with
n / D samples of d coordinates, and r rows of weights on both sides: `n / D` times
`(D // 2) (d + r)` for the value, `(D // 2) (2 d + r) + d` with the slopes in samples,
and `(D // 2 + 1) (2 d + 2 r) - d - r` with those in weights too.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from ..arrays import mesh as meshes
from . import pairwise as sums
from .pairwise import Kernel


def form(
    kernel: Kernel,
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
    *,
    block: int,
    mesh: Mesh,
) -> Float[Array, ""]:
    """`_kernel_sums.form` of samples that lie by rows over all devices of a mesh.

    Args:
        kernel: symmetric; what it closes over is differentiated too.
        points: the samples, as many on each device.
        left: rows of weights.
        right: as many rows.
        block: static; most samples in a tile.
        mesh: static; the devices.

    Returns:
        The sum, whole on each device. Derivatives as there.
    """
    own = points.shape[0] // mesh.size
    n_blocks = -(-own // block)
    n_blocks += 1 - n_blocks % 2
    # Not a slice of the samples: inside `shard_map` there is no trace of their mesh.
    tile = jnp.zeros((-(-own // n_blocks), points.shape[1]), points.dtype)
    pure, closed_over = jax.closure_convert(kernel, tile, tile)
    return sums.choose(
        functools.partial(_together, pure, n_blocks, mesh),
        functools.partial(_with_slopes, pure, n_blocks, mesh),
        *(tuple(closed_over), points, left, right),
    )


def _together(
    kernel: Callable[..., Array],
    n_blocks: int,
    mesh: Mesh,
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
) -> Float[Array, ""]:
    """The sum as plain JAX; nothing of a tile is kept for the derivatives."""

    def around(closed_over, points, left, right):
        samples, lefts, rights = sums.cut(n_blocks, points, left, right)

        def hop(carry: Any, *, last: bool = False) -> Any:
            total, travelling = carry
            travelling = others, rights = _passed_on(travelling, mesh)
            turns, times = _turns(n_blocks, shared=last)

            # Not what was sent: the derivative would send it again.
            @jax.checkpoint
            def meet(others: Array, rights: Array) -> Array:
                turn = functools.partial(
                    sums.sum_tiles, kernel, closed_over, samples, others, lefts, rights
                )
                seen = jax.lax.map(jax.checkpoint(turn), turns)
                return (times.astype(seen.dtype) * seen).sum()

            return total + meet(others, rights), travelling

        total = sums.together(kernel, n_blocks, closed_over, points, left, right)
        carry = (total, (samples, rights))
        # The derivative keeps what came by at the ends of stretches, then in one.
        count = (mesh.size - 1) // 2
        length = max(1, math.isqrt(count))
        stretch = jax.checkpoint(functools.partial(_repeated, hop, length))
        carry = _repeated(stretch, count // length, carry)
        carry = jax.checkpoint(functools.partial(_repeated, hop, count % length))(carry)
        if mesh.size % 2 == 0:
            carry = hop(carry, last=True)
        return carry[0][None]

    # Each device's part of the sum: adding them is the one all-reduce.
    return _on_each(around, mesh)(closed_over, points, left, right).sum()


def _with_slopes(
    kernel: Callable[..., Array],
    n_blocks: int,
    mesh: Mesh,
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
    *,
    wanted: list[bool],
) -> tuple[Array, tuple[Any, ...]]:
    """The sum and its slopes in the four arguments, None where not wanted."""
    around = functools.partial(_around, kernel, n_blocks, mesh, wanted)
    by_rows, whole = meshes.row_spec(mesh), meshes.row_spec(mesh, axis=1)
    specs = (by_rows, (by_rows, by_rows, whole, whole))
    parts, slopes = _on_each(around, mesh, out_specs=specs)(
        closed_over, points, left, right
    )
    of_constants = jax.tree.map(lambda s: s.sum(axis=0), slopes[0])
    return parts.sum(), (of_constants, *slopes[1:])


def _around(
    kernel: Callable[..., Array],
    n_blocks: int,
    mesh: Mesh,
    wanted: list[bool],
    closed_over: tuple[Array, ...],
    points: Float[Array, "n d"],
    left: Float[Array, "r n"],
    right: Float[Array, "r n"],
) -> tuple[Array, tuple[Any, ...]]:
    """One device's part of the sum, and the slopes in its own rows.

    A hop carries the samples and the right rows of weights, and the slopes in either
    that are wanted.
    """
    n = points.shape[0]
    samples, lefts, rights = sums.cut(n_blocks, points, left, right)
    of_constants, of_points, of_left, of_right = wanted
    flags = (of_constants, of_points, of_points, of_left, of_right)
    positions = [i for i, flag in enumerate(flags, start=1) if flag]
    value, own = sums.with_slopes(
        kernel, n_blocks, closed_over, points, left, right, wanted=wanted
    )
    whole = {1: closed_over, 2: samples, 3: samples, 4: lefts, 5: rights}
    slopes = {i: jax.tree.map(jnp.zeros_like, whole[i]) for i in positions}

    def away(slopes: dict[int, Any]) -> dict[int, Any]:
        return {i: slope for i, slope in slopes.items() if i in (3, 5)}

    def hop(carry: Any, *, last: bool = False) -> Any:
        value, slopes, travelling = carry
        travelling, back = _passed_on((travelling, away(slopes)), mesh)
        tiles = (samples, travelling[0], lefts, travelling[1])

        def turn(total: Any, at: tuple[Array, Array]) -> tuple[Any, None]:
            k, times = at
            seen = sums.visit_tiles(kernel, closed_over, *tiles, k, positions=positions)
            seen = jax.tree.map(lambda s: times.astype(s.dtype) * s, seen)
            return jax.tree.map(jnp.add, total, seen), None

        turns = _turns(n_blocks, shared=last)
        start = (value, slopes | back)
        (value, slopes), _ = jax.lax.scan(jax.checkpoint(turn), start, turns)
        return value, slopes, travelling

    carry = (value, slopes, (samples, rights))
    carry = _repeated(hop, (mesh.size - 1) // 2, carry)
    if mesh.size % 2 == 0:
        carry = hop(carry, last=True)
    value, slopes, _ = carry
    slopes |= _passed_on(away(slopes), mesh, hops=-(mesh.size // 2))
    found = [None, None, None, None]
    if of_constants:
        found[0] = jax.tree.map(lambda a, b: (a + b)[None], own[0], slopes[1])
    if of_points:
        there = (slopes[2] + slopes[3]).reshape(-1, points.shape[1])
        found[1] = own[1] + there[:n]
    if of_left:
        found[2] = own[2] + sums.uncut(slopes[4], n)
    if of_right:
        found[3] = own[3] + sums.uncut(slopes[5], n)
    return value[None], tuple(found)


def _passed_on(travelling: Any, mesh: Mesh, *, hops: int = 1) -> Any:
    """What the device that is `hops` further on the ring holds."""
    ring = [(i, (i - hops) % mesh.size) for i in range(mesh.size)]
    return jax.lax.ppermute(travelling, mesh.axis_names, ring)


def _repeated(step: Callable[[Any], Any], times: int, carry: Any) -> Any:
    """What a step makes of the carry when it is taken so often."""
    if not times:
        return carry
    return jax.lax.scan(lambda c, _: (step(c), None), carry, length=times)[0]


def _turns(n_blocks: int, *, shared: bool) -> tuple[Array, Array]:
    """Which turns of the tiles are visited after a hop, and how often they count.

    Twice each: `c` and the kernel are symmetric. Pairs that are shared with another
    device, which sees them turned by `-k`, are visited up to half of the turns; those
    of turn 0 by both, so they count once.
    """
    if not shared:
        return jnp.arange(n_blocks), jnp.full(n_blocks, 2)
    turns = jnp.arange(n_blocks // 2 + 1)
    return turns, jnp.where(turns == 0, 1, 2)


def _on_each(around: Callable[..., Any], mesh: Mesh, out_specs: Any = None) -> Any:
    by_rows, whole = meshes.row_spec(mesh), meshes.row_spec(mesh, axis=1)
    in_specs = (PartitionSpec(), by_rows, whole, whole)
    return meshes.shard_map(around, mesh, in_specs=in_specs, out_specs=out_specs)
