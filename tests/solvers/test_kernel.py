"""Ridge and logistic kernel machines, derivatives of all, and the published dual."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import erm, kernels, notions, solvers
from tests.solvers.test_svm import (
    GAUSSIAN,
    LINEAR,
    NOTIONS,
    check_linear_machine,
    conditionals,
    differences,
    draw,
)

N = 40
MACHINES = {
    "ridge": (solvers.fit_ridge, erm.squared),
    "logistic": (solvers.fit_logistic, erm.logistic),
}
ALL = MACHINES | {"svm": (solvers.fit_svm, erm.hinge)}


def targets(name, labels, rng):
    return labels + 0.5 * rng.normal(size=len(labels)) if name == "ridge" else labels


def at_equality(name, phi, labels, c, rows, bounds):
    """The minimum where `rows w` equals `bounds`: Newton's method in (w, b)."""
    n, d = phi.shape
    design = np.column_stack([phi, np.ones(n)])
    sides = np.column_stack([rows, np.zeros(len(rows))])
    ridge = np.diag(np.r_[np.ones(d), 0])
    y = 2.0 * labels - 1
    w = np.linalg.pinv(sides) @ bounds if len(rows) else np.zeros(d + 1)
    for _ in range(100):
        scores = design @ w
        if name == "ridge":
            slope, curvature = 2 * (scores - labels), np.full(n, 2.0)
        else:
            away = 1 / (1 + np.exp(y * scores))
            slope, curvature = -y * away, away * (1 - away)
        gradient = c * design.T @ slope + ridge @ w
        hessian = c * design.T @ (curvature[:, None] * design) + ridge
        corner = np.zeros((len(rows), len(rows)))
        system = np.block([[hessian, sides.T], [sides, corner]])
        right = np.r_[-gradient, bounds - sides @ w]
        move = np.linalg.lstsq(system, right, rcond=None)[0][: d + 1]
        before, length = value(name, phi, labels, c, w), 1.0
        while length > 1e-9 and (
            value(name, phi, labels, c, w + length * move) > before + 1e-13 * before
        ):
            length /= 2
        w = w + length * move
        if np.abs(move).max() < 1e-12 * max(1, np.abs(w).max()):
            break
    return w


def value(name, phi, labels, c, w):
    scores = phi @ w[:-1] + w[-1]
    losses = np.square(scores - labels)
    if name == "logistic":
        losses = np.logaddexp(0, -(2.0 * labels - 1) * scores)
    return w[:-1] @ w[:-1] / 2 + c * losses.sum()


def by_definition(name, phi, labels, c, rows, tolerance):
    """The best feasible one among the minima of all patterns of bounds reached."""
    best, optimum = np.inf, None
    for signs in itertools.product([-1, 0, 1], repeat=len(rows)):
        signs = np.array(signs)
        on = signs != 0
        if np.isinf(tolerance) and on.any():
            continue
        bounds = signs[on] * (tolerance if np.isfinite(tolerance) else 0)
        w = at_equality(name, phi, labels, c, rows[on], bounds)
        own = value(name, phi, labels, c, w)
        if (np.abs(rows @ w[:-1]) <= tolerance + 1e-9).all() and own < best:
            best, optimum = own, w
    return best, optimum


@pytest.mark.parametrize("notion", ["equal_opportunity", "equalized_odds"])
@pytest.mark.parametrize("kind", ["gaussian", "low rank", "copies"])
@pytest.mark.parametrize("name", MACHINES)
def test_equals_the_definition(name, kind, notion, rng):
    features, labels, groups = draw(rng, n=N, copies=kind == "copies")
    wanted = targets(name, labels, rng)
    kernel = LINEAR if kind == "low rank" else GAUSSIAN
    c, tolerance = (
        axis.ravel()
        for axis in np.meshgrid([0.01, 1.0, 100.0], [0.0, 0.1, 0.5, np.inf])
    )
    found = MACHINES[name][0](
        features,
        wanted,
        kernel=kernel,
        c=c,
        tolerance=tolerance,
        cond=conditionals(notion, labels, groups),
    )
    assert found.converged.all(), (found.gap, found.violation)
    with jax.enable_x64(True):
        table = np.asarray(kernel(jnp.asarray(features), jnp.asarray(features)))
    values, vectors = np.linalg.eigh(table)
    kept = values > 1e-10 * values.max()
    phi = vectors[:, kept] * np.sqrt(values[kept])
    rows = differences(notion, labels, groups)
    for i in range(len(c)):
        given = (name, phi, wanted, c[i], rows @ phi, tolerance[i])
        optimum, w = by_definition(*given)
        assert found.objective[i] == pytest.approx(optimum, rel=1e-8)
        own = table @ found.coefficients[i] + found.intercept[i]
        expected = phi @ w[:-1] + w[-1]
        np.testing.assert_allclose(own, expected, atol=1e-4 * np.abs(expected).max())
        assert (np.abs(rows @ own) <= tolerance[i] + 1e-9).all()


