"""Frontiers of linear models: every column by its definition.

Grids have 8 points, or are fitted point by point, so that few programs are compiled.
"""

import functools
import logging
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import datasets, erm, frontiers, notions, orthogonality, solvers, sweeps

STRENGTHS = [0.0, 0.5, 1.0, 1.5]
RIDGES = [1e-2, 1e-4]
toy_linear = functools.partial(
    frontiers.linear, notion=notions.equal_opportunity, n_folds=0
)
by_point = functools.partial(toy_linear, chunk=1)


@pytest.fixture(scope="module")
def toy():
    return datasets.toy(n=400)


@pytest.fixture(scope="module")
def found(toy):
    return frontiers.linear(
        toy,
        notion=notions.equal_opportunity,
        strengths=STRENGTHS,
        ridges=RIDGES,
        n_folds=3,
    )


def gap_by_definition(values, groups, labels, *, positives):
    cells = [
        values[(groups == g) & ((labels == 1) | (not positives))].mean()
        for g in np.unique(groups)
    ]
    return max(cells) - min(cells)


def front_by_definition(accuracy, unfairness):
    keep = []
    for a, u in zip(accuracy, unfairness, strict=True):
        beaten = (accuracy >= a) & (unfairness <= u)
        keep.append(not (beaten & ((accuracy > a) | (unfairness < u))).any())
    return np.array(keep)


@pytest.mark.parametrize("part", ["train", "test"])
def test_shares_follow_from_the_coefficients(toy, found, part):
    features, labels, groups = getattr(toy, part)
    assert found.strength.tolist() == STRENGTHS * 2
    np.testing.assert_allclose(found.points["ridge"], [1e-4] * 4 + [1e-2] * 4)
    for i in range(found.strength.size):
        decisions = features @ found.fit.coefficients[i] + found.fit.intercept[i] > 0
        gap = gap_by_definition(decisions, groups, labels, positives=True)
        accuracy = (decisions == labels).mean()
        near = {"atol": 1e-6}
        assert np.isclose(getattr(found, f"{part}_accuracy")[i], accuracy, **near)
        assert np.isclose(getattr(found, f"{part}_unfairness")[i], gap, **near)


def test_cross_validated_numbers_follow_their_definition(toy, found):
    features, labels, groups = map(jnp.asarray, toy.train)
    codes = sweeps.folds(labels, groups, n_folds=3, key=jax.random.key(0))
    cond = notions.equal_opportunity
    accuracy, gaps = [], []
    for fold in range(3):
        inside, held = np.asarray(codes != fold), np.asarray(codes == fold)
        # A part of its own, instead of a mask on the whole.
        own = [jnp.asarray(np.asarray(a)[inside]) for a in (features, labels, groups)]
        rows = orthogonality.directions(own[0], cond(own[2], own[1], n_groups=2))
        # Filled up with copies of no weight, for the shapes of the whole.
        filled = np.resize(np.arange(inside.sum()), inside.size)
        own = [a[filled] for a in own]
        fit = frontiers.constraint(
            frontiers.Task(
                own[0],
                own[1],
                rows,
                found.strength,
                found.points["ridge"],
                erm.logistic,
                jnp.arange(inside.size) < inside.sum(),
            )
        )
        scores = toy.train.features[held] @ np.asarray(fit.coefficients).T
        decisions = scores + np.asarray(fit.intercept) > 0
        right = decisions == toy.train.labels[held][:, None]
        accuracy.append(right.mean(axis=0))
        gaps.append(
            [
                gap_by_definition(
                    column,
                    toy.train.groups[held],
                    toy.train.labels[held],
                    positives=True,
                )
                for column in decisions.T
            ]
        )
    # A sample on the boundary may be decided otherwise.
    np.testing.assert_allclose(found.cv_accuracy, np.mean(accuracy, axis=0), atol=0.003)
    np.testing.assert_allclose(found.cv_unfairness, np.mean(gaps, axis=0), atol=0.02)


def test_selection_is_the_papers_rule(found):
    good = found.cv_accuracy >= 0.9 * found.cv_accuracy.max()
    least = found.cv_unfairness[good].min()
    assert good[found.selected]
    assert found.cv_unfairness[found.selected] == least
    assert found.strength[found.unconstrained] == 0
    free = found.cv_accuracy[found.strength == 0]
    assert found.cv_accuracy[found.unconstrained] == free.max()


def test_front_is_that_of_the_test_part(found):
    front = front_by_definition(found.test_accuracy, found.test_unfairness)
    twins = np.stack([found.test_accuracy, found.test_unfairness], axis=1)
    _, first = np.unique(twins, axis=0, return_index=True)
    unique = np.isin(np.arange(front.size), first)
    assert found.on_front[unique].sum() == front[unique].sum()
    assert front[found.on_front].all()


