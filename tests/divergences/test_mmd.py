"""Squared MMD, its cheaper estimates, and HSIC against their definitions in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fairjax import kernels
from fairjax.divergences import (
    energy_distance,
    hsic,
    mmd,
    mmd_linear_time,
    mmd_random_features,
    mmd_squared,
)

N, M, D, H = 23, 17, 5, 1.3


def gaussian_table(x, y, h=H):
    return np.exp(-np.square(x[:, None] - y[None]).sum(axis=-1) / (2 * h**2))


def laplacian_table(x, y, h=H):
    return np.exp(-np.sqrt(np.square(x[:, None] - y[None]).sum(axis=-1)) / h)


def ours(x, y):
    """A kernel that a user might write: linear plus a constant."""
    return x @ y.T + 1


KERNELS = {
    "gaussian": (functools.partial(kernels.gaussian, bandwidth=H), gaussian_table),
    "energy": (
        kernels.energy,
        lambda x, y: -np.sqrt(np.square(x[:, None] - y[None]).sum(axis=-1)),
    ),
    "own": (ours, lambda x, y: x @ y.T + 1),
}


def by_definition(x, y, a, b, table, *, unbiased=False):
    """Both estimates, with the sums over pairs written out as matrices."""
    a, b = a / a.sum(), b / b.sum()
    within = []
    for points, mass in ((x, a), (y, b)):
        pairs = np.outer(mass, mass)
        if unbiased:
            np.fill_diagonal(pairs, 0)
            pairs /= pairs.sum()
        within.append((pairs * table(points, points)).sum())
    return sum(within) - 2 * a @ table(x, y) @ b


def draw(rng, n=N, m=M):
    x, y = rng.normal(size=(n, D)), rng.normal(size=(m, D)) + 0.5
    a = rng.uniform(size=n) * (rng.uniform(size=n) > 0.3)
    return x, y, a, rng.uniform(size=m)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(
    ("name", "shape", "block"),
    [("gaussian", (N, M), 7), ("energy", (2, 11), 512), ("own", (30, 3), 1)],
)
def test_value_matches_its_definition(name, shape, block, unbiased, rng, x64):
    kernel, table = KERNELS[name]
    x, y, _, b = draw(rng, *shape)
    for a in (rng.uniform(size=len(x)), np.arange(len(x)) != 2, None):
        found = mmd_squared(
            x,
            y,
            x_weights=a,
            y_weights=b,
            kernel=kernel,
            unbiased=unbiased,
            block=block,
        )
        mass = np.ones(len(x)) if a is None else a.astype(float)
        expected = by_definition(x, y, mass, b, table, unbiased=unbiased)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@functools.partial(jax.jit, static_argnames="unbiased")
def value(x, y, a, b, h, unbiased=False):
    kernel = functools.partial(kernels.gaussian, bandwidth=h)
    return mmd_squared(
        x, y, x_weights=a, y_weights=b, kernel=kernel, unbiased=unbiased, block=7
    )


slopes_of = jax.jit(
    jax.value_and_grad(value, argnums=range(5)), static_argnames="unbiased"
)


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradients_match_finite_differences(unbiased, rng, x64):
    data = (*draw(rng), H)
    slopes = slopes_of(*data, unbiased=unbiased)[1]

    def expected(x, y, a, b, h):
        table = functools.partial(gaussian_table, h=h)
        return by_definition(x, y, a, b, table, unbiased=unbiased)

    moves = [rng.normal(size=np.shape(argument)) for argument in data]
    for i, (slope, move) in enumerate(zip(slopes, moves, strict=True)):
        ends = [
            expected(*data[:i], data[i] + step * move, *data[i + 1 :])
            for step in (1e-5, -1e-5)
        ]
        found, truth = np.vdot(slope, move), (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-10)
    forward = jax.jvp(
        functools.partial(value, unbiased=unbiased),
        data,
        tuple(map(jnp.asarray, moves)),
    )[1]
    together = sum(np.vdot(s, m) for s, m in zip(slopes, moves, strict=True))
    np.testing.assert_allclose(forward, together, rtol=1e-10)


def test_second_derivatives_match_differences_of_first_ones(rng, x64):
    data = (*draw(rng), H)
    move = rng.normal(size=data[0].shape)

    @jax.jit
    def curvature(x, move):
        return jax.jvp(lambda x: jax.grad(value)(x, *data[1:]), (x,), (move,))[1]

    curved = curvature(data[0], move)
    ends = [
        np.asarray(slopes_of(data[0] + step * move, *data[1:], unbiased=False)[1][0])
        for step in (1e-5, -1e-5)
    ]
    np.testing.assert_allclose(curved, (ends[0] - ends[1]) / 2e-5, rtol=0, atol=1e-8)


def one(z, h, a, b):
    kernel = functools.partial(kernels.gaussian, bandwidth=h)
    return mmd_squared(
        z, z, x_weights=a, y_weights=b, kernel=kernel, unbiased=True, block=9
    )


def pairs_together(z, h, rows):
    """All pairs of rows, as `penalties.divergence_gap` asks for them."""
    first, second = np.triu_indices(len(rows), 1)
    pairs = rows[first], rows[second]
    return jax.vmap(one, in_axes=(None, None, 0, 0))(z, h, *pairs)


def test_all_pairs_share_one_pass_over_the_kernel(rng, x64):
    z, rows = (
        jnp.asarray(rng.normal(size=(N, D))),
        jnp.asarray(rng.uniform(size=(4, N))),
    )

    def total(z, h, rows):
        return pairs_together(z, h, rows).sum()

    found = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(z, H, rows)
    one_pair = jax.jit(jax.value_and_grad(one, argnums=(0, 1, 2, 3)))
    sums, of_rows = [0.0, np.zeros_like(z), 0.0], np.zeros(rows.shape)
    for i, j in itertools.combinations(range(4), 2):
        number, slopes = one_pair(z, H, rows[i], rows[j])
        sums = [s + t for s, t in zip(sums, (number, *slopes[:2]), strict=True)]
        of_rows[i] += slopes[2]
        of_rows[j] += slopes[3]
    for together, looped in zip(jax.tree.leaves(found), [*sums, of_rows], strict=True):
        np.testing.assert_allclose(together, looped, rtol=1e-8, atol=1e-12)

    def operations(n_rows):
        data = jnp.ones((400, 64)), H, jnp.ones((n_rows, 400))
        return products(jax.make_jaxpr(pairs_together)(*data).jaxpr)

    # 45 pairs instead of 1; the kernel alone is 64 of the 66 products of one pair.
    assert operations(10) < 3 * operations(2)


def products(jaxpr):
    """Multiplications in matrix products, with loops by their lengths.

    Counted in the traced program: XLA's own count leaves out calls to libraries.
    """
    total = 0
    for equation in jaxpr.eqns:
        parts = jax.tree.leaves(list(equation.params.values()))
        parts = [getattr(part, "jaxpr", part) for part in parts]
        inner = [products(part) for part in parts if hasattr(part, "eqns")]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            outcome = np.prod(equation.outvars[0].aval.shape)
            total += outcome * np.prod([shape[i] for i in contracted])
        elif equation.primitive.name == "cond":
            total += max(inner)
        else:
            total += sum(inner) * equation.params.get("length", 1)
    return total


def test_nothing_of_the_size_of_all_pairs_is_held():
    n = 16_384

    def slopes(x):
        kernel = functools.partial(kernels.gaussian, bandwidth=1.0)
        return jax.grad(lambda x: mmd_squared(x, x + 1, kernel=kernel))(x)

    lowered = jax.jit(slopes).lower(jax.ShapeDtypeStruct((n, 16), jnp.float32))
    held = lowered.compile().memory_analysis().temp_size_in_bytes
    assert held < 64e6  # the table of all pairs has 4.3e9 bytes


def test_float32_keeps_its_digits_far_away_from_zero(rng, optimized):
    """16,384 points per cloud: 512 of them, each 32 times, so that float64 is cheap."""
    copies, n = 32, 512 * 32
    points = [rng.normal(size=(512, 8)) + shift for shift in (100.0, 100.3)]
    x, y = (p.astype(np.float32) for p in points)
    table = functools.partial(gaussian_table, h=8**0.5)
    xx, yy, xy = (table(a.astype(float), b.astype(float)) for a, b in [
        (x, x), (y, y), (x, y)
    ])  # fmt: skip
    within = [(copies**2 * k.sum() - n) / (n * (n - 1)) for k in (xx, yy)]
    found = mmd_squared(
        np.repeat(x, copies, axis=0),
        np.repeat(y, copies, axis=0),
        kernel=functools.partial(kernels.gaussian, bandwidth=np.float32(8**0.5)),
        unbiased=True,
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, sum(within) - 2 * xy.mean(), rtol=1e-4)


def test_a_masked_point_may_lie_anywhere(rng):
    x, y, _, _ = (array.astype(np.float32) for array in draw(rng))
    kernel = functools.partial(kernels.gaussian, bandwidth=np.float32(H))
    far = np.concatenate([x, np.full((3, D), 3e38, np.float32)])
    mask = np.arange(N + 3) < N
    call = jax.jit(jax.value_and_grad(functools.partial(mmd_squared, kernel=kernel)))
    found, slope = call(far, y, x_weights=mask)
    expected, own = call(x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(slope[:N], own, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(slope[N:], 0)


def test_what_cannot_be_estimated_is_zero_with_zero_slopes(rng, x64):
    x, y, a, b = draw(rng)
    single = np.eye(N)[3]
    cases = [(False, 0 * a, b), (False, a, 0 * b), (True, single, b), (True, 0 * a, b)]
    for unbiased, left, right in cases:
        found, slopes = slopes_of(x, y, left, right, H, unbiased=unbiased)
        assert found == 0
        assert not any(np.any(slope) for slope in slopes)


def test_a_new_bandwidth_compiles_nothing(rng):
    x = rng.normal(size=(N, D)).astype(np.float32)
    for h in (1.0, 2.0, np.float32(3.0)):
        mmd_squared(x, x, kernel=functools.partial(kernels.gaussian, bandwidth=h))
    before = mmd._mmd._cache_size()
    mmd_squared(x, x, kernel=functools.partial(kernels.gaussian, bandwidth=4.0))
    assert mmd._mmd._cache_size() == before


def test_rows_spread_over_devices_give_the_same(rng):
    devices = jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,), devices=devices)
    spread = NamedSharding(mesh, PartitionSpec("rows"))
    z = rng.normal(size=(24, D)).astype(np.float32)
    groups = np.arange(24) % 3 == 0
    kernel = functools.partial(kernels.gaussian, bandwidth=np.float32(H))
    call = jax.jit(
        jax.value_and_grad(
            lambda z, g: mmd_squared(
                z, z, x_weights=g, y_weights=~g, kernel=kernel, block=8
            )
        )
    )
    expected = call(jnp.asarray(z), jnp.asarray(groups))
    found = call(jax.device_put(z, spread), jax.device_put(groups, spread))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7),
        found,
        expected,
    )


def test_energy_distance_is_scipys_squared(rng, x64):
    x, y, a, b = rng.normal(size=31), rng.normal(size=29) + 0.4, *rng.uniform(
        0.1, 1, size=(2, 31)
    )  # fmt: skip
    b = b[:29]
    found = energy_distance(x[:, None], y[:, None], x_weights=a, y_weights=b)
    expected = scipy.stats.energy_distance(x, y, a, b) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_linear_time_is_the_mean_over_neighbours(rng, x64):
    x, y = rng.normal(size=(2, 9, D))
    kernel, table = KERNELS["gaussian"]
    terms = []
    for i in range(0, 8, 2):
        k = table(np.stack([x[i], y[i]]), np.stack([x[i + 1], y[i + 1]]))
        terms.append(k[0, 0] + k[1, 1] - k[0, 1] - k[1, 0])
    found = mmd_linear_time(x, y, kernel=kernel)
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-12)


def test_random_features_are_unbiased_with_the_stated_error(rng, x64):
    x, y, a, b = draw(rng)
    exact = by_definition(x, y, a, b, gaussian_table)
    n_features, repetitions = 64, 400
    estimate = jax.jit(
        jax.vmap(
            lambda key: mmd_random_features(
                x, y, x_weights=a, y_weights=b, bandwidth=H, key=key, n_features=64
            )
        )
    )
    found = np.asarray(estimate(jax.random.split(jax.random.key(0), repetitions)))
    error = found.std() / repetitions**0.5
    assert abs(found.mean() - exact) < 4 * error
    assert found.std() <= 2 * (exact / n_features) ** 0.5
    assert (found >= 0).all()


def test_slopes_of_random_features_match_finite_differences(rng, x64):
    x, y, a, b = draw(rng)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def estimate(x, a, h):
        return mmd_random_features(
            x,
            y,
            x_weights=a,
            y_weights=b,
            bandwidth=h,
            key=jax.random.key(1),
            n_features=8,
        )

    data = (x, a, H)
    slopes = estimate(*data)[1]
    for i, slope in enumerate(slopes):
        # Away from 0, beyond which a weight is no weight.
        move = rng.normal(size=np.shape(data[i])) * (np.asarray(data[i]) != 0)
        ends = [
            estimate(*data[:i], data[i] + step * move, *data[i + 1 :])[0]
            for step in (1e-6, -1e-6)
        ]
        truth = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(np.vdot(slope, move), truth, rtol=1e-6)


def hsic_by_definition(x, y, w):
    """Squared MMD between the joint points and all pairs of them, kernel `k l`."""
    w = w / w.sum()
    first, second = np.indices((len(x), len(x))).reshape(2, -1)
    joint, product = (x, y, w), (x[first], y[second], np.outer(w, w).ravel())

    def mean(one, other):
        k = gaussian_table(one[0], other[0]) * laplacian_table(one[1], other[1])
        return one[2] @ k @ other[2]

    return mean(joint, joint) - 2 * mean(joint, product) + mean(product, product)


@functools.partial(jax.jit, static_argnames="block")
def dependence(x, y, w, h, block=4):
    return hsic(
        x,
        y,
        weights=w,
        x_kernel=functools.partial(kernels.gaussian, bandwidth=h),
        y_kernel=functools.partial(kernels.laplacian, bandwidth=H),
        block=block,
    )


slopes_of_dependence = jax.jit(jax.value_and_grad(dependence, argnums=range(4)))


def test_hsic_matches_its_definitions(rng, x64):
    n = 11
    x, y, w = rng.normal(size=(n, 2)), rng.normal(size=(n, 1)), rng.uniform(size=n)
    y[:, 0] += x[:, 0] ** 2
    ones, centre = np.ones(n), np.eye(n) - 1 / n
    trace = np.trace(gaussian_table(x, x) @ centre @ laplacian_table(y, y) @ centre)
    np.testing.assert_allclose(dependence(x, y, ones, H), trace / n**2, atol=1e-12)
    for mass in (w, (np.arange(n) % 3 > 0).astype(float)):
        expected = hsic_by_definition(x, y, mass)
        np.testing.assert_allclose(dependence(x, y, mass, H), expected, atol=1e-12)

    def shuffled(order):
        return dependence(x[order], y[order], w[order], H)

    np.testing.assert_allclose(
        shuffled(rng.permutation(n)), dependence(x, y, w, H), rtol=1e-9
    )
    assert dependence(x, y, 0 * w, H) == 0
    mapped = jax.vmap(dependence, in_axes=(None, None, 0, None))(
        x, y, np.stack([w, ones]), H
    )
    np.testing.assert_allclose(mapped[0], dependence(x, y, w, H), rtol=1e-9)


def test_slopes_of_hsic_match_finite_differences(rng, x64):
    n = 11
    data = (rng.normal(size=(n, 2)), rng.normal(size=(n, 1)), rng.uniform(size=n), H)
    slopes = slopes_of_dependence(*data)[1]
    for i, slope in enumerate(slopes):
        move = rng.normal(size=np.shape(data[i]))
        ends = [
            slopes_of_dependence(*data[:i], data[i] + step * move, *data[i + 1 :])[0]
            for step in (1e-5, -1e-5)
        ]
        truth = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(np.vdot(slope, move), truth, rtol=1e-6, atol=1e-10)


def test_hsic_sees_what_covariance_does_not(rng):
    attribute = rng.normal(size=300).astype(np.float32)
    kernel = functools.partial(kernels.gaussian, bandwidth=np.float32(1.0))

    def measured(scores):
        return hsic(
            scores[:, None], attribute[:, None], x_kernel=kernel, y_kernel=kernel
        ).item()

    independent = rng.normal(size=300).astype(np.float32)
    assert measured(attribute**2) > 10 * measured(independent)


GAUSSIAN = KERNELS["gaussian"][0]


@pytest.mark.parametrize(("backend", "width"), [("cpu", 768), ("gpu", 2048)])
def test_the_default_block_follows_the_device(backend, width, monkeypatch):
    """Of 5,000 samples, in an odd number of blocks."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    z = jax.ShapeDtypeStruct((2500, 2), np.float32)
    text = str(jax.make_jaxpr(functools.partial(mmd_squared, kernel=GAUSSIAN))(z, z))
    side = {768: -(-5000 // 7), 2048: -(-5000 // 3)}[width]
    assert f"f32[{side},{side}]" in text
    assert f"f32[{side},2]" in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z: mmd_squared(
                z, z, kernel=functools.partial(kernels.gaussian, bandwidth=0.0)
            ),
            "`bandwidth` of `kernel` must be positive and finite, but is 0.0",
        ),
        (lambda z: mmd_squared(z, z, kernel="rbf"), "`kernel` must be a function"),
        (lambda z: mmd_squared(z, z, kernel=GAUSSIAN, block=0), "`block` must be at"),
        (lambda z: mmd_squared(z[:0], z, kernel=GAUSSIAN), "`x` must hold at least"),
        (lambda z: mmd_squared(z, z[:, :1], kernel=GAUSSIAN), "2 and 1 columns"),
        (lambda z: mmd_squared(z, z * np.nan, kernel=GAUSSIAN), "`y` must be finite"),
        (
            lambda z: mmd_squared(z, z, x_weights=-np.ones(4), kernel=GAUSSIAN),
            "`x_weights` must not be negative",
        ),
        (
            lambda z: mmd_squared(z, z, y_weights=np.zeros(4), kernel=GAUSSIAN),
            "`y_weights` must have a positive entry",
        ),
        (
            lambda z: mmd_squared(z, z, y_weights=np.ones(3), kernel=GAUSSIAN),
            "`y_weights` must have as many entries as `y`",
        ),
        (
            lambda z: mmd_linear_time(z, z, x_weights=np.ones(4), kernel=GAUSSIAN),
            "`x_weights` and `y_weights` must be None",
        ),
        (lambda z: mmd_linear_time(z, z[:3], kernel=GAUSSIAN), "have 4 and 3"),
        (
            lambda z: mmd_random_features(
                z, z, bandwidth=1.0, key=jax.random.key(0), n_features=0
            ),
            "`n_features` must be at least 1",
        ),
        (
            lambda z: mmd_random_features(
                z, z, bandwidth=-1.0, key=jax.random.key(0)
            ),
            "`bandwidth` of `kernel` must be positive",
        ),
        (
            lambda z: hsic(z, z[:3], x_kernel=GAUSSIAN, y_kernel=GAUSSIAN),
            "`y` must have as many entries as `x`",
        ),
        (
            lambda z: hsic(
                z, z, weights=np.zeros(4), x_kernel=GAUSSIAN, y_kernel=GAUSSIAN
            ),
            "`weights` must have a positive entry",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_at_the_door(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 2)))


def test_bad_numbers_inside_jit_are_seen(rng, x64):
    x, y, a, b = draw(rng)
    assert np.isnan(slopes_of(x, y, a, b, -1.0, unbiased=False)[0])
    x[0, 0] = np.nan
    a[0] = 1
    assert np.isnan(slopes_of(x, y, a, b, H, unbiased=False)[0])
