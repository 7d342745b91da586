"""Support vector machines under bounds: against cvxopt, scikit-learn, fit_linear."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import kernels, notions, orthogonality
from fairjax.solvers import fit_svm, predict
from tests.reference.linear import problems, reference

N, D = 60, 4
GAUSSIAN = functools.partial(kernels.gaussian, bandwidth=1.5)
LINEAR = functools.partial(kernels.polynomial, degree=1, offset=0.0)
NOTIONS = {  # with the number of groups: 1, 2 and 3 directions
    "equal_opportunity": (notions.equal_opportunity, 2),
    "equalized_odds": (notions.equalized_odds, 2),
    "demographic_parity": (notions.demographic_parity, 3),
}


def rounded(x, z, **options):
    """A kernel in single precision, whose table has negative eigenvalues."""
    return kernels.gaussian(x, z, **options).astype(jnp.float32).astype(jnp.float64)


def draw(rng, n=N, n_groups=2, copies=False):
    groups = np.arange(n) % n_groups
    features = rng.normal(size=(n, D)) + 0.7 * groups[:, None]
    if copies:
        features[n // 2 :] = features[: n - n // 2]
    labels = (features[:, 0] + 0.8 * rng.normal(size=n) > 0.4).astype(int)
    labels[:4] = [0, 1, 0, 1]
    return features, labels, groups


def conditionals(notion, labels, groups, **options):
    function, n_groups = NOTIONS[notion]
    return function(jnp.asarray(groups), jnp.asarray(labels), n_groups=n_groups)


def differences(notion, labels, groups):
    """Rows `a` of `u = sum_i a_i phi_i`, by loops over cells."""
    n_groups = NOTIONS[notion][1]
    strata = {"equal_opportunity": [1], "equalized_odds": [0, 1]}.get(notion, [None])
    rows = []
    for stratum in strata:
        for a in range(n_groups):
            for b in range(a + 1, n_groups):
                row = np.zeros(len(labels))
                for group, sign in ((a, 1), (b, -1)):
                    own = groups == group
                    own &= (labels == stratum) | (stratum is None)
                    row[own] = sign / own.sum()
                rows.append(row)
    return np.array(rows)


def by_cvxopt(table, labels, rows, c, tolerance):
    """Scores without intercept, the optimum, its gap: the dual as a plain program."""
    cvxopt = pytest.importorskip("cvxopt")
    n, y = len(labels), 2.0 * labels - 1
    maps = np.diag(y)
    linear = -np.ones(n)
    if np.isfinite(tolerance):
        maps = np.hstack([maps, -rows.T, rows.T])
        linear = np.concatenate([linear, np.full(2 * len(rows), tolerance)])
    size = maps.shape[1]
    box = np.vstack([-np.eye(size), np.eye(size)[:n]])
    limits = np.concatenate([np.zeros(size), np.full(n, c)])
    balance = np.concatenate([y, np.zeros(size - n)])[None]
    found = cvxopt.solvers.qp(
        *map(cvxopt.matrix, (maps.T @ table @ maps, linear, box, limits, balance)),
        cvxopt.matrix(0.0),
        options={"show_progress": False, "abstol": 1e-11, "reltol": 1e-11,
                 "feastol": 1e-11, "maxiters": 100},
    )  # fmt: skip
    signed = maps @ np.array(found["x"]).ravel()
    gap = abs(found["gap"] / found["primal objective"])
    return table @ signed, -found["primal objective"], gap


@pytest.mark.parametrize("notion", NOTIONS)
@pytest.mark.parametrize("kind", ["gaussian", "low rank", "copies", "rounded"])
def test_equals_cvxopt(notion, kind, rng):
    kernel = {"low rank": LINEAR, "rounded": functools.partial(rounded, bandwidth=1.5)}
    kernel = kernel.get(kind, GAUSSIAN)
    c, tolerance = (
        axis.ravel()
        for axis in np.meshgrid([0.01, 1.0, 30.0, 1000.0], [0.0, 0.1, np.inf])
    )
    n_groups = NOTIONS[notion][1]
    features, labels, groups = draw(rng, n_groups=n_groups, copies=kind == "copies")
    found = fit_svm(
        features,
        labels,
        kernel=kernel,
        c=c,
        tolerance=tolerance,
        cond=conditionals(notion, labels, groups),
    )
    with jax.enable_x64(True):
        table = np.asarray(kernel(jnp.asarray(features), jnp.asarray(features)))
    rows = differences(notion, labels, groups)
    assert found.multipliers.shape == (len(c), len(rows))
    assert found.converged.all(), (found.gap, found.violation)
    compared = 0
    for i in range(len(c)):
        scores, optimum, gap = by_cvxopt(table, labels, rows, c[i], tolerance[i])
        # It does not reach its own limit everywhere, least of all when indefinite.
        limit = max(1e-8, 10 * gap, 1e-6 * (kind == "rounded"))
        assert found.objective[i] == pytest.approx(optimum, rel=limit)
        own = table @ found.coefficients[i]
        if limit == 1e-8:
            size = max(1, abs(scores).max())
            np.testing.assert_allclose(own, scores, atol=1e-4 * size)
            compared += 1
        gaps = np.abs(rows @ own)
        assert (gaps <= tolerance[i] + 1e-8).all()
        assert found.violation[i] <= 1e-8
        # The certificate is of the model that is returned.
        margins = (2 * labels - 1) * (own + found.intercept[i])
        risk = c[i] * np.maximum(0, 1 - margins).sum()
        value = found.coefficients[i] @ own / 2 + risk
        assert found.objective[i] == pytest.approx(value, rel=1e-9)
    assert compared >= 6 or kind == "rounded"


def test_where_pairs_crawl_proximal_points_arrive(rng):
    """Few columns, copies, a high price, bounds that bind: a vertex with many faces."""
    n, c, tolerance = 120, 1000.0, np.array([0.05, 0.5])
    groups = rng.integers(3, size=n)
    features = rng.normal(size=(n, 2))
    features[n // 2 :] = features[: n // 2]
    labels = features[:, 0] + groups / 2 + rng.normal(size=n) > 0
    cond = notions.equalized_odds(jnp.asarray(groups), jnp.asarray(labels), n_groups=3)
    found = fit_svm(
        features, labels, kernel=LINEAR, c=c, tolerance=tolerance, cond=cond
    )
    assert found.converged.all(), (found.gap, found.violation)
    assert (found.iterations < 500_000).all()  # a million without them
    weights = np.asarray(cond.weights, np.float64)
    weights /= weights.sum(axis=-1, keepdims=True)
    pairs = ((0, 1), (0, 2), (1, 2))
    rows = np.array([own[a] - own[b] for own in weights for a, b in pairs])
    for i in range(len(tolerance)):
        scores, optimum, gap = by_cvxopt(
            features @ features.T, labels, rows, c, tolerance[i]
        )
        limit = max(1e-8, 10 * gap)
        assert found.objective[i] == pytest.approx(optimum, rel=limit)
        own = features @ features.T @ found.coefficients[i]
        np.testing.assert_allclose(own, scores, atol=1e-4 * max(1, abs(scores).max()))


def check_linear_machine(name, found, features, labels, cond, *, c, tolerance):
    """Kernel machines against linear models in NumPy, at each price c."""
    n = len(labels)
    along = np.asarray(orthogonality.directions(jnp.asarray(features), cond))
    settings = {
        "ridge": 1 / (n * c),
        "tolerance": np.full((len(c), len(along)), tolerance),
        "target": np.zeros((len(c), len(along))),
        "lam": np.zeros(len(c)),
    }
    own = found.coefficients @ features
    for i, problem in enumerate(problems(name, features, labels, along, settings)):
        coefficients, intercept, value = reference(problem)
        np.testing.assert_allclose(found.objective[i], value * n * c[i], rtol=1e-8)
        np.testing.assert_allclose(own[i], coefficients, atol=1e-4)
        np.testing.assert_allclose(found.intercept[i], intercept, atol=1e-4)


def test_the_linear_kernel_is_the_linear_machine(rng, x64):
    """The linear machine is that of `fit_linear`, which has the same reference."""
    features, labels, groups = draw(rng)
    cond = conditionals("equal_opportunity", labels, groups)
    c = np.array([0.1, 1.0, 10.0])
    found = fit_svm(features, labels, kernel=LINEAR, c=c, cond=cond, tolerance=0.05)
    check_linear_machine("hinge", found, features, labels, cond, c=c, tolerance=0.05)


def test_a_batch_is_its_points_in_any_order(rng):
    features, labels, groups = draw(rng)
    given = {
        "kernel": kernels.gaussian,
        "cond": conditionals("equal_opportunity", labels, groups),
    }
    c = np.array([3.0, 0.2, 1.0, 0.2])
    bandwidth = np.array([1.0, 2.0, 1.0, 2.0])
    tolerance = np.array([0.1, 0.0, np.inf, 0.1])
    many = fit_svm(
        features, labels, c=c, bandwidth=bandwidth, tolerance=tolerance, **given
    )
    for i in range(4):
        one = fit_svm(
            features, labels, c=c[i], bandwidth=bandwidth[i], tolerance=tolerance[i],
            **given,
        )  # fmt: skip
        assert one.coefficients.shape == (N,)
        np.testing.assert_allclose(one.objective, many.objective[i], rtol=1e-9)
        np.testing.assert_allclose(one.coefficients, many.coefficients[i], atol=1e-6)
    scores = predict(many, features, features[:7], kernel=kernels.gaussian)
    squares = ((features[:7, None] - features[None]) ** 2).sum(axis=-1)
    for i in range(4):
        table = np.exp(-squares / (2 * bandwidth[i] ** 2))
        expected = table @ many.coefficients[i] + many.intercept[i]
        np.testing.assert_allclose(scores[i], expected, atol=1e-9)


def test_multipliers_are_prices(rng):
    features, labels, groups = draw(rng)
    cond = conditionals("equalized_odds", labels, groups)
    h = 1e-4
    tolerance = 0.1 + h * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1.0]])
    found = fit_svm(
        features, labels, kernel=GAUSSIAN, cond=cond, tolerance=tolerance, c=3.0
    )
    slopes = [(found.objective[i] - found.objective[i + 1]) / (2 * h) for i in (1, 3)]
    np.testing.assert_allclose(
        np.abs(found.multipliers[0]), -np.array(slopes), rtol=1e-3
    )
    assert np.abs(found.multipliers[0]).max() > 0.01
    free = fit_svm(features, labels, kernel=GAUSSIAN, cond=cond, tolerance=np.inf)
    np.testing.assert_array_equal(free.multipliers, 0)
    alone = fit_svm(features, labels, kernel=GAUSSIAN)
    assert alone.multipliers.shape == (0,)
    np.testing.assert_allclose(alone.objective, free.objective, rtol=1e-9)


def test_an_empty_cell_constrains_nothing(rng):
    features, labels, groups = draw(rng)
    none = notions.equal_opportunity(jnp.asarray(groups), jnp.zeros(N, int), n_groups=2)
    found = fit_svm(features, labels, kernel=GAUSSIAN, cond=none)
    alone = fit_svm(features, labels, kernel=GAUSSIAN)
    np.testing.assert_allclose(found.objective, alone.objective, rtol=1e-9)
    assert found.violation == 0


def test_a_point_cut_short_says_so_and_keeps_its_best(rng):
    features, labels, groups = draw(rng)
    cond = conditionals("equal_opportunity", labels, groups)
    found = fit_svm(
        features, labels, kernel=GAUSSIAN, cond=cond, c=np.array([1.0, 1000.0]),
        max_iterations=3,
    )  # fmt: skip
    assert np.isfinite(found.objective).all()
    assert (found.iterations <= 3).all()
    assert not found.converged[1]
    exact = fit_svm(features, labels, kernel=GAUSSIAN, cond=cond, c=1000.0)
    assert exact.converged
    assert found.gap[1] > 1e-8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.full((N, D), np.nan)}, "`features`"),
        ({"labels": np.zeros(N)}, "labels"),
        ({"labels": np.arange(N)}, "labels"),
        ({"c": 0.0}, "`c` must be"),
        ({"c": np.inf}, "`c`"),
        ({"bandwidth": -1.0}, "`bandwidth` must be"),
        ({"tolerance": -0.1}, "`tolerance` must be"),
        ({"tolerance": np.zeros((2, 3))}, "must be scalars or of one length"),
        ({"c": np.ones(2), "tolerance": np.zeros(3)}, "of one length"),
        ({"c": np.ones(0)}, "of one length"),
        ({"weights": -np.ones(N)}, "`weights`"),
        ({"weights": np.ones(N - 1)}, "`weights`"),
        ({"precision": 0.0}, "`precision`"),
        ({"max_iterations": 0}, "`max_iterations` must be at least 1"),
        ({"kernel": "rbf"}, "`kernel` must be a function"),
        ({"bandwidth": None}, "`kernel` needs a bandwidth"),
        ({"kernel": kernels.energy}, "`kernel` takes none: its arguments are x, y"),
    ],
)
def test_bad_input_is_refused_at_the_door(change, message, rng, untyped):
    features, labels, groups = draw(rng)
    given = {
        "features": features,
        "labels": labels,
        "kernel": kernels.gaussian,
        "bandwidth": 1.0,
        "cond": conditionals("equal_opportunity", labels, groups),
    } | change
    with pytest.raises(ValueError, match=message):
        fit_svm(given.pop("features"), given.pop("labels"), **given)


def test_a_scale_out_of_reach_is_said_and_one_within_is_solved(rng, untyped):
    features, labels, groups = draw(rng)
    cond = conditionals("equal_opportunity", labels, groups)
    large = (1e6 * features).astype(np.float32)
    plain = fit_svm(features, labels, kernel=GAUSSIAN, cond=cond)
    scaled = fit_svm(large, labels, kernel=kernels.gaussian, bandwidth=1.5e6, cond=cond)
    assert scaled.converged
    np.testing.assert_allclose(scaled.objective, plain.objective, rtol=1e-5)
    # A table of 1e12 leaves no digits for margins of 1: no certificate, and no claim.
    linear = fit_svm(large, labels, kernel=LINEAR, cond=cond, max_iterations=10_000)
    assert np.isfinite(linear.coefficients).all()
    assert linear.converged == (linear.gap <= 1e-8 and linear.violation <= 1e-6)
    with pytest.raises(
        ValueError, match=r"`kernel\(features, features\)` must be finite"
    ):
        fit_svm(features, labels, kernel=lambda x, z: jnp.nan * GAUSSIAN(x, z))


def test_weights_must_leave_both_labels_and_arrays_be_concrete(rng, untyped):
    features, labels, _ = draw(rng)
    with pytest.raises(ValueError, match="those of label 1 all have weight 0"):
        fit_svm(features, labels, kernel=GAUSSIAN, weights=labels == 0)
    with pytest.raises(ValueError, match="needs concrete arrays"):
        jax.jit(lambda x: fit_svm(x, labels, kernel=GAUSSIAN).objective)(features)


def test_prediction_refuses_other_samples(rng, untyped):
    features, labels, _ = draw(rng)
    found = fit_svm(features, labels, kernel=GAUSSIAN)
    with pytest.raises(ValueError, match="`train`"):
        predict(found, features[:-1], features, kernel=GAUSSIAN)
    with pytest.raises(ValueError, match="`features` must have the 4 columns"):
        predict(found, features, features[:, :2], kernel=GAUSSIAN)
