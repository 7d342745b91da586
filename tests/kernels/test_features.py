"""Feature maps: against the kernels' formulas, and exact inner products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import kernels
from fairjax.kernels import features_for, fourier, nystrom
from tests.kernels.test_functions import FORMULAS

H, N, D = 1.3, 12, 5
KEY = jax.random.key(0)
GAUSSIAN = functools.partial(kernels.gaussian, bandwidth=H)
every_kernel = pytest.mark.parametrize("kernel", FORMULAS, ids=lambda k: k.__name__)
every_method = pytest.mark.parametrize(
    "method", [fourier, nystrom], ids=lambda m: m.__name__
)


def draw(rng, n=N, width=D):
    return rng.normal(size=(n, width))


def approximated(phi, x):
    """The table of inner products."""
    features = phi(x)
    return jnp.matmul(features, features.T, precision="highest")


def cosine(x, y, *, scale):
    """A user's own kernel."""
    x, y = x / scale, y / scale
    return (1 + x @ y.T) / jnp.sqrt(
        (1 + jnp.square(x).sum(1))[:, None] * (1 + jnp.square(y).sum(1))[None]
    )


def test_fourier_is_nearer_than_that_of_scikit_learn(rng, x64):
    sampler = pytest.importorskip("sklearn.kernel_approximation").RBFSampler
    x, errors = draw(rng, n=40, width=20), []
    h = 20**0.5
    exact = FORMULAS[kernels.gaussian](x, x, h)
    kernel = functools.partial(kernels.gaussian, bandwidth=h)
    for seed in range(5):
        phi = features_for(kernel, x, n_features=200, key=jax.random.key(seed))
        theirs = sampler(gamma=1 / (2 * h**2), n_components=200, random_state=seed)
        features = theirs.fit_transform(x)
        tables = approximated(phi, x), features @ features.T
        errors.append([np.sqrt(np.mean((t - exact) ** 2)) for t in tables])
    own, other = np.mean(errors, axis=0)
    assert own < 0.6 * other


def test_float32_sees_distances_far_away_from_zero(rng):
    x = draw(rng).astype(np.float32) + np.float32(10_000)
    near = x - np.float32(10_000)
    tables = [
        approximated(features_for(GAUSSIAN, samples, n_features=64, key=KEY), samples)
        for samples in (x, near)
    ]
    np.testing.assert_allclose(*tables, atol=1e-4)


