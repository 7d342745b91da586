"""How fast and how exact is the Sinkhorn divergence with its gradient?

Two groups of n points in 16 or 64 dimensions, the second one shifted and wider; epsilon
is 5 % of the mean squared distance. Side by side in one run, in float32, all for value
and gradient in both clouds:

- fairjax: cold, and once more from its own potentials; then a series of training steps
  in which the points move along the gradient, cold and warm;
- geomloss `SamplesLoss("sinkhorn", backend="tensorized")`, debiased, with its default
  scaling 0.5 and with 0.9;
- POT: `ot.solve_sample` with a KL regulariser for the three problems and torch
  autograd, which stops at the same marginal error as ours;
- ott-jax: `sinkdiv` with its defaults, which is what fairjax builds on.

The error is relative to the value that fairjax finds in float64 at threshold 1e-7, up
to 4,096 points. Its tests compare that value with plain NumPy. MB is what the compiled
program holds beside arguments and results, and for torch the rise of the process during
one call. Seconds are medians of repeats after the first call, which includes
compilation.

Run: `python benchmarks/sinkhorn.py [--rows N ...] [--repeats R] [--steps S] [--smoke]`;
geomloss and POT need torch, and what is not installed is left out, as all others are
above 4,096 points. On another device than a CPU, JAX uses it, torch stays on the CPU.

Answer (2 cores, otherwise idle; jax 0.12.0.1, ott-jax 0.6.0, torch 2.14.1, geomloss
0.3.1, POT 0.9.7, Python 3.13; median seconds, error in brackets):

    n per group, d             1,024, 16         1,024, 64         4,096, 16
    fairjax                    0.019 (2e-7)      0.024 (2e-7)      0.485 (2e-7)
    from its own potentials    0.010 (2e-7)      0.014 (2e-7)      0.213 (6e-8)
    100 steps, cold            0.019             0.025             0.474
    100 steps, warm            0.015             0.019             0.383
    ott-jax                    0.086 (7e-7)      0.061 (0)         1.650 (2e-6)
    geomloss, scaling 0.5      0.095 (5e-2)      0.083 (4e-3)      6.450 (2e-2)
    geomloss, scaling 0.9      0.315 (1e-3)      0.263 (3e-4)      19.47 (1e-3)
    POT                        0.255 (3e-4)      0.155 (2e-7)      19.94 (3e-4)

Compilation takes 3 s; 17 MB are held at 1,024 points per group, 269 MB at 4,096, four
times as many for twice the points: 16,384 take 12.1 s (4.5 s from its own potentials)
and 4.3 GB, 100,000 do not fit. The aims, 0.06 s at 1,024 and
1.5 s at 4,096, are met. That warm starts make 100 steps three times faster again is
missed: they save 5 of 20 iterations, and without any a step would still cost 0.45 of a
cold one.
"""

import importlib.util
import time
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from records import Record, parser_for, tell
from timing import machine, once, seconds, summary

from fairjax.divergences import sinkhorn_info

MOST_IN_OTHERS = 4096


def draw(n, width):
    """The two clouds and epsilon, in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, width))
    y = 0.3 + 1.1 * rng.normal(size=(n, width))
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


def train(x, y, epsilon, steps, warm):
    """Seconds and iterations per step, while both clouds follow the gradient."""

    def series(steps):
        points, potentials, laps, iterations = [x, y], [], [], 0
        for _ in range(steps):
            start = time.perf_counter()
            (_, info), slopes = with_fairjax(*points, epsilon, *potentials)
            potentials = [info.potentials] if warm else []
            iterations += int(info.iterations.sum())
            # As an optimiser would: a hundredth of the spread per step, whatever n.
            points = [
                z - 0.01 * slope / jnp.sqrt(jnp.mean(jnp.square(slope)))
                for z, slope in zip(points, slopes, strict=True)
            ]
            jax.block_until_ready(points)
            laps.append(time.perf_counter() - start)
        return laps, iterations

    first = series(2)[0][0]  # compiles
    laps, iterations = series(steps)
    return summary([first, *laps]), iterations / steps


def compare(n, width, repeats, steps):
    """Records of everything at one size and width."""
    x, y, epsilon = draw(n, width)
    single = [z.astype(np.float32) for z in (x, y)]
    ours = [jnp.asarray(z) for z in (*single, np.float32(epsilon))]
    truth = None
    if n <= MOST_IN_OTHERS:
        with jax.enable_x64(True):
            wide = jax.jit(partial(sinkhorn_info, threshold=1e-7))
            truth = float(wide(x, y, epsilon=epsilon).value)

    def record(alternative, laps, **rest):
        place = f"d = {width}", n, "rows per group"
        return Record("sinkhorn", *place, alternative, *laps, **rest)

    def measured(name, program, args, value, repeats):
        """What a program returns, and the record of it."""
        laps = seconds(partial(program, *args), repeats=repeats)
        result, memory = once(program, args)
        return result, record(
            name,
            laps,
            memory=memory,
            error=None if truth is None else abs(float(value(result)) / truth - 1),
            error_is="relative to float64 at threshold 1e-7",
            host=not hasattr(program, "lower"),
        )

    def with_traffic(found, info):
        """An iteration reads its n x n kernel: twice, once where it is symmetric.

        The slopes read each of the three kernels once more.
        """
        across, *within = info.iterations.tolist()
        reads = 2 * across + sum(within) + 3
        return found._replace(traffic=4.0 * n**2 * reads)

    def first(result):
        return result[0][0]

    ((_, info), _), found = measured("fairjax", with_fairjax, ours, first, repeats)
    yield with_traffic(found, info)
    again, name = (*ours, info.potentials), "fairjax, its own potentials"
    ((_, info), _), found = measured(name, with_fairjax, again, first, repeats)
    yield with_traffic(found, info)
    for name, warm in (("cold", False), ("warm", True)):
        laps, iterations = train(*ours, steps, warm)
        yield record(f"fairjax, a step, {name}", laps, notes={"iterations": iterations})
    if n > MOST_IN_OTHERS:
        print("  others: not run")
        return
    few = min(repeats, 3)
    yield measured("ott-jax", with_ott(), ours, lambda r: r[0], few)[1]
    if importlib.util.find_spec("geomloss"):
        for scaling in (0.5, 0.9):
            args = *single, epsilon, scaling
            name = f"geomloss, scaling {scaling}"
            yield measured(name, with_geomloss, args, float, few)[1]
    else:
        print("  geomloss is not installed")
    if importlib.util.find_spec("ot") and importlib.util.find_spec("torch"):
        args = *single, epsilon
        yield measured("POT", with_pot, args, float, min(few, 1))[1]
    else:
        print("  POT and torch are not installed")


def records(rows, widths, *, repeats, steps):
    """All sizes and widths."""
    for n in rows:
        for width in widths:
            yield from compare(n, width, repeats, steps)


def main():
    parser = parser_for(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    if given.smoke:
        given.rows, given.widths = [64], given.widths[:1]
        given.repeats, given.steps = 1, 3
    found = records(given.rows, given.widths, repeats=given.repeats, steps=given.steps)
    tell(machine("ott-jax"), found, as_json=given.json)


if __name__ == "__main__":
    main()
