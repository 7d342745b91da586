"""Training: against a loop written out, resumed, stopped, diverging, under a bound."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fairjax import erm, notions, penalties, sweeps, training
from fairjax.sweeps import checkpoints
from fairjax.training import fit

N, D = 60, 3


@pytest.fixture
def data(rng):
    groups = np.arange(N) % 2
    features = rng.normal(size=(N, D)) + 0.8 * groups[:, None]
    labels = (features @ [1.0, -0.5, 0.2] + 0.3 * rng.normal(size=N) > 0.2).astype(int)
    return erm.Batch(
        jnp.asarray(features, jnp.float32), jnp.asarray(labels), jnp.asarray(groups)
    )


OBJECTIVE = erm.objective(
    loss=erm.logistic,
    notion=notions.demographic_parity,
    n_groups=2,
    on_scores=penalties.mean_gap_info,
)
ADAM = optax.adam(0.05)


def linear(params, features):
    return features @ params["w"] + params["b"]


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (D,)), "b": jnp.zeros(())}


train = functools.partial(fit, linear, init, objective=OBJECTIVE, optimizer=ADAM)


def trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def by_hand(data, lam, seed, epochs, batch_size=None):
    """The same training as a plain loop over public functions."""
    key = jax.random.key(seed)
    params = init(jax.random.fold_in(key, 0))
    state = ADAM.init(params)
    risks = []

    @jax.jit
    def slopes(params, batch):
        def value(params):
            return OBJECTIVE(erm.evaluate(linear, params, batch), batch, lam)

        return jax.value_and_grad(value, has_aux=True)(params)

    for epoch in range(epochs):
        steps = [data]
        if batch_size:
            own = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
            batches = training.stratified_batches(
                data.groups, data.labels, batch_size=batch_size, key=own
            )
            steps = [
                erm.Batch(*(a[rows] for a in data[:3]), weights)
                for rows, weights in zip(*batches, strict=True)
            ]
        found = []
        for batch in steps:
            (_, parts), slope = slopes(params, batch)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = ADAM.update(slope, state)
            params = optax.apply_updates(params, updates)
            found.append(float(parts.risk))
        risks.append(np.mean(found))
    return params, risks


@pytest.mark.parametrize("batch_size", [None, 16])
def test_training_is_the_loop_written_out(data, batch_size):
    found = train(data, epochs=4, lam=0.3, seed=5, batch_size=batch_size)
    params, risks = by_hand(data, 0.3, 5, 4, batch_size)
    for name in params:
        np.testing.assert_allclose(found.params[name], params[name], rtol=1e-4)
    np.testing.assert_allclose(found.history.risk, risks, rtol=1e-5)
    assert found.finite
    assert found.epochs == 4


def test_a_sweep_equals_its_points_one_by_one_and_traces_once(data):
    points = sweeps.grid(lam=[0.0, 0.5, 4.0], seed=[0, 1])
    traces = []

    def counted(params, features):
        traces.append(None)
        return linear(params, features)

    call = functools.partial(
        fit, counted, init, data, objective=OBJECTIVE, optimizer=ADAM, epochs=6
    )
    mapped = call(**points, strategy=sweeps.mapped, batch_size=16, every=2)
    # One trace for the value and gradient of a step, whatever the number of points.
    assert len(traces) == 1
    vmapped = call(**points, strategy=sweeps.vmapped, batch_size=16)
    for index in (0, 5):
        own = {name: values[index] for name, values in points.items()}
        single = call(**own, batch_size=16)
        for many in (mapped, vmapped):
            jax.tree.map(
                lambda a, b, i=index: np.testing.assert_allclose(
                    a[i], b, rtol=2e-4, atol=1e-6
                ),
                (many.params, many.history.risk),
                (single.params, single.history.risk),
            )


def test_a_second_call_sees_what_a_model_reads_from_outside(data):
    outside = [1.0]

    def scaled(params, features):
        return outside[0] * linear(params, features)

    call = functools.partial(
        fit, scaled, init, data, objective=OBJECTIVE, optimizer=ADAM, epochs=1
    )
    first = call()
    outside[0] = 5.0
    assert not np.isclose(call().history.risk[0], first.history.risk[0], rtol=0.01)


def test_no_penalty_is_plain_training_and_a_penalty_is_fair(data):
    plain = train(
        data,
        epochs=150,
        objective=dataclasses.replace(OBJECTIVE, on_scores=None),
    )
    found = train(data, epochs=150, lam=jnp.array([0.0, 0.1, 1.0, 100.0]))
    for name in plain.params:
        np.testing.assert_allclose(
            found.params[name][0], plain.params[name], rtol=1e-5, atol=1e-6
        )
    gaps, risks = found.history.penalty[:, -1], found.history.risk[:, -1]
    assert (np.diff(gaps) < 0).all()
    assert (np.diff(risks) > 0).all()
    assert gaps[-1] < 1e-3 * gaps[0]


def test_a_bound_is_met_with_equality_by_dual_ascent(data):
    free = train(data, epochs=600)
    bound = float(free.history.penalty[-1]) / 4
    tolerances = jnp.array([bound, 1e3])
    found = train(data, epochs=600, tolerance=tolerances)
    np.testing.assert_allclose(found.history.penalty[0, -1], bound, rtol=0.005)
    assert found.multiplier[0] > 0
    # A loose bound costs nothing.
    assert found.multiplier[1] == 0
    np.testing.assert_allclose(
        found.history.risk[1, -1], free.history.risk[-1], rtol=1e-4
    )
    # A warm start: the multiplier is there from the beginning.
    warm = train(data, epochs=1, tolerance=bound, lam=float(found.multiplier[0]))
    assert warm.history.multiplier[0] == found.multiplier[0]


class Interrupted(Exception):
    """Ends a training between two calls of its program."""


@pytest.mark.parametrize("batch_size", [None, 16])
def test_training_resumes_to_the_last_bit(data, tmp_path, batch_size):
    call = functools.partial(
        train,
        data,
        epochs=7,
        lam=jnp.array([0.0, 1.0]),
        every=2,
        batch_size=batch_size,
    )
    done = []

    def stop(epoch, total):
        done.append((epoch, total))
        if epoch == 4:
            raise Interrupted

    whole = call()
    with pytest.raises(Interrupted):
        call(checkpoint=tmp_path, progress=stop)
    assert done == [(2, 7), (4, 7)]
    trees_equal(call(checkpoint=tmp_path), whole)
    trees_equal(call(checkpoint=tmp_path), whole)
    damaged = tmp_path / "epochs-00001.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    trees_equal(call(checkpoint=tmp_path), whole)


def test_a_checkpoint_of_another_model_says_which_leaf_differs(data, tmp_path):
    train(data, epochs=2, checkpoint=tmp_path)

    def wider(key):
        return {"w": jnp.zeros((D, 1)), "b": jnp.zeros(())}

    with pytest.raises(ValueError, match=r"another sweep: .*params\['w'\]"):
        fit(
            lambda p, x: x @ p["w"] + p["b"],
            wider,
            data,
            objective=OBJECTIVE,
            optimizer=ADAM,
            epochs=2,
            checkpoint=tmp_path,
        )
    with pytest.raises(ValueError, match="data.*features"):
        train(data._replace(features=data.features + 1), epochs=2, checkpoint=tmp_path)


EPOCH = "program of an epoch is sha256:.* there, sha256:.* here"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 16}, "batch_size is 20 there, 16 here"),
        ({"by_label": False}, "by_label is True there, False here"),
        ({"clip": 0.1}, "clip is None there, 0.1 here"),
        ({"patience": 2}, "patience is None there, 2 here"),
        ({"strategy": sweeps.vmapped}, "strategy is mapped there, vmapped here"),
        ({"optimizer": optax.adam(0.06)}, EPOCH),
        ({"objective": dataclasses.replace(OBJECTIVE, loss=erm.squared)}, EPOCH),
        (
            {
                "objective": dataclasses.replace(
                    OBJECTIVE, notion=notions.equalized_odds
                )
            },
            EPOCH,
        ),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(change, message, kept):
    call, _ = kept
    with pytest.raises(ValueError, match=message):
        call(**change)


def test_models_of_the_same_form_are_told_apart(kept):
    call, found = kept
    with pytest.raises(ValueError, match=EPOCH):
        call(apply=lambda params, x: linear(params, 2 * x))
    # Constants count with all their numbers.
    shifts = np.zeros((2, 60_000), np.float32)
    shifts[1, 30_000] = 1
    lines = [
        checkpoints.program_digest(jax.make_jaxpr(lambda x, s=s: x + s)(1.0))
        for s in shifts
    ]
    assert lines[0] != lines[1]
    with pytest.raises(ValueError, match="program of the start is sha256"):
        call(init=lambda key: {"w": jnp.zeros(D), "b": jnp.zeros(())})
    trees_equal(call(), found)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A training with a checkpoint, and what it found."""
    folder = tmp_path_factory.mktemp("kept")
    random = np.random.default_rng(0)
    data = erm.Batch(
        jnp.asarray(random.normal(size=(N, D)), jnp.float32),
        jnp.asarray(random.integers(2, size=N)),
        jnp.arange(N) % 2,
    )

    def call(apply=linear, init=init, **change):
        options = {"objective": OBJECTIVE, "optimizer": ADAM, "batch_size": 20}
        options |= {"strategy": sweeps.mapped, "validation": data} | change
        return fit(apply, init, data, epochs=2, checkpoint=folder, **options)

    return call, call()


