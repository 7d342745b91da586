"""How long do intervals of unfairness by resampling take, next to fairlearn and NumPy?

A logistic regression is fitted on Adult's training part; intervals of 95 % are for its
test part (16,281 rows), groups by sex:

- fairjax: `metrics.Bootstrap`, percentiles and BCa, in float32, compiled;
- fairlearn's `MetricFrame(..., n_boot=)`, percentiles, for decisions only;
- NumPy in float64: each draw picks rows and computes the number anew, what a careful
  author would write (KS and Wasserstein distances by one merge of sorted scores).

Numbers: the demographic parity difference of decisions, the KS and the 1-Wasserstein
distance of scores, and the whole of `metrics.audit`. Alternatives draw fewer times;
seconds are scaled to as many draws. The error is the larger distance of an interval's
ends from those of NumPy, as a part of that interval's width: all of them draw at
random, and NumPy's own ends are uncertain by some percent.

Answer (2 cores, otherwise idle; jax 0.12.0.1, numpy 2.5.5, fairlearn 0.15.0, Python
3.13; seconds for 10,000 draws, compiled, medians of 5; first call in brackets; NumPy
drew 2,000 and fairlearn 200; errors of percentiles at most 0.03, of fairlearn 0.05):

                             percentile     BCa            NumPy   fairlearn
    demographic parity       3.43 (5.03)    3.39 (5.15)    3.53    929
    KS distance              5.74 (8.57)    6.98 (7.58)    19.0
    1-Wasserstein distance   6.11 (8.86)    6.05 (8.84)    21.9
    audit                    6.35 (12.4)    7.18 (20.6)

So all numbers of an audit, with their intervals, take about as long as one distance.
For one rate that is 271 times faster than fairlearn and level with NumPy; distances are
3.3 and 3.6 times faster than NumPy.

    python benchmarks/intervals.py            # Adult; a few minutes
    python benchmarks/intervals.py --smoke    # toy problem; seconds
"""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from fairlearn.metrics import MetricFrame, selection_rate
from records import Record, parser_for, tell
from timing import machine, once, seconds

from fairjax import datasets, metrics, notions, solvers

LEVEL = 0.95


def scored(data):
    """Probabilities of a fitted model for the test part, decisions and groups."""
    train, test = data.train, data.test
    fit = solvers.fit_linear(
        jnp.asarray(train.features), jnp.asarray(train.labels), ridge=1e-4
    )
    scores = test.features @ np.asarray(fit.coefficients) + float(fit.intercept)
    probabilities = 1 / (1 + np.exp(-scores.astype(np.float32)))
    return probabilities, (scores > 0).astype(np.int32), test.labels, test.groups


def with_fairlearn(decisions, groups, draws):
    frame = MetricFrame(
        metrics=selection_rate,
        y_true=decisions,
        y_pred=decisions,
        sensitive_features=groups,
        n_boot=draws,
        ci_quantiles=[(1 - LEVEL) / 2, (1 + LEVEL) / 2],
        random_state=0,
    )
    return np.array(frame.difference_ci(), float)


def parity(values, groups):
    return abs(values[groups == 0].mean() - values[groups == 1].mean())


def heights(values, groups):
    """All values in order, and both groups' distribution functions there."""
    first, second = (np.sort(values[groups == s]) for s in (0, 1))
    merged = np.sort(values)
    return merged, *(
        np.searchsorted(own, merged, side="right") / len(own) for own in (first, second)
    )


def ks(values, groups):
    _, first, second = heights(values, groups)
    return np.abs(first - second).max()


def area(values, groups):
    merged, first, second = heights(values, groups)
    return np.abs(first - second)[:-1] @ np.diff(merged)


def with_numpy(number, values, groups, draws):
    rng, n = np.random.default_rng(0), len(values)
    found = []
    for _ in range(draws):
        picks = rng.integers(n, size=n)
        found.append(number(values[picks], groups[picks]))
    return np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])


def records(data, *, draws, few, repeats, smoke):
    """All numbers by all alternatives; in small, BCa for one of them only."""
    scores, decisions, labels, groups = scored(data)
    cond = notions.demographic_parity(groups, n_groups=2)
    values = jnp.asarray(decisions, jnp.float32)
    asked = {
        "demographic parity": (
            partial(metrics.interval, metrics.max_gap, values, cond),
            partial(with_numpy, parity, decisions.astype(float), groups),
        ),
        "KS distance": (
            partial(metrics.interval, metrics.ks_distance, jnp.asarray(scores), cond),
            partial(with_numpy, ks, scores.astype(float), groups),
        ),
        "1-Wasserstein distance": (
            partial(metrics.interval, metrics.wasserstein, jnp.asarray(scores), cond),
            partial(with_numpy, area, scores.astype(float), groups),
        ),
        "audit": (
            partial(
                metrics.interval,
                metrics.audit,
                jnp.asarray(scores),
                jnp.asarray(labels),
                jnp.asarray(groups),
                n_groups=2,
                threshold=0.5,
            ),
            None,
        ),
    }

    def record(case, alternative, call, count, truth, **rest):
        """Seconds of `draws` draws, whatever number was drawn."""
        laps = seconds(call, repeats=rest.pop("repeats")).per(count / draws)
        result, memory = once(call, ())
        error = None
        if truth is not None:
            ends = np.ravel(result[-2:]).astype(float)
            error = float(np.abs(ends - truth).max() / (truth[1] - truth[0]))
        return Record(
            "intervals",
            f"{case}, {len(scores):,} rows",
            draws,
            "draws",
            alternative,
            *laps,
            memory=memory,
            error=error,
            error_is="distance of an end from NumPy's, in widths of the interval",
            **rest,
        )

    for case, (ours, numpy) in asked.items():
        truth = None if numpy is None else numpy(few)
        for method in ("percentile", "bca"):
            if smoke and method == "bca" and case != "demographic parity":
                continue
            how = metrics.Bootstrap(
                jax.random.key(0), draws=draws, level=LEVEL, method=method
            )
            call = partial(ours, bootstrap=how)
            name = "fairjax" if method == "percentile" else "fairjax, BCa"
            # BCa moves the ends on purpose.
            known = truth if method == "percentile" else None
            yield record(case, name, call, draws, known, repeats=repeats)
        slow = {"repeats": 1, "precision": "float64", "host": True}
        if numpy is not None:
            yield record(case, "NumPy", partial(numpy, few), few, truth, **slow)
        if case == "demographic parity":
            call = partial(with_fairlearn, decisions, groups, max(few // 10, 2))
            yield record(case, "fairlearn", call, max(few // 10, 2), truth, **slow)


def main():
    given = parser_for(__doc__).parse_args()
    data = datasets.toy() if given.smoke else datasets.adult()
    sizes = {"draws": 20, "few": 10, "repeats": 1}
    if not given.smoke:
        sizes = {"draws": 10_000, "few": 2_000, "repeats": 5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fairlearn's use of pandas
        found = records(data, **sizes, smoke=given.smoke)
        tell(machine("numpy", "fairlearn"), found, as_json=given.json)


if __name__ == "__main__":
    main()