@pytest.mark.parametrize("name", MACHINES)
def test_equals_scikit_learn_without_bounds(name, rng):
    linear = pytest.importorskip("sklearn.linear_model")
    features, labels, _ = draw(rng, n=N)
    wanted = targets(name, labels, rng)
    weights = rng.uniform(size=len(labels))
    for c in (0.1, 10.0):
        found = MACHINES[name][0](features, wanted, kernel=LINEAR, c=c, weights=weights)
        if name == "ridge":
            other = linear.Ridge(alpha=1 / (2 * c), tol=1e-12)
        else:
            other = linear.LogisticRegression(C=c, tol=1e-12, solver="newton-cholesky")
        other.fit(features, wanted, sample_weight=weights)
        own = found.coefficients @ features
        np.testing.assert_allclose(own, other.coef_.ravel(), atol=1e-5)
        np.testing.assert_allclose(found.intercept, other.intercept_, atol=1e-5)


@pytest.mark.parametrize("name", MACHINES)
def test_the_linear_kernel_is_the_linear_machine(name, rng, x64):
    features, labels, groups = draw(rng, n=N)
    wanted = targets(name, labels, rng)
    cond = conditionals("equal_opportunity", labels, groups)
    c = np.array([0.1, 1.0, 10.0])
    found = MACHINES[name][0](
        features, wanted, kernel=LINEAR, c=c, cond=cond, tolerance=0.05
    )
    loss = "squared" if name == "ridge" else name
    check_linear_machine(loss, found, features, wanted, cond, c=c, tolerance=0.05)


@pytest.mark.parametrize("name", MACHINES)
def test_a_batch_is_its_points_and_multipliers_are_prices(name, rng):
    features, labels, groups = draw(rng, n=N)
    wanted = targets(name, labels, rng)
    fit = functools.partial(
        MACHINES[name][0],
        features,
        wanted,
        kernel=kernels.gaussian,
        cond=conditionals("equalized_odds", labels, groups),
    )
    h = 1e-4
    steps = h * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1.0]])
    tolerance = np.concatenate([0.1 + steps, [[0, 0.2], [0, 0], [np.inf, 0.0]]])
    c = np.array([3, 3, 3, 3, 3, 0.1, 3, 1.0])
    bandwidth = np.array([1, 1, 1, 1, 1, 2, 1, 2.0])
    many = fit(c=c, bandwidth=bandwidth, tolerance=tolerance)
    assert many.converged.all()
    for i in (0, 5, 6, 7):
        one = fit(c=c[i], bandwidth=bandwidth[i], tolerance=tolerance[i : i + 1])
        np.testing.assert_allclose(one.objective[0], many.objective[i], rtol=1e-9)
        np.testing.assert_allclose(one.coefficients[0], many.coefficients[i], atol=1e-6)
    slopes = [(many.objective[i] - many.objective[i + 1]) / (2 * h) for i in (1, 3)]
    np.testing.assert_allclose(
        np.abs(many.multipliers[0]), -np.array(slopes), rtol=1e-3, atol=1e-5
    )
    assert np.abs(many.multipliers[0]).max() > 0.01


@pytest.mark.parametrize("name", ALL)
def test_masks_weights_and_the_order_of_samples(name, rng):
    features, labels, groups = draw(rng)
    wanted = targets(name, labels, rng)
    n = len(labels)
    fit = functools.partial(ALL[name][0], kernel=GAUSSIAN, c=2.0, tolerance=0.05)

    def cond(rows, weights=None):
        return notions.equal_opportunity(
            jnp.asarray(groups[rows]),
            jnp.asarray(labels[rows]),
            n_groups=2,
            weights=None if weights is None else jnp.asarray(weights[rows]),
        )

    everyone, order = np.arange(n), rng.permutation(n)
    plain = fit(features, wanted, cond=cond(everyone))
    moved = fit(features[order], wanted[order], cond=cond(order))
    np.testing.assert_allclose(moved.coefficients, plain.coefficients[order], atol=1e-6)
    mask = everyone < N
    masked = fit(
        features, wanted, weights=mask, cond=cond(everyone, mask.astype(np.float32))
    )
    kept = fit(features[:N], wanted[:N], cond=cond(everyone[:N]))
    np.testing.assert_allclose(masked.objective, kept.objective, rtol=1e-9)
    np.testing.assert_allclose(masked.coefficients[:N], kept.coefficients, atol=1e-6)
    np.testing.assert_array_equal(masked.coefficients[N:], 0)
    # As many rows as there were, and as many with the last ten left out.
    twice = np.r_[everyone[:-10], everyone[:10]]
    heavy = np.bincount(twice, minlength=n).astype(float)
    repeated = fit(features[twice], wanted[twice], cond=cond(twice))
    weighted = fit(
        features, wanted, weights=heavy, cond=cond(everyone, heavy.astype(np.float32))
    )
    np.testing.assert_allclose(weighted.objective, repeated.objective, rtol=1e-8)


