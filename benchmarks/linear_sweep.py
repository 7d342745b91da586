"""How long does a fairness-accuracy frontier of linear models take?

64 configurations on Adult, one-hot encoded (32,561 x 107), demographic parity by sex:

- ours: `solvers.fit_linear`, one program, float32, relative duality gap <= 1e-6;
- a loop of scikit-learn's LogisticRegression over 64 ridges on projected features,
  which solve the same problems as ours at tolerance 0: objectives are compared;
- fairlearn's GridSearch(64) around LogisticRegression.

Then 1,024 configurations, per configuration. Accuracy and unfairness (difference of
selection rates) are of the test part, at the point of least unfairness. Every "cold"
time includes compilation.

Answer (2 cores, otherwise idle; jax 0.12.0.1, scikit-learn 1.9.1, fairlearn 0.15.0,
Python 3.13; relative gap <= 9.9e-7 at every point, all converged; objectives 1.3e-7 to
3.7e-4 below scikit-learn's, which stops earlier; MB on top of the data):

                           points   cold s   warm s     MB  accuracy  unfairness
    fairjax                    64     2.75     0.71    248    0.8297      0.0004
    fairjax, ridges            64     2.32     0.50     75    0.8294      0.0488
    scikit-learn loop          64    33.85    33.85      1    0.8296      0.0490
    fairlearn GridSearch       64    44.88    44.88     10    0.8332      0.0076
    fairjax                  1024     5.83     3.30     58    0.8305      0.0000

    at the unfairness of any point of GridSearch, less accurate by at most
    0.25 points (demographic parity) and 0.04 points (equal opportunity)

    GridSearch / fairjax, 64 points                     cold  16, warm  63
    scikit-learn loop / fairjax (ridges), 64 points     cold  15, warm  67
    GridSearch / fairjax per point, 1,024 points        cold 123, warm 217

Two of the 2.75 s are compilation: 60 times GridSearch and 40 times the loop, the aims
at 64 points, are reached by a compiled program only.

    python benchmarks/linear_sweep.py            # Adult; three minutes
    python benchmarks/linear_sweep.py --smoke    # toy problem; seconds
"""

import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from fairlearn.reductions import (
    DemographicParity,
    GridSearch,
    TruePositiveRateParity,
)
from records import Record, parser_for, tell
from sklearn.linear_model import LogisticRegression
from timing import machine, peak_memory, seconds, summary

from fairjax import datasets, metrics, notions, orthogonality, solvers


