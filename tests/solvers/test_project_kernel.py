"""Kernels without the fairness directions, against explicit features and an SVM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import kernels, notions, orthogonality
from fairjax.orthogonality import project_kernel

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
