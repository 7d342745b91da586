"""`fit_linear` against references written from the problem statement, in NumPy.

The reference shares nothing with the solver, and is itself checked against
scikit-learn. All tables have one shape, so that each loss is compiled once per
precision; configurations in double precision go one by one, each from the last.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import threadpoolctl
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC, LinearSVC

from fairjax import erm, solvers
from tests.reference.linear import dual_bound, problems, reference

N, D, K, M = 60, 8, 3, 6
# The documented accuracy of the reported objective, in units of the precision.
REPORTED = 4
LOSSES = {
    "logistic": erm.logistic,
    "hinge": erm.hinge,
    "squared_hinge": erm.squared_hinge,
    "squared": erm.squared,
}


# Tables.


def padded(rows):
    """Zero rows constrain nothing: every case can have the same shapes."""
    return np.vstack([rows, np.zeros((K - len(rows), rows.shape[1]))])


def directions_of(features, labels, groups, *, kind):
    """Differences of cell means, in the precision of the features."""
    exact = features.astype(float)
    if kind == "one":
        cells = [[labels == labels]]
        groups = groups // 2
    elif kind == "odds":
        cells = [[labels == 0], [labels == 1]]
        groups = groups // 2
    else:
        cells = [[labels == labels]]
    rows = []
    for (here,) in cells:
        means = [exact[here & (groups == g)].mean(axis=0) for g in np.unique(groups)]
        rows += [a - b for a, b in itertools.combinations(means, 2)]
    return padded(np.array(rows)).astype(features.dtype)


def plain_table(rng, n=N, d=D):
    groups = np.arange(n) % 3
    features = rng.normal(size=(n, d)) + groups[:, None] * np.linspace(0, 1, d)
    scores = features @ np.linspace(-1, 1, d) + rng.normal(scale=2, size=n)
    labels = (scores > np.median(scores)).astype(np.int32)
    return features, labels, groups


def one_hot_table(rng):
    """Two one-hot blocks: each sums to the constant, exactly collinear."""
    features, labels, groups = plain_table(rng)
    first, second = rng.integers(3, size=N), rng.integers(3, size=N)
    blocks = [features[:, -2:], np.eye(3)[first], np.eye(3)[second]]
    return np.column_stack(blocks), labels, groups


def constant_table(rng):
    features, labels, groups = plain_table(rng)
    features[:, 3] = 7.0
    features[:, 4] = 0.0
    return features, labels, groups


def scaled_table(rng):
    features, labels, groups = plain_table(rng)
    return features * 10.0 ** np.linspace(-6, 6, D), labels, groups


def separable_table(rng):
    features, labels, groups = plain_table(rng)
    features[:, -1] += 10 * (2 * labels - 1)
    return features, labels, groups


def shifted_table(rng):
    features, labels, groups = plain_table(rng)
    return features + 1e6, labels, groups


TABLES = {
    "plain": plain_table,
    "one_hot": one_hot_table,
    "constant": constant_table,
    "scaled": scaled_table,
    "separable": separable_table,
    "shifted": shifted_table,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The references are small: threads that wait for each other cost 20 times more."""
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture
def table(rng):
    return plain_table(rng)


def settings_for(directions, *, ridge=0.05):
    """Six configurations: free, equal, bounded, targeted, penalised, all at once."""
    d = directions.shape[1]
    # Scale-free and consistent, also where directions depend on one another.
    size = np.maximum(np.abs(directions).max(axis=0), 1e-30)
    aim = directions.astype(float) @ (0.3 * np.cos(np.arange(d)) / size / d)
    inf = np.inf
    return {
        "ridge": np.array([1, 1, 1, 1, 1, 0.1]) * ridge,
        "tolerance": np.array(
            [[inf] * 3, [0.0] * 3, [0.1, inf, 0.2], [0.0] * 3, [inf] * 3, [0.1] * 3]
        ),
        "target": np.array([0, 0, 0, 1, 0, 1.0])[:, None] * aim,
        "lam": np.array([0, 0, 0, 0, 3.0, 1.0]),
    }


def fit(name, features, labels, directions, settings, **kwargs):
    dtype = features.dtype
    arrays = {k: jnp.asarray(v.astype(dtype)) for k, v in settings.items()}
    kwargs.setdefault("batch", 1 if dtype == np.float64 else 64)
    return solvers.fit_linear(
        jnp.asarray(features),
        jnp.asarray(labels),
        loss=LOSSES[name],
        directions=jnp.asarray(directions),
        **arrays,
        **kwargs,
    )