def test_strength_is_a_share_of_the_gap_of_mean_scores(toy, found):
    scores = toy.train.features @ found.fit.coefficients.T
    _, labels, groups = toy.train
    cells = [scores[(groups == g) & (labels == 1)].mean(axis=0) for g in (0, 1)]
    gaps = (cells[0] - cells[1]).reshape(2, 4)
    # Here the constraint binds at every strength.
    shares = gaps / gaps[:, :1]
    np.testing.assert_allclose(shares, 1 - np.array([STRENGTHS] * 2), atol=1e-4)
    assert found.converged.all()
    assert (found.fit.violation < 1e-5).all()


def test_strength_zero_is_the_unconstrained_fit(toy, found):
    free = solvers.fit_linear(
        jnp.asarray(toy.train.features),
        jnp.asarray(toy.train.labels),
        ridge=1e-4,
        directions=jnp.zeros((1, toy.features.shape[1])),  # the shapes of other fits
    )
    np.testing.assert_allclose(found.fit.coefficients[0], free.coefficients, rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_projection_is_the_constraint_at_strength_one(toy):
    constrained = by_point(toy, strengths=[1.0])
    projected = by_point(toy, method=frontiers.projection)
    eliminated = by_point(toy, method=frontiers.elimination)
    np.testing.assert_allclose(
        projected.fit.coefficients, constrained.fit.coefficients, rtol=1e-5
    )
    np.testing.assert_allclose(
        eliminated.fit.coefficients[0], constrained.fit.coefficients[0], rtol=1e-5
    )
    _, labels, groups = toy.train
    for other in (projected, eliminated):
        scores = toy.train.features.astype(float) @ other.fit.coefficients[1]
        cells = [scores[(groups == g) & (labels == 1)].mean() for g in (0, 1)]
        assert abs(cells[0] - cells[1]) < 1e-9
    assert projected.fit.coefficients.dtype == np.float64


def test_penalty_reduces_the_gap_of_mean_scores(toy):
    more = [20.0, 30.0, 40.0, 50.0, 60.0]
    strengths = [0, 0.1, 10.0, *more]
    found = toy_linear(toy, method=frontiers.penalty, strengths=strengths)
    _, labels, groups = toy.train
    scores = toy.train.features @ found.fit.coefficients.T
    cells = [scores[(groups == g) & (labels == 1)].mean(axis=0) for g in (0, 1)]
    gaps = np.abs(cells[0] - cells[1])
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert (np.diff(gaps) < 0).all()


@pytest.mark.parametrize("loss", [erm.hinge, erm.squared_hinge, erm.squared])
def test_losses_decide_at_zero(toy, loss):
    found = by_point(toy, loss=loss, strengths=[1.0])
    assert found.test_accuracy[0] > 0.9
    assert found.test_unfairness[1] < found.test_unfairness[0] / 2


def test_defaults_hold_the_constraint_itself():
    shares = np.array(frontiers.STRENGTHS[frontiers.constraint])
    assert shares.size == 64
    assert {0.0, 1.0, 2.0} <= set(shares.tolist())
    assert (np.diff(shares) > 0).all()
    assert len(frontiers.STRENGTHS[frontiers.penalty]) == 64


def notion_of(weight):
    """Functions that only differ in what they close over."""

    def notion(groups, labels, *, n_groups, weights=None):
        weights = jnp.where(labels == 1, 1.0, weight)
        return notions.demographic_parity(groups, n_groups=n_groups, weights=weights)

    return notion


def test_a_checkpoint_of_another_closure_or_tag_is_refused(toy, tmp_path):
    fit = functools.partial(
        frontiers.linear, toy, strengths=[1.0], n_folds=0, chunk=1, checkpoint=tmp_path
    )
    first = fit(notion=notion_of(0.0))
    with pytest.raises(ValueError, match="notion is .*notion_of.* sha256:"):
        fit(notion=notion_of(1.0))
    with pytest.raises(ValueError, match="tag is  there, another here"):
        fit(notion=notion_of(0.0), tag="another")
    again = fit(notion=notion_of(0.0))
    jax.tree.map(np.testing.assert_array_equal, again, first)


def test_workers_of_an_executor_change_no_number(toy, tmp_path):
    calls = []
    strengths = np.linspace(0.25, 1.75, 7)
    fit = functools.partial(toy_linear, toy, strengths=strengths, n_folds=2)
    expected = fit()
    with ThreadPoolExecutor(2) as executor:
        found = fit(
            chunk=2,
            executor=executor,
            checkpoint=tmp_path,
            progress=lambda *call: calls.append(call),
        )
        with pytest.raises(ValueError, match="`mesh` and `executor` cannot be given"):
            fit(executor=executor, mesh=jax.make_mesh((2,), ("points",)))
    assert calls == [(done // 4, 3) for done in range(1, 13)]
    for name, column in expected.columns().items():
        near = {"rtol": 1e-4, "atol": 1e-5}
        if name not in ("iterations", "gap"):
            np.testing.assert_allclose(found.columns()[name], column, **near)
    # Finished batches are found again.
    jax.tree.map(
        np.testing.assert_array_equal, fit(chunk=2, checkpoint=tmp_path), found
    )
    with pytest.raises(ValueError, match="`chunk` must be an integer of at least 1"):
        fit(chunk=0)


def test_models_decide_as_was_measured(toy, found):
    decisions = frontiers.decide(found, toy.train, toy.test)
    right = (decisions == toy.test.labels).mean(axis=1)
    np.testing.assert_allclose(right, found.test_accuracy, atol=1e-6)


def test_folds_reuse_one_program(toy, caplog):
    def compiled(n_folds, **options):
        with caplog.at_level(logging.DEBUG), jax.log_compiles():
            caplog.clear()
            frontiers.linear(
                toy,
                notion=notions.demographic_parity,
                strengths=np.linspace(0, 1.2, 8),
                n_folds=n_folds,
                **options,
            )
        return sum("XLA compilation" in r.getMessage() for r in caplog.records)

    assert compiled(2) > 0
    # More folds, other folds and other ridges are the same program.
    assert compiled(2, seed=5, ridges=[1e-3]) == 0
    assert compiled(4) <= 8  # eager means over folds, no fit


def test_progress_counts_to_the_end(toy):
    calls = []
    frontiers.linear(
        toy,
        notion=notions.demographic_parity,
        strengths=[0.0],
        n_folds=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_without_folds_training_numbers_select(toy):
    found = toy_linear(toy, strengths=STRENGTHS, ridges=RIDGES)
    np.testing.assert_array_equal(found.cv_accuracy, found.train_accuracy)
    assert found.counts.tolist() == [[[160, 20]], [[160, 20]]]


def test_average_of_repetitions(toy):
    runs = [
        frontiers.linear(
            datasets.toy(seed=seed, n=400),
            notion=notions.demographic_parity,
            strengths=STRENGTHS,
            ridges=RIDGES,
            n_folds=2,
            seed=seed,
        )
        for seed in (0, 1)
    ]
    mean = frontiers.average(runs)
    for name in ("test_accuracy", "cv_unfairness"):
        expected = (getattr(runs[0], name) + getattr(runs[1], name)) / 2
        np.testing.assert_allclose(getattr(mean, name), expected)
    good = mean.cv_accuracy >= 0.9 * mean.cv_accuracy.max()
    assert mean.cv_unfairness[mean.selected] == mean.cv_unfairness[good].min()
    assert frontiers.average(runs[:1]) is runs[0]
    with pytest.raises(ValueError, match="at least one"):
        frontiers.average([])
    other = toy_linear(toy, strengths=[0, 1, 2, 3], ridges=RIDGES)
    with pytest.raises(ValueError, match="same grid"):
        frontiers.average([runs[0], other])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": [-1.0]}, "`strengths` must be at least 0"),
        ({"strengths": []}, "`strengths` must be a list of at least one"),
        ({"strengths": [np.nan]}, "`strengths` must be finite"),
        ({"ridges": [0.0]}, "`ridges` must be above 0"),
        ({"n_folds": 1}, "`n_folds`"),
        ({"keep": 0.0}, "`keep`"),
        ({"method": frontiers.projection, "strengths": [0.5]}, "0 .*or 1"),
        ({"method": lambda task: task}, "`strengths` must be given"),
    ],
)
def test_bad_options(toy, options, message):
    with pytest.raises(ValueError, match=message):
        toy_linear(toy, **options)


def _changed(toy, **columns):
    return toy._replace(**{k: np.asarray(v) for k, v in columns.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"labels": np.ones_like(t.labels)}, "both 0 and 1"),
        (lambda t: {"groups": np.zeros_like(t.groups)}, "at least two groups"),
        (lambda t: {"groups": t.groups + 1}, r"codes in \[0, 2\)"),
        (lambda t: {"features": t.features * np.float32(np.nan)}, "must be finite"),
        (lambda t: {"labels": t.labels * (t.groups == 0)}, "group 1 has no member"),
        (
            lambda t: {"labels": t.labels * ((t.groups == 0) | t.is_train)},
            "test part of 'toy', groups 0 'a', 1 'b': .* group 1 has no member",
        ),
        (lambda t: {"is_train": np.zeros_like(t.is_train)}, "training part of 'toy'"),
        (lambda t: {"is_train": np.ones_like(t.is_train)}, "test part of 'toy'"),
    ],
)
def test_bad_data(toy, change, message):
    with pytest.raises(ValueError, match=message):
        toy_linear(_changed(toy, **change(toy)))


def test_a_cell_of_one_cannot_be_cross_validated(toy):
    lonely = np.flatnonzero((toy.groups == 1) & (toy.labels == 1) & toy.is_train)[1:]
    labels = toy.labels.copy()
    labels[lonely] = 0
    data = _changed(toy, labels=labels)
    with pytest.raises(ValueError, match="two members of each cell"):
        toy_linear(data, n_folds=2)
    assert by_point(data, strengths=[1.0]).counts[0, 0, 1] == 1
