"""How fast is the barycenter map, next to what others compute and to a bare sort?

Calibrates on n scores and repairs n new ones, for 2 and 5 Gaussian groups:

- fairjax, compiled: fit, apply (`interp`, `step`, and the paper's jitter and split),
  both in one program, and value and gradient of the mean squared change through both;
- equipy's `FairWasserstein`, float64 as it comes, if it is installed;
- the published algorithm in plain NumPy (sort, `searchsorted`, quantile look-up), in
  float32 too: what a careful author would write;
- `numpy.sort` of the calibration scores: the physical limit.

The error is the root mean square distance to the closed-form barycenter of Gaussians.
Seconds are medians of repeats after the first call, which includes compilation. Memory
is the rise of the process above its data and libraries during one such call.

Run: `python benchmarks/barycenter.py [--rows N ...] [--repeats R] [--smoke]`; equipy
needs pandas and statsmodels. Reference on an idle 2-core machine, not measured by this
script: equipy fit + transform at n = 1e6 in 1.65 s (2 groups) and 2.5 s (5 groups).

Answer (2 cores, otherwise idle; jax 0.12.0.1, numpy 2.5.5, equipy 0.0.11a0.dev0, Python
3.13; median seconds, error in brackets):

    n, groups                 1e6, 2            1e6, 5            1e7, 2
    fairjax fit               0.070             0.063             0.87
    fairjax apply             0.143 (3.4e-3)    0.195 (9.2e-3)    1.71 (8.2e-4)
    fairjax apply, step       0.072 (3.4e-3)    0.085 (9.3e-3)    1.58 (8.3e-4)
    fairjax fit, key          0.203             0.188             2.39
    fairjax apply, key        0.127 (5.7e-3)    0.145 (1.3e-2)    2.40 (1.7e-3)
    fairjax fit + apply       0.213 (3.4e-3)    0.260 (9.2e-3)    2.09 (8.2e-4)
    value and gradient        0.293             0.434             4.77
    equipy                    2.160 (3.4e-3)    3.327 (9.4e-3)    not run
    numpy                     0.193 (3.4e-3)    0.211 (9.3e-3)    3.46 (8.3e-4)
    numpy.sort alone          0.007             0.007             0.119
    first call, fit + apply   1.09              1.11              3.11
    memory, fit + apply       65 MB             65 MB             813 MB
    memory, gradient          162 MB            162 MB            1003 MB

Fit + apply is 10.1 times (2 groups) and 12.8 times (5 groups) faster than equipy beside
it, 7.7 and 9.6 times against the reference above (short of the 10 aimed at; fit and
then `step`, without mid-ranks, 11.6 and 16.9), and grows 9.8-fold from 1e6 to 1e7 rows.
It is level with careful NumPy at 1e6, which has no gradient; NumPy's vectorised sort is
the advantage that XLA lacks on CPU.
"""

import argparse
import importlib.util
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from timing import machine, peak_memory, seconds

from fairjax import barycenters as bary


def draw(n, n_groups):
    """Calibration scores, new scores, their groups, and the true fair scores."""
    rng = np.random.default_rng(0)
    groups = rng.integers(n_groups, size=n).astype(np.int32)
    std, noise = 1 + np.arange(n_groups) / 2, rng.normal(size=(2, n))
    scores, rows = (groups + std[groups] * noise).astype(np.float32)
    truth = np.mean(np.arange(n_groups)) + np.mean(std) * noise[1]
    return scores, rows, groups, truth