def check_optimal(found, cases, *, relative, recentre=False):
    """Certificate, objective and constraint of each configuration against the truth."""
    single = found.gap.dtype == jnp.float32
    # Three dependent directions are dependent to the rounding of their entries only.
    rank, exact = (1e-5, 1e-7) if single else (1e-10, 1e-9)
    for i, problem in enumerate(cases):
        w = np.asarray(found.coefficients[i], float)
        b = float(found.intercept[i])
        if recentre:
            b = best_intercept(problem, w)
        _, _, best = reference(problem, rank=rank)
        value = problem.objective(w, b)
        gap = float(found.gap[i])
        # Beyond a bound the objective can be lower, by the price of the excess.
        excess = np.abs(problem.directions @ w - problem.target) - problem.tolerance
        price = np.abs(found.multipliers[i]) @ np.maximum(excess, 0)
        scale = np.abs(problem.directions) @ np.abs(w)
        # Targets of dependent directions agree to their own rounding only.
        eps = float(jnp.finfo(found.gap.dtype).eps)
        rounding = np.abs(found.multipliers[i]) @ (D * eps * scale)
        assert bool(found.converged[i]), i
        assert 0 <= gap <= relative, i
        # Honest: the objective is the objective, the bound a bound.
        assert abs(value - float(found.objective[i])) <= REPORTED * relative * best, i
        assert value + price >= best * (1 - exact), i
        assert value * (1 - gap) <= best * (1 + exact) + rounding, i
        assert value <= best * (1 + relative + 1e-9), i
        assert problem.violation(w) <= 1e-6 * scale.max(initial=0) + 1e-300, i
        if not problem.intercept:
            assert b == 0, i


def best_intercept(problem, coefficients):
    """The best for these coefficients: what float32 cannot write down near 1e6."""
    scores = problem.features @ coefficients
    middle = -np.median(scores)
    found = scipy.optimize.minimize_scalar(
        lambda b: problem.objective(coefficients, middle + b),
        bounds=(-5, 5),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return middle + found.x


# The reference is right.


def free_problem(name, table, *, ridge, intercept=True):
    features, labels, _ = table
    settings = {
        "ridge": np.array([ridge]),
        "tolerance": np.full((1, 1), np.inf),
        "target": np.zeros((1, 1)),
        "lam": np.zeros(1),
    }
    rows = np.zeros((1, features.shape[1]))
    return next(problems(name, features, labels, rows, settings, intercept=intercept))


@pytest.mark.parametrize("name", LOSSES)
def test_the_reference_agrees_with_scikit_learn(name, table):
    features, labels, _ = table
    ridge, c = 0.05, 1 / (N * 0.05)
    # LinearSVC penalises its intercept: compare without.
    intercept = name != "squared_hinge"
    model = {
        "logistic": LogisticRegression(C=c, tol=1e-12, max_iter=10_000),
        "hinge": SVC(kernel="linear", C=c, tol=1e-10),
        # Its objective is |w|^2 / 2 + C sum of squares.
        "squared_hinge": LinearSVC(
            C=c, fit_intercept=False, dual=False, tol=1e-14, max_iter=100_000
        ),
        # Its objective is alpha |w|^2 + sum of squares.
        "squared": Ridge(alpha=N * ridge / 2, tol=1e-12),
    }[name].fit(features, labels)
    problem = free_problem(name, table, ridge=ridge, intercept=intercept)
    coefficients, constant, _ = reference(problem)
    np.testing.assert_allclose(coefficients, model.coef_.ravel(), atol=2e-6)
    np.testing.assert_allclose(constant, model.intercept_, atol=2e-6)


# fit_linear in float64.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["one", "pairwise", "odds"])
def test_every_configuration_is_optimal(kind, name, table):
    features, labels, groups = table
    u = directions_of(features, labels, groups, kind=kind)
    settings = settings_for(u)
    found = fit(name, features, labels, u, settings)
    cases = list(problems(name, features, labels, u, settings))
    check_optimal(found, cases, relative=1e-10)
    # The bounds bind, and the target is met, so the cases are not the same case.
    gaps = np.asarray(found.coefficients) @ u.T
    assert np.abs(gaps[0]).max() > 0.15
    np.testing.assert_allclose(gaps[1], 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.abs(gaps[2, 0]), 0.1, rtol=1e-6)
    np.testing.assert_allclose(gaps[3], settings["target"][3], rtol=0, atol=1e-12)
    assert np.abs(gaps[4]).max() < np.abs(gaps[0]).max() / 2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LOSSES)
