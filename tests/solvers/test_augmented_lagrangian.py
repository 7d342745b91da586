"""The augmented Lagrangian method against the convex solver and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from fairjax import erm, notions, solvers
from tests.reference.linear import problems, reference

N, D = 60, 8


@pytest.fixture
def table(rng):
    """Features whose means differ between three groups, and labels that follow them."""
    groups = np.arange(N) % 3
    features = rng.normal(size=(N, D)) + groups[:, None] * np.linspace(0, 1, D)
    scores = features @ np.linspace(-1, 1, D) + rng.normal(scale=2, size=N)
    labels = (scores > np.median(scores)).astype(np.int32)
    return features, labels, groups


def test_the_augmented_lagrangian_finds_the_convex_optimum(table):
    features, labels, groups = table
    means = np.array([features[groups == g].mean(axis=0) for g in range(3)])
    rows = jnp.asarray(means[:1] - means[1:], jnp.float32)
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(labels)
    tolerances = jnp.array([0.0, 0.1])
    settings = {
        "ridge": np.full(2, 0.05),
        "tolerance": np.array([[0.0] * 2, [0.1] * 2]),
        "target": np.zeros((2, 2)),
        "lam": np.zeros(2),
    }
    cases = list(problems("logistic", x, y, rows, settings))

    def objective(p):
        risk = erm.empirical_risk(x @ p["w"] + p["b"], y, loss=erm.logistic)
        return risk + 0.025 * jnp.vdot(p["w"], p["w"])

    @jax.jit
    def solve(tolerance):
        return solvers.augmented_lagrangian(
            objective,
            lambda p: rows @ p["w"],
            {"w": jnp.zeros(D), "b": jnp.zeros(())},
            tolerance=tolerance,
            feasibility=1e-6,
            stationarity=1e-5,
        )

    together = jax.vmap(solve)(tolerances)
    for i in range(2):
        found = solve(tolerances[i])
        assert bool(found.converged)
        assert float(found.violation) <= 1e-6
        assert float(found.stationarity) <= 1e-5
        w, b, best = reference(cases[i])
        np.testing.assert_allclose(found.params["w"], w, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.objective, best, rtol=1e-4)
        # Stationarity: the multipliers balance the gradient of the objective.
        case = cases[i]
        errors = scipy.special.expit(case.features @ w + b) - case.labels
        slope = case.features.T @ (case.mass * errors) + case.ridge * w
        multipliers = np.linalg.lstsq(case.directions.T, -slope)[0]
        np.testing.assert_allclose(found.multipliers, multipliers, rtol=0, atol=1e-3)
        assert bool(together.converged[i])
        np.testing.assert_allclose(
            together.params["w"][i], found.params["w"], rtol=0, atol=1e-4
        )


def test_the_augmented_lagrangian_bounds_the_risk_gap_of_a_network(table, rng):
    features, labels, groups = table
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(labels)
    cond = notions.equal_opportunity(jnp.asarray(groups // 2), y, n_groups=2)
    start = {
        "first": jnp.asarray(rng.normal(size=(D, 4)) / 3, jnp.float32),
        "second": jnp.asarray(rng.normal(size=4), jnp.float32),
    }

    def scores(p):
        return jnp.tanh(x @ p["first"]) @ p["second"]

    def objective(p):
        size = sum(jnp.vdot(a, a) for a in jax.tree.leaves(p))
        return erm.empirical_risk(scores(p), y, loss=erm.logistic) + 0.02 * size

    def gap(p):
        risks = erm.conditional_risks(scores(p), y, cond, loss=erm.logistic)
        return risks[:, 0] - risks[:, 1]

    @jax.jit
    def solve(tolerance):
        return solvers.augmented_lagrangian(objective, gap, start, tolerance=tolerance)

    free, fair = solve(np.inf), solve(0.01)
    assert bool(free.converged)
    assert abs(float(gap(free.params)[0])) > 0.02
    assert bool(fair.converged)
    assert abs(float(gap(fair.params)[0])) <= 0.01 + 1e-4
    np.testing.assert_allclose(objective(fair.params), fair.objective, rtol=1e-5)
    # The bound has a price, and the multiplier says so.
    assert float(fair.objective) > float(free.objective)
    assert abs(float(fair.multipliers[0])) > 1e-3
    assert float(free.multipliers[0]) == 0


@pytest.mark.parametrize("optimizer", [optax.sgd(0.02), optax.adam(0.02)])
def test_any_optax_transformation_will_do(optimizer):
    # The nearest point to (0, 5) with equal coordinates.
    found = solvers.augmented_lagrangian(
        lambda p: jnp.sum(jnp.square(p - jnp.array([0.0, 5.0]))),
        lambda p: p[:1] - p[1:],
        jnp.array([0.0, 5.0]),
        optimizer=optimizer,
        steps=500,
    )
    assert bool(found.converged)
    np.testing.assert_allclose(found.params, [2.5, 2.5], atol=1e-3)


def test_an_infeasible_problem_is_reported():
    found = solvers.augmented_lagrangian(
        lambda p: jnp.sum(jnp.square(p)),
        lambda p: jnp.stack([p[0] - 1, p[0] + 1]),
        jnp.zeros(2),
        rounds=6,
    )
    assert not bool(found.converged)
    assert float(found.violation) >= 1 - 1e-4
    for leaf in jax.tree.leaves(found):
        assert bool(jnp.isfinite(leaf).all())


def test_a_nan_objective_ends_with_the_last_finite_iterate():
    # Falls towards 0, where it stops being defined.
    found = solvers.augmented_lagrangian(
        lambda p: jnp.where(p[0] > 0.5, p[0], jnp.nan),
        lambda p: p[1:],
        jnp.array([1.0, 0.0]),
        optimizer=optax.sgd(0.2),
        rounds=3,
        steps=10,
    )
    assert not bool(found.converged)
    np.testing.assert_allclose(found.params, [0.6, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.objective, 0.6, atol=1e-6)


@pytest.mark.parametrize(
    ("params", "tolerance", "message"),
    [
        (np.array([np.nan], np.float32), 0.0, r"`params` must be finite"),
        (np.array([1]), 0.0, r"`params` must be floating-point"),
        (np.ones(1, np.float32), -1.0, r"`tolerance` must be at least 0"),
    ],
)
def test_bad_starts_are_refused(params, tolerance, message):
    with pytest.raises(ValueError, match=message):
        solvers.augmented_lagrangian(
            lambda p: p.sum(),
            lambda p: p,
            {"p": jnp.asarray(params)}["p"],
            tolerance=tolerance,
        )
