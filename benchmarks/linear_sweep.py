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

import argparse
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
from sklearn.linear_model import LogisticRegression
from timing import machine, peak_memory, seconds

from fairjax import datasets, metrics, notions, orthogonality, solvers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="toy problem, few points")
    smoke = parser.parse_args().smoke
    data = datasets.toy() if smoke else datasets.adult()
    points, many = (8, 16) if smoke else (64, 1024)
    train, test = data.train, data.test
    features, labels = jnp.asarray(train.features), jnp.asarray(train.labels)
    cond = notions.demographic_parity(train.groups, n_groups=data.n_groups)
    parity = notions.demographic_parity(test.groups, n_groups=data.n_groups)
    ridge = 1 / len(labels)  # C = 1, the default of scikit-learn and so of GridSearch

    def quality(decisions, cond=parity):
        accuracy = float(metrics.accuracy(decisions, test.labels))
        return accuracy, float(metrics.max_gap(decisions, cond))

    def frontier(m, ridges=1, cond=cond):
        # Bounds on both sides of 0, as GridSearch's own grid of multipliers has them.
        targets = np.tile(np.linspace(-2.5, 2.5, m // ridges), ridges)
        return solvers.fit_linear(
            features,
            labels,
            ridge=np.repeat(ridge * 10.0 ** np.arange(ridges), m // ridges),
            directions=orthogonality.directions(features, cond),
            tolerance=0.0,
            target=targets,
        )

    def decisions_of(fit):
        scores = test.features @ np.asarray(fit.coefficients).T
        return (scores + np.asarray(fit.intercept) > 0).T

    rows = []

    def add(name, n_points, cold, warm, memory, decisions):
        best = min((quality(d) for d in decisions), key=lambda q: q[1])
        rows.append((name, n_points, cold, warm, memory, *best))

    with peak_memory() as memory:
        cold, warm = seconds(lambda: frontier(points))
    fit = frontier(points)
    add("fairjax", points, cold, warm, memory[0], decisions_of(fit))
    print(
        f"fairjax: largest relative gap {float(fit.gap.max()):.1e}, all converged: "
        f"{bool(fit.converged.all())}, steps {int(fit.iterations.max())}"
    )

    # The same problems as a loop of scikit-learn: tolerance 0, one ridge after another.
    ridges = ridge * np.logspace(-1, 3, points)
    projected = orthogonality.directions(features, cond)
    flat = np.asarray(orthogonality.project_features(features, projected))
    jax.clear_caches()

    def at_zero():
        directions = orthogonality.directions(features, cond)
        return solvers.fit_linear(
            features, labels, ridge=ridges, directions=directions, tolerance=0.0
        )

    with peak_memory() as memory:
        cold_ridges, warm_ridges = seconds(at_zero)
    fit = at_zero()
    add(
        "fairjax, ridges",
        points,
        cold_ridges,
        warm_ridges,
        memory[0],
        decisions_of(fit),
    )

    warnings.simplefilter("ignore")  # fairlearn and scikit-learn deprecations
    start, models = time.perf_counter(), []
    with peak_memory() as memory:
        for value in ridges:
            strength = 1 / (len(labels) * value)
            models.append(LogisticRegression(C=strength, max_iter=1000))
            models[-1].fit(flat, train.labels)
    loop = time.perf_counter() - start
    flat_test = np.asarray(
        orthogonality.project_features(jnp.asarray(test.features), projected)
    )
    add(
        "scikit-learn loop",
        points,
        loop,
        loop,
        memory[0],
        [m.predict(flat_test) for m in models],
    )

    def objective(coefficients, intercept, value, x):
        scores = x.astype(np.float64) @ coefficients + intercept
        losses = np.logaddexp(0, (1 - 2 * train.labels) * scores)
        return losses.mean() + value / 2 * coefficients @ coefficients

    theirs = [
        objective(m.coef_[0].astype(np.float64), m.intercept_[0], v, flat)
        for m, v in zip(models, ridges, strict=True)
    ]
    ours = [
        objective(c.astype(np.float64), b, v, train.features)
        for c, b, v in zip(
            np.asarray(fit.coefficients), np.asarray(fit.intercept), ridges, strict=True
        )
    ]
    print(
        f"objective, ours relative to scikit-learn's: "
        f"{min(np.divide(ours, theirs)) - 1:+.1e} to "
        f"{max(np.divide(ours, theirs)) - 1:+.1e}"
    )

    shortfalls = {}
    for name, constraint, mine in (
        ("demographic parity", DemographicParity(), notions.demographic_parity),
        ("equal opportunity", TruePositiveRateParity(), notions.equal_opportunity),
    ):
        base = LogisticRegression(max_iter=1000)
        search = GridSearch(base, constraint, grid_size=points)
        start = time.perf_counter()
        with peak_memory() as memory:
            search.fit(train.features, train.labels, sensitive_features=train.groups)
        lap = time.perf_counter() - start
        theirs = [p.predict(test.features) for p in search.predictors_]
        if name == "demographic parity":
            grid = lap
            add("fairlearn GridSearch", points, lap, lap, memory[0], theirs)
        over = mine(train.groups, train.labels, n_groups=data.n_groups)
        at_test = mine(test.groups, test.labels, n_groups=data.n_groups)
        found = np.array(
            [quality(d, at_test) for d in decisions_of(frontier(points, cond=over))]
        )
        shortfalls[name] = max(
            accuracy - found[found[:, 1] <= max(gap, found[:, 1].min()), 0].max()
            for accuracy, gap in (quality(d, at_test) for d in theirs)
        )

    jax.clear_caches()
    with peak_memory() as memory:
        cold_many, warm_many = seconds(lambda: frontier(many, ridges=4), repeats=1)
    fit = frontier(many, ridges=4)
    add("fairjax", many, cold_many, warm_many, memory[0], decisions_of(fit))
    print(
        f"{many} points: largest relative gap {float(fit.gap.max()):.1e}, converged: "
        f"{float(fit.converged.mean()):.1%}"
    )

    print(f"\n{machine('scikit-learn', 'fairlearn')}")
    print(f"{len(labels)} x {features.shape[1]}")
    print(
        f"{'':22}{'points':>7}{'cold s':>9}{'warm s':>9}{'MB':>7}"
        f"{'accuracy':>10}{'unfairness':>12}"
    )
    for name, n_points, *numbers in rows:
        cold_s, warm_s, mb, accuracy, unfairness = numbers
        print(
            f"{name:22}{n_points:7}{cold_s:9.2f}{warm_s:9.2f}{mb:7.0f}"
            f"{accuracy:10.4f}{unfairness:12.4f}"
        )
    for name, shortfall in shortfalls.items():
        print(
            f"\n{name}: at no unfairness that GridSearch reaches is ours less accurate "
            f"by more than {100 * max(shortfall, 0):.2f} points"
        )
    per_point = grid / points
    print(f"\nGridSearch / ours, cold: {grid / cold:.0f}; warm: {grid / warm:.0f}")
    print(
        f"scikit-learn loop / ours (ridges), cold: {loop / cold_ridges:.0f}; "
        f"warm: {loop / warm_ridges:.0f}"
    )
    print(
        f"GridSearch / ours per configuration at {many}, cold: "
        f"{per_point / (cold_many / many):.0f}; "
        f"warm: {per_point / (warm_many / many):.0f}"
    )


if __name__ == "__main__":
    main()