@pytest.mark.parametrize("name", MACHINES)
def test_directions_that_depend_on_each_other(name, rng):
    features, labels, groups = draw(rng, n=N, n_groups=3)
    wanted = targets(name, labels, rng)
    n_groups = NOTIONS["demographic_parity"][1]
    cond = conditionals("demographic_parity", labels, groups)
    given = (features, wanted)
    fit = functools.partial(MACHINES[name][0], *given, kernel=GAUSSIAN, c=5.0)
    found = fit(cond=cond, tolerance=np.array([0.0, 0.05]))
    assert found.converged.all()
    # Two of the three differences say the same.
    fewer = fit(
        cond=cond, tolerance=0.0, contrasts=lambda g: jnp.eye(g)[:-1] - jnp.eye(g)[1:]
    )
    assert fewer.multipliers.shape == (n_groups - 1,)
    np.testing.assert_allclose(found.objective[0], fewer.objective, rtol=1e-9)
    scores = solvers.predict(found, features, features, kernel=GAUSSIAN)
    for i, tolerance in enumerate([0.0, 0.05]):
        gaps = differences("demographic_parity", labels, groups) @ scores[i]
        assert np.abs(gaps).max() == pytest.approx(tolerance, abs=1e-8)


def test_logistic_regression_without_a_finite_optimum_of_the_loss_alone(rng):
    """Separable classes, large c, far samples: steps that overshoot are shortened."""
    half = N // 2
    x = np.r_[rng.normal(size=(half, 2)) - 30, rng.normal(size=(half, 2)) + 30]
    labels = np.r_[np.zeros(half, int), np.ones(half, int)]
    # Products of c and the table reach 1e9: rounding leaves a gap of about 1e-9.
    found = solvers.fit_logistic(
        x, labels, kernel=LINEAR, c=np.logspace(-6, 6, 5), precision=1e-8
    )
    assert found.converged.all()
    assert found.gap.max() <= 1e-8
    assert np.isfinite(found.coefficients).all()
    short = solvers.fit_logistic(x, labels, kernel=LINEAR, c=1e6, max_iterations=1)
    assert not short.converged
    assert short.iterations == 1
    assert np.isfinite(short.objective)


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_refused_at_the_door(name, rng, untyped):
    features, labels, groups = draw(rng)
    fit = ALL[name][0]
    changes = [
        ({"labels": np.full(len(labels), np.nan)}, "labels"),
        ({"labels": labels[:-1]}, "labels"),
        ({"features": np.full_like(features, np.inf)}, "`features`"),
        ({"c": -1.0}, "`c`"),
        ({"weights": np.zeros(len(labels))}, "`weights`"),
        ({"tolerance": -1.0}, "`tolerance`"),
        ({"precision": -1.0}, "`precision`"),
        ({"bandwidth": None}, "`kernel` needs a bandwidth"),
        ({"cond": conditionals("equal_opportunity", labels[1:], groups[1:])}, "cond"),
    ]
    for change, message in changes:
        given = {
            "features": features,
            "labels": labels,
            "kernel": kernels.gaussian,
            "bandwidth": 1.0,
            "cond": conditionals("equal_opportunity", labels, groups),
        } | change
        with pytest.raises(ValueError, match=message):
            fit(given.pop("features"), given.pop("labels"), **given)
    with pytest.raises(ValueError, match="needs concrete arrays"):
        jax.grad(lambda c: fit(features, labels, kernel=GAUSSIAN, c=c).objective.sum())(
            1.0
        )


def scores_of(values, solution, cond, probe, loss):
    """Scores of the implicit machine."""
    values = dict(values)
    x, y = values.pop("features"), values.pop("labels")
    found = solvers.implicit(
        solution, x, y, loss=loss, kernel=kernels.gaussian, cond=cond, **values
    )
    table = kernels.gaussian(probe, x, bandwidth=values["bandwidth"])
    return jnp.matmul(table, found.coefficients) + found.intercept


