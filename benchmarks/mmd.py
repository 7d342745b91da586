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
need more than 5 GB. On another device than a CPU, JAX uses it, torch stays on the CPU;
sizes go on to 65,536 there, and blocks are larger (not measured yet).

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

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from records import Record, parser_for, tell
from timing import machine, once, seconds

from fairjax import kernels, notions, penalties
from fairjax.divergences import mmd_random_features, mmd_squared
from fairjax.kernels import pairwise

BLOCK = pairwise.block_size(None)  # the default of `mmd_squared`
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


def record(case, n, unit, alternative, laps, **rest):
    return Record("mmd", case, n, unit, alternative, *laps, **rest)


def compare(n, width, repeats):
    """Records of everything at one size and width."""
    x, y = draw(n, width)
    bandwidth = kernels.median_heuristic(x, y, key=jax.random.key(0))
    truth, biased = None, None
    if n <= 4096:
        truth, biased = by_definition(x, y, float(bandwidth))
    place = f"d = {width}", n, "rows per group"
    pooled = jnp.concatenate([x, y])
    n_blocks = max(1, -(-2 * n // BLOCK))
    pooled = jnp.asarray(np.resize(pooled, (n_blocks * BLOCK, width)))
    limit = seconds(partial(products, pooled, width=width), repeats=repeats)
    tiles = n_blocks * (n_blocks + 1) // 2
    yield record(
        *place, "bare products", limit, operations=6.0 * tiles * BLOCK**2 * width
    )

    def measured(name, program, args, truth, operations, repeats):
        """A record of a program that returns its value first."""
        laps = seconds(partial(program, *args), repeats=repeats)
        result, memory = once(program, args)
        return record(
            *place,
            name,
            laps,
            memory=memory,
            error=None if truth is None else abs(float(result[0]) / truth - 1),
            error_is="relative to float64",
            operations=operations,
            host=name == "PyTorch",
            notes={"x limit": laps.median / limit.median},
        )

    # Half of the pairs, each in three products: the distance, and two slopes.
    needed = 3.0 * width * 2 * n * (2 * n + 1)
    args = jnp.asarray(x), jnp.asarray(y), bandwidth
    yield measured("fairjax", with_fairjax, args, truth, needed, repeats)
    # Two products: the points with the frequencies, and back.
    fewer = 4.0 * 2 * n * width * 1024
    name = "fairjax, 1,024 features"
    yield measured(name, with_features, args, biased, fewer, repeats)
    if n > MOST_IN_TORCH or not importlib.util.find_spec("torch"):
        print("  PyTorch: not run")
        return
    args = x, y, float(bandwidth)
    yield measured("PyTorch", with_torch, args, truth, needed, min(repeats, 2))


def compare_pairs(n, repeats):
    """All pairs of ten groups next to the one pair of two."""
    x, y = draw(n, 16)
    z, bandwidth = jnp.concatenate([x, y]), jnp.float32(5.0)
    for name, n_groups in (("1 pair of groups", 2), ("45 pairs of 10 groups", 10)):
        call = partial(gap, z, bandwidth, n_groups=n_groups)
        laps = seconds(call, repeats=repeats)
        yield record("gap, d = 16", 2 * n, "rows", f"fairjax, {name}", laps)


def records(rows, widths, *, repeats, smoke):
    """All sizes and widths, then the pairs of groups."""
    for n in rows:
        for width in widths:
            yield from compare(n, width, repeats)
    yield from compare_pairs(64 if smoke else 4096, repeats)


def main():
    parser = parser_for(__doc__)
    sizes = [1024, 4096, 16_384]
    if jax.default_backend() != "cpu":
        sizes.append(65_536)
    parser.add_argument("--rows", type=int, nargs="+", default=sizes)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.smoke:
        given.rows, given.widths, given.repeats = [64], given.widths[:1], 1
    found = records(given.rows, given.widths, repeats=given.repeats, smoke=given.smoke)
    tell(machine("numpy"), found, as_json=given.json)


if __name__ == "__main__":
    main()