def test_a_mesh_of_the_context_does_not_matter(data):
    mesh = jax.make_mesh((2,), ("points",), devices=jax.devices()[:2])
    call = functools.partial(
        train, data, epochs=2, lam=jnp.array([0.0, 1.0]), mesh=mesh
    )
    with jax.set_mesh(mesh):
        inside = call()
    trees_equal(inside, call())


def test_a_point_that_diverges_keeps_its_last_finite_state(data):
    def brittle(params, features):
        # Not finite as soon as the weights have grown.
        return linear(params, features) + jnp.log(1.2 - jnp.abs(params["w"]).max())

    call = functools.partial(
        fit,
        brittle,
        init,
        data,
        objective=OBJECTIVE,
        optimizer=optax.sgd(0.5),
        epochs=60,
    )
    found = call(lam=jnp.array([0.0, 30.0]), seed=jnp.array([0, 0]))
    assert found.finite.tolist() != [True, True]
    bad = int(np.argmin(found.finite))
    assert found.epochs[bad] < 60
    assert np.isfinite(found.params["w"]).all()
    risks = np.asarray(found.history.risk[bad])
    ended = int(found.epochs[bad])
    assert np.isnan(risks[ended:]).all()
    good = call(lam=0.0) if found.finite[0] else call(lam=30.0)
    np.testing.assert_allclose(found.params["w"][1 - bad], good.params["w"], rtol=1e-5)


