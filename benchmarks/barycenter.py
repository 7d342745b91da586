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
needs pandas and statsmodels. On another device than a CPU, sizes go on to 1e8 rows (not
measured yet). Reference on an idle 2-core machine, not measured by this script: equipy
fit + transform at n = 1e6 in 1.65 s (2 groups) and 2.5 s (5 groups).

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

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from records import Record, parser_for, tell
from timing import machine, peak_memory, seconds

from fairjax import barycenters as bary

# Numbers per row that a task reads and writes at least, of 4 bytes: scores, groups and
# a map of one number per calibration row; new rows, their groups, and fair scores.
FLOATS = {"fit": 3, "apply": 4, "fit + apply": 5, "value and gradient": 6}


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


def compare(n, n_groups, repeats):
    """Records of all programs and alternatives at one size."""
    scores, rows, groups, truth = draw(n, n_groups)

    def record(task, alternative, call, *, repeats, floats, host=True):
        """Times a call; `floats` of 4 bytes per row are to be read and written."""
        laps = seconds(call, repeats=repeats)
        with peak_memory(host=host) as rise:
            result = jax.block_until_ready(call())
        error = None
        if "apply" in task and np.shape(result) == truth.shape and "sort" not in task:
            error = float(np.sqrt(np.mean(np.square(np.asarray(result) - truth))))
        return result, Record(
            "barycenter",
            f"{task}, {n_groups} groups",
            n,
            "rows",
            alternative,
            *laps,
            memory=rise[0],
            error=error,
            error_is="root mean square distance to the closed form",
            traffic=4.0 * floats * n,
            host=host,
        )

    data = [jnp.asarray(a) for a in (scores, rows, groups)]
    maps = {}
    for name, program in programs(n_groups).items():
        kind, _, extra = name.partition(", ")
        args = data
        if kind == "fit":
            args = data[::2]
        elif kind == "apply":
            args = [maps[extra == "key"], *data[1:]]
        result, found = record(
            name,
            "fairjax",
            partial(program, *args),
            repeats=repeats,
            floats=FLOATS[kind],
            host=False,
        )
        if kind == "fit":
            maps[extra == "key"] = result
        yield found
        if name == "fit + apply":
            yield from others(record, scores, rows, groups, n_groups, repeats)


def others(record, scores, rows, groups, n_groups, repeats):
    """Those that fit and apply at once, and the sort that all of them need."""
    task, floats = "fit + apply", FLOATS["fit + apply"]
    if len(rows) > 5e6:
        print("  equipy: not run at this size")
    elif importlib.util.find_spec("equipy"):
        call, few = partial(with_equipy, scores, rows, groups), min(repeats, 3)
        yield record(task, "equipy", call, repeats=few, floats=floats)[1]
    else:
        print("  equipy is not installed; see the header")
    call = partial(with_numpy, scores, rows, groups, n_groups)
    yield record(task, "NumPy", call, repeats=repeats, floats=floats)[1]
    call = partial(np.sort, scores)
    found = record(task, "numpy.sort alone", call, repeats=repeats, floats=2)[1]
    yield found._replace(error=None)


def records(rows, *, repeats, smoke):
    """Both numbers of groups at each size; one where it takes long."""
    for n in [1000] if smoke else map(int, rows):
        few = 1 if smoke or n > 5e6 else repeats
        for n_groups in [2] if smoke or n > 5e6 else [2, 5]:
            yield from compare(n, n_groups, few)


def main():
    parser = parser_for(__doc__)
    sizes = [1e6, 1e7] if jax.default_backend() == "cpu" else [1e6, 1e7, 1e8]
    parser.add_argument("--rows", type=float, nargs="+", default=sizes)
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    found = records(given.rows, repeats=given.repeats, smoke=given.smoke)
    tell(machine("numpy"), found, as_json=given.json)


if __name__ == "__main__":
    main()
