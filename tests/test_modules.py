"""Flax modules: what they compute, as pure functions, trained, saved and loaded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fairjax import barycenters, erm, modules, notions, penalties
from fairjax.training import fit

N, D, TASKS = 12, 3, 4
MAKERS = {
    "LinearModel": lambda rngs: modules.LinearModel(D, rngs=rngs),
    "MLP": lambda rngs: modules.MLP(D, [5, 4], rngs=rngs),
    "SharedRepresentation": lambda rngs: modules.SharedRepresentation(
        D, [4], n_tasks=TASKS, rngs=rngs
    ),
}
every_module = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture
def batch(rng):
    return erm.Batch(
        jnp.asarray(rng.normal(size=(N, D)), jnp.float32),
        jnp.asarray(np.arange(N) % 2),
        jnp.asarray(np.arange(N) // 2 % 2),
        tasks=jnp.asarray(np.arange(N) % TASKS),
    )


def inputs(name, batch):
    shared = name == "SharedRepresentation"
    return (batch.features, batch.tasks) if shared else (batch.features,)


def close(one, other, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, **({"rtol": 1e-6, "atol": 1e-7} | tolerance)
        ),
        one,
        other,
    )


def by_head(head, hidden):
    return (hidden @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...]))[:, 0]


def test_modules_compute_what_they_say(batch):
    x, tasks = np.asarray(batch.features), np.asarray(batch.tasks)
    model = MAKERS["MLP"](nnx.Rngs(0))
    hidden = x
    for layer in model.encoder.layers:
        kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
        hidden = np.maximum(hidden @ kernel + bias, 0)
    scores = by_head(model.head, hidden)
    close(model(batch.features), erm.Outputs(scores, hidden), rtol=1e-5)

    model = MAKERS["SharedRepresentation"](nnx.Rngs(0))
    hidden = np.asarray(model.encoder(batch.features))
    scores = [
        hidden[i] @ np.asarray(model.heads[...])[t] + model.intercepts[...][t]
        for i, t in enumerate(tasks)
    ]
    found = model(batch.features, batch.tasks)
    close(found, erm.Outputs(np.array(scores), hidden), rtol=1e-5)
    assert len(np.unique(np.asarray(model.heads[...]))) == 4 * TASKS

    model = MAKERS["LinearModel"](nnx.Rngs(0))
    scores = by_head(model.head, x)
    close(model(batch.features), erm.Outputs(scores, x), rtol=1e-5)


@every_module
def test_functional_form_is_the_module(name, batch):
    apply, init, build = modules.functional(MAKERS[name])
    given, keys = inputs(name, batch), jax.random.split(jax.random.key(1), 3)
    params = init(keys[0])
    eager = build(params)(*given)
    close(jax.jit(apply)(params, *given), eager, rtol=1e-5)
    # Mapped over parameters equals the loop; each key gives its own start.
    many = jax.vmap(init)(keys)
    mapped = jax.vmap(apply, in_axes=(0, *[None] * len(given)))(many, *given)
    for i in range(3):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], many)
        close(apply(own, *given), jax.tree.map(lambda a, i=i: a[i], mapped), rtol=1e-5)
    assert not np.allclose(mapped.scores[0], mapped.scores[1])
    close(init(keys[0]), params, rtol=0)


@every_module
def test_saved_is_loaded_and_another_model_is_named(name, batch, tmp_path):
    given = inputs(name, batch)
    model, other = MAKERS[name](nnx.Rngs(0)), MAKERS[name](nnx.Rngs(1))
    modules.save(model, tmp_path / "model")
    assert not np.allclose(other(*given).scores, model(*given).scores)
    modules.load(other, tmp_path / "model")
    close(other(*given), model(*given), rtol=0)
    with pytest.raises(ValueError, match="is there already"):
        modules.save(model, tmp_path / "model")
    wide = modules.MLP(D + 1, [5, 4], rngs=nnx.Rngs(0))
    before = np.asarray(wide.head.kernel[...])
    with pytest.raises(ValueError, match="another model: .*kernel is "):
        modules.load(wide, tmp_path / "model")
    np.testing.assert_array_equal(wide.head.kernel[...], before)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        modules.load(model, tmp_path / "nothing")


def test_another_width_is_named_leaf_by_leaf(tmp_path):
    modules.save(modules.MLP(3, [4], rngs=nnx.Rngs(0)), tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"head/kernel is float32\[4, 1\] there, float32\[5, 1\] here"
    ):
        modules.load(modules.MLP(3, [5], rngs=nnx.Rngs(0)), tmp_path / "model")


OBJECTIVE = erm.objective(
    loss=erm.logistic,
    notion=notions.demographic_parity,
    n_groups=2,
    on_representation=penalties.mean_gap_info,
)


def test_a_fair_model_has_the_objective_of_its_parts(batch):
    batch = batch._replace(tasks=None)
    inner = MAKERS["MLP"](nnx.Rngs(0))
    model = modules.FairModel(inner, OBJECTIVE)
    expected, _ = OBJECTIVE(inner(batch.features), batch, 0.3)
    value, parts = model.loss(batch, lam=0.3)
    np.testing.assert_allclose(value, expected, rtol=1e-6)

    @nnx.jit
    def slopes(model):
        return nnx.grad(lambda m: m.loss(batch, lam=0.3)[0])(model)

    leaves = jax.tree.leaves(slopes(model))
    assert len(leaves) == 6
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    close(model(batch.features), inner(batch.features), rtol=0)


def test_modules_linen_and_bare_functions_train_alike(batch):
    """A linear model three times, from the same start."""
    import flax.linen as nn

    batch = batch._replace(tasks=None)
    objective = dataclasses.replace(
        OBJECTIVE, on_representation=None, on_scores=penalties.mean_gap_info
    )
    apply, init, _ = modules.functional(MAKERS["LinearModel"])
    start = init(jax.random.key(0))
    kernel, bias = start["head"]["kernel"], start["head"]["bias"]
    dense = nn.Dense(1)
    makers = {
        "nnx": (apply, lambda key: start),
        "linen": (
            dense.apply,
            lambda key: {"params": {"kernel": kernel, "bias": bias}},
        ),
        "bare": (lambda p, x: x @ p[0] + p[1], lambda key: (kernel, bias)),
    }
    options = {"objective": objective, "optimizer": optax.adam(0.1), "epochs": 5}
    # Linen adds its biases by rank promotion.
    with jax.numpy_rank_promotion("allow"):
        found = {
            name: fit(*maker, batch, lam=0.5, **options)
            for name, maker in makers.items()
        }
    expected = found["bare"].params
    head = found["nnx"].params["head"]
    close((head["kernel"], head["bias"]), expected, rtol=1e-4, atol=1e-6)
    own = found["linen"].params["params"]
    close((own["kernel"], own["bias"]), expected, rtol=1e-4, atol=1e-6)


def test_a_barycenter_head_is_the_map_of_the_scores(batch):
    model = MAKERS["MLP"](nnx.Rngs(0))
    scores = model(batch.features).scores
    fair_map = barycenters.fit_map(scores, batch.groups, n_groups=2)
    head = modules.BarycenterHead(model, fair_map)
    for repair in (1.0, 0.5):
        expected = barycenters.apply_map(fair_map, scores, batch.groups, repair=repair)
        found = nnx.jit(lambda m, x, g, r=repair: m(x, g, repair=r))(
            head, batch.features, batch.groups
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_encoder_needs_a_layer():
    with pytest.raises(ValueError, match="`widths` must name at least one layer"):
        modules.MLP(3, [], rngs=nnx.Rngs(0))