@pytest.mark.parametrize(
    "kernel",
    [
        GAUSSIAN,
        functools.partial(kernels.laplacian, bandwidth=H),
        functools.partial(kernels.inverse_multiquadric, bandwidth=H),
        functools.partial(kernels.polynomial, degree=3),
        functools.partial(cosine, scale=2.0),
    ],
    ids=lambda kernel: kernel.func.__name__,
)
def test_nystrom_is_the_kernel_projected_on_its_landmarks(kernel, rng, x64):
    x, new = jnp.asarray(draw(rng)), jnp.asarray(draw(rng, n=7))
    exact = kernel(x, x)
    traces = []
    for m in (2, 4, N):
        phi = features_for(kernel, x, n_features=m, key=KEY, method=nystrom)
        landmarks = phi.arrays.points
        drawn = (landmarks[:, None] == x[None]).all(axis=-1)
        assert (drawn.sum(axis=1) == 1).all()
        assert (drawn.sum(axis=0) <= 1).all()
        # By definition, with the inverse instead of its root.
        across = np.asarray(kernel(x, landmarks))
        inverse = np.linalg.pinv(kernel(landmarks, landmarks), hermitian=True)
        projected = across @ inverse @ across.T
        np.testing.assert_allclose(approximated(phi, x), projected, atol=1e-7)
        np.testing.assert_allclose(phi(new) @ phi(landmarks).T, kernel(new, landmarks))
        traces.append(np.trace(exact - approximated(phi, x)))
    np.testing.assert_allclose(approximated(phi, x), exact, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(phi(new) @ phi(x).T, kernel(new, x), atol=1e-9)
    # One key: more landmarks are the former ones and others.
    assert (np.diff(traces) < 0).all()
    assert traces[0] > 0.1 * np.trace(exact)


def test_nystrom_of_low_rank_needs_that_many_landmarks(rng, x64):
    x, new = draw(rng, width=3), draw(rng, width=3)
    kernel = functools.partial(kernels.polynomial, degree=1)
    expected = new @ new.T + 1
    for m in (4, 5, N):
        phi = features_for(kernel, x, n_features=m, key=KEY, method=nystrom)
        np.testing.assert_allclose(approximated(phi, new), expected, atol=1e-9)
    phi = features_for(kernel, x, n_features=3, key=KEY, method=nystrom)
    assert abs(approximated(phi, new) - expected).max() > 0.1


def test_nystrom_equals_that_of_scikit_learn(rng, x64):
    reference = pytest.importorskip("sklearn.kernel_approximation").Nystroem
    x = draw(rng, n=40)
    other = reference(gamma=1 / (2 * H**2), n_components=10, random_state=0).fit(x)
    phi = features_for(
        GAUSSIAN, other.components_, n_features=10, key=KEY, method=nystrom
    )
    features = other.transform(x)
    np.testing.assert_allclose(approximated(phi, x), features @ features.T, atol=1e-9)


def test_nystrom_in_float32_is_exact_to_four_digits(rng):
    x = draw(rng, n=100, width=2).astype(np.float32)
    phi = features_for(GAUSSIAN, x, n_features=100, key=KEY, method=nystrom)
    exact = FORMULAS[kernels.gaussian](*2 * [x.astype(float)], H)
    np.testing.assert_allclose(approximated(phi, x), exact, atol=3e-4)


@every_method
def test_masked_samples_are_as_if_absent(method, rng, x64):
    x, mask = draw(rng), np.arange(N) < 6
    x[~mask] += 1e6
    build = functools.partial(
        features_for, GAUSSIAN, n_features=6, key=KEY, method=method
    )
    found, alone = build(x, weights=mask), build(x[mask])
    np.testing.assert_allclose(
        approximated(found, x[mask]), approximated(alone, x[mask]), atol=1e-9
    )
    if method is nystrom:
        # Inside `jit` none can be refused: what is missing adds nothing.
        many = jax.jit(
            lambda weights: features_for(
                GAUSSIAN, x, n_features=9, key=KEY, method=nystrom, weights=weights
            )
        )(mask)
        assert (many.arrays.points < 1e5).all()
        exact = GAUSSIAN(*2 * [jnp.asarray(x[mask])])
        np.testing.assert_allclose(approximated(many, x[mask]), exact, atol=1e-9)


def test_weights_are_chances_to_be_a_landmark():
    x, weights = jnp.array([[0.0], [1.0]]), jnp.array([1.0, 3.0])

    def first(key):
        phi = features_for(
            GAUSSIAN, x, n_features=1, key=key, method=nystrom, weights=weights
        )
        return phi.arrays.points[0, 0]

    share = jax.vmap(first)(jax.random.split(KEY, 1000)).mean()
    assert abs(share - 0.75) < 5 * (0.75 * 0.25 / 1000) ** 0.5


@every_method
def test_jit_equals_eager_and_the_key_decides(method, rng):
    x = jnp.asarray(draw(rng).astype(np.float32))

    def features(x, key):
        return features_for(GAUSSIAN, x, n_features=6, key=key, method=method)(x)

    eager = features(x, KEY)
    np.testing.assert_allclose(jax.jit(features)(x, KEY), eager, atol=1e-5)
    np.testing.assert_array_equal(features(x, KEY), eager)
    assert abs(features(x, jax.random.key(1)) - eager).max() > 0.01
    np.testing.assert_array_equal(features(x, jax.random.PRNGKey(0)), eager)


@every_method
def test_mapped_equals_the_loop(method, rng, x64):
    x = draw(rng)
    bandwidths, clouds = jnp.array([0.7, 1.3, 2.0]), jnp.asarray([draw(rng), x, 2 * x])

    def build(h, x):
        kernel = functools.partial(kernels.gaussian, bandwidth=h)
        return features_for(kernel, x, n_features=6, key=KEY, method=method)

    maps = jax.vmap(build, in_axes=(0, None))(bandwidths, x)
    found = jax.vmap(lambda phi: phi(x))(maps)
    expected = [build(h, x)(x) for h in bandwidths]
    np.testing.assert_allclose(found, jnp.stack(expected), atol=1e-9)
    found = jax.vmap(lambda z: build(H, z)(z))(clouds)
    expected = [build(H, z)(z) for z in clouds]
    np.testing.assert_allclose(found, jnp.stack(expected), atol=1e-9)
    # A bad one in a sweep marks its own map.
    maps = jax.vmap(build, in_axes=(0, None))(jnp.array([1.0, 0.0, -1.0]), x)
    features = jax.vmap(lambda phi: phi(x))(maps)
    assert np.isfinite(features[0]).all()
    assert np.isnan(features[1:]).all()


@every_kernel
@every_method
def test_slopes_match_finite_differences(method, kernel, rng, x64):
    # Copies give the table of the landmarks equal eigenvalues and a null space.
    x = jnp.asarray(np.concatenate([np.eye(D), np.eye(D), 2 * np.eye(D)[:2]]))
    new, mix = jnp.asarray(draw(rng)), draw(rng, width=N)

    def total(h, new):
        bound = functools.partial(kernel, bandwidth=h)
        phi = features_for(bound, x, n_features=N, key=KEY, method=method)
        return (mix * phi(new)).sum()

    slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(H, new)
    step = 1e-5
    ends = [total(H + s, new) for s in (step, -step)]
    np.testing.assert_allclose(2 * step * slopes[0], ends[0] - ends[1], rtol=1e-5)
    along = step * draw(rng)
    ends = [total(H, new + s * along) for s in (1, -1)]
    np.testing.assert_allclose(
        2 * (slopes[1] * along).sum(), ends[0] - ends[1], rtol=1e-5
    )


def test_slopes_where_landmarks_are_more_than_the_rank(rng, x64):
    x, new, mix = draw(rng, width=2), draw(rng, width=2), draw(rng, width=N)
    kernel = functools.partial(kernels.polynomial, degree=1)

    def total(x):
        phi = features_for(kernel, x, n_features=N, key=KEY, method=nystrom)
        return (mix * phi(new)).sum()

    step = 1e-5 * draw(rng, width=2)
    slopes = jax.grad(total)(jnp.asarray(x))
    ends = total(x + step) - total(x - step)
    np.testing.assert_allclose(2 * (slopes * step).sum(), ends, rtol=1e-5)


@every_method
def test_one_trace_for_all_draws_and_parameters(method, rng):
    x, traces = jnp.asarray(draw(rng).astype(np.float32)), []

    @jax.jit
    def mapped(phi, x):
        traces.append(phi)
        return phi(x)

    for seed in range(3):
        kernel = functools.partial(kernels.gaussian, bandwidth=1.0 + seed)
        phi = features_for(
            kernel, x, n_features=6, key=jax.random.key(seed), method=method
        )
        np.testing.assert_allclose(mapped(phi, x), phi(x), atol=1e-6)
    assert len(traces) == 1


def test_a_kernel_of_ones_own_is_traced_once_for_each_use(rng):
    x, calls = draw(rng), []

    def own(x, y, *, scale):
        calls.append(scale)
        return jnp.exp(-kernels.squared_distances(x, y) / scale)

    for scale in (1.0, 2.0, 3.0):
        phi = features_for(
            functools.partial(own, scale=scale),
            x,
            n_features=6,
            key=KEY,
            method=nystrom,
        )
        phi(x)
    assert len(calls) == 2


@every_method
def test_dtypes_and_immutability(method, rng):
    x = draw(rng)
    build = functools.partial(
        features_for, GAUSSIAN, n_features=6, key=KEY, method=method
    )
    for samples in (x, x.astype(np.float16), np.round(3 * x).astype(int)):
        phi = build(samples)
        assert {a.dtype for a in jax.tree.leaves(phi)} == {jnp.dtype("float32")}
        assert phi(samples).dtype == jnp.float32
        assert phi(samples).shape == (N, 6)
        assert phi(samples[:0]).shape == (0, 6)
    with jax.enable_x64(True):
        phi = build(x)
        assert phi(x).dtype == phi(x.astype(np.float32)).dtype == jnp.float64
        assert build(x.astype(np.float32))(x).dtype == jnp.float32
    with pytest.raises(AttributeError):
        phi.arrays = None


BAD = [
    ({"kernel": "rbf"}, "`kernel` must be a function"),
    ({"kernel": kernels.gaussian}, "`kernel` needs a bandwidth"),
    ({"kernel": functools.partial(kernels.gaussian)}, "`kernel` needs a bandwidth"),
    (
        {"kernel": functools.partial(kernels.gaussian, bandwidth=0.0)},
        "`bandwidth` of `kernel` must be positive",
    ),
    (
        {"kernel": functools.partial(kernels.gaussian, bandwidth=np.ones(D))},
        "must be a scalar",
    ),
    (
        {
            "kernel": functools.partial(
                kernels.gaussian_sum, bandwidth=1.0, n_bandwidths=0
            )
        },
        "`n_bandwidths` must be a positive",
    ),
    ({"kernel": kernels.energy}, "is energy. .* use `method=kernels.nystrom`"),
    ({"kernel": kernels.polynomial}, "use `method=kernels.nystrom`"),
    ({"kernel": functools.partial(cosine, scale=1.0)}, "is cosine. .*nystrom`"),
    ({"n_features": 0}, "`n_features` must be at least 1"),
    ({"n_features": 7}, "`n_features` must be even"),
    ({"samples": np.full((N, D), np.nan)}, "`samples` must be finite"),
    ({"samples": np.ones(N)}, "`samples` must hold at least one point"),
    ({"weights": -np.ones(N)}, "`weights` must not be negative"),
    ({"weights": np.zeros(N)}, "`weights` must have a positive entry"),
    ({"weights": np.ones(N + 1)}, "`weights` must have as many entries as `samples`"),
    ({"method": nystrom, "n_features": N + 1}, "`n_features` must be at most 12"),
    ({"method": nystrom, "weights": np.arange(N) < 5}, "must be at most 5, the number"),
    ({"method": nystrom, "kernel": kernels.energy}, "positive semidefinite"),
    (
        {"method": nystrom, "kernel": lambda x, y: jnp.nan * GAUSSIAN(x, y)},
        "must be finite and positive semidefinite",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_refused_at_the_door(change, message, rng, untyped):
    given = {"kernel": GAUSSIAN, "samples": draw(rng), "n_features": 6, "key": KEY}
    given |= change
    with pytest.raises(ValueError, match=message):
        features_for(given.pop("kernel"), given.pop("samples"), **given)


@every_method
def test_a_map_refuses_other_samples(method, rng, untyped):
    x = draw(rng)
    phi = features_for(GAUSSIAN, x, n_features=6, key=KEY, method=method)
    with pytest.raises(ValueError, match="`samples` must have the 5 columns"):
        phi(x[:, :3])
    with pytest.raises(ValueError, match="`samples` must have the 5 columns"):
        phi(x[0])
    with pytest.raises(ValueError, match="`samples` must be finite"):
        phi(np.full((2, D), np.inf))