def programs(n_groups):
    """The compiled programs of fairjax by name."""
    key = jax.random.key(0)

    def fit(scores, groups, key=None):
        return bary.fit_map(scores, groups, n_groups=n_groups, key=key)

    def both(scores, rows, groups):
        return bary.apply_map(fit(scores, groups), rows, groups)

    def change(scores, rows, groups):
        return jnp.mean(jnp.square(both(scores, rows, groups) - rows))

    def stepwise(fitted, rows, groups):
        return bary.apply_map(fitted, rows, groups, variant=bary.step)

    return {
        "fit": jax.jit(fit),
        "apply": jax.jit(bary.apply_map),
        "apply, step": jax.jit(stepwise),
        "fit, key": jax.jit(lambda x, s: fit(x, s, key)),
        "apply, key": jax.jit(lambda m, x, s: bary.apply_map(m, x, s, key=key)),
        "fit + apply": jax.jit(both),
        "value and gradient": jax.jit(jax.value_and_grad(change, argnums=(0, 1))),
    }


def with_numpy(scores, rows, groups, n_groups):
    """Algorithm 1 without split and jitter, one sort and search per group."""
    own = [np.flatnonzero(groups == s) for s in range(n_groups)]
    sorted_ = [np.sort(scores[o]) for o in own]
    result = np.empty_like(rows)
    for s in range(n_groups):
        rank = np.searchsorted(sorted_[s], rows[own[s]], side="right")
        result[own[s]] = 0
        for other in sorted_:
            at = -(-rank * len(other) // len(own[s])) - 1
            share = np.float32(len(other) / len(scores))
            result[own[s]] += share * other[np.maximum(at, 0)]
    return result


def with_equipy(scores, rows, groups):
    import pandas as pd
    from equipy.fairness import FairWasserstein

    frame, fair = pd.DataFrame({"group": groups}), FairWasserstein()
    fair.fit(scores.astype(float), frame)
    return fair.transform(rows.astype(float), frame)


def report(name, first, median, error=None):
    error = "" if error is None else f"{error:10.1e}"
    print(f"  {name:28} {first:8.2f} {median:8.3f} {error}", flush=True)


def compare(n, n_groups, repeats):
    scores, rows, groups, truth = draw(n, n_groups)
    print(f"\nn = {n:.0e}, {n_groups} groups{'':14} first s  then s      error")

    def rms(fair):
        return float(np.sqrt(np.mean(np.square(np.asarray(fair) - truth))))

    data = [jnp.asarray(a) for a in (scores, rows, groups)]
    run, maps = programs(n_groups), {}
    for name, program in run.items():
        kind, _, extra = name.partition(", ")
        args = data
        if kind == "fit":
            args = data[::2]
        elif kind == "apply":
            args = [maps[extra == "key"], *data[1:]]
        first, median = seconds(partial(program, *args), repeats=repeats)
        if kind == "fit":
            maps[extra == "key"] = program(*args)
        error = rms(program(*args)) if "apply" in kind else None
        report(f"fairjax {name}", first, median, error)
    if n > 5e6:
        print("  equipy: not run at this size")
    elif importlib.util.find_spec("equipy"):
        few = min(repeats, 3)
        other = partial(with_equipy, scores, rows, groups)
        first, median = seconds(other, repeats=few)
        report("equipy", first, median, rms(other()))
    else:
        print("  equipy is not installed; see the reference above")
    plain = partial(with_numpy, scores, rows, groups, n_groups)
    report("numpy", *seconds(plain, repeats=repeats), rms(plain()))
    report("numpy.sort alone", *seconds(partial(np.sort, scores), repeats=repeats))
    for name in ["fit + apply", "value and gradient"]:
        with peak_memory() as rise:
            jax.block_until_ready(run[name](*data))
        print(f"  memory of fairjax {name}: {rise[0]:.0f} MB above the data")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="does it run? in seconds")
    given = parser.parse_args()
    if given.smoke:
        given.rows, given.repeats = [1e3], 1
    print(machine("numpy"), f"load {os.getloadavg()[0]:.1f} at the start", sep="; ")
    for rows in given.rows:
        for n_groups in [2, 5] if rows < 5e6 and not given.smoke else [2]:
            few = given.repeats if rows < 5e6 else 1
            compare(int(rows), n_groups, few)


if __name__ == "__main__":
    main()