@functools.partial(jax.jit, static_argnums=0)
def scores_and_slopes(loss, solution, values, cond, probe):
    """Scores and their derivatives in all that is a real number."""
    arguments = (values, solution, cond, probe, loss)
    return scores_of(*arguments), jax.jacrev(scores_of)(*arguments)


@pytest.mark.parametrize("tolerance", [0.0, 0.1, np.inf])
@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_differences(name, tolerance, rng, x64):
    """Against refitted machines, in every argument that a fit depends on."""
    features, labels, groups = draw(rng, n=N)
    wanted = targets(name, labels, rng)
    fit, loss = ALL[name]
    cond = conditionals("equalized_odds", labels, groups)
    probe = rng.normal(size=(5, features.shape[1]))
    given = {
        "features": features,
        "c": np.array(2.0),
        "bandwidth": np.array(1.5),
        "weights": 0.5 + rng.uniform(size=N),
    }
    if np.isfinite(tolerance) and tolerance > 0:
        given["tolerance"] = np.array([tolerance, 1.5 * tolerance])
    if name == "ridge":
        given["labels"] = wanted
    fixed = {"labels": wanted, "tolerance": tolerance} | given

    def refitted(values):
        values = dict(fixed) | values
        values["tolerance"] = np.atleast_2d(values["tolerance"])
        if values["tolerance"].size == 1:
            values["tolerance"] = np.repeat(values["tolerance"], 2, axis=1)
        x, y = values.pop("features"), values.pop("labels")
        one = fit(x, y, kernel=kernels.gaussian, cond=cond, precision=1e-13, **values)
        return jax.tree.map(lambda a: a[0], one), x

    solution, _ = refitted({})

    def by_refitting(values):
        one, x = refitted(values)
        return solvers.predict(
            one._replace(bandwidth=np.asarray(values["bandwidth"])), x, probe,
            kernel=kernels.gaussian,
        )  # fmt: skip

    values = {key: jnp.asarray(a) for key, a in given.items()}
    # Whatever is asked for, one program for each loss.
    others = {
        "labels": jnp.asarray(wanted, float),
        "tolerance": jnp.broadcast_to(jnp.asarray(tolerance), 2),
    }
    scores, slopes = scores_and_slopes(
        loss, solution, others | values, cond, jnp.asarray(probe)
    )
    np.testing.assert_allclose(scores, by_refitting(given), atol=1e-7)
    if (name, tolerance) == ("ridge", 0.1):  # without `jit`
        outside = scores_of(others | values, solution, cond, jnp.asarray(probe), loss)
        np.testing.assert_allclose(outside, scores, atol=1e-10)
    h = 1e-5
    moved = 0
    for argument, a in given.items():
        towards = rng.normal(size=a.shape)
        ends = []
        for sign in (1, -1):
            changed = given | {argument: a + sign * h * towards}
            ends.append(by_refitting(changed))
        expected = (ends[0] - ends[1]) / (2 * h)
        own = np.asarray(slopes[argument]).reshape(5, -1) @ towards.ravel()
        size = max(1, np.abs(expected).max())
        np.testing.assert_allclose(own, expected, atol=2e-4 * size, err_msg=argument)
        moved += np.abs(expected).max() > 1e-3
    assert moved >= 3


def test_derivatives_of_a_batch_forward_and_backward(rng, x64):
    features, labels, groups = draw(rng, n=N)
    cond = conditionals("equal_opportunity", labels, groups)
    c = np.array([0.5, 2.0, 8.0])
    fits = solvers.fit_svm(features, labels, kernel=GAUSSIAN, c=c, cond=cond)

    def intercept(fit, c):
        return solvers.implicit(
            fit, jnp.asarray(features), jnp.asarray(labels), loss=erm.hinge,
            kernel=GAUSSIAN, c=c, cond=cond,
        ).intercept  # fmt: skip

    fits = jax.tree.map(jnp.asarray, fits)
    ways = jax.jacfwd(intercept, argnums=1), jax.grad(intercept, argnums=1)
    # Op by op, these are hundreds of programs.
    forward, backward = (jax.jit(jax.vmap(way))(fits, jnp.asarray(c)) for way in ways)
    np.testing.assert_allclose(forward, backward, rtol=1e-8)
    slope = jax.jit(ways[1])
    for i in range(3):
        one = jax.tree.map(lambda a, i=i: a[i], fits)
        np.testing.assert_allclose(backward[i], slope(one, c[i]), rtol=1e-8)