def test_an_infeasible_start_proves_nothing(name, table):
    # Each starts from the one before: the optimum of another problem, whose multiplier
    # is 0, so that its violation of the next bound would cost a certificate nothing.
    features, labels, groups = table
    u = directions_of(features, labels, groups, kind="one")
    settings = {
        "ridge": np.full(M, 0.05),
        "tolerance": np.tile([[np.inf] * K, [0.0] * K, [0.0] * K], (2, 1)),
        "target": np.tile([[0.0] * K, [0.0] * K, [0.3, *[0.0] * (K - 1)]], (2, 1)),
        "lam": np.zeros(M),
    }
    found = fit(name, features, labels, u, settings, batch=1)
    cases = problems(name, features, labels, u, settings)
    check_optimal(found, cases, relative=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["logistic", "squared_hinge", "squared"])
@pytest.mark.parametrize("kind", ["pairwise", "odds"])
def test_the_multipliers_give_a_dual_bound(kind, name, table):
    features, labels, groups = table
    u = directions_of(features, labels, groups, kind=kind)
    settings = settings_for(u)
    found = fit(name, features, labels, u, settings)
    for i, problem in enumerate(problems(name, features, labels, u, settings)):
        w, b = np.asarray(found.coefficients[i]), float(found.intercept[i])
        bound = dual_bound(problem, w, b, np.asarray(found.multipliers[i]))
        value = problem.objective(w, b)
        assert bound <= value * (1 + 1e-14), i
        assert value - bound <= 1e-8 * value, i


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LOSSES)
def test_weights_and_masks(name, table, rng):
    features, labels, groups = table
    u = directions_of(features, labels, groups, kind="pairwise")
    settings = settings_for(u)
    weights = rng.exponential(size=N) * (rng.random(N) < 0.8)
    found = fit(name, features, labels, u, settings, weights=jnp.asarray(weights))
    cases = problems(name, features, labels, u, settings, mass=weights)
    check_optimal(found, cases, relative=1e-10)

    mask = np.arange(N) < 45
    masked = fit(name, features, labels, u, settings, weights=jnp.asarray(mask))
    subset = problems(name, features[mask], labels[mask], u, settings)
    check_optimal(masked, subset, relative=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["logistic", "hinge"])
def test_without_an_intercept(name, table):
    """The other losses are in `slow/coverage/test_linear.py`."""
    check_without_an_intercept(name, table)