def test_early_stopping_returns_the_best_epoch(data, rng):
    noise = data._replace(labels=jnp.asarray(rng.integers(2, size=N)))
    found = train(data, epochs=80, validation=noise, patience=3, every=5)
    checked = np.asarray(found.history.validation)
    ended = int(found.epochs)
    assert ended < 80
    assert np.isnan(checked[ended:]).all()
    best = int(np.nanargmin(checked))
    assert ended == best + 1 + 3
    again = train(data, epochs=best + 1)
    trees_equal(found.params, again.params)


def test_clipping_bounds_the_gradient(data):
    sgd = optax.sgd(1.0)
    found = train(data, epochs=1, optimizer=sgd, clip=0.01)
    start = init(jax.random.fold_in(jax.random.key(0), 0))
    moves = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), found.params, start)
    np.testing.assert_allclose(sum(jax.tree.leaves(moves)) ** 0.5, 0.01, rtol=1e-4)


def test_many_tasks_reach_the_model_with_their_codes(data):
    tasks = jnp.asarray(np.arange(N) // 2 % 3)
    objective = erm.objective(
        loss=erm.logistic,
        notion=notions.demographic_parity,
        n_groups=2,
        n_tasks=3,
        on_scores=penalties.mean_gap_info,
        per_task=True,
    )

    def shared(params, features, tasks):
        return features @ params["w"] + params["b"][tasks]

    def start(key):
        return init(key) | {"b": jnp.zeros(3)}

    call = functools.partial(fit, shared, start, objective=objective, optimizer=ADAM)
    found = call(data._replace(tasks=tasks), epochs=20, batch_size=24)
    assert len(np.unique(found.params["b"])) == 3
    # One task is the model without tasks.
    alone = data._replace(tasks=jnp.zeros(N, jnp.int32))
    one = call(
        alone,
        objective=dataclasses.replace(objective, n_tasks=1),
        epochs=5,
        lam=0.5,
    )
    plain = train(data, epochs=5, lam=0.5)
    np.testing.assert_allclose(one.params["w"], plain.params["w"], rtol=1e-5)
    lonely = data._replace(tasks=jnp.where(data.groups == 1, 0, tasks))
    with pytest.raises(ValueError, match="task 1 has no member of group 1"):
        call(lonely, epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"lam": -1.0}, "`lam` must be at least 0"),
        ({"lam": np.array([0.0, -2.0])}, r"but lam\[1\] = -2.0"),
        ({"lam": np.zeros(2), "seed": np.zeros(3, int)}, "arrays of one length"),
        ({"tolerance": -0.1}, "`tolerance` must be at least 0"),
        ({"dual_rate": 0.0}, "`dual_rate` must be above 0"),
        ({"clip": 0.0}, "`clip` must be above 0"),
        ({"patience": 2}, "`patience` needs `validation`"),
        ({"batch_size": 3}, "`batch_size` must be at least 8, for 2 of each of 4"),
    ],
)
def test_bad_settings_are_refused_at_the_door(options, message, data, untyped):
    with pytest.raises(ValueError, match=message):
        train(data, **({"epochs": 1} | options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": jnp.full((N, D), jnp.nan)}, "`train.features` must be finite"),
        ({"groups": jnp.full(N, 2)}, r"`train.groups` must be codes in \[0, 2\)"),
        ({"labels": jnp.zeros(3)}, "`train.labels` must have as many entries"),
        ({"labels": jnp.arange(N) % 2 * 2 - 1}, r"`train.labels` must lie in \[0, 1\]"),
        ({"labels": jnp.zeros(N)}, "`by_label` needs classes"),
        ({"weights": jnp.ones(N)}, "`train.weights` must be None for mini-batches"),
    ],
)
def test_bad_data_are_refused_at_the_door(change, message, data, untyped):
    with pytest.raises(ValueError, match=message):
        train(data._replace(**change), epochs=1, batch_size=16)


def test_scores_of_a_wrong_shape_are_named(data):
    with pytest.raises(ValueError, match=r"scores of shape \(60,\) or \(60, 1\)"):
        fit(
            lambda p, x: x,
            init,
            data,
            objective=OBJECTIVE,
            optimizer=ADAM,
            epochs=1,
        )
