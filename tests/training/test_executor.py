"""Models that the workers of an executor train are those of one process."""

from concurrent.futures import Executor, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fairjax import erm, notions, penalties, training

ADAM = optax.adam(0.05)
OBJECTIVE = erm.objective(
    loss=erm.logistic,
    notion=notions.demographic_parity,
    n_groups=2,
    on_scores=penalties.mean_gap_info,
)


class NoWorkers(Executor):
    """Fails where work is submitted."""

    def submit(self, fn, /, *args, **kwargs):
        raise AssertionError("nothing was left to do")


def linear(params, features):
    return features @ params


def init(key):
    return jax.random.normal(key, (2,))


def test_workers_change_no_model_and_keep_finished_batches(rng, tmp_path):
    features = jnp.asarray(rng.normal(size=(20, 2)), jnp.float32)
    data = erm.Batch(features, (features[:, 0] > 0).astype(int), jnp.arange(20) % 2)
    calls = []

    def train(**options):
        return training.fit(
            linear,
            init,
            data,
            objective=OBJECTIVE,
            optimizer=ADAM,
            epochs=3,
            lam=np.array([0.0, 1.0, 3.0]),
            seed=np.arange(3),
            **options,
        )

    alone = train()
    with ThreadPoolExecutor(2) as executor:
        options = {"chunk": 2, "checkpoint": tmp_path}
        shared = train(
            executor=executor, progress=lambda *c: calls.append(c), **options
        )
    found_again = train(executor=NoWorkers(), **options)
    for found in (shared, found_again):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            found,
            alone,
        )
    assert calls == [(1, 2), (2, 2)]
    assert len(list(tmp_path.glob("models-*.npz"))) == 2
    with pytest.raises(ValueError, match="chunk is 2 there, 1 here"):
        train(executor=NoWorkers(), **options | {"chunk": 1})
