"""Programs for accelerators, made and not run: CPUs are all that tests can count on.

JAX lowers a program for a platform that is not there. What has no rule on it, such as a
decomposition that LAPACK alone has or a call back to the host, fails then and not on a
user's first GPU. Nothing is said of numbers or speed.
"""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.interpreters import mlir

from fairjax import (
    barycenters,
    bounds,
    erm,
    kernels,
    metrics,
    notions,
    orthogonality,
    penalties,
    solvers,
    streams,
    training,
)
from fairjax.solvers.kernel import newton, svm
from fairjax.solvers.linear import passes, streaming
from fairjax.sweeps import devices
from tests.test_laws import DIVERGENCES, EVERYONE, clouds, diverge, evaluate, problem

N, D, G = 24, 3, 2


PLATFORMS = ("cuda", "rocm", "tpu")


def assert_lowers(function, *data, platforms=PLATFORMS):
    """The program for all platforms can be written down; one module holds them."""
    data = jax.tree.map(jnp.asarray, data)
    program = jax.jit(function).trace(*data).lower(lowering_platforms=platforms)
    assert "func.func public @main" in program.as_text()


@pytest.mark.parametrize("platforms", [PLATFORMS, *[(p,) for p in PLATFORMS]])
def test_what_a_platform_lacks_is_found(platforms):
    with pytest.raises(NotImplementedError, match="schur"):
        assert_lowers(jax.lax.linalg.schur, np.eye(2), platforms=platforms)


@pytest.mark.parametrize("lacking", PLATFORMS)
def test_what_one_of_several_platforms_lacks_is_found(lacking):
    """A rule on the others does not hide it."""
    primitive = jax.extend.core.Primitive("partial")
    primitive.def_abstract_eval(lambda x: x)
    for platform in set(PLATFORMS) - {lacking}:
        rule = mlir.lower_fun(jnp.negative, multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)
    with pytest.raises(NotImplementedError, match="partial"):
        assert_lowers(primitive.bind, np.ones(2))


@pytest.mark.parametrize("function", EVERYONE, ids=lambda f: f.__name__)
def test_members_of_families(function, rng):
    assert_lowers(functools.partial(evaluate, function), problem(rng))


@pytest.mark.parametrize("function", DIVERGENCES, ids=lambda f: f.__name__)
def test_slopes_of_divergences(function, rng):
    slopes = jax.grad(functools.partial(diverge, function), argnums=(0, 1, 2, 3))
    assert_lowers(slopes, *clouds(rng))


def linear(features, labels, cond, scores, groups, *, loss=erm.logistic):
    return solvers.fit_linear(
        features,
        labels,
        loss=loss,
        ridge=jnp.array([1e-2, 1e-1]),
        directions=orthogonality.directions(features, cond),
        tolerance=0.1,
        lam=1.0,
    )


def lagrangian(features, labels, cond, scores, groups):
    def objective(params):
        risk = erm.empirical_risk(features @ params, labels, loss=erm.logistic)
        return risk + 1e-2 * params @ params

    def constraints(params):
        return penalties.mean_gap(features @ params, cond)[None]

    return solvers.augmented_lagrangian(objective, constraints, jnp.zeros(D))


def mapped(features, labels, cond, scores, groups, *, method):
    kernel = functools.partial(kernels.gaussian, bandwidth=1.0)
    key = jax.random.key(0)
    found = kernels.features_for(kernel, features, n_features=8, key=key, method=method)
    return found(features)


def projected(features, labels, cond, scores, groups):
    along = orthogonality.directions(features, cond)
    return (
        orthogonality.project_features(features, along),
        orthogonality.project_kernel(features @ features.T, cond),
    )


def repaired(features, labels, cond, scores, groups):
    key = jax.random.key(0)
    fitted = barycenters.fit_map(scores, groups, n_groups=G, key=key)
    plain = barycenters.fit_map(scores, groups, n_groups=G)
    return (
        barycenters.apply_map(fitted, scores, groups, key=key),
        barycenters.apply_map(plain, scores, groups, variant=barycenters.step),
        barycenters.excess_risk(plain),
        bounds.repaired_ks(jnp.diff(fitted.cdf)[:, 0]),
    )


def sketched(features, labels, cond, scores, groups):
    sketch = barycenters.init_sketch(jnp.linspace(-3.0, 4.0, 9), n_groups=G)
    sketch = barycenters.update_sketch(sketch, scores, groups)
    sketch = barycenters.merge_sketches(sketch, sketch)
    return barycenters.fit_map_from_sketch(sketch), barycenters.sketch_rank_error(
        sketch
    )


def sequenced(features, labels, cond, scores, groups):
    attributes = [groups, labels]
    maps = barycenters.fit_maps(scores, attributes, sizes=[G, 2])
    return barycenters.apply_maps(maps, scores, attributes)


