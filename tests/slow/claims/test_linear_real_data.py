"""Linear models on real tables with collinear columns, certified in both precisions."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import datasets, erm, notions, orthogonality, solvers
from tests.reference.linear import dual_bound, problems

# The documented accuracy of the reported objective, in units of the precision.
REPORTED = 4
LOSSES = {
    "logistic": erm.logistic,
    "hinge": erm.hinge,
    "squared_hinge": erm.squared_hinge,
    "squared": erm.squared,
}


def fit(name, features, labels, directions, settings):
    arrays = {k: jnp.asarray(v.astype(features.dtype)) for k, v in settings.items()}
    return solvers.fit_linear(
        jnp.asarray(features),
        jnp.asarray(labels),
        loss=LOSSES[name],
        directions=jnp.asarray(directions),
        **arrays,
    )


def real_table(name):
    folder = os.environ.get("FAIRJAX_DATA_DIR")
    if not folder:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    file = {"adult": "adult.data", "compas": "compas-scores-two-years.csv"}[name]
    if not os.path.exists(os.path.join(folder, file)):
        pytest.skip(f"FAIRJAX_DATA_DIR lacks {file}")
    return getattr(datasets, name)().train


@pytest.mark.parametrize(
    ("data", "name"),
    [("adult", "logistic"), ("adult", "hinge"), *(("compas", n) for n in LOSSES)],
)
def test_real_data_with_collinear_columns(data, name):
    train = real_table(data)
    cond = notions.equal_opportunity(
        jnp.asarray(train.groups), jnp.asarray(train.labels), n_groups=2
    )
    u = np.asarray(orthogonality.directions(jnp.asarray(train.features), cond))
    settings = {
        "ridge": np.array([1e-4, 1e-4, 1e-3]),
        "tolerance": np.array([[0.05], [0.0], [np.inf]]),
        "target": np.zeros((3, 1)),
        "lam": np.array([0.0, 0.0, 0.1]),
    }
    settings = {k: v.astype(np.float32) for k, v in settings.items()}
    single = fit(name, train.features, train.labels, u, settings)
    with jax.enable_x64(True):
        exact = fit(
            name, train.features.astype(float), train.labels, u.astype(float), settings
        )
    assert exact.converged.all()
    assert single.converged.all()
    cases = problems(name, train.features, train.labels, u, settings)
    for i, problem in enumerate(cases):
        assert 0 <= float(exact.gap[i]) <= 1e-10
        assert 0 <= float(single.gap[i]) <= 1e-6
        w, b = np.asarray(exact.coefficients[i]), float(exact.intercept[i])
        best = problem.objective(w, b)
        assert abs(best - float(exact.objective[i])) <= 1e-10 * best
        assert problem.violation(w) <= 1e-10 * (np.abs(problem.directions) @ abs(w))
        if name != "hinge":
            mu = np.asarray(exact.multipliers[i])
            # The intercept leaves sum(a) at rounding level, which the bound repairs.
            assert best - dual_bound(problem, w, b, mu) <= 1e-8 * best
        w, b = np.asarray(single.coefficients[i], float), float(single.intercept[i])
        value = problem.objective(w, b)
        assert value <= best * (1 + 1e-6)
        assert abs(value - float(single.objective[i])) <= REPORTED * 1e-6 * best
        price = float(abs(single.multipliers[i, 0])) * problem.violation(w)
        assert value + price >= best * (1 - 1e-9)
        assert problem.violation(w) <= 1e-6 * (np.abs(problem.directions) @ abs(w))
