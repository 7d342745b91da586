"""Frontiers of kernel machines: every column by its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import datasets, frontiers, kernels, notions, solvers, sweeps

DATA = datasets.toy(n=160)
STRENGTHS, RIDGES, BANDWIDTHS = [0.5, 1.0], [1e-3, 1e-2], [1.0, 2.0]
LINEAR = functools.partial(kernels.polynomial, degree=1, offset=0.0)


@pytest.fixture(scope="module")
def found():
    laps = []
    frontier = frontiers.kernel(
        DATA,
        notion=notions.equal_opportunity,
        strengths=STRENGTHS,
        ridges=RIDGES,
        bandwidths=BANDWIDTHS,
        n_folds=3,
        seed=4,
        progress=lambda done, total: laps.append((done, total)),
    )
    assert laps == [(i, 4) for i in range(1, 5)]
    return frontier


def fitted(used, strength, ridge, bandwidth):
    """Free fit, its gap, the bounded fit: one point by itself, on some samples.

    Others have no weight, so that all fits have one shape.
    """
    x, y, groups = DATA.train
    cond = notions.equal_opportunity(
        jnp.asarray(groups), jnp.asarray(y), n_groups=2, weights=jnp.asarray(used)
    )
    fit = functools.partial(
        solvers.fit_svm,
        x,
        y,
        kernel=kernels.gaussian,
        bandwidth=bandwidth,
        c=1 / (used.sum() * ridge),
        weights=used,
        cond=cond,
    )
    free = fit(tolerance=np.inf)
    scores = solvers.predict(free, x, x, kernel=kernels.gaussian)
    means = [scores[(groups == g) & (y == 1) & used].mean() for g in (0, 1)]
    if strength == 0:
        return free, x, abs(means[0] - means[1])
    bound = (1 - strength) * abs(means[0] - means[1])
    return fit(tolerance=bound), x, bound


def shares(fit, x, part):
    """Accuracy and gap of decisions, counted."""
    decisions = solvers.predict(fit, x, part.features, kernel=kernels.gaussian) > 0
    rates = [decisions[(part.groups == g) & (part.labels == 1)].mean() for g in (0, 1)]
    return (decisions == part.labels).mean(), abs(rates[0] - rates[1])


def test_points_are_machines_at_shares_of_the_free_gap(found):
    assert found.strength.tolist() == [0.0, 0.5, 1.0] * 4
    assert found.points["ridge"].tolist() == ([1e-3] * 3 + [1e-2] * 3) * 2
    assert found.points["bandwidth"].tolist() == [1.0] * 6 + [2.0] * 6
    assert found.converged.all()
    assert found.cv_converged.all()
    everyone = np.ones(len(DATA.train.labels), bool)
    for i in range(len(found.strength)):
        settings = (
            found.strength[i],
            found.points["ridge"][i],
            found.points["bandwidth"][i],
        )
        fit, x, bound = fitted(everyone, *settings)
        np.testing.assert_allclose(
            found.objective[i], fit.objective * found.points["ridge"][i], rtol=1e-7
        )
        np.testing.assert_allclose(
            found.fit.coefficients[i], fit.coefficients, atol=1e-5
        )
        np.testing.assert_allclose(found.fit.intercept[i], fit.intercept, atol=1e-5)
        assert found.fit.violation[i] <= 1e-7
        for name in ("train", "test"):
            part = getattr(DATA, name)
            accuracy, gap = shares(fit, x, part)
            eps = len(part.labels) * 2**-24  # One by one, float32 sums round so far.
            own = getattr(found, f"{name}_accuracy")[i]
            assert own == pytest.approx(accuracy, abs=eps)
            own = getattr(found, f"{name}_unfairness")[i]
            assert own == pytest.approx(gap, abs=2 * eps)
        scores = solvers.predict(fit, x, x, kernel=kernels.gaussian)
        y, groups = DATA.train.labels, DATA.train.groups
        means = [scores[(groups == g) & (y == 1)].mean() for g in (0, 1)]
        assert abs(means[0] - means[1]) == pytest.approx(bound, abs=1e-6)


def test_validation_is_by_models_that_have_not_seen_the_samples(found):
    train = DATA.train
    key = jax.random.key(4)
    codes = np.asarray(sweeps.folds(train.labels, train.groups, n_folds=3, key=key))
    for i in (2, 6):
        settings = (
            found.strength[i],
            found.points["ridge"][i],
            found.points["bandwidth"][i],
        )
        rows = []
        for fold in range(3):
            fit, x, _ = fitted(codes != fold, *settings)
            part = datasets.Samples(*(column[codes == fold] for column in train))
            rows.append(shares(fit, x, part))
        accuracy, gap = np.mean(rows, axis=0)
        assert found.cv_accuracy[i] == pytest.approx(accuracy, abs=1e-6)
        assert found.cv_unfairness[i] == pytest.approx(gap, abs=1e-6)


def test_kernels_without_a_bandwidth_and_other_machines():
    frontier = functools.partial(
        frontiers.kernel, DATA, notion=notions.equal_opportunity, strengths=[1.0],
        n_folds=0,
    )  # fmt: skip
    linear = frontier(kernel=LINEAR)
    assert "bandwidth" not in linear.points
    np.testing.assert_array_equal(linear.cv_accuracy, linear.train_accuracy)
    svm, logistic = frontier(), frontier(machine=solvers.fit_logistic)
    width = frontiers.median_bandwidth(DATA, seed=0)
    assert (
        svm.points["bandwidth"].tolist()
        == logistic.points["bandwidth"].tolist()
        == [width, width]
    )
    assert logistic.converged.all()
    assert not np.allclose(svm.objective, logistic.objective)
    with pytest.raises(ValueError, match="same grid, but their `bandwidth` differ"):
        frontiers.average(
            [svm, svm._replace(points=svm.points | {"bandwidth": np.ones(2)})]
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strengths": [1.5]}, r"in \[0, 1\]"),
        ({"strengths": []}, "`strengths` must be a list"),
        ({"ridges": [0.0]}, "`ridges` must be above 0"),
        ({"bandwidths": [-1.0]}, "`bandwidths` must be above 0"),
        ({"n_folds": 1}, "`n_folds` must be at least 2"),
        ({"keep": 0.0}, "`keep` must be in"),
        ({"kernel": LINEAR, "bandwidths": [1.0]}, "takes none"),
        ({"dataset": DATA._replace(features=0 * DATA.features)}, "most of its"),
        ({"dataset": DATA._replace(groups=0 * DATA.groups)}, "group"),
    ],
)
def test_bad_input_is_refused_at_the_door(change, message, untyped):
    given = {"dataset": DATA, "notion": notions.equal_opportunity, "strengths": [1.0]}
    given |= change
    with pytest.raises(ValueError, match=message):
        frontiers.kernel(given.pop("dataset"), **given)
