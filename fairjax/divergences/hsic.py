"""The Hilbert-Schmidt independence criterion: dependence of two numbers or vectors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, ArrayLike, Float, Real

from .. import kernels
from ..arrays import checks
from ..arrays.samples import Weights, as_weights, check_sample, shares, wide
from ..kernels import Kernel, pairwise


def hsic(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "n e"],
    *,
    weights: Weights = None,
    x_kernel: Kernel,
    y_kernel: Kernel,
    block: int | None = None,
) -> Float[Array, ""]:
    """Dependence of paired samples, such as scores and a continuous attribute.

    The squared MMD between the joint distribution and the product of its marginals, for
    the kernel `k(x, x') l(y, y')`. With weights `w` of sum 1 (biased, a V-statistic):

    `sum_ij w_i w_j k_ij l_ij - 2 sum_i w_i (K w)_i (L w)_i + (w' K w)(w' L w)`,

    which for equal weights is `tr(K H L H) / n^2`. With Gaussian or Laplacian kernels
    on both sides it is 0 only for independent distributions; a sample of independent
    numbers has a value of order 1 / n.

    Args:
        x: samples; `scores[:, None]` for scores.
        y: the other half of each sample, such as a sensitive attribute of any width.
        weights: non-negative sample weights, or a mask: `labels == 1` asks for
            independence among positives.
        x_kernel: as for `mmd_squared`.
        y_kernel: likewise, on `y`.
        block: static; most samples in a block, 768 on a CPU and 2,048 elsewhere when
            absent. Memory is O(block^2 + n (d + e)).

    Returns:
        A number >= 0 up to rounding [both kernels], 0 when all weights are 0. Cost
        O(n^2 (d + e)); the gradient takes a second pass. Under `vmap` over weights
        alone, kernels are evaluated once.

    Raises:
        ValueError: for samples that are empty, not finite or not paired; weights that
            are negative, not finite or all 0; a bandwidth that is not positive; a block
            below 1.

    Example:
        >>> kernel = functools.partial(kernels.gaussian, bandwidth=1.0)
        >>> x = jnp.array([[0.0], [0.0], [9.0], [9.0]])
        >>> y = jnp.array([[0.0], [9.0], [0.0], [9.0]])
        >>> bound = functools.partial(hsic, x_kernel=kernel, y_kernel=kernel)
        >>> bound(x, x).item(), bound(x, y).item()
        (0.25, 0.0)

    References:
        Gretton, Bousquet, Smola, Scholkopf, *Measuring statistical dependence with
        Hilbert-Schmidt norms*, ALT 2005, Definition 2, scaled by 1 / n^2 as in Gretton
        et al., *A kernel statistical test of independence*, NeurIPS 2007, Eq. 4; here
        for weighted samples.
    """
    for kernel, name in ((x_kernel, "x_kernel"), (y_kernel, "y_kernel")):
        kernels.check_bound(kernel, name=name)
    block = pairwise.block_size(block)
    check_sample(x, weights, name="x", word="weights")
    check_sample(y, None, name="y", word="weights")
    n, dtype = np.shape(x)[0], wide(x, y)
    checks.check_length(y, n=n, name="y", to="x", columns=True)
    of_x, of_y = pairwise.partition(x_kernel), pairwise.partition(y_kernel)
    return _hsic(
        (of_x.traced, of_y.traced),
        jnp.asarray(x).astype(dtype),
        jnp.asarray(y).astype(dtype),
        as_weights(weights, n, dtype),
        static=(of_x.static, of_y.static),
        block=block,
    )


@functools.partial(jax.jit, static_argnames=("static", "block"))
def _hsic(
    traced: tuple[list[Any], list[Any]],
    x: Float[Array, "n d"],
    y: Float[Array, "n e"],
    weights: Float[Array, " n"],
    *,
    static: tuple[Any, Any],
    block: int,
) -> Float[Array, ""]:
    x_kernel, y_kernel = map(pairwise.combine, static, traced)
    mass = shares(weights)
    x, y = (
        pairwise.clip_masked_points(points, pairwise.used_by_any(points, mass))
        for points in (x, y)
    )
    n_blocks = -(-x.shape[0] // block)
    blocks = (
        pairwise.in_blocks(x, n_blocks, mode="edge"),
        pairwise.in_blocks(y, n_blocks, mode="edge"),
        pairwise.in_blocks(mass, n_blocks, mode="constant"),
    )
    product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)

    @jax.checkpoint
    def strip(row: tuple[Array, ...]) -> tuple[Array, ...]:
        @jax.checkpoint
        def tile(column: tuple[Array, ...]) -> tuple[Array, ...]:
            of_x, of_y = x_kernel(row[0], column[0]), y_kernel(row[1], column[1])
            joint = product(product(of_x * of_y, column[2]), row[2])
            return product(of_x, column[2]), product(of_y, column[2]), joint

        return jax.tree.map(lambda s: s.sum(axis=0), jax.lax.map(tile, blocks))

    # Means of each kernel around each sample, and the sums over joint pairs.
    of_x, of_y, joint = jax.lax.map(strip, blocks)
    mass = blocks[2]
    cross = (mass * of_x * of_y).sum()
    return joint.sum() - 2 * cross + (mass * of_x).sum() * (mass * of_y).sum()
