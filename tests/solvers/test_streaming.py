"""`fit_linear_stream` against the problem in NumPy, and against `fit_linear`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import erm, notions, orthogonality, solvers, streams
from fairjax.solvers.linear import passes as linear_passes
from tests.reference.linear import problems, reference

N, D, CHUNK, M = 600, 5, 256, 4


@pytest.fixture
def table(rng):
    groups = np.arange(N) % 3
    features = rng.normal(size=(N, D)) + groups[:, None] * np.linspace(0, 1, D)
    features = features * 10.0 ** np.linspace(-2, 2, D) + [0, 3, 0, 50, 1000]
    scores = rng.normal(size=N) + (groups == 1) + features[:, 1]
    labels = (scores > np.median(scores)).astype(np.float32)
    weights = rng.integers(3, size=N).astype(np.float32)
    return features.astype(np.float32), labels, groups.astype(np.int32), weights


def objective(name, table, coefficients, intercept, *, ridge, lam, directions):
    """The problem, word for word, in float64."""
    features, labels, _, weights = (np.asarray(a, float) for a in table)
    coefficients = np.asarray(coefficients, float)
    scores = features @ coefficients.T + np.asarray(intercept, float)
    margins = (2 * labels[:, None] - 1) * scores
    losses = {
        "logistic": np.logaddexp(0, -margins),
        "squared_hinge": np.maximum(0, 1 - margins) ** 2,
        "squared": (scores - labels[:, None]) ** 2,
    }[name]
    gaps = coefficients @ np.asarray(directions, float).T
    risk = weights @ losses / weights.sum()
    return risk + ridge / 2 * (coefficients**2).sum(1) + lam * (gaps**2).sum(1)


def constraint_forces(name, table, coefficients, intercept, *, ridge):
    """What the multipliers hold in balance: minus the slope of risk and ridge."""
    features, labels, _, weights = (np.asarray(a, float) for a in table)
    scores = features @ coefficients.T + intercept
    labels = labels[:, None]
    slopes = {
        "logistic": 0.5 * (1 + np.tanh(scores / 2)) - labels,
        "squared": 2 * (scores - labels),
    }[name]
    return -(weights[:, None] * slopes).T @ features / weights.sum() - (
        ridge * coefficients
    )


CASES = {
    "logistic": {"tolerance": np.array([0.0, 0.05, 0.3, np.inf])},
    "squared_hinge": {"lam": np.array([0.0, 0.1, 1.0, 10.0]), "tolerance": 0.5},
    "squared": {
        "target": np.linspace(-0.1, 0.1, M),
        "tolerance": 0.01,
        "ridge": 1e-2,
        "intercept": False,
    },
}


def by_definition(name, table, along, common):
    """Coefficients and intercepts of the optima."""
    features, labels, _, weights = table
    rows = np.ones((M, len(along)))
    settings = {
        "ridge": np.full(M, common["ridge"]),
        "tolerance": rows * np.reshape(common["tolerance"], (-1, 1)),
        "target": rows * np.reshape(common.get("target", 0.0), (-1, 1)),
        "lam": np.zeros(M),
    }
    cases = problems(
        name, features, labels, along, settings, mass=weights,
        intercept=common.get("intercept", True),
    )  # fmt: skip
    # Directions that depend on each other do so to the rounding of float32.
    optima = [reference(case, rank=1e-5) for case in cases]
    coefficients, intercepts, _ = zip(*optima, strict=True)
    return np.array(coefficients), np.array(intercepts)


@pytest.mark.parametrize("name", CASES)
def test_streamed_models_are_those_in_memory(name, table):
    features, labels, groups, weights = table
    cond = notions.demographic_parity(groups, n_groups=3, weights=weights)
    along = orthogonality.directions(jnp.asarray(features), cond)
    along = np.asarray(along, float)[: 1 if name == "squared" else 3]
    common = {"loss": getattr(erm, name), "ridge": 1e-3} | CASES[name]
    stream = streams.from_arrays(features, labels, groups, weights=weights, chunk=CHUNK)
    found = solvers.fit_linear_stream(
        stream, directions=along, precision=3e-8, **common
    )
    assert found.converged.all()
    assert found.coefficients.dtype == jnp.float32
    if name == "squared_hinge":
        with jax.enable_x64(True):
            in_memory = solvers.fit_linear(
                jnp.asarray(features.astype(float)),
                jnp.asarray(labels),
                weights=jnp.asarray(weights),
                directions=jnp.asarray(along),
                **common,
            )
            assert float(in_memory.gap.max()) <= 1e-9
        exact = in_memory.coefficients, in_memory.intercept
        np.testing.assert_allclose(found.multipliers, in_memory.multipliers, atol=2e-3)
    else:
        exact = by_definition(name, table, along, common)
        # Directions depend on each other: what they do together is unique.
        forces = constraint_forces(name, table, *exact, ridge=common["ridge"])
        np.testing.assert_allclose(
            (np.asarray(found.multipliers, float) @ along - forces)
            / np.abs(along).sum(axis=0),
            np.zeros((M, D)),
            atol=2e-3,
        )
    x = features.astype(float)
    models = (found.coefficients, found.intercept), exact
    ours, theirs = (
        x @ np.asarray(w, float).T + np.asarray(b, float) for w, b in models
    )
    # Half the ridge's strong convexity is all that a gap of 3e-8 says of the scores.
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    problem = {
        "ridge": common["ridge"],
        "lam": common.get("lam", 0.0),
        "directions": along,
    }
    values, best = (objective(name, table, *model, **problem) for model in models)
    np.testing.assert_allclose(values, best, rtol=1e-6)
    np.testing.assert_allclose(found.objective, values, rtol=4e-6)
    # The certificate: no optimum is lower than it says.
    assert (best >= np.asarray(found.objective) * (1 - 1e-6) - 4e-6 * values).all()
    bounds = np.asarray(common.get("tolerance", np.inf)).reshape(-1, 1)
    target = np.asarray(common.get("target", 0.0)).reshape(-1, 1)
    gaps = np.asarray(found.coefficients, float) @ along.T
    assert (np.abs(gaps - target) <= bounds + 1e-5 * np.abs(gaps) + 1e-6).all()


def test_one_configuration_has_no_leading_axis_and_one_chunk_is_enough(table):
    features, labels, *_ = table
    stream = streams.from_arrays(features, labels)
    fit = solvers.fit_linear_stream(stream, ridge=1e-2)
    assert fit.coefficients.shape == (D,)
    assert bool(fit.converged)
    many = solvers.fit_linear_stream(
        streams.from_arrays(features, labels, chunk=CHUNK), ridge=1e-2
    )
    np.testing.assert_allclose(fit.objective, many.objective, rtol=2e-6)


def test_weights_are_repetitions_and_zeros_are_absent(table):
    features, labels, groups, weights = table
    weighted = streams.from_arrays(features, labels, weights=weights, chunk=CHUNK)
    times = weights.astype(int)
    repeated = streams.from_arrays(
        np.repeat(features, times, axis=0), np.repeat(labels, times), chunk=CHUNK
    )
    a, b = (solvers.fit_linear_stream(s, ridge=1e-2) for s in (weighted, repeated))
    np.testing.assert_allclose(a.objective, b.objective, rtol=3e-6)


def test_few_passes_and_three_programs(table):
    features, labels, groups, _ = table
    passes = []

    class Counted:
        def __iter__(self):
            passes.append(None)
            yield from streams.from_arrays(features, labels, groups, chunk=CHUNK)

    # Directions that constrain nothing: the shapes of other tests.
    fit_stream = functools.partial(
        solvers.fit_linear_stream, directions=np.zeros((3, D))
    )
    linear_passes._chunk_sums.clear_cache()
    fit = fit_stream(Counted(), ridge=np.logspace(-4, -2, M))
    assert fit.converged.all()
    assert len(passes) <= 60
    assert linear_passes._chunk_sums._cache_size() <= 3
    before = linear_passes._chunk_sums._cache_size()
    fit_stream(Counted(), ridge=np.logspace(-3, -1, M))
    assert linear_passes._chunk_sums._cache_size() <= max(before, 3)
    passes.clear()
    short = fit_stream(Counted(), ridge=np.logspace(-6, -5, M), max_passes=4)
    assert len(passes) == 4
    assert not short.converged.any()
    assert np.isfinite(short.coefficients).all()
