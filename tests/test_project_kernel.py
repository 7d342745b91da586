"""Kernels without the fairness directions, against explicit features and an SVM."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import kernels, metrics, notions, orthogonality
from fairjax.orthogonality import project_kernel
from tests.slow.claims import test_published_adult as test_parity

N, D = 60, 6


@pytest.fixture
def table(rng):
    """Features, labels and groups; every cell of three groups has members."""
    groups, labels = np.arange(N) % 3, (np.arange(N) // 3) % 2
    features = rng.normal(size=(N, D)) + 0.5 * groups[:, None] + labels[:, None]
    return features, labels, groups


def conditionals(labels, groups, notion=notions.equalized_odds, **options):
    n_groups = int(max(groups)) + 1
    return notion(
        jnp.asarray(groups), jnp.asarray(labels), n_groups=n_groups, **options
    )


def gaps_by_loops(labels, groups):
    """Weights of `mean of a - mean of b` in each stratum, one row per pair."""
    rows = []
    for label in (0, 1):
        for a in range(3):
            for b in range(a + 1, 3):
                row = np.zeros(len(labels))
                for group, sign in ((a, 1), (b, -1)):
                    own = (labels == label) & (groups == group)
                    row[own] += sign / own.sum()
                rows.append(row)
    return np.array(rows)


def gaussian(x, z):
    squares = ((np.asarray(x)[:, None] - np.asarray(z)[None]) ** 2).sum(axis=-1)
    return np.exp(-squares / 10)


def test_equals_its_definition_with_dependent_directions(table, x64, rng):
    features, labels, groups = table
    cond = conditionals(labels, groups)
    kernel, others = gaussian(features, features), rng.normal(size=(7, D))
    a = gaps_by_loops(labels, groups)
    middle = np.linalg.pinv(a @ kernel @ a.T, rcond=1e-10)
    rows = gaussian(others, features)
    found = project_kernel(jnp.asarray(kernel), cond)
    expected = kernel - kernel @ a.T @ middle @ a @ kernel
    np.testing.assert_allclose(found, expected, atol=1e-10)
    found_rows = project_kernel(jnp.asarray(kernel), cond, rows=jnp.asarray(rows))
    np.testing.assert_allclose(
        found_rows, rows - rows @ a.T @ middle @ a @ kernel, atol=1e-10
    )
    # No function in the span of its columns has a gap of means in any cell.
    np.testing.assert_allclose(a @ np.asarray(found), 0, atol=1e-10)
    assert np.linalg.eigvalsh(found).min() > -1e-10


@pytest.mark.parametrize("contrasts", ["pairwise", "against_mean"])
def test_the_linear_kernel_is_the_product_of_projected_features(table, x64, contrasts):
    features, labels, groups = table
    cond = conditionals(labels, groups, notions.demographic_parity)
    options = {"contrasts": getattr(orthogonality, contrasts)}
    features = jnp.asarray(features)
    u = orthogonality.directions(features, cond, **options)
    fair = orthogonality.project_features(features, u)
    found = project_kernel(features @ features.T, cond, **options)
    np.testing.assert_allclose(found, fair @ fair.T, atol=1e-11)


def test_jit_vmap_permutation_and_masks(table, x64, rng):
    features, labels, groups = table
    kernel = jnp.asarray(gaussian(features, features))
    cond = conditionals(labels, groups)
    eager = project_kernel(kernel, cond)
    np.testing.assert_allclose(jax.jit(project_kernel)(kernel, cond), eager, atol=1e-12)
    many = jax.vmap(project_kernel, (0, None))(jnp.stack([kernel, 2 * kernel]), cond)
    np.testing.assert_allclose(many[1], 2 * eager, atol=1e-11)
    order = rng.permutation(N)
    moved = project_kernel(
        kernel[order][:, order], conditionals(labels[order], groups[order])
    )
    np.testing.assert_allclose(moved, eager[order][:, order], atol=1e-11)
    # A sample without weight is projected, and plays no part in the directions.
    mask = jnp.arange(N) < 48
    masked = project_kernel(kernel, conditionals(labels, groups, weights=mask))
    kept = project_kernel(kernel[:48, :48], conditionals(labels[:48], groups[:48]))
    np.testing.assert_allclose(masked[:48, :48], kept, atol=1e-11)


def test_a_cell_without_members_removes_nothing(table, x64):
    features, labels, groups = table
    kernel = jnp.asarray(gaussian(features, features))
    none = conditionals(np.zeros(N, int), groups, notions.equal_opportunity)
    np.testing.assert_array_equal(project_kernel(kernel, none), kernel)


def test_slopes_in_the_bandwidth_match_finite_differences(table, x64):
    features, labels, groups = table
    cond = conditionals(labels, groups)
    points = jnp.asarray(features)

    def value(bandwidth):
        kernel = kernels.gaussian(points, points, bandwidth=bandwidth)
        return jnp.sum(jnp.square(project_kernel(kernel, cond)))

    h = 1e-5
    expected = (value(2.0 + h) - value(2.0 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(value)(2.0), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": jnp.zeros((N, N - 1))}, "`kernel` must be the table of the 60"),
        ({"kernel": jnp.zeros((N - 1, N - 1))}, "`kernel` must be the table of the 60"),
        ({"rows": jnp.zeros((3, N - 1))}, "`rows` must have a column for each"),
        ({"kernel": jnp.full((N, N), jnp.nan)}, "`kernel`"),
        ({"rows": jnp.full((3, N), jnp.inf)}, "`rows`"),
    ],
)
def test_bad_tables_are_refused(change, message, table, untyped):
    _, labels, groups = table
    given = {"kernel": jnp.eye(N), "cond": conditionals(labels, groups)} | change
    with pytest.raises(ValueError, match=message):
        project_kernel(**given)


def test_scikit_learns_svm_solves_the_constrained_problem_on_adult(x64):
    """The published code's small Adult: gamma 0.1, C 1, equal opportunity.

    Its own solution has a primal objective of 650.08, test accuracy 0.8315 and a
    difference of equal opportunity of 0.1243.
    """
    svm = pytest.importorskip("sklearn.svm")
    features, labels = test_parity.whole_table()
    n, gamma, c = 1628, 0.1, 1.0
    train, test = features[:n], features[test_parity.N_TRAIN :]
    y, y_test = labels[:n], labels[test_parity.N_TRAIN :]
    groups = (features[:, test_parity.SENSITIVE] > 0).astype(np.int32)
    cond, cond_test = (
        conditionals(own, g, notions.equal_opportunity)
        for own, g in ((y, groups[:n]), (y_test, groups[test_parity.N_TRAIN :]))
    )
    kernel = functools.partial(kernels.gaussian, bandwidth=(2 * gamma) ** -0.5)
    table = kernel(jnp.asarray(train), jnp.asarray(train))
    rows = kernel(jnp.asarray(test), jnp.asarray(train))
    fair = np.asarray(project_kernel(table, cond))
    model = svm.SVC(C=c, kernel="precomputed", tol=1e-8).fit(fair, y)
    dual = np.zeros(n)
    dual[model.support_] = model.dual_coef_[0]
    scores = fair @ dual
    margins = (2 * y - 1) * (scores + model.intercept_)
    objective = dual @ scores / 2 + c * np.maximum(0, 1 - margins).sum()
    assert objective <= 593.31
    men, women = (scores[(y == 1) & (groups[:n] == g)].mean() for g in (1, 0))
    assert abs(men - women) <= 1e-7
    fair_rows = project_kernel(table, cond, rows=rows)
    decisions = jnp.asarray(model.decision_function(np.asarray(fair_rows)) > 0)
    accuracy = float(metrics.accuracy(decisions, jnp.asarray(y_test)))
    assert abs(accuracy - 0.8326) < 5e-4
    assert abs(float(metrics.max_gap(decisions, cond_test)) - 0.1216) < 2e-3
