"""How fast is the squared MMD with its gradient, and what does it hold in memory?

Two groups of n points in 16 or 64 dimensions, the second one shifted and wider; a
Gaussian kernel with the median heuristic's bandwidth, unbiased. Side by side in one
run, in float32, all for value and gradient in both clouds:

- fairjax `mmd_squared`;
- PyTorch: autograd through distances by matrix products, the way it is mostly written,
  with all pairs in memory;
- the limit: bare matrix products that cost as many operations as value and gradient
  need for half of the pairs, in tiles of the same size, so nothing else is measured;
- fairjax `mmd_random_features` (1,024 of them), an estimate of the biased one.

The error is relative to the same statistic in float64, computed up to 4,096 points by a
loop over NumPy blocks. MB is what the compiled program holds beside arguments and
results, and for PyTorch the rise of the process during one call. Seconds are medians of
repeats after the first call, which includes compilation. Then: all 45 pairs of ten
groups by `penalties.divergence_gap` against one pair of two groups.

Run: `python benchmarks/mmd.py [--rows N ...] [--repeats R] [--smoke]`; what is not
installed of PyTorch is left out, and so is PyTorch above 16,384 points, where it would
need more than 5 GB. On another device than a CPU, JAX uses it, torch stays on the CPU.

Answer (2 cores, otherwise idle; jax 0.12.0.1, numpy 2.5.5, torch 2.14.1, Python 3.13;
median seconds of value and gradient, error in brackets, MB):

    n per group, d       fairjax               x limit  PyTorch              ratio
    1,024, 16            0.011 (7e-6)    5 MB      1.6  0.040 (2e-5)   25 MB   3.7
    1,024, 64            0.015 (3e-5)   10 MB      1.0  0.052 (3e-5)    8 MB   3.6
    4,096, 16            0.098 (2e-5)   11 MB      1.2  1.231 (2e-5)  335 MB  12.6
    4,096, 64            0.180 (2e-6)   30 MB      1.0  1.284 (9e-6)  335 MB   7.1
    16,384, 16           1.194          31 MB      1.2  23.90        5369 MB  20.0
    16,384, 64           2.394         103 MB      1.0  25.56        5369 MB  10.7
    100,000, 16          46.4          163 MB      1.2  not run
    100,000, 64          78.6          624 MB      1.0  not run

Compilation takes 2 to 3 s. The aim was 15 times PyTorch at 16,384 points: met for d =
16, missed for d = 64, where fairjax takes as long as its bare matrix products. Memory
grows with n d, not with n^2. At 4,096 points of 16 dimensions 1,024 random features
take 0.185 s (error 2e-2), at 100,000 4.6 s; all 45 pairs of ten groups take 0.25 s
where one pair takes 0.12 to 0.21 s (8,192 points).
"""

import argparse
import importlib.util
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from timing import machine, once, seconds

from fairjax import kernels, notions, penalties
from fairjax.divergences import mmd_random_features, mmd_squared

BLOCK = 768  # the default of `mmd_squared`
MOST_IN_TORCH = 16_384


def draw(n, width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, width)).astype(np.float32)
    y = (0.1 + 1.1 * rng.normal(size=(n, width))).astype(np.float32)
    return x, y


