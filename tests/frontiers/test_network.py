"""Frontiers of networks: what their columns say, for classes and for real labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import datasets, frontiers, kernels, modules, notions, penalties
from fairjax.divergences import mmd_squared
from fairjax.frontiers.network import _held_out as held_out

MMD = functools.partial(
    penalties.divergence_gap_info,
    divergence=functools.partial(
        mmd_squared, kernel=functools.partial(kernels.gaussian, bandwidth=2.0)
    ),
)
trace = functools.partial(
    frontiers.network, notion=notions.demographic_parity, widths=[8], batch_size=64
)


@pytest.fixture(scope="module")
def toy():
    return datasets.toy(n=400)


penalised = functools.partial(
    trace,
    on_scores=penalties.mean_gap_info,
    strengths=[3.0, 0.3],
    epochs=8,
    learning_rate=0.01,
    seed=3,
)


@pytest.fixture(scope="module")
def found(toy):
    return penalised(toy)


def regression(rng, n=400):
    """Real labels that differ by group, in two tasks."""
    groups = np.arange(n) % 2
    features = rng.normal(size=(n, 3)) + groups[:, None]
    labels = 5 + features.sum(axis=1) + 0.1 * rng.normal(size=n)
    return datasets.Dataset(
        "real",
        features.astype(np.float32),
        labels.astype(np.float32),
        groups.astype(np.int32),
        np.arange(n) % 5 > 0,
        ("a", "b", "c"),
        "something [unit]",
        ("g", "h"),
        (np.arange(n) // 2 % 2).astype(np.int32),
        ("one", "two"),
    )


def test_points_are_sorted_with_the_free_one_first(found):
    np.testing.assert_allclose(found.strength, [0.0, 0.3, 3.0])
    assert found.unconstrained == 0
    assert found.converged.all()
    assert found.iterations.tolist() == [8, 8, 8]
    assert list(found.points) == ["strength"]
    assert not {"gap", "ridge"} & found.columns().keys()


def test_more_strength_is_fairer_and_the_network_learns(found):
    gaps = found.test_unfairness
    assert gaps[2] < 0.5 * gaps[0]
    assert found.test_accuracy[0] > 0.8
    assert found.train_accuracy[0] == pytest.approx(found.test_accuracy[0], abs=0.06)
    good = found.cv_accuracy >= 0.9 * found.cv_accuracy.max()
    assert good[found.selected]
    assert found.cv_unfairness[found.selected] == found.cv_unfairness[good].min()


def test_the_networks_are_there_and_decide_as_was_measured(found, toy):
    make = functools.partial(modules.MLP, 2, [8], activation=jnp.tanh)
    apply, _, _ = modules.functional(lambda rngs: make(rngs=rngs))
    samples = toy.test
    decisions = frontiers.decide(found, toy.train, samples)
    assert decisions.shape == (3, len(samples.labels))
    for i in range(3):
        own = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), found.fit.params)
        expected = apply(own, jnp.asarray(samples.features)).scores > 0
        np.testing.assert_array_equal(decisions[i], expected)
        right = np.mean(decisions[i] == samples.labels)
        np.testing.assert_allclose(right, found.test_accuracy[i], rtol=1e-6)
        rates = [decisions[i][samples.groups == g].mean() for g in range(2)]
        np.testing.assert_allclose(found.test_rates[i], [rates], rtol=1e-6)


def test_held_out_samples_have_all_cells_and_teach_nothing(found, toy):
    learn, hold = held_out(toy, 3)
    assert not (learn & hold).any()
    np.testing.assert_array_equal(learn | hold, toy.is_train)
    for label in (0, 1):
        for group in range(toy.n_groups):
            cell = toy.is_train & (toy.labels == label) & (toy.groups == group)
            assert (hold & cell).sum() == pytest.approx(0.2 * cell.sum(), abs=0.51)
    # What is held out may change as it likes: the models do not.
    spoilt = toy._replace(features=np.where(hold[:, None], -toy.features, toy.features))
    other = penalised(spoilt)
    np.testing.assert_array_equal(found.test_accuracy, other.test_accuracy)
    np.testing.assert_array_equal(found.train_accuracy, other.train_accuracy)
    assert (found.cv_accuracy != other.cv_accuracy).any()


def test_a_checkpoint_of_other_batches_is_refused(toy, tmp_path):
    call = functools.partial(
        frontiers.network,
        toy,
        notion=notions.demographic_parity,
        on_scores=penalties.mean_gap_info,
        strengths=[1.0],
        widths=[2],
        epochs=1,
        checkpoint=tmp_path,
    )

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        call(batch_size=32, progress=stop)
    with pytest.raises(ValueError, match="batch_size is 32 there, 128 here"):
        call(batch_size=128)


def test_real_labels_have_explained_variance_and_ks(rng):
    data = regression(rng)
    alone = data._replace(tasks=None, task_names=())
    for dataset, options in (
        (data, {"on_representation": MMD, "strengths": [10.0]}),
        (alone, {"on_scores": penalties.mean_gap_info, "strengths": [30.0]}),
    ):
        found = trace(dataset, epochs=15, learning_rate=0.02, **options)
        assert found.test_accuracy[0] > 0.9
        assert 0.3 < found.test_unfairness[0] <= 1
        assert found.test_unfairness[1] < found.test_unfairness[0]
        assert found.test_accuracy[1] < found.test_accuracy[0]
        assert found.selected >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_scores": None}, "give `on_representation`, `on_scores` or both"),
        ({"strengths": []}, "`strengths` must be a list of at least one value"),
        ({"strengths": [-1.0]}, "`strengths` must be at least 0"),
        ({"keep": 0.0}, r"`keep` must be in \(0, 1\]"),
        ({"widths": []}, "`widths` must name at least one layer"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"batch_size": 4}, "`batch_size` must be at least 8"),
    ],
)
def test_bad_settings_are_refused(options, message, toy, untyped):
    given = {"on_scores": penalties.mean_gap, "strengths": [1.0], "epochs": 1}
    with pytest.raises(ValueError, match=message):
        trace(toy, **(given | options))


def test_real_labels_are_refused_by_linear_frontiers(rng):
    with pytest.raises(ValueError, match="must have labels 0 and 1"):
        frontiers.linear(regression(rng), notion=notions.demographic_parity)
    assert (
        jnp.ndim(
            frontiers.check_dataset(
                regression(rng),
                notion=notions.demographic_parity,
                n_folds=0,
                regression=True,
            )
        )
        == 3
    )
