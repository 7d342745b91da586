"""What does single precision cost, on real data?

Every number that the package reports, computed in float32 and in float64 from the same
features (float32 as the data sets have them), labels, groups and scores. The scores are
those of a linear model fitted in float64 to the training part; divergences compare the
features of the two largest groups, of 1,000 rows at most. Decisions, and so rates and
gaps of rates, are taken from the same scores in both.

The error is `|a - b| / max(|b|, floor)`, the largest over the entries of a result; the
floor is 1 for shares and a thousandth of the largest entry otherwise, because a gap
that is nearly 0 has no digits of its own. Seconds are those of either precision.

Run: `python benchmarks/precision.py [--data NAME ...] [--smoke]`, with FAIRJAX_DATA_DIR
or a download.

Answer (2 cores, busy; Python 3.13, jax 0.12.0.1, numpy 2.5.5; test parts of all seven
data sets; the worst of them):

    Sinkhorn divergence      4.5e-4  compas
    directions               1.3e-4  school
    optimum of fit_linear    4.2e-6  adult (school, with 139 groups, not run)
    repaired scores          3.7e-6  law_school
    energy distance          2.0e-6  school
    price of fairness        1.5e-6  adult
    Wasserstein-2            7.9e-7  adult
    group means              5.8e-7  german
    squared MMD              5.6e-7  adult
    mean gap, squared        5.0e-7  adult
    Wasserstein-1            1.5e-7  school
    logistic risk            1.4e-7  adult
    shares of an audit       1.3e-7  compas
    KS distance              3.5e-8  school

The Sinkhorn divergence stops at the tolerance that float32 has by default: a case like
it (COMPAS, epsilon = 1) is off by 5.7e-4 there, and by 1.5e-6 with `tolerance=1e-6`.
The direction is off in small entries: on COMPAS 0.0073 beside the largest of 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from records import Record, parser_for, tell
from timing import machine, seconds

from fairjax import (
    barycenters,
    datasets,
    divergences,
    erm,
    kernels,
    metrics,
    notions,
    orthogonality,
    penalties,
    solvers,
)

MOST = 1000  # rows of a group that divergences compare
RIDGE = 1e-4


def scores_of(train, part, regression):
    """Of a linear model, in float64, with a spread of about 1."""
    with jax.enable_x64(True):
        labels = train.labels.astype(float)
        if regression:
            labels = (labels - labels.mean()) / labels.std()
        fit = solvers.fit_linear(
            train.features.astype(float),
            labels,
            loss=erm.squared if regression else erm.logistic,
            ridge=RIDGE,
        )
        coefficients, intercept = map(np.asarray, (fit.coefficients, fit.intercept))
    return part.features.astype(float) @ coefficients + intercept


def measures(part, scores, n_groups, regression):
    """By name: a function of a dtype, and the floor of its error."""
    groups, labels = part.groups, part.labels
    # Rounded first: both precisions then see the same scores and the same ties.
    scores = scores.astype(np.float32)
    x = part.features
    sizes = np.bincount(groups, minlength=n_groups)
    first, second = np.argsort(-sizes, kind="stable")[:2]
    width = kernels.median_heuristic(x[:MOST], x[:MOST], key=jax.random.key(0))
    kernel = functools.partial(kernels.gaussian, bandwidth=float(width))

    def cond():
        if regression:
            return notions.demographic_parity(groups, n_groups=n_groups)
        return notions.equalized_odds(groups, labels, n_groups=n_groups)

    def cloud(dtype, group):
        return jnp.asarray(x[groups == group][:MOST], dtype)

    def both(dtype):
        return cloud(dtype, first), cloud(dtype, second)

    def fitted(dtype):
        directions = orthogonality.directions(jnp.asarray(x, dtype), cond())
        fit = solvers.fit_linear(
            jnp.asarray(x, dtype),
            labels.astype(dtype) if regression else labels,
            loss=erm.squared if regression else erm.logistic,
            ridge=RIDGE,
            directions=directions,
            tolerance=jnp.asarray([0.0, 0.1, np.inf], dtype),
        )
        return fit.objective

    def repaired(dtype):
        given = jnp.asarray(scores, dtype)
        found = barycenters.fit_map(given, groups, n_groups=n_groups)
        return barycenters.apply_map(found, given, groups)

    def sinkhorn(dtype):
        scale = float(width) ** 2
        return divergences.sinkhorn(*both(dtype), epsilon=0.1 * scale)

    parity = functools.partial(notions.demographic_parity, groups, n_groups=n_groups)
    rows = {
        "group means": (lambda t: metrics.group_means(t(scores), cond()), None),
        "KS distance": (lambda t: metrics.ks_distance(t(scores), parity()), 1.0),
        "Wasserstein-1": (lambda t: metrics.wasserstein(t(scores), parity()), None),
        "Wasserstein-2": (
            lambda t: metrics.wasserstein(t(scores), parity(), p=2),
            None,
        ),
        "price of fairness": (
            lambda t: metrics.price_of_fairness(t(scores), groups, n_groups=n_groups),
            None,
        ),
        "mean gap, squared": (lambda t: penalties.mean_gap(t(scores), cond()), None),
        "directions": (lambda t: orthogonality.directions(t(x), cond()), None),
        "squared MMD": (
            lambda t: divergences.mmd_squared(
                t(cloud(np.float32, first)), t(cloud(np.float32, second)), kernel=kernel
            ),
            None,
        ),
        "energy distance": (
            lambda t: divergences.energy_distance(
                t(cloud(np.float32, first)), t(cloud(np.float32, second))
            ),
            None,
        ),
        "Sinkhorn divergence": (lambda t: sinkhorn(t.keywords["dtype"]), None),
        "repaired scores": (lambda t: repaired(t.keywords["dtype"]), None),
        "optimum of fit_linear": (lambda t: fitted(t.keywords["dtype"]), None),
    }
    if not regression:
        decisions = scores > 0
        audit = functools.partial(
            metrics.audit, decisions, labels, groups, n_groups=n_groups, threshold=0.5
        )
        rows["shares of an audit"] = (lambda t: shares(audit(weights=ones(t))), 1.0)
        rows["logistic risk"] = (
            lambda t: erm.empirical_risk(t(scores), t(labels), loss=erm.logistic),
            None,
        )

    def ones(t):
        return t(np.ones(len(groups)))

    return rows


def shares(audit):
    found = audit._replace(counts=jnp.zeros(()))
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(found)])


def compare(name, data, chosen=None):
    """One record per number and precision; of some numbers, or of all."""
    part = data.test
    regression = data.is_regression
    scores = scores_of(data.train, part, regression)
    rows = measures(part, scores, data.n_groups, regression)
    for what in chosen or rows:
        fn, floor = rows[what]
        laps, values = {}, {}
        for dtype in (np.float32, np.float64):
            with jax.enable_x64(dtype is np.float64):
                call = functools.partial(
                    fn, functools.partial(jnp.asarray, dtype=dtype)
                )
                laps[dtype] = seconds(call, repeats=1)
                values[dtype] = np.asarray(call(), np.float64)
        found, truth = values[np.float32], values[np.float64]
        least = floor or 1e-3 * np.abs(truth).max(initial=0) or 1.0
        error = np.abs(found - truth) / np.maximum(np.abs(truth), least)
        for dtype, wrong in ((np.float32, float(error.max(initial=0))), (float, None)):
            yield Record(
                "precision",
                f"{what}, {name}",
                len(part.labels),
                "rows",
                f"fairjax, {np.dtype(dtype).name}",
                *laps[np.float64 if wrong is None else dtype],
                error=wrong,
                error_is="relative to float64" if wrong is not None else "",
                precision=np.dtype(dtype).name,
            )


def records(names, *, smoke):
    """All data sets."""
    for name in names:
        if smoke:
            yield from compare(name, datasets.toy(n=400), ["group means", "directions"])
        else:
            yield from compare(name, datasets.LOADERS[name]())


def main():
    parser = parser_for(__doc__)
    names = [name for name in datasets.LOADERS if name != "toy"]
    parser.add_argument("--data", nargs="+", choices=datasets.LOADERS, default=names)
    given = parser.parse_args()
    if given.smoke:
        given.data = ["toy"]
    found = records(given.data, smoke=given.smoke)
    tell(machine("numpy"), found, as_json=given.json)


if __name__ == "__main__":
    main()