def check_without_an_intercept(name, table):
    features, labels, groups = table
    u = directions_of(features, labels, groups, kind="pairwise")
    settings = settings_for(u)
    found = fit(name, features, labels, u, settings, intercept=False)
    cases = problems(name, features, labels, u, settings, intercept=False)
    check_optimal(found, cases, relative=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("hard", [name for name in TABLES if name != "plain"])
def test_hard_tables_in_float64(hard, name, rng):
    features, labels, groups = TABLES[hard](rng)
    u = directions_of(features, labels, groups, kind="pairwise")
    settings = settings_for(u)
    found = fit(name, features, labels, u, settings)
    cases = problems(name, features, labels, u, settings)
    check_optimal(found, cases, relative=1e-10, recentre=hard == "shifted")


# fit_linear in float32, measured in float64.


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("hard", TABLES)
def test_hard_tables_in_float32(hard, name, rng):
    features, labels, groups = TABLES[hard](rng)
    features = features.astype(np.float32)
    u = directions_of(features, labels, groups, kind="pairwise")
    settings = settings_for(u)
    settings = {k: v.astype(np.float32) for k, v in settings.items()}
    found = fit(name, features, labels, u, settings)
    cases = problems(name, features, labels, u, settings)
    check_optimal(found, cases, relative=1e-6, recentre=hard == "shifted")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_more_columns_than_rows(name, dtype, rng):
    """Rows without weight are none: the shapes, and the programs, of other tests.

    A table that has no more rows is in `slow/coverage/test_linear.py`.
    """
    features, labels, groups = plain_table(rng)
    features = features.astype(dtype)
    some = np.arange(N) < 6
    assert some.sum() < D
    # Directions that depend on each other but for rounding leave the hinge of so few
    # rows without a certificate, and it says so.
    rounded = name == "hinge" and dtype == np.float32
    kind = "one" if rounded else "pairwise"
    u = directions_of(features[some], labels[some], groups[some], kind=kind)
    settings = {k: v.astype(dtype) for k, v in settings_for(u).items()}
    with jax.enable_x64(dtype == np.float64):
        weights = jnp.asarray(some)
        found = fit(name, features, labels, u, settings, weights=weights)
    relative = 1e-6 if dtype == np.float32 else 1e-10
    cases = problems(name, features[some], labels[some], u, settings)
    check_optimal(found, cases, relative=relative)


def check_more_columns_than_rows(dtype, name, rng):
    features, labels, groups = plain_table(rng, n=24, d=40)
    features = features.astype(dtype)
    u = directions_of(features, labels, groups, kind="pairwise")
    settings = settings_for(u)
    settings = {k: v.astype(dtype) for k, v in settings.items()}
    with jax.enable_x64(dtype == np.float64):
        found = fit(name, features, labels, u, settings)
    relative = 1e-6 if dtype == np.float32 else 1e-10
    cases = problems(name, features, labels, u, settings)
    check_optimal(found, cases, relative=relative)


# Batches and transformations: each test compiles one program that those before lack.


def float32_case(table, *, kind):
    """A table with directions and six settings, in float32."""
    features, labels, groups = table
    features = features.astype(np.float32)
    u = directions_of(features, labels, groups, kind=kind)
    settings = {k: v.astype(np.float32) for k, v in settings_for(u).items()}
    return features, labels, u, settings


@pytest.fixture
def case(table):
    return float32_case(table, kind="pairwise")


def models(found):
    """Coefficients and intercepts side by side."""
    return np.column_stack([found.coefficients, found.intercept])


def test_scalar_settings_give_results_without_a_batch_axis(case):
    features, labels, u, _ = case
    x, y, rows = jnp.asarray(features), jnp.asarray(labels), jnp.asarray(u)
    found = solvers.fit_linear(x, y, directions=rows, ridge=0.05, tolerance=0.1)
    assert found.coefficients.shape == (D,)
    assert found.multipliers.shape == (K,)
    assert found.gap.shape == found.intercept.shape == found.converged.shape == ()
    one = solvers.fit_linear(
        x, y, directions=rows, ridge=0.05, tolerance=jnp.asarray([0.1])
    )
    assert one.coefficients.shape == (1, D)
    np.testing.assert_array_equal(one.coefficients[0], found.coefficients)


@pytest.mark.parametrize("name", ["logistic", "hinge"])
def test_more_configurations_than_the_batch_keep_their_order(name, case):
    features, labels, u, settings = case
    whole = fit(name, features, labels, u, settings, precision=1e-9)
    parts = fit(name, features, labels, u, settings, precision=1e-9, batch=4)
    np.testing.assert_allclose(models(parts), models(whole), atol=2e-5)
    order = np.array([5, 3, 0, 4, 2, 1])
    shuffled = {k: v[order] for k, v in settings.items()}
    moved = fit(name, features, labels, u, shuffled, precision=1e-9, batch=4)
    np.testing.assert_allclose(models(moved), models(whole)[order], atol=2e-5)


def test_a_batch_equals_a_loop_of_single_calls(case):
    """The hinge, which is solved in a loop anyway, is in `slow/coverage/`."""
    check_single_calls("logistic", case)


def check_single_calls(name, case):
    features, labels, u, settings = case
    # Tight, so that both stop near the same point and not merely at the same value.
    together = fit(name, features, labels, u, settings, precision=1e-9)
    for i in range(M):
        one = {k: v[i : i + 1] for k, v in settings.items()}
        alone = fit(name, features, labels, u, one, precision=1e-9)
        np.testing.assert_allclose(models(alone)[0], models(together)[i], atol=2e-5)


@pytest.fixture
def one_direction(table):
    """One direction: the other rows are zero, and constrain nothing."""
    return float32_case(table, kind="one")


def inside_transformations(name, labels, u, settings, *, k):
    """`fit_linear` of features and settings, with the first k directions."""
    y, rows = jnp.asarray(labels), jnp.asarray(u[:k])
    arrays = {
        key: jnp.asarray(v[:, :k] if v.ndim == 2 else v) for key, v in settings.items()
    }

    def inside(features, arrays):
        return solvers.fit_linear(
            features, y, loss=LOSSES[name], directions=rows, **arrays
        )

    return inside, arrays


def compare_under_jit(found, outside):
    # float32 throughout inside `jit`: its certificate says how far it came.
    np.testing.assert_allclose(found.objective, outside.objective, rtol=1e-5)
    assert (np.asarray(found.gap) <= 1e-5).all()
    np.testing.assert_allclose(models(found), models(outside), atol=5e-3)


def check_jit(name, case, *, k):
    features, labels, u, settings = case
    x = jnp.asarray(features)
    inside, arrays = inside_transformations(name, labels, u, settings, k=k)
    inside = jax.jit(inside)
    outside = fit(name, features, labels, u, settings)
    compare_under_jit(inside(x, arrays), outside)
    inside(x + 1, arrays)
    assert inside._cache_size() == 1
    broken = inside(x.at[3, 2].set(jnp.nan), arrays)
    assert not broken.converged.any()


def check_vmap(name, case, *, k):
    features, labels, u, settings = case
    inside, arrays = inside_transformations(name, labels, u, settings, k=k)
    inside = jax.jit(jax.vmap(inside, in_axes=(0, None)))
    pair = np.stack([features, features[::-1] * 2])
    both = inside(jnp.asarray(pair), arrays)
    for i in range(2):
        one = fit(name, pair[i], labels, u, settings)
        np.testing.assert_allclose(both.objective[i], one.objective, rtol=1e-5)
    assert jnp.isfinite(both.coefficients).all()
    outside = fit(name, features, labels, u, settings)
    compare_under_jit(jax.tree.map(lambda a: a[0], both), outside)

    broken = inside(jnp.asarray(pair).at[0, 3, 2].set(jnp.nan), arrays)
    assert inside._cache_size() == 1
    assert not broken.converged[0].any()
    np.testing.assert_array_equal(broken.objective[1], both.objective[1])


def test_jit(one_direction):
    """The logistic loss, and more directions, are in `slow/coverage/test_linear.py`."""
    check_jit("hinge", one_direction, k=1)


def test_vmap(one_direction):
    """The hinge, and more directions, are in `slow/coverage/test_linear.py`."""
    check_vmap("logistic", one_direction, k=1)


def test_equal_shapes_share_one_compilation(case, caplog):
    features, labels, u, settings = case
    fit("logistic", features, labels, u, settings)
    # Other values everywhere, equal shapes.
    with jax.log_compiles(), caplog.at_level("WARNING"):
        fit(
            "logistic",
            features + np.float32(0.5),
            1 - labels,
            2 * u,
            {k: v * np.float32(0.9) for k, v in settings.items()},
        )
    compiled = [r.message for r in caplog.records if "Compiling" in r.message]
    assert compiled == []


# Trouble.


def test_a_point_that_does_not_converge_says_so_and_harms_no_neighbour(case):
    features, labels, u, settings = case
    stopped = fit("hinge", features, labels, u, settings, max_iterations=1)
    assert not stopped.converged.any()
    for field in stopped:
        assert bool(jnp.isfinite(field).all())
    # One configuration that nothing can satisfy, among others that are easy.
    impossible = {k: v.copy() for k, v in settings.items()}
    impossible["tolerance"][3] = 0
    impossible["target"][3] = [1.0, 1.0, 5.0]  # the third must be the difference: 0
    for name in ("logistic", "hinge"):
        found = fit(name, features, labels, u, impossible)
        fine = fit(name, features, labels, u, settings)
        others = [0, 1, 2, 4, 5]
        assert not found.converged[3]
        assert float(found.violation[3]) > 0.1
        for field in found:
            assert bool(jnp.isfinite(field).all())
        assert found.converged[jnp.array(others)].all()
        np.testing.assert_allclose(
            found.objective[jnp.array(others)],
            fine.objective[jnp.array(others)],
            rtol=2e-6,
        )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ridge", [1e-12, 1e12])
def test_finite_input_gives_finite_output(ridge, name, case):
    features, labels, u, settings = case
    extreme = settings | {"ridge": np.full(M, ridge, np.float32)}
    found = fit(name, features, labels, u, extreme)
    for field in found:
        assert bool(jnp.isfinite(field).all())


GOOD = {
    "features": np.arange(8.0, dtype=np.float32).reshape(4, 2) % 3,
    "labels": np.array([0, 1, 0, 1]),
    "directions": np.ones((1, 2), np.float32),
}


def with_entry(array, at, value):
    changed = np.array(array, float)
    changed[at] = value
    return changed.astype(np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features": with_entry(GOOD["features"], (2, 1), np.nan)},
            r"`features` must be finite.*features\[2, 1\] = nan",
        ),
        (
            {"features": with_entry(GOOD["features"], (0, 1), np.inf)},
            r"`features` must be finite.*features\[0, 1\] = inf",
        ),
        (
            {"features": np.zeros((0, 2), np.float32), "labels": np.zeros(0, int)},
            "`features` must be a table",
        ),
        (
            {"features": np.zeros((4, 0), np.float32), "directions": np.ones((1, 0))},
            "`features` must be a table",
        ),
        ({"labels": np.array([0, 1, 2, 1])}, r"`labels` must be 0 or 1.*\[2\] = 2"),
        ({"labels": np.array([1, 1, 1, 1])}, "`labels` must hold both 0 and 1"),
        (
            {"labels": with_entry(GOOD["labels"], 1, np.nan)},
            r"`labels` must be finite.*labels\[1\] = nan",
        ),
        (
            {"weights": np.array([1.0, -1, 1, 1])},
            r"`weights` must not be negative.*weights\[1\] = -1",
        ),
        ({"weights": np.zeros(4)}, "`weights` must have a positive entry"),
        ({"weights": np.array([1, np.nan, 1, 1])}, r"`weights`.*weights\[1\] = nan"),
        ({"ridge": 0.0}, "`ridge` must be above 0"),
        ({"ridge": np.array([1.0, -1.0])}, r"`ridge` must be above 0.*ridge\[1\] = -1"),
        ({"ridge": np.inf}, "`ridge` must be finite"),
        ({"ridge": np.nan}, "`ridge` must be above 0"),
        ({"tolerance": -0.1}, "`tolerance` must be at least 0"),
        ({"tolerance": np.nan}, "`tolerance` must be at least 0"),
        ({"lam": np.array([0.0, -2.0])}, r"`lam` must be at least 0.*lam\[1\] = -2"),
        ({"lam": np.inf}, "`lam` must be finite"),
        ({"target": np.nan}, "`target` must be finite"),
        (
            {"directions": np.array([[1.0, np.nan]], np.float32)},
            r"`directions` must be finite.*\[0, 1\] = nan",
        ),
        (
            {"ridge": np.ones(2), "lam": np.ones(3)},
            "must be scalars or share one batch axis",
        ),
        (
            {"ridge": np.ones(2), "tolerance": np.ones((3, 1))},
            "must be scalars or share one batch axis",
        ),
        ({"ridge": np.ones((2, 1))}, "must be scalars or share one batch axis"),
        ({"tolerance": np.ones((2, 3))}, r"`tolerance` of two axes must be \(m, 1\)"),
        ({"target": np.ones((2, 3))}, r"`target` of two axes must be \(m, 1\)"),
        ({"batch": 0}, "`batch` must be at least 1"),
        ({"loss": erm.linear}, "`loss` must be erm.logistic.*'linear'"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = GOOD | {"ridge": 0.1} | changes
    arguments = {
        k: jnp.asarray(v, jnp.float32)
        if isinstance(v, np.ndarray) and v.dtype == float
        else jnp.asarray(v)
        if isinstance(v, np.ndarray)
        else v
        for k, v in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        solvers.fit_linear(
            arguments.pop("features"), arguments.pop("labels"), **arguments
        )


def test_directions_of_other_features_are_refused(untyped):
    arguments = GOOD | {"directions": jnp.ones((1, 3))}
    with pytest.raises(ValueError, match=r"the 2 columns of `features`.*\(1, 3\)"):
        solvers.fit_linear(**arguments)


def test_lengths_that_differ_are_refused():
    # The check behind the shape annotations, which users run without.
    fit_linear = getattr(solvers.fit_linear, "__wrapped__", solvers.fit_linear)
    x = jnp.asarray(GOOD["features"])
    with pytest.raises(Exception, match=r"labels") as caught:
        fit_linear(x, jnp.array([0, 1, 1]))
    assert isinstance(caught.value, (ValueError, TypeError))
    with pytest.raises(Exception, match=r"weights") as caught:
        fit_linear(x, jnp.array([0, 1, 1, 0]), weights=jnp.ones(3))
    assert isinstance(caught.value, (ValueError, TypeError))