def by_definition(x, y, bandwidth):
    """The unbiased and the biased estimate in float64, a block of rows at a time."""

    def total(a, b):
        result, norms = 0.0, np.square(b).sum(axis=1)
        for rows in np.array_split(a, max(1, len(a) // 512)):
            squares = np.square(rows).sum(axis=1)[:, None] + norms - 2 * rows @ b.T
            result += np.exp(-squares / (2 * bandwidth**2)).sum()
        return result

    n, x, y = len(x), x.astype(float), y.astype(float)
    within, across = [total(x, x), total(y, y)], total(x, y)
    unbiased = sum(k - n for k in within) / (n * (n - 1)) - 2 * across / n**2
    return unbiased, (sum(within) - 2 * across) / n**2


@jax.jit
def with_fairjax(x, y, bandwidth):
    kernel = partial(kernels.gaussian, bandwidth=bandwidth)
    call = partial(mmd_squared, kernel=kernel, unbiased=True, block=BLOCK)
    return jax.value_and_grad(call, argnums=(0, 1))(x, y)


@jax.jit
def with_features(x, y, bandwidth):
    call = partial(mmd_random_features, bandwidth=bandwidth, key=jax.random.key(0))
    return jax.value_and_grad(call, argnums=(0, 1))(x, y)


def with_torch(x, y, bandwidth):
    import torch

    points = [torch.tensor(z, requires_grad=True) for z in (x, y)]

    def table(a, b):
        squares = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
        return torch.exp(-squares / (2 * bandwidth**2))

    n = len(x)
    within = [(table(z, z).sum() - n) / (n * (n - 1)) for z in points]
    value = sum(within) - 2 * table(*points).mean()
    value.backward()
    return value.item(), [z.grad for z in points]


@partial(jax.jit, static_argnames="width")
def products(points, *, width):
    """Three products per tile, over half of the tiles of all pairs, and little else."""
    n_blocks = -(-len(points) // BLOCK)
    blocks = points.reshape(n_blocks, -1, width)

    def tile(total, index):
        one = blocks[index % n_blocks]
        other = blocks[(index * 7) % n_blocks]
        # Products with what the one before gave, or XLA would drop them.
        table = jnp.matmul(one, other.T, precision="highest")
        to_one = jnp.matmul(table, other, precision="highest")
        to_other = jnp.matmul(table.T, one, precision="highest")
        return total + to_one[0, 0] + to_other[0, 0], None

    count = n_blocks * (n_blocks + 1) // 2
    return jax.lax.scan(tile, jnp.float32(0), jnp.arange(count))[0]


@partial(jax.jit, static_argnames="n_groups")
def gap(z, bandwidth, *, n_groups):
    cond = notions.demographic_parity(jnp.arange(len(z)) % n_groups, n_groups=n_groups)
    kernel = partial(kernels.gaussian, bandwidth=bandwidth)
    divergence = partial(mmd_squared, kernel=kernel, unbiased=True)
    call = partial(penalties.divergence_gap, cond=cond, divergence=divergence)
    return jax.value_and_grad(call)(z)


def report(name, first, median, limit=None, error=None, memory=None):
    ratio = "" if limit is None else f"{median / limit:7.1f}"
    error = "" if error is None else f"{error:9.1e}"
    memory = "" if memory is None else f"{memory:7.0f}"
    print(
        f"  {name:24}{first:9.3f}{median:9.3f}{ratio:>9}{error:>10}{memory:>9}",
        flush=True,
    )


def measure(name, program, args, truth, limit, repeats):
    """One line of the table; the program returns its value first."""
    first, median = seconds(partial(program, *args), repeats=repeats)
    result, memory = once(program, args)
    error = None if truth is None else abs(result[0] / truth - 1)
    report(name, first, median, limit, error, memory)
    return median


def compare(n, width, repeats):
    x, y = draw(n, width)
    bandwidth = kernels.median_heuristic(x, y, key=jax.random.key(0))
    truth, biased = None, None
    if n <= 4096:
        truth, biased = by_definition(x, y, float(bandwidth))
    head = f"n = {n} per group, d = {width}"
    print(f"\n{head:26}  first s   then s  x limit     error       MB")
    pooled = jnp.concatenate([x, y])
    few = max(1, -(-2 * n // BLOCK))
    pooled = jnp.asarray(np.resize(pooled, (few * BLOCK, width)))
    first, limit = seconds(partial(products, pooled, width=width), repeats=repeats)
    report("bare products", first, limit, limit)
    args = jnp.asarray(x), jnp.asarray(y), bandwidth
    ours = measure("fairjax", with_fairjax, args, truth, limit, repeats)
    measure("fairjax, 1,024 features", with_features, args, biased, limit, repeats)
    if n > MOST_IN_TORCH or not importlib.util.find_spec("torch"):
        print("  PyTorch: not run")
        return
    args = x, y, float(bandwidth)
    theirs = measure("PyTorch", with_torch, args, truth, limit, min(repeats, 2))
    print(f"  PyTorch takes {theirs / ours:.1f} times as long as fairjax")


def compare_pairs(n, repeats):
    x, y = draw(n, 16)
    z, bandwidth = jnp.concatenate([x, y]), jnp.float32(5.0)
    print(f"\n{'':26}  first s   then s   ({2 * n} points, d = 16)")
    for name, n_groups in (("1 pair of groups", 2), ("45 pairs of 10 groups", 10)):
        call = partial(gap, z, bandwidth, n_groups=n_groups)
        report(name, *seconds(call, repeats=repeats))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096, 16_384])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--smoke", action="store_true", help="tiny, to see that it runs"
    )
    given = parser.parse_args()
    print(machine("numpy"), f"load {os.getloadavg()[0]:.1f} at the start", sep="; ")
    repeats = 1 if given.smoke else given.repeats
    for n in [64] if given.smoke else given.rows:
        for width in given.widths:
            compare(n, width, repeats)
    compare_pairs(64 if given.smoke else 4096, repeats)


if __name__ == "__main__":
    main()
