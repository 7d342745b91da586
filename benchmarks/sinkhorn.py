"""How fast and how exact is the Sinkhorn divergence with its gradient?

Two groups of n points in 16 dimensions, the second one shifted and wider; epsilon is
5 % of the mean squared distance. Side by side in one run, in float32, all for value and
gradient in both clouds:

- fairjax: cold, and once more from its own potentials; then a series of training steps
  in which the points move along the gradient, cold and warm;
- geomloss `SamplesLoss("sinkhorn", backend="tensorized")`, debiased, with its default
  scaling 0.5 and with 0.9;
- POT: `ot.solve_sample` with a KL regulariser for the three problems and torch
  autograd, which stops at the same marginal error as ours;
- ott-jax: `sinkdiv` with its defaults, which is what fairjax builds on.

The error is relative to the value that fairjax finds in float64 at tolerance 1e-7, up
to 4,096 points. Its tests compare that value with plain NumPy. Memory is the rise of
the process above its data and libraries during one call. Seconds are medians of repeats
after the first call, which includes compilation.

Run: `python benchmarks/sinkhorn.py [--rows N ...] [--repeats R] [--smoke]`; geomloss
and POT need torch, and what is not installed is left out. On another device than a CPU,
JAX uses it, torch stays on the CPU.
"""

import argparse
import importlib.util
import os
import time
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from timing import machine, peak_memory, seconds

from fairjax.divergences import sinkhorn_info

WIDTH, STEPS = 16, 100


def draw(n):
    """The two clouds and epsilon, in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, WIDTH))
    y = 0.3 + 1.1 * rng.normal(size=(n, WIDTH))
    mean = np.square(x).sum() / n + np.square(y).sum() / n - 2 * x.mean(0) @ y.mean(0)
    return x, y, 0.05 * mean


@jax.jit
def with_fairjax(x, y, epsilon, potentials=None):
    def value(x, y):
        info = sinkhorn_info(x, y, epsilon=epsilon, potentials=potentials)
        return info.value, info

    return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(x, y)


def with_ott():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from ott.tools.sinkhorn_divergence import sinkdiv

    def value(x, y, epsilon):
        return sinkdiv(x, y, epsilon=epsilon)[0]

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1)))


def with_geomloss(x, y, epsilon, scaling):
    import torch
    from geomloss import SamplesLoss

    # Its cost is |x - y|^2 / 2, and its epsilon is blur^2.
    blur = float(np.sqrt(epsilon / 2))
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=blur, scaling=scaling, backend="tensorized"
    )
    points = [torch.tensor(z, requires_grad=True) for z in (x, y)]
    value = 2 * loss(*points)
    value.backward()
    return value.item()


def with_pot(x, y, epsilon):
    import ot
    import torch

    points = [torch.tensor(z, requires_grad=True) for z in (x, y)]
    solve = partial(
        ot.solve_sample, reg=float(epsilon), reg_type="KL", tol=3.5e-4, max_iter=2000
    )
    costs = [solve(*pair).value for pair in (points, points[:1] * 2, points[1:] * 2)]
    value = costs[0] - (costs[1] + costs[2]) / 2
    value.backward()
    return value.item()


def report(name, first, median, error=None, memory=None):
    error = "" if error is None else f"{error:10.1e}"
    memory = "" if memory is None else f"{memory:8.0f}"
    print(f"  {name:30} {first:8.2f} {median:9.4f} {error:>10} {memory:>8}", flush=True)


def measure(name, call, value, truth, repeats):
    first, median = seconds(call, repeats=repeats)
    with peak_memory() as rise:
        result = jax.block_until_ready(call())
    error = None if truth is None else abs(value(result) / truth - 1)
    report(name, first, median, error, rise[0])
    return result


def train(x, y, epsilon, steps, warm):
    """Seconds and iterations per step, while both clouds follow the gradient."""

    def series(steps):
        points, potentials, iterations = [x, y], None, 0
        for _ in range(steps):
            (_, info), slopes = with_fairjax(*points, epsilon, potentials)
            potentials = info.potentials if warm else None
            iterations += int(info.iterations.sum())
            # As an optimiser would: a hundredth of the spread per step, whatever n.
            points = [
                z - 0.01 * slope / jnp.sqrt(jnp.mean(jnp.square(slope)))
                for z, slope in zip(points, slopes, strict=True)
            ]
        return iterations

    series(2)  # compiles
    start = time.perf_counter()
    iterations = series(steps)
    return (time.perf_counter() - start) / steps, iterations / steps


def compare(n, repeats, steps):
    x, y, epsilon = draw(n)
    single = [z.astype(np.float32) for z in (x, y)]
    ours = [jnp.asarray(z) for z in (*single, np.float32(epsilon))]
    print(f"\nn = {n} per group{'':14}   first s    then s      error       MB")
    truth = None
    if n <= 4096:
        with jax.enable_x64(True):
            wide = jax.jit(partial(sinkhorn_info, tolerance=1e-7))
            truth = float(wide(x, y, epsilon=epsilon).value)
    (_, info), _ = measure(
        "fairjax", partial(with_fairjax, *ours), lambda r: r[0][0], truth, repeats
    )
    again = partial(with_fairjax, *ours, info.potentials)
    measure("fairjax, its own potentials", again, lambda r: r[0][0], truth, repeats)
    for name, warm in (("cold", False), ("warm", True)):
        lap, iterations = train(*ours, steps, warm)
        print(
            f"  {steps} steps, {name}: {lap:.4f} s a step, {iterations:.1f} iterations"
        )
    few = min(repeats, 3)
    measure("ott-jax", partial(with_ott(), *ours), lambda r: r[0], truth, few)
    if importlib.util.find_spec("geomloss"):
        for scaling in (0.5, 0.9):
            call = partial(with_geomloss, *single, epsilon, scaling)
            measure(f"geomloss, scaling {scaling}", call, float, truth, few)
    else:
        print("  geomloss is not installed")
    if importlib.util.find_spec("ot") and importlib.util.find_spec("torch"):
        measure("POT", partial(with_pot, *single, epsilon), float, truth, few)
    else:
        print("  POT and torch are not installed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--smoke", action="store_true", help="tiny, to see that it runs"
    )
    given = parser.parse_args()
    print(machine("ott-jax"), f"load {os.getloadavg()[0]:.1f} at the start", sep="; ")
    for n in [64] if given.smoke else given.rows:
        compare(n, 1 if given.smoke else given.repeats, 3 if given.smoke else STEPS)


if __name__ == "__main__":
    main()