def test_derivatives_refuse_what_they_cannot_do(rng, untyped):
    features, labels, groups = draw(rng, n=N)
    x, y = jnp.asarray(features), jnp.asarray(labels)
    fits = solvers.fit_svm(features, labels, kernel=GAUSSIAN, c=np.array([1.0, 2.0]))
    one = jax.tree.map(lambda a: a[0], fits)
    call = functools.partial(solvers.implicit, kernel=GAUSSIAN)
    with pytest.raises(ValueError, match="need float64"):
        call(one, x, y, loss=erm.hinge)
    with jax.enable_x64(True):
        with pytest.raises(ValueError, match="`loss` must be"):
            call(one, x, y, loss=erm.linear)
        with pytest.raises(ValueError, match="`fit` must be of one configuration"):
            call(fits, x, y, loss=erm.hinge)
        with pytest.raises(ValueError, match="`features`"):
            call(one, x[1:], y[1:], loss=erm.hinge)
        with pytest.raises(ValueError, match="`labels`"):
            call(one, x, y[1:], loss=erm.hinge)
        with pytest.raises(ValueError, match="`features` must be finite"):
            call(one, jnp.nan * x, y, loss=erm.hinge)
        cond = conditionals("equal_opportunity", labels, groups)
        with pytest.raises(ValueError, match="which has 0 directions, but have 1"):
            call(one, x, y, loss=erm.hinge, cond=cond)
        # Another machine than the fit is not taken for it.
        for wrong in ({"c": 5.0}, {"loss": erm.logistic}):
            with pytest.raises(ValueError, match="must be those of the fit"):
                call(one, x, y, **({"loss": erm.hinge} | wrong))
        mismatch = jax.jit(lambda c: call(one, x, y, loss=erm.hinge, c=c).mismatch)
        assert mismatch(1.0) < 1e-6
        assert mismatch(5.0) > 1e-3
        with pytest.raises(ValueError, match="`kernel` needs a bandwidth"):
            solvers.implicit(one, x, y, loss=erm.hinge, kernel=kernels.gaussian)


@pytest.mark.parametrize("name", MACHINES)
def test_an_indefinite_kernel_leaves_the_constant_model(name, rng):
    features, labels, groups = draw(rng, n=N)
    cond = conditionals("equal_opportunity", labels, groups)
    found = MACHINES[name][0](features, labels, kernel=kernels.energy, cond=cond)
    assert not found.converged
    np.testing.assert_array_equal(found.coefficients, 0)
    assert np.isfinite(found.objective)
    assert np.isfinite(found.gap)


def test_labels_that_are_all_equal_are_learned_by_the_intercept(rng):
    features, labels, groups = draw(rng, n=N)
    cond = conditionals("equal_opportunity", labels, groups)
    found = solvers.fit_ridge(features, np.full(N, 3.0), kernel=GAUSSIAN, cond=cond)
    assert found.converged
    assert found.intercept == pytest.approx(3)
    np.testing.assert_allclose(found.coefficients, 0, atol=1e-10)


def test_the_published_dual_with_several_directions_and_prices(rng, untyped):
    n = 100
    features, labels, groups = draw(rng, n=n)
    cond = conditionals("equalized_odds", labels, groups)
    fit = functools.partial(
        solvers.fit_svm, features, labels, kernel=GAUSSIAN, cond=cond, mode="published"
    )
    c = np.array([1.0, 10.0, 100.0])
    found = fit(c=c)
    assert found.converged.all()
    with jax.enable_x64(True):
        table = np.asarray(GAUSSIAN(jnp.asarray(features), jnp.asarray(features)))
    rows = differences("equalized_odds", labels, groups)
    y = 2 * labels - 1
    np.testing.assert_allclose(rows @ table @ found.coefficients.T, 0, atol=1e-7)
    np.testing.assert_allclose(found.dual @ y, 0, atol=1e-9)
    # Scores of free samples differ from their labels by the multipliers' part alone.
    for i in range(3):
        free = (found.dual[i] > 1e-6 * c[i]) & (found.dual[i] < (1 - 1e-6) * c[i])
        design = np.column_stack([np.ones(n), table @ rows.T])[free]
        left = (y - table @ found.coefficients[i])[free]
        assert free.sum() > design.shape[1]
        fitted = design @ np.linalg.lstsq(design, left, rcond=None)[0]
        np.testing.assert_allclose(fitted, left, atol=1e-6)
    with pytest.raises(ValueError, match="`tolerance` must be 0"):
        fit(tolerance=0.1)
    with pytest.raises(ValueError, match="`mode` must be"):
        solvers.fit_svm(features, labels, kernel=GAUSSIAN, mode="fast")
