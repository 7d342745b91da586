"""Sums over all pairs of samples whose rows lie on several devices.

Each device keeps its own samples and hands a copy of them round a ring, so that all
pairs meet without any device holding all samples. `c` and the kernel are symmetric, so
half of the ring is enough: after `k` hops device i sees the samples of device i + k,
for k up to half the number of devices; where that number is even, both ends of the last
hop see the same pairs, and each counts them once instead of twice. Slopes of the
travelling samples travel with them, and go home in one last hop.

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

from . import _kernel_sums as sums
from . import _rows
from ._kernel_sums import Kernel


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

        @jax.checkpoint
        def meet(others: Array, rights: Array) -> Array:
            turn = functools.partial(
                sums.sum_tiles, kernel, closed_over, samples, others, lefts, rights
            )
            return jax.lax.map(jax.checkpoint(turn), jnp.arange(n_blocks)).sum()

        def hop(carry: Any, k: Array) -> tuple[Any, None]:
            total, travelling = carry
            travelling = _passed_on(travelling, mesh)
            seen = meet(*travelling)
            return (total + _times(k, mesh, seen.dtype) * seen, travelling), None

        @jax.checkpoint
        def stretch(carry: Any, hops: Array) -> Any:
            return jax.lax.scan(hop, carry, hops)[0]

        total = sums.together(kernel, n_blocks, closed_over, points, left, right)
        carry = (total, (samples, rights))
        hops = jnp.arange(1, mesh.size // 2 + 1)
        # The derivative keeps what came by at the ends of stretches, then in one.
        length = max(1, math.isqrt(hops.size))
        most = hops.size // length * length
        carry, _ = jax.lax.scan(
            lambda carry, hops: (stretch(carry, hops), None),
            carry,
            hops[:most].reshape(-1, length),
        )
        return stretch(carry, hops[most:])[0][None]

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
    by_rows, whole = _rows.spec(mesh), _rows.spec(mesh, axis=1)
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

    def meet(others: Array, rights: Array) -> tuple[Array, dict[int, Any]]:
        tiles = (samples, others, lefts, rights)

        def turn(total: Any, k: Array) -> tuple[Any, None]:
            seen = sums.visit_tiles(kernel, closed_over, *tiles, k, positions=positions)
            return jax.tree.map(jnp.add, total, seen), None

        none = jax.tree.map(jnp.zeros_like, (value, slopes))
        return jax.lax.scan(jax.checkpoint(turn), none, jnp.arange(n_blocks))[0]

    def away(slopes: dict[int, Any]) -> dict[int, Any]:
        return {i: slope for i, slope in slopes.items() if i in (3, 5)}

    def hop(carry: Any, k: Array) -> tuple[Any, None]:
        value, slopes, travelling = carry
        travelling, back = _passed_on((travelling, away(slopes)), mesh)
        value, slopes = jax.tree.map(
            lambda total, seen: total + _times(k, mesh, seen.dtype) * seen,
            (value, slopes | back),
            meet(*travelling),
        )
        return (value, slopes, travelling), None

    n_hops = mesh.size // 2
    (value, slopes, _), _ = jax.lax.scan(
        hop, (value, slopes, (samples, rights)), jnp.arange(1, n_hops + 1)
    )
    slopes |= _passed_on(away(slopes), mesh, hops=-n_hops)
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


def _times(k: Array, mesh: Mesh, dtype: Any) -> Float[Array, ""]:
    """How often the pairs of the k-th hop count: once where two devices see them."""
    return jnp.where(2 * k == mesh.size, 1, 2).astype(dtype)


def _on_each(around: Callable[..., Any], mesh: Mesh, out_specs: Any = None) -> Any:
    by_rows, whole = _rows.spec(mesh), _rows.spec(mesh, axis=1)
    in_specs = (PartitionSpec(), by_rows, whole, whole)
    return _rows.on_each(around, mesh, in_specs=in_specs, out_specs=out_specs)