def bounded(features, labels, cond, scores, groups):
    decisions = (scores > 0).astype(jnp.float32)
    return (
        bounds.hoeffding(decisions, cond, value_range=(0.0, 1.0)),
        bounds.empirical_bernstein(decisions, cond, value_range=(0.0, 1.0)),
        # Without `binomial`: JAX lowers calls to the host for its own backend only.
        bounds.rademacher(
            decisions, cond, value_range=(0.0, 1.0), norm=1.0, lipschitz=1.0, radius=1.0
        ),
        bounds.dkw(scores, cond),
    )


def resampled(features, labels, cond, scores, groups):
    how = metrics.Bootstrap(jax.random.key(0), draws=8)
    return metrics.interval(
        metrics.audit, scores, labels, groups, n_groups=G, bootstrap=how
    )


def trained(features, labels, cond, scores, groups):
    """A step of a training loop of one's own, for several strengths."""
    optimizer = optax.sgd(1e-2, momentum=0.9)

    def step(strength, key):
        def loss(params):
            outputs = features @ params
            risk = erm.empirical_risk(outputs, labels, loss=erm.logistic)
            return risk + strength * penalties.mean_gap(outputs, cond)

        params = jax.random.normal(key, (D,))
        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params))
        return optax.apply_updates(params, updates)

    return jax.vmap(step)(jnp.linspace(0, 1, 3), jax.random.split(jax.random.key(0), 3))


PROGRAMS = {
    "fit_linear": linear,
    "fit_linear, hinge": functools.partial(linear, loss=erm.hinge),
    "augmented_lagrangian": lagrangian,
    "fourier": functools.partial(mapped, method=kernels.fourier),
    "nystrom": functools.partial(mapped, method=kernels.nystrom),
    "orthogonality": projected,
    "barycenters": repaired,
    "sketches": sketched,
    "sequences": sequenced,
    "bounds": bounded,
    "intervals": resampled,
    "a training step": trained,
}


def data_of(rng):
    groups = np.arange(N) // 2 % G
    cond = notions.demographic_parity(groups, n_groups=G)
    return (
        rng.normal(size=(N, D)).astype(np.float32),
        np.arange(N) % 2,
        cond,
        (rng.normal(size=N) + groups).astype(np.float32),
        groups.astype(np.int32),
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name, rng):
    assert_lowers(PROGRAMS[name], *data_of(rng))


def machine(fit, features, labels, cond, scores, groups):
    fit(features, labels, kernel=kernels.gaussian, bandwidth=1.0, cond=cond,
        tolerance=0.1)  # fmt: skip


def stream(features, labels, cond, scores, groups):
    chunks = streams.from_arrays(features, labels, groups, chunk=8)
    along = orthogonality.directions_stream(chunks, n_groups=G)
    solvers.fit_linear_stream(chunks, directions=along, tolerance=0.1, max_passes=4)


# What calls compiled programs from the host, and where these are.
CALLS = {
    "fit_svm": (functools.partial(machine, solvers.fit_svm), svm),
    "fit_ridge": (functools.partial(machine, solvers.fit_ridge), newton),
    "fit_logistic": (functools.partial(machine, solvers.fit_logistic), newton),
    "fit_linear_stream": (stream, streaming, passes),
}


@pytest.mark.parametrize("name", CALLS)
def test_programs_called_from_the_host(name, rng, monkeypatch):
    call, *modules = CALLS[name]
    found = []

    def recorded(program, *arguments, **options):
        """Lowers a program instead of running it."""
        traced = program.trace(*arguments, **options)
        found.append(traced.lower(lowering_platforms=PLATFORMS).as_text())
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), traced.out_info)

    for module in modules:
        for word, program in list(vars(module).items()):
            if isinstance(program, type(jax.jit(abs))):
                record = functools.partial(recorded, program)
                monkeypatch.setattr(module, word, record)
    call(*data_of(rng))
    assert found
    assert all("func.func public @main" in text for text in found)


def test_networks_at_many_strengths(rng, monkeypatch):
    """Both programs of `training.fit`, mini-batches included; one small fit runs."""
    plain, found = devices.program, []

    class Recorded:
        def __init__(self, *arguments):
            self.program = plain(*arguments)
            self.eval_shape = self.program.eval_shape

        def __call__(self, *arguments):
            traced = self.program.trace(*arguments)
            found.append(traced.lower(lowering_platforms=PLATFORMS).as_text())
            return self.program(*arguments)

    monkeypatch.setattr(devices, "program", Recorded)
    features, labels, _, _, groups = data_of(rng)
    fit = training.fit(
        lambda params, features: features @ params,
        lambda key: jax.random.normal(key, (D,)),
        erm.Batch(features, labels, groups),
        objective=erm.objective(
            loss=erm.logistic,
            notion=notions.demographic_parity,
            n_groups=G,
            on_scores=penalties.mean_gap_info,
        ),
        optimizer=optax.sgd(1e-2),
        epochs=2,
        batch_size=8,
        lam=jnp.array([0.0, 1.0]),
    )
    assert fit.finite.all()
    assert len(set(found)) == 2
    assert all("func.func public @main" in text for text in found)
