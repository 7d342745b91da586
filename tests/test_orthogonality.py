"""Directions and projections against loops over cells in float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import erm, notions, orthogonality, solvers

N, D = 60, 6
CONTRASTS = {
    "pairwise": orthogonality.pairwise,
    "against_mean": orthogonality.against_mean,
}
NOTIONS = {
    "demographic_parity": notions.demographic_parity,
    "equal_opportunity": notions.equal_opportunity,
    "equalized_odds": notions.equalized_odds,
}
STRATA = {
    "demographic_parity": (None,),
    "equal_opportunity": (1,),
    "equalized_odds": (0, 1),
}
LOSSES = (erm.logistic, erm.hinge, erm.squared_hinge, erm.squared)


def contrasts_by_definition(name, n_groups):
    if name == "pairwise":
        return [
            [(g == a) - (g == b) for g in range(n_groups)]
            for a, b in itertools.combinations(range(n_groups), 2)
        ]
    return [[(g == a) - 1 / n_groups for g in range(n_groups)] for a in range(n_groups)]


@pytest.fixture
def table(rng):
    """Features, labels and groups; every cell of five groups has members."""
    groups = np.arange(N) % 5
    labels = (np.arange(N) // 5) % 2
    features = rng.normal(size=(N, D)) + 0.5 * groups[:, None] + labels[:, None]
    return features.astype(np.float32), labels, groups


@pytest.fixture
def several(rng):
    """Three directions, of which the last is the difference of the others."""
    rows = rng.normal(size=(2, D)).astype(np.float32)
    return np.vstack([rows, rows[:1] - rows[1:]])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NOTIONS)
@pytest.mark.parametrize("contrasts", CONTRASTS)
@pytest.mark.parametrize("n_groups", [2, 3, 5])
def test_directions_are_differences_of_cell_means(
    n_groups, contrasts, name, weighted, table, rng
):
    features, labels, groups = table
    groups = groups % n_groups
    mass = rng.integers(4, size=N).astype(np.float32) if weighted else np.ones(N)
    cond = NOTIONS[name](
        jnp.array(groups),
        jnp.array(labels),
        n_groups=n_groups,
        weights=jnp.array(mass) if weighted else None,
    )
    found = orthogonality.directions(
        jnp.array(features), cond, contrasts=CONTRASTS[contrasts]
    )
    rows = [np.array(c) for c in contrasts_by_definition(contrasts, n_groups)]
    expected = []
    for stratum in STRATA[name]:
        here = np.ones(N, bool) if stratum is None else labels == stratum
        cells = [here & (groups == g) for g in range(n_groups)]
        means = np.array(
            [
                np.average(features[c].astype(float), axis=0, weights=mass[c])
                for c in cells
            ]
        )
        expected += [row @ means for row in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("contrasts", CONTRASTS)
def test_contrasts_match_their_definitions(contrasts):
    for n_groups in (2, 3, 5):
        rows = CONTRASTS[contrasts](n_groups)
        expected = contrasts_by_definition(contrasts, n_groups)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-7)
        np.testing.assert_allclose(rows.sum(axis=1), 0, rtol=0, atol=1e-6)


def test_contrasts_with_an_empty_cell_are_zero_rows(table):
    features, labels, groups = table
    labels = np.where(groups == 2, 0, labels)  # group 2 of 4 has no positives
    groups = np.minimum(groups, 3)
    cond = notions.equalized_odds(jnp.array(groups), jnp.array(labels), n_groups=4)
    found = np.array(orthogonality.directions(jnp.array(features), cond))
    pairs = list(itertools.combinations(range(4), 2))
    for row, (label, (a, b)) in zip(
        found, itertools.product((0, 1), pairs), strict=True
    ):
        if label == 1 and 2 in (a, b):
            np.testing.assert_array_equal(row, 0)
        else:
            means = [
                features[(groups == g) & (labels == label)].astype(float).mean(axis=0)
                for g in (a, b)
            ]
            np.testing.assert_allclose(row, means[0] - means[1], rtol=0, atol=2e-6)


def test_against_mean_needs_every_group(table):
    features, labels, groups = table
    cond = notions.demographic_parity(jnp.array(groups), n_groups=6)
    found = orthogonality.directions(
        jnp.array(features), cond, contrasts=orthogonality.against_mean
    )
    np.testing.assert_array_equal(found, np.zeros((6, D)))


def test_a_masked_sample_is_a_sample_left_out(table, rng):
    features, labels, groups = (jnp.array(a) for a in table)
    mask = rng.random(N) < 0.7
    masked = notions.equalized_odds(groups, labels, n_groups=5, weights=jnp.array(mask))
    left = notions.equalized_odds(groups[mask], labels[mask], n_groups=5)
    np.testing.assert_allclose(
        orthogonality.directions(features, masked),
        orthogonality.directions(features[mask], left),
        rtol=0,
        atol=2e-6,
    )


def test_directions_are_gaps_of_linear_conditional_risks(table, rng):
    # Donini et al., section 4: with the linear loss the risks of positives differ by
    # -<w, u> / 2.
    features, labels, groups = (jnp.array(a) for a in table)
    groups = groups % 2
    cond = notions.equal_opportunity(groups, labels, n_groups=2)
    coefficients = jnp.array(rng.normal(size=D), jnp.float32)
    risks = erm.conditional_risks(
        features @ coefficients, labels, cond, loss=erm.linear
    )[0]
    gap = orthogonality.directions(features, cond) @ coefficients
    np.testing.assert_allclose(gap[0], -2 * (risks[0] - risks[1]), rtol=1e-4)


def test_a_shift_of_a_million_changes_directions_by_the_rounding_of_the_input(table):
    features, labels, groups = table
    shifted = (features + np.float32(1e6)).astype(np.float32)
    cond = notions.demographic_parity(jnp.array(groups), n_groups=5)
    found = orthogonality.directions(jnp.array(shifted), cond)
    # What float32 stored is the input; its own mean differences are the truth.
    exact = shifted.astype(float)
    means = np.array([exact[groups == g].mean(axis=0) for g in range(5)])
    expected = [means[a] - means[b] for a, b in itertools.combinations(range(5), 2)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_badly_scaled_columns_keep_their_own_precision(table):
    features, labels, groups = table
    scales = np.float32(10.0) ** np.arange(-6, 6, 2, dtype=np.float32)
    cond = notions.demographic_parity(jnp.array(groups), n_groups=5)
    found = orthogonality.directions(jnp.array(features * scales), cond)
    plain = orthogonality.directions(jnp.array(features), cond)
    np.testing.assert_allclose(np.array(found) / scales, plain, rtol=0, atol=3e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_projection_removes_the_span_and_keeps_the_rest(k, several, rng):
    rows = several[:k]
    features = rng.normal(size=(20, D)).astype(np.float32)
    found = np.array(
        orthogonality.project_features(jnp.array(features), jnp.array(rows))
    )
    # The definition: least squares in float64, residuals of the rows of `features`.
    basis = rows[:2].astype(float)
    beta, *_ = np.linalg.lstsq(basis.T, features.T.astype(float), rcond=None)
    np.testing.assert_allclose(found, features - beta.T @ basis, rtol=0, atol=3e-6)
    np.testing.assert_allclose(found @ rows.T.astype(float), 0, rtol=0, atol=3e-6)


def test_projected_weights_are_the_nearest_that_satisfy_the_constraint(several, rng):
    weights = rng.normal(size=(3, D)).astype(np.float32)
    found = orthogonality.project_weights(jnp.array(weights), jnp.array(several))
    basis = several[:2].astype(float)
    beta, *_ = np.linalg.lstsq(basis.T, weights.T.astype(float), rcond=None)
    np.testing.assert_allclose(found, weights - beta.T @ basis, rtol=0, atol=3e-6)
    one = orthogonality.project_weights(jnp.array(weights[1]), jnp.array(several))
    np.testing.assert_allclose(one, found[1], rtol=0, atol=1e-6)


def test_projection_is_idempotent_and_symmetric(several, rng):
    a, b = rng.normal(size=(2, 1, D)).astype(np.float32)
    rows = jnp.array(several)
    once = orthogonality.project_features(jnp.array(a), rows)
    np.testing.assert_allclose(
        orthogonality.project_features(once, rows), once, rtol=0, atol=1e-6
    )
    other = orthogonality.project_features(jnp.array(b), rows)
    np.testing.assert_allclose(np.vdot(a, other), np.vdot(once, b), rtol=0, atol=3e-6)


def test_elimination_is_the_published_map(several, rng):
    features = rng.normal(size=(20, D)).astype(np.float32)
    u = several[:1].astype(float)
    found = orthogonality.eliminate_feature(jnp.array(features), jnp.array(several[:1]))
    pivot = np.argmax(np.abs(u[0]))
    expected = features - features[:, [pivot]] * u / u[0, pivot]
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(found[:, pivot], 0)


def elimination_by_definition(features, rows):
    """Rows in turn, in float64: pivot, subtract, forget."""
    features, rows = features.astype(float), rows.astype(float)
    for k in range(len(rows)):
        u = rows[k]
        pivot = np.argmax(np.abs(u))
        if np.abs(u[pivot]) > 1e-8:
            features = features - np.outer(features[:, pivot], u / u[pivot])
            rows = rows - np.outer(rows[:, pivot], u / u[pivot])
    return features


@pytest.mark.parametrize("k", [2, 3])
def test_several_directions_are_eliminated_in_turn(k, several, rng):
    features = rng.normal(size=(20, D)).astype(np.float32)
    rows = several[:k].astype(np.float64)
    if k == 3:
        rows[2] = rows[0] - rows[1]  # dependent in float64 too, not to float32 only
    found = np.array(
        orthogonality.eliminate_feature(jnp.array(features), jnp.array(several[:k]))
    )
    expected = elimination_by_definition(features, rows)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert (np.abs(found).max(axis=0) == 0).sum() == 2


def test_a_model_on_eliminated_features_satisfies_every_constraint(several, rng):
    features = rng.normal(size=(20, D)).astype(np.float32)
    rows = jnp.array(several)
    weights = jnp.array(rng.normal(size=D), jnp.float32)
    # Scores are linear in the features; this is the equivalent model on the originals.
    implied = orthogonality.eliminate_feature(jnp.eye(D), rows) @ weights
    scores = orthogonality.eliminate_feature(jnp.array(features), rows) @ weights
    np.testing.assert_allclose(scores, features @ np.array(implied), atol=3e-5)
    np.testing.assert_allclose(several @ np.array(implied), 0, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "fn", [orthogonality.project_features, orthogonality.eliminate_feature]
)
def test_transformed_groups_have_equal_means(fn, table):
    features, labels, groups = (jnp.array(a) for a in table)
    cond = notions.equalized_odds(groups % 3, labels, n_groups=3)
    u = orthogonality.directions(features, cond)
    left = orthogonality.directions(fn(features, u), cond)
    # Elimination leaves no gap at all; projection none along the directions.
    weights = jnp.array(np.linspace(-1, 1, D), jnp.float32)
    scale = float(jnp.abs(u).max())
    np.testing.assert_allclose(left @ weights, 0, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize(
    "fn",
    [
        orthogonality.project_features,
        orthogonality.eliminate_feature,
        orthogonality.project_weights,
    ],
)
def test_a_zero_direction_changes_nothing(fn, several, rng):
    vectors = jnp.array(rng.normal(size=(5, D)), jnp.float32)
    np.testing.assert_array_equal(fn(vectors, jnp.zeros((2, D))), vectors)
    np.testing.assert_array_equal(fn(vectors, jnp.zeros((0, D))), vectors)
    rows = jnp.array(several[:1])
    padded = jnp.concatenate([jnp.zeros((1, D)), rows, jnp.zeros((1, D))])
    np.testing.assert_allclose(fn(vectors, padded), fn(vectors, rows), atol=1e-6)


@pytest.mark.parametrize(
    "fn", [orthogonality.project_features, orthogonality.project_weights]
)
def test_projection_does_not_see_the_length_of_a_direction(fn, several, rng):
    vectors = jnp.array(rng.normal(size=(5, D)), jnp.float32)
    rows = jnp.array(several[:2])
    for factor in (1e-6, 1e6):
        np.testing.assert_allclose(
            fn(vectors, factor * rows), fn(vectors, rows), rtol=0, atol=2e-6
        )


def test_basis_is_orthonormal_with_as_many_rows_as_the_rank(several):
    rows = np.array(orthogonality.basis(jnp.array(several)))
    expected = np.diag([1.0, 1.0, 0.0])
    np.testing.assert_allclose(rows @ rows.T, expected, rtol=0, atol=2e-6)


def test_badly_scaled_features_are_projected_to_the_precision_of_their_scores(rng):
    scales = 10.0 ** np.arange(-6, 6, 2)
    features = (rng.normal(size=(40, D)) * scales).astype(np.float32)
    groups = jnp.array(np.arange(40) % 2)
    cond = notions.demographic_parity(groups, n_groups=2)
    u = orthogonality.directions(jnp.array(features), cond)
    for fn in (orthogonality.project_features, orthogonality.eliminate_feature):
        found = fn(jnp.array(features), u)
        assert bool(jnp.isfinite(found).all())
        gaps = np.array(found, float) @ np.array(u[0], float)
        if fn is orthogonality.project_features:
            scale = np.abs(features).max() * np.abs(u).max()
            np.testing.assert_allclose(gaps, 0, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize(
    "fn",
    [
        orthogonality.project_features,
        orthogonality.eliminate_feature,
        orthogonality.project_weights,
    ],
)
def test_jit_vmap_and_the_order_of_rows(fn, several, rng):
    vectors = jnp.array(rng.normal(size=(7, D)), jnp.float32)
    sets = jnp.array(rng.normal(size=(3, 2, D)), jnp.float32)
    eager = jnp.stack([fn(vectors, rows) for rows in sets])
    np.testing.assert_allclose(jax.jit(fn)(vectors, sets[0]), eager[0], atol=2e-6)
    together = jax.vmap(fn, in_axes=(None, 0))(vectors, sets)
    np.testing.assert_allclose(together, eager, rtol=0, atol=5e-6)
    order = rng.permutation(7)
    np.testing.assert_allclose(
        fn(vectors[order], sets[0]), eager[0][order], rtol=0, atol=1e-6
    )


def test_directions_under_jit_vmap_and_permutation(table, rng):
    features, labels, groups = (jnp.array(a) for a in table)

    def fn(features, groups, labels):
        cond = notions.equalized_odds(groups, labels, n_groups=5)
        return orthogonality.directions(features, cond)

    eager = fn(features, groups, labels)
    np.testing.assert_allclose(
        jax.jit(fn)(features, groups, labels), eager, rtol=0, atol=2e-6
    )
    order = rng.permutation(N)
    np.testing.assert_allclose(
        fn(features[order], groups[order], labels[order]), eager, rtol=0, atol=2e-6
    )
    many = jnp.stack([features, 2 * features, features - 1])
    np.testing.assert_allclose(
        jax.vmap(fn, in_axes=(0, None, None))(many, groups, labels),
        jnp.stack([fn(f, groups, labels) for f in many]),
        rtol=0,
        atol=3e-6,
    )


def test_the_projection_has_finite_gradients_with_dependent_directions(several, rng):
    features = jnp.array(rng.normal(size=(5, D)), jnp.float32)
    slope = jax.grad(
        lambda x: jnp.sum(
            jnp.square(orthogonality.project_features(x, jnp.array(several)))
        )
    )(features)
    expected = 2 * orthogonality.project_features(features, jnp.array(several))
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (orthogonality.project_features, "features"),
        (orthogonality.eliminate_feature, "features"),
        (orthogonality.project_weights, "coefficients"),
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(fn, name, bad):
    vectors = np.ones((3, D), np.float32)
    rows = np.ones((1, D), np.float32)
    broken = vectors.copy()
    broken[1, 2] = bad
    with pytest.raises(ValueError, match=rf"`{name}` must be finite.*\[1, 2\]"):
        fn(jnp.array(broken), jnp.array(rows))
    rows[0, 4] = bad
    with pytest.raises(ValueError, match=r"`directions` must be finite.*\[0, 4\]"):
        fn(jnp.array(vectors), jnp.array(rows))


def test_directions_refuse_features_that_are_not_finite(table):
    features, _, groups = table
    features[3, 0] = np.nan
    cond = notions.demographic_parity(jnp.array(groups), n_groups=5)
    with pytest.raises(ValueError, match=r"`features` must be finite.*\[3, 0\] = nan"):
        orthogonality.directions(jnp.array(features), cond)


@pytest.fixture
def learnable(table, rng):
    """Two groups whose means differ, labels that follow the features, in float64."""
    groups = (table[2] % 2).astype(np.int32)
    shift = np.linspace(0.2, 1.2, D)
    features = table[0].astype(np.float64) + groups[:, None] * shift
    scores = features @ np.linspace(-0.5, 1.5, D) + rng.normal(size=N)
    labels = (scores > np.median(scores)).astype(np.int32)
    return features, labels, groups


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", LOSSES)
def test_projecting_features_equals_the_constraint_and_elimination_does_not(
    loss, learnable
):
    features, labels, groups = (jnp.array(a) for a in learnable)
    cond = notions.demographic_parity(groups, n_groups=2)
    u = orthogonality.directions(features, cond)
    # Large: at a small one the hinge's solution is a corner, whatever the metric.
    ridge = 0.5
    # A tolerance of infinity is no constraint, and needs no other program.
    settings = {"loss": loss, "ridge": ridge, "precision": 1e-15, "directions": u}
    bound = solvers.fit_linear(features, labels, tolerance=0.0, **settings)
    projected = orthogonality.project_features(features, u)
    plain = solvers.fit_linear(projected, labels, **settings)
    scale = np.linalg.norm(bound.coefficients)
    error = np.linalg.norm(bound.coefficients - plain.coefficients)
    assert error <= 1e-6 * scale
    assert abs(bound.intercept - plain.intercept) <= 1e-6 * (1 + scale)
    free = solvers.fit_linear(features, labels, **settings)
    assert abs(u[0] @ free.coefficients) > 0.05  # the constraint has work to do

    eliminated = orthogonality.eliminate_feature(features, u)
    paper = solvers.fit_linear(eliminated, labels, **settings)
    implied = orthogonality.eliminate_feature(jnp.eye(D), u) @ paper.coefficients
    np.testing.assert_allclose(u @ implied, 0, rtol=0, atol=1e-12)

    def objective(coefficients, intercept):
        scores = features @ coefficients + intercept
        risk = erm.empirical_risk(scores, labels, loss=loss)
        return float(risk + ridge / 2 * jnp.vdot(coefficients, coefficients))

    best = objective(bound.coefficients, bound.intercept)
    assert objective(implied, paper.intercept) > best + 1e-6
    assert np.linalg.norm(implied - bound.coefficients) > 1e-3 * scale


def test_directions_of_double_features_keep_them_and_sums_that_overflow_are_refused(
    x64,
):
    cond = notions.demographic_parity(
        np.array([0, 1, 1]), n_groups=2, weights=np.ones(3, np.float32)
    )
    assert cond.weights.dtype == np.float32
    found = orthogonality.directions(jnp.array([[4e74], [1e74], [3e74]]), cond)
    np.testing.assert_allclose(found, [[2e74]], rtol=1e-6)
    large = jnp.array([[3e38], [3e38], [-3e38]], jnp.float32)
    with pytest.raises(ValueError, match="`features` must have sums that float32"):
        orthogonality.directions(large, cond)