class Task:
    """One data set: what all alternatives solve, and how their models are judged."""

    def __init__(self, data):
        train, test = data.train, data.test
        self.train, self.test, self.n_groups = train, test, data.n_groups
        self.features = jnp.asarray(train.features)
        self.labels = jnp.asarray(train.labels)
        self.cond = notions.demographic_parity(train.groups, n_groups=data.n_groups)
        self.parity = notions.demographic_parity(test.groups, n_groups=data.n_groups)
        # C = 1, the default of scikit-learn and so of GridSearch.
        self.ridge = 1 / len(train.labels)

    def quality(self, decisions, cond=None):
        """Accuracy and unfairness on the test part."""
        accuracy = float(metrics.accuracy(decisions, self.test.labels))
        cond = self.parity if cond is None else cond
        return accuracy, float(metrics.max_gap(decisions, cond))

    def frontier(self, m, *, ridges=1, cond=None):
        """Bounds on both sides of 0, as GridSearch's own grid of multipliers has."""
        directions = self.cond if cond is None else cond
        return solvers.fit_linear(
            self.features,
            self.labels,
            ridge=np.repeat(self.ridge * 10.0 ** np.arange(ridges), m // ridges),
            directions=orthogonality.directions(self.features, directions),
            tolerance=0.0,
            target=np.tile(np.linspace(-2.5, 2.5, m // ridges), ridges),
        )

    def at_zero(self, ridges):
        """Tolerance 0, one ridge after another."""
        directions = orthogonality.directions(self.features, self.cond)
        return solvers.fit_linear(
            self.features,
            self.labels,
            ridge=ridges,
            directions=directions,
            tolerance=0.0,
        )

    def decisions(self, fit):
        """Of every model, on the test part."""
        scores = self.test.features @ np.asarray(fit.coefficients).T
        return (scores + np.asarray(fit.intercept) > 0).T

    def objective(self, coefficients, intercept, ridge, features):
        """In float64."""
        coefficients = coefficients.astype(np.float64)
        scores = features.astype(np.float64) @ coefficients + intercept
        losses = np.logaddexp(0, (1 - 2 * self.train.labels) * scores)
        return losses.mean() + ridge / 2 * coefficients @ coefficients

    def record(self, case, alternative, laps, memory, decisions, **rest):
        """One record; notes begin with the point of least unfairness."""
        decisions = list(decisions)
        accuracy, unfairness = min(map(self.quality, decisions), key=lambda q: q[1])
        notes = {"accuracy": accuracy, "unfairness": unfairness}
        return Record(
            "linear_sweep",
            f"{case}, {len(self.labels):,} x {self.features.shape[1]}",
            len(decisions),
            "points",
            alternative,
            *laps,
            memory=memory[0],
            notes=notes | rest.pop("notes", {}),
            **rest,
        )

    def ours(self, case, laps, memory, fit, **notes):
        """The record of a fit; a step takes two products per configuration."""
        found = {
            "converged": float(fit.converged.mean()),
            "most steps": int(fit.iterations.max()),
        }
        return self.record(
            case,
            "fairjax",
            laps,
            memory,
            self.decisions(fit),
            error=float(fit.gap.max()),
            error_is="largest relative duality gap",
            operations=4.0 * self.features.size * int(fit.iterations.sum()),
            notes=found | notes,
        )


def compare_ridges(task, points):
    """The same problems as a loop of scikit-learn."""
    case, ridges = "ridges at tolerance 0", task.ridge * np.logspace(-1, 3, points)
    directions = orthogonality.directions(task.features, task.cond)
    flat = np.asarray(orthogonality.project_features(task.features, directions))
    jax.clear_caches()
    with peak_memory() as memory:
        laps = seconds(lambda: task.at_zero(ridges))
    fit = task.at_zero(ridges)
    yield task.ours(case, laps, memory, fit)

    start, models = time.perf_counter(), []
    with peak_memory(host=True) as memory:
        for value in ridges:
            strength = 1 / (len(task.labels) * value)
            models.append(LogisticRegression(C=strength, max_iter=1000))
            models[-1].fit(flat, task.train.labels)
    loop = time.perf_counter() - start
    test = jnp.asarray(task.test.features)
    flat_test = np.asarray(orthogonality.project_features(test, directions))
    own = zip(np.asarray(fit.coefficients), np.asarray(fit.intercept), strict=True)
    ours = [
        task.objective(*model, ridge, task.train.features)
        for model, ridge in zip(own, ridges, strict=True)
    ]
    theirs = [
        task.objective(m.coef_[0], m.intercept_[0], ridge, flat)
        for m, ridge in zip(models, ridges, strict=True)
    ]
    above = np.divide(theirs, ours) - 1
    yield task.record(
        case,
        "scikit-learn loop",
        summary([loop]),
        memory,
        [m.predict(flat_test) for m in models],
        error=float(above.max()),
        error_is="objective above fairjax's in float64, at most",
        host=True,
        notes={
            "objective above ours, least": float(above.min()),
            "x ours, cold": loop / laps.first,
            "x ours, warm": loop / laps.median,
        },
    )


def compare_searches(task, points, many):
    """As many points of fairlearn's GridSearch, and many more of ours."""
    case = "frontier"
    with peak_memory() as memory:
        laps = seconds(lambda: task.frontier(points))
    yield task.ours(case, laps, memory, task.frontier(points))
    grid = 0.0
    for name, constraint, notion in (
        ("demographic parity", DemographicParity(), notions.demographic_parity),
        ("equal opportunity", TruePositiveRateParity(), notions.equal_opportunity),
    ):
        base = LogisticRegression(max_iter=1000)
        search = GridSearch(base, constraint, grid_size=points)
        train, test = task.train, task.test
        start = time.perf_counter()
        with peak_memory(host=True) as memory:
            search.fit(train.features, train.labels, sensitive_features=train.groups)
        lap = time.perf_counter() - start
        theirs = [p.predict(test.features) for p in search.predictors_]
        over = notion(train.groups, train.labels, n_groups=task.n_groups)
        at_test = notion(test.groups, test.labels, n_groups=task.n_groups)
        own = task.decisions(task.frontier(points, cond=over))
        found = np.array([task.quality(d, at_test) for d in own])
        shortfall = max(
            accuracy - found[found[:, 1] <= max(gap, found[:, 1].min()), 0].max()
            for accuracy, gap in (task.quality(d, at_test) for d in theirs)
        )
        notes = {"ours less accurate by at most [points]": 100 * max(shortfall, 0.0)}
        if name == "demographic parity":
            grid = lap
            notes["x ours, cold"] = lap / laps.first
            notes["x ours, warm"] = lap / laps.median
        yield task.record(
            case if name == "demographic parity" else f"{case}, {name}",
            "fairlearn GridSearch",
            summary([lap]),
            memory,
            theirs,
            host=True,
            notes=notes,
        )
    jax.clear_caches()
    with peak_memory() as memory:
        laps = seconds(lambda: task.frontier(many, ridges=4), repeats=1)
    per_point = grid / points
    notes = {
        "GridSearch x ours per point, cold": per_point / (laps.first / many),
        "GridSearch x ours per point, warm": per_point / (laps.median / many),
    }
    fit = task.frontier(many, ridges=4)
    yield task.ours(case, laps, memory, fit, **notes)


def records(data, *, points, many):
    """Both comparisons."""
    task = Task(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fairlearn and scikit-learn deprecations
        yield from compare_searches(task, points, many)
        yield from compare_ridges(task, points)


def main():
    given = parser_for(__doc__).parse_args()
    data = datasets.toy() if given.smoke else datasets.adult()
    points, many = (8, 16) if given.smoke else (64, 1024)
    found = records(data, points=points, many=many)
    tell(machine("scikit-learn", "fairlearn"), found, as_json=given.json)


if __name__ == "__main__":
    main()
