"""Sinkhorn divergences against converged log-domain iterations, in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax.divergences import Potentials, sinkhorn, sinkhorn_info

N, M, D = 9, 7, 3


def soft_minimum(costs, epsilon, mass):
    """-epsilon log sum_j mass_j exp(-costs_ij / epsilon), without overflow."""
    least = costs.min(axis=1)
    return least - epsilon * np.log(np.exp((least[:, None] - costs) / epsilon) @ mass)


def cost_by_definition(x, y, a, b, epsilon):
    """<P, C> + epsilon KL(P | a x b), P from Sinkhorn iterations until they stand."""
    same = x is y
    x, a, y, b = x[a > 0], a[a > 0] / a.sum(), y[b > 0], b[b > 0] / b.sum()
    costs = np.square(x[:, None] - y).sum(axis=-1)
    f = np.zeros(len(x))
    for _ in range(20_000):
        # Of a cloud with itself the potentials are equal, and averages converge fast.
        g = f if same else soft_minimum((costs - f[:, None]).T, epsilon, a)
        before, f = f, soft_minimum(costs - g, epsilon, b)
        f = (f + before) / 2 if same else f
        if np.abs(f - before).max() < 1e-13 * costs.max():
            break
    density = np.exp((f[:, None] + g - costs) / epsilon)
    plan = a[:, None] * b * density
    # The value's error is of the order of the square of this one.
    np.testing.assert_allclose(plan.sum(axis=0), b, rtol=0, atol=1e-6)
    np.testing.assert_allclose(plan.sum(axis=1), a, rtol=0, atol=1e-6)
    return (plan * costs).sum() + epsilon * (plan * np.log(density)).sum()


def by_definition(x, y, a, b, epsilon):
    pairs = (x, y, a, b), (x, x, a, a), (y, y, b, b)
    cross, own_x, own_y = (cost_by_definition(*pair, epsilon) for pair in pairs)
    return cross - (own_x + own_y) / 2


def draw(rng):
    """Two clouds with weights, one of them 0 in each."""
    x, y = rng.normal(size=(N, D)), rng.normal(size=(M, D)) + 0.5
    a, b = rng.uniform(0.2, 1, size=N), rng.uniform(0.2, 1, size=M)
    a[3] = b[0] = 0
    return x, y, a, b


def info(x, y, a, b, epsilon, **options):
    return sinkhorn_info(x, y, x_weights=a, y_weights=b, epsilon=epsilon, **options)


compiled = jax.jit(info)
short = jax.jit(functools.partial(info, max_iterations=4))


def value(*arrays):
    return compiled(*arrays).value


slopes = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3, 4)))


@pytest.mark.parametrize("epsilon", [20.0, 1.0, 0.2])
def test_value_matches_its_definition(epsilon, rng, x64):
    for _ in range(3):
        data = draw(rng)
        expected = by_definition(*data, epsilon)
        found = compiled(*data, epsilon)
        assert found.converged
        np.testing.assert_allclose(found.value, expected, rtol=1e-6)


@pytest.mark.parametrize("epsilon", [20.0, 1.0, 0.2])
def test_value_in_float32_matches_its_definition(epsilon, rng):
    for _ in range(3):
        data = draw(rng)
        expected = by_definition(*data, epsilon)
        single = [array.astype(np.float32) for array in data]
        found = compiled(*single, jnp.float32(epsilon))
        assert found.converged
        assert found.value.dtype == jnp.float32
        np.testing.assert_allclose(found.value, expected, rtol=1e-3)


@pytest.mark.parametrize("epsilon", [5.0, 0.5])
def test_gradients_match_finite_differences(epsilon, rng, x64):
    data = (*draw(rng), epsilon)
    found = slopes(*data)
    for slope, argument in zip(found, range(5), strict=True):
        step = rng.normal(size=np.shape(data[argument]))
        if argument in (2, 3):
            # Points of weight 0 gain some; the divergence is defined on one side only.
            step = np.where(data[argument] > 0, step, np.abs(step))
        moved = [
            [*data[:argument], data[argument] + h * 1e-5 * step, *data[argument + 1 :]]
            for h in (0, 1, 2)
        ]
        now, once, twice = (by_definition(*arrays) for arrays in moved)
        difference = (4 * once - twice - 3 * now) / 2e-5
        np.testing.assert_allclose((slope * step).sum(), difference, rtol=1e-5)


def test_float32_keeps_its_digits_far_from_the_origin(rng):
    x, y, a, b = draw(rng)
    expected = by_definition(x, y, a, b, 1.0)
    far = [(points + 100).astype(np.float32) for points in (x, y)]
    masses = [mass.astype(np.float32) for mass in (a, b)]
    found = compiled(*far, *masses, jnp.float32(1.0))
    np.testing.assert_allclose(found.value, expected, rtol=1e-3)


@pytest.mark.parametrize("apart", [30.0, 1e4])
def test_clouds_may_lie_far_apart_in_float32(apart, rng):
    x, y, a, b = draw(rng)
    a, b = a / a.sum(), b / b.sum()
    x, y = x - a @ x, y - b @ y
    # A shift of the whole cloud adds its square, and nothing else.
    expected = by_definition(x, y, a, b, 1.0) + D * apart**2
    single = [array.astype(np.float32) for array in (x, y + apart, a, b)]
    found = compiled(*single, jnp.float32(1.0))
    assert found.converged
    np.testing.assert_allclose(found.value, expected, rtol=1e-4)


def test_only_the_value_has_a_gradient_and_only_a_first_one(rng, x64):
    x, y, a, b = draw(rng)

    def of(field, points):
        leaves = jax.tree.leaves(getattr(info(points, y, a, b, 1.0), field))
        return sum(leaf.sum() for leaf in leaves)

    for field in ("marginal_error", "potentials"):
        with pytest.raises(TypeError, match="only the value of a Sinkhorn"):
            jax.eval_shape(jax.grad(functools.partial(of, field)), x)
    slope = jax.grad(functools.partial(of, "value"))
    with pytest.raises(TypeError, match="only a first one"):
        jax.eval_shape(jax.grad(lambda points: slope(points).sum()), x)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(functools.partial(of, "value"), (x,), (x,))
    # Handing them on, as a training loop does, differentiates nothing.

    def with_potentials(points):
        found = info(points, y, a, b, 1.0)
        return found.value, found.potentials

    both = jax.value_and_grad(with_potentials, has_aux=True)
    (_, potentials), _ = jax.eval_shape(both, x)
    assert potentials.x.shape == (N,)


def test_a_call_that_did_not_converge_says_so_inside_jit(rng, x64):
    data = (*draw(rng), 0.05)
    early, full = short(*data), compiled(*data)
    assert not early.converged
    assert early.estimated
    assert full.converged
    assert early.iterations[0] == 4 < full.iterations[0]
    assert full.marginal_error[0] < 1e-7 < early.marginal_error[0]


def test_marginal_error_and_potentials_describe_the_plan(rng, x64):
    x, y, a, b = draw(rng)
    found = short(x, y, a, b, 0.05)
    a, b = a / a.sum(), b / b.sum()
    f, g, f_own, g_own = (np.array(leaf) for leaf in found.potentials)
    plans = (x, y, a, b, f, g), (x, x, a, a, f_own, f_own), (y, y, b, b, g_own, g_own)
    for index, (points, others, mass, masses, left, right) in enumerate(plans):
        costs = np.square(points[:, None] - others).sum(axis=-1)
        density = np.exp((left[:, None] + right - costs) / 0.05)
        error = (masses * np.abs(mass @ density - 1)).sum()
        np.testing.assert_allclose(found.marginal_error[index], error, atol=1e-9)
    # A point without weight has the potential that it would have with some.
    costs = np.square(x[:, None] - y).sum(axis=-1)
    np.testing.assert_allclose(f, soft_minimum(costs - g, 0.05, b), atol=1e-9)


def test_potentials_of_an_earlier_call_save_iterations(rng, x64):
    x, y, a, b = draw(rng)
    first = compiled(x, y, a, b, 0.2)
    restarted = jax.jit(info)

    def from_there(x, potentials):
        return restarted(x, y, a, b, 0.2, potentials=potentials)

    same = from_there(x, first.potentials)
    assert same.iterations.tolist() == [0, 0, 0]
    np.testing.assert_allclose(same.value, first.value, rtol=1e-9)
    moved = x + 1e-3 * rng.normal(size=x.shape)
    warm, cold = from_there(moved, first.potentials), compiled(moved, y, a, b, 0.2)
    assert warm.iterations[0] < cold.iterations[0]
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-7)
    # Whatever the start, the end is the same: here the kernel cannot be formed.
    wrong = Potentials(*(1e3 * rng.normal(size=len(leaf)) for leaf in first.potentials))
    recovered = from_there(x, wrong)
    assert recovered.converged
    np.testing.assert_allclose(recovered.value, first.value, rtol=1e-7)


def test_tiny_epsilon_comes_close_to_transport_without_entropy(rng, x64):
    """Far clouds: exp(-C / epsilon) is 0 everywhere in double precision."""
    x = rng.normal(size=(N, D))
    found = compiled(x, x[:M] + 50, np.ones(N), np.ones(M), 0.1)
    expected = by_definition(x, x[:M] + 50, np.ones(N), np.ones(M), 0.1)
    np.testing.assert_allclose(found.value, expected, rtol=1e-6)


def test_a_cloud_without_weight_is_not_estimated(rng, x64):
    x, y, a, b = draw(rng)
    for empty in [(x, y, 0 * a, b), (x, y, a, 0 * b), (x, y, 0 * a, 0 * b)]:
        found = compiled(*empty, 1.0)
        assert found.value == 0
        assert not found.estimated
        assert not found.converged
        assert all((slope == 0).all() for slope in slopes(*empty, 1.0))


def test_bad_numbers_inside_jit_end_at_once_and_are_seen(rng, x64):
    x, y, a, b = draw(rng)
    spoilt = x.copy()
    spoilt[1, 1] = np.nan
    for points, epsilon in (spoilt, 1.0), (x, 0.0), (x, -1.0), (x, np.nan):
        found = compiled(points, y, a, b, epsilon)
        assert np.isnan(found.value)
        assert not found.converged
        assert (found.iterations < 100).all()


def test_mapped_over_epsilon_equals_the_loop_also_with_fixed_iterations(rng, x64):
    data, epsilons = draw(rng), np.array([0.5, 2.0, 8.0])
    looped = [float(value(*data, epsilon)) for epsilon in epsilons]
    for options in ({}, {"iterations": 60}):
        sweep = jax.vmap(functools.partial(info, **options), in_axes=(*[None] * 4, 0))
        mapped = jax.jit(sweep)(*data, epsilons)
        assert mapped.converged.all()
        np.testing.assert_allclose(mapped.value, looped, rtol=1e-9)
    assert (mapped.iterations == 60).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "`epsilon` must be above 0, but epsilon = 0.0"),
        ({"epsilon": np.inf}, "`epsilon` must be finite"),
        ({"epsilon": np.ones(2)}, r"`epsilon` must be one number, .* \(2,\)"),
        ({"threshold": -1.0}, "`threshold` must be above 0"),
        ({"max_iterations": 0}, "`max_iterations` must be at least 1"),
        ({"iterations": 0}, "`iterations` must be at least 1"),
        (
            {"potentials": Potentials(*(np.zeros(N) for _ in range(4)))},
            "`potentials` must come from a call with 9 and 7 points",
        ),
        ({"x": np.zeros((0, D))}, "`x` must hold at least one point"),
        ({"y": np.zeros((M, D + 1))}, "same width, but have 3 and 4 columns"),
        ({"y": np.full((M, D), np.nan)}, r"`y` must be finite, but y\[0, 0\] = nan"),
        ({"x_weights": -np.ones(N)}, r"`x_weights` must not be negative"),
        ({"y_weights": np.zeros(M)}, r"`y_weights` must have a positive entry"),
        ({"y_weights": np.ones(N)}, r"`y_weights` must have as many entries as `y`"),
    ],
)
def test_bad_input_is_refused_at_the_door(change, message, rng, untyped):
    x, y, a, b = draw(rng)
    given = {"x": x, "y": y, "x_weights": a, "y_weights": b, "epsilon": 1.0} | change
    with pytest.raises(ValueError, match=message):
        sinkhorn(given.pop("x"), given.pop("y"), **given)
