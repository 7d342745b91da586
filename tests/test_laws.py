"""Laws that every member of a family obeys; members are discovered, not listed.

A public function joins its family by living in the family's module. Its arguments are
filled in by name from `problem`; a function with a new argument word fails
`test_arguments_are_known` until the word is added to `arguments`.
"""

import collections
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from fairjax import divergences, erm, kernels, metrics, notions, penalties

N, N_GROUPS, N_STRATA = 24, 3, 2
# Functions that every family is known to have: discovery must find at least these.
FAMILIES = {
    notions: {"conditional_parity", "demographic_parity", "equal_opportunity"},
    penalties: {"mean_gap", "risk_gap", "divergence_gap", "covariance"},
    metrics: {"accuracy", "group_means", "ks_distance", "max_gap", "wasserstein"},
}
# `intersect` joins codes and has no distribution to return, `bootstrap` is random,
# `orthogonality` sees no samples, `audit_stream` reads files, `interval` takes another
# member, and the reports of scores take rows or counts. An `*_info` holds the value of
# the member beside it.
OUTSIDE = {
    "intersect",
    "bootstrap",
    "orthogonality",
    "audit_stream",
    "interval",
    "ks_by_chance",
    "score_distances",
    "score_gaps",
}
# What `metrics` and `penalties` are made of, tested through these.
INNER = {"fairjax.notions.cells"}
# Accuracies, means and ratios are not distances, so equal groups do not make them 0.
NOT_A_GAP = {
    "accuracy",
    "audit",
    "balanced_accuracy",
    "covariance",
    "group_means",
    "min_ratio",
}


# What sorts the scores of each group by itself: a sample must be in one.
NEEDS_GROUPS = {"audit", "price_of_fairness", "wasserstein"}


def problem(rng, n=N):
    """Samples in every cell, with one array per argument word."""
    return {
        "scores": rng.normal(size=n).astype(np.float32),
        "values": rng.exponential(size=n).astype(np.float32),
        "decisions": rng.integers(2, size=n),
        "z": rng.normal(size=(n, 2)).astype(np.float32),
        "attribute": rng.normal(size=n).astype(np.float32),
        "labels": np.arange(n) % 2,
        "strata": np.arange(n) % 2,
        "groups": np.arange(n) // 2 % N_GROUPS,
        "weights": rng.uniform(0.5, 2, size=n).astype(np.float32),
    }


def arguments(function, data):
    """Fills in the arguments of `function` by name."""
    known = data | {
        "n_groups": N_GROUPS,
        "n_strata": N_STRATA,
        "loss": erm.logistic,
        "divergence": functools.partial(
            divergences.sliced_wasserstein, directions=np.eye(2)
        ),
    }
    names = inspect.signature(function).parameters
    if "cond" in names:
        known["cond"] = notions.equalized_odds(
            data["groups"], data["labels"], n_groups=N_GROUPS, weights=data["weights"]
        )
    return {name: known[name] for name in names if name in known}


def evaluate(function, data):
    """The value of a member, for a notion what it says about some values."""
    data = jax.tree.map(jnp.asarray, data)
    value = function(**arguments(function, data))
    if isinstance(value, notions.Conditionals):
        return metrics.group_means(data["values"], value), value.occupied
    return value


def members(module):
    return [
        function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__.startswith(module.__name__)
        and not function.__module__.endswith(".cells")
        and not name.startswith("_")
        and name not in OUTSIDE
        and function.__module__ not in INNER
        and not name.endswith("_info")
    ]


EVERYONE = [function for module in FAMILIES for function in members(module)]
every_member = pytest.mark.parametrize(
    "function", EVERYONE, ids=lambda f: f"{f.__module__.split('.')[-1]}.{f.__name__}"
)


TRACES = collections.Counter()


@functools.cache
def jitted(function):
    def traced(data):
        TRACES[function] += 1
        return evaluate(function, data)

    return jax.jit(traced)


@functools.cache
def mapped(function):
    return jax.jit(jax.vmap(functools.partial(evaluate, function)))


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def pad(data, rng, n=3 * N):
    """The samples among others without weight, in any order."""
    extra = problem(rng, n - len(data["weights"]))
    extra["weights"] = np.zeros_like(extra["weights"])
    order = rng.permutation(n)
    return {word: np.concatenate([data[word], extra[word]])[order] for word in data}


def assert_close(found, expected, atol=2e-6):
    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)

    jax.tree.map(compare, found, expected)


@pytest.mark.parametrize("module", FAMILIES)
def test_discovery_finds_the_known_members(module):
    names = {function.__name__ for function in members(module)}
    assert names >= FAMILIES[module]
    if module is notions:
        returned = {inspect.signature(f).return_annotation for f in members(module)}
        assert returned == {notions.Conditionals}


@every_member
def test_arguments_are_known(function, rng):
    required = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    assert required <= set(arguments(function, problem(rng)))


@every_member
def test_a_column_in_place_of_numbers_is_refused(function, rng, untyped):
    """Compared with a row, each of its entries would meet each of the others."""
    given = arguments(function, jax.tree.map(jnp.asarray, problem(rng)))
    for name, parameter in inspect.signature(function).parameters.items():
        array = given.get(name)
        table = "n k" in str(parameter.annotation) or "n g" in str(parameter.annotation)
        if getattr(array, "shape", None) != (N,) or table:
            continue
        if function is notions.demographic_parity and name == "labels":
            continue  # They are not read.
        with pytest.raises(ValueError, match=r"shape \(24, 1\)"):
            function(**given | {name: array[:, None]})


@every_member
def test_jit_equals_eager_with_one_trace(function, rng):
    jitted(function)(problem(rng))
    before = TRACES[function]
    for _ in range(3):
        data = problem(rng)
        assert_close(jitted(function)(data), evaluate(function, data))
    assert TRACES[function] == before > 0


@every_member
def test_mapped_and_masked_equals_each_subset(function, rng):
    if not {"cond", "weights"} & set(inspect.signature(function).parameters):
        pytest.fail("no way in for sample weights: neither `cond` nor `weights`")
    subsets = [problem(rng) for _ in range(3)]
    found = mapped(function)(stack([pad(data, rng) for data in subsets]))
    assert_close(found, stack([jitted(function)(data) for data in subsets]))


@every_member
def test_order_of_samples_does_not_matter(function, rng):
    data, order = problem(rng), rng.permutation(N)
    shuffled = {word: array[order] for word, array in data.items()}
    assert_close(jitted(function)(shuffled), jitted(function)(data))


@every_member
def test_names_of_groups_do_not_matter(function, rng):
    data, codes = problem(rng), np.array([2, 0, 1])
    renamed = data | {"groups": codes[data["groups"]]}
    found = jitted(function)(renamed)

    def back(leaf):
        """The last axis of a value that is not a scalar is the group."""
        return np.asarray(leaf)[..., codes] if np.ndim(leaf) else leaf

    assert_close(jax.tree.map(back, found), jitted(function)(data))


@every_member
def test_gradients_are_finite_with_and_without_ties(function, rng):
    words = {"scores", "values", "z", "weights"}
    if function.__name__ == "audit":
        pytest.skip("made of other members")

    @jax.jit
    @jax.grad
    def slopes(smooth, data):
        leaves = jax.tree.leaves(evaluate(function, data | smooth))
        return sum(leaf.astype(float).sum() for leaf in leaves)

    data = problem(rng)
    smooth = {word: data[word] for word in words}
    for point in (smooth, jax.tree.map(np.ones_like, smooth)):
        for slope in slopes(point, data).values():
            assert np.isfinite(slope).all()


@every_member
def test_memberships_equal_rows_repeated_once_per_group(function, rng, untyped):
    cases = [problem(rng) for _ in range(3)]
    likely = rng.dirichlet(np.ones(N_GROUPS), size=(3, N)).astype(np.float32)
    likely[:, :4] = np.eye(N_GROUPS)[[0, 1, 2, 0]]
    uncertain = [
        data | {"groups": rows} for data, rows in zip(cases, likely, strict=True)
    ]
    if function.__name__ in NEEDS_GROUPS:
        with pytest.raises(ValueError, match="in one group per stratum, but sample 4"):
            evaluate(function, uncertain[0])
        leaves = jax.tree.leaves(jitted(function)(uncertain[0]))
        assert any(np.isnan(leaf).any() for leaf in leaves)
        return
    repeated = [
        {word: np.repeat(array, N_GROUPS, axis=0) for word, array in data.items()}
        for data in cases
    ]
    for data, rows in zip(repeated, likely, strict=True):
        data["groups"] = np.tile(np.arange(N_GROUPS), N)
        data["weights"] = data["weights"] * rows.ravel()
    found = [jitted(function)(data) for data in uncertain]
    assert_close(stack(found), mapped(function)(stack(repeated)))
    assert_close(evaluate(function, uncertain[0]), found[0])


@every_member
def test_equal_groups_have_no_gap(function, rng):
    if function in members(notions) or function.__name__ in NOT_A_GAP:
        pytest.skip("not a distance between groups")
    block = problem(rng, n=N // N_GROUPS)
    data = {word: np.concatenate([array] * N_GROUPS) for word, array in block.items()}
    data["groups"] = np.repeat(np.arange(N_GROUPS), N // N_GROUPS)
    assert_close(jitted(function)(data), 0.0)
    unequal = data | {
        word: (data[word].T + data["groups"].astype(np.float32)).T
        for word in ("scores", "values", "z")
    }
    assert jitted(function)(unequal) > 1e-3


# Divergences compare two clouds instead of the cells of a notion.
POINTS = 10
OPTIONS = {
    "epsilon": 0.5,
    "directions": np.eye(3),
    "kernel": functools.partial(kernels.gaussian, bandwidth=1.0),
    "bandwidth": 1.0,
}
# The numbers that a sweep varies, in units of those above.
SWEPT = {
    "sinkhorn": lambda number: {"epsilon": 0.5 * number},
    "mmd_squared": lambda number: {
        "kernel": functools.partial(kernels.gaussian, bandwidth=number)
    },
    "mmd_random_features": lambda number: {"bandwidth": number},
}
# `hsic` takes pairs, and `mmd_linear_time` no weights.
OF_OTHER_SAMPLES = {"hsic", "mmd_linear_time"}
ONLY_REVERSE = {"sinkhorn"}
DIVERGENCES = [
    function
    for name, function in vars(divergences).items()
    if inspect.isfunction(function)
    and function.__module__.startswith("fairjax.")
    and not name.startswith("_")
    and not name.endswith("_info")
    and name not in OF_OTHER_SAMPLES
]
every_divergence = pytest.mark.parametrize(
    "function", DIVERGENCES, ids=lambda f: f.__name__
)


def clouds(rng, n=POINTS):
    """Points and weights of both clouds, and the number that a sweep varies."""
    x, y = rng.normal(size=(2, n, 3))
    return (x, y + 0.5, *rng.uniform(0.5, 2, size=(2, n)), np.float64(1))


def pad_clouds(x, y, x_weights, y_weights, number, rng):
    """The clouds with points without weight, those of one cloud in any order."""
    far = rng.normal(size=(2, 3, 3)) * 5
    order = rng.permutation(POINTS + 3)
    x, y = np.concatenate([x, far[0]])[order], np.concatenate([y, far[1]])
    a, b = np.append(x_weights, np.zeros(3))[order], np.append(y_weights, np.zeros(3))
    return x, y, a, b, number


def diverge(function, x, y, x_weights, y_weights, number):
    names = inspect.signature(function).parameters
    options = {name: OPTIONS[name] for name in names if name in OPTIONS}
    if function.__name__ in SWEPT:
        options |= SWEPT[function.__name__](number)
    if "key" in names and "directions" not in names:
        options["key"] = jax.random.key(0)
    if function.__name__ == "wasserstein_1d":
        x, y = x[:, 0], y[:, 0]
    return function(x, y, x_weights=x_weights, y_weights=y_weights, **options)


@functools.cache
def sloped(function):
    """Value and slopes, the one program of most laws."""

    def traced(*data):
        TRACES[function] += 1
        return diverge(function, *data)

    return jax.jit(jax.value_and_grad(traced, argnums=range(5)))


def value(function, *data):
    return sloped(function)(*data)[0]


@functools.cache
def sloped_batch(function):
    return jax.jit(jax.vmap(sloped(function)))


def test_discovery_finds_the_known_divergences():
    names = {function.__name__ for function in DIVERGENCES}
    assert names >= {
        "energy_distance",
        "mmd_random_features",
        "mmd_squared",
        "sinkhorn",
        "sliced_wasserstein",
        "wasserstein_1d",
    }
    assert set(SWEPT) <= names


@every_divergence
def test_a_divergence_is_zero_for_equal_clouds_and_positive_otherwise(
    function, rng, x64
):
    x, y, weights, _, number = clouds(rng)
    order = rng.permutation(POINTS)
    equal = value(function, x, x[order], weights, weights[order], number)
    # The root of a mean square doubles the share of digits that rounding takes.
    np.testing.assert_allclose(equal, 0, atol=1e-7)
    assert value(function, x, y, weights, weights, number) > 1e-2


@every_divergence
def test_a_divergence_is_symmetric_and_blind_to_order(function, rng, x64):
    x, y, a, b, number = clouds(rng)
    expected = value(function, x, y, a, b, number)
    swapped = value(function, y, x, b, a, number)
    np.testing.assert_allclose(swapped, expected, rtol=1e-7)
    order = rng.permutation(POINTS)
    shuffled = value(function, x[order], y, a[order], b, number)
    # Random features turn all angles by those of the mean, and rounding with them.
    np.testing.assert_allclose(shuffled, expected, rtol=1e-7)


@every_divergence
def test_a_jitted_divergence_equals_the_eager_one_with_one_trace(function, rng, x64):
    diverge(function, *clouds(rng))  # Imports what it needs, outside of a trace.
    value(function, *clouds(rng))
    before = TRACES[function]
    for _ in range(3):
        data = clouds(rng)
        found = value(function, *data)
        np.testing.assert_allclose(found, diverge(function, *data), rtol=1e-9)
    assert TRACES[function] == before > 0


@every_divergence
def test_a_mapped_and_masked_divergence_equals_each_subset(function, rng, x64):
    subsets = [clouds(rng) for _ in range(4)]
    padded = stack([pad_clouds(*data, rng) for data in subsets])
    looped = [value(function, *data) for data in subsets]
    found = sloped_batch(function)(*padded)[0]
    np.testing.assert_allclose(found, looped, rtol=1e-7)


@every_divergence
def test_a_batch_over_devices_equals_the_loop_with_its_slopes(function, rng, x64):

    batch = [clouds(rng) for _ in range(4)]
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("batch")
    spread = jax.shard_map(
        jax.vmap(sloped(function)), mesh=mesh, in_specs=rows, out_specs=rows
    )
    stacked = [np.stack(arrays) for arrays in zip(*batch, strict=True)]
    found = jax.jit(spread)(*stacked)
    looped = [sloped(function)(*data) for data in batch]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *looped)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@every_divergence
def test_forward_mode_equals_reverse_mode_or_is_refused(function, rng, x64):
    data, moves = clouds(rng), clouds(rng)
    alone = jax.jit(functools.partial(diverge, function))
    if function.__name__ in ONLY_REVERSE:
        with pytest.raises(TypeError, match="forward-mode|custom_vjp"):
            jax.jvp(alone, data, moves)
        return
    forward = jax.jvp(alone, data, moves)[1]
    slopes = sloped(function)(*data)[1]
    backward = sum(np.vdot(s, move) for s, move in zip(slopes, moves, strict=True))
    np.testing.assert_allclose(forward, backward, rtol=1e-8)


@pytest.mark.parametrize("function", DIVERGENCES, ids=lambda f: f.__name__)
def test_a_sweep_over_its_number_equals_the_loop(function, rng, x64):
    if function.__name__ not in SWEPT:
        pytest.skip("has no number to sweep")
    *data, _ = clouds(rng)
    points = [(*data, number) for number in np.array([0.5, 1, 2, 6])]
    value, slopes = sloped_batch(function)(
        *stack([pad_clouds(*point, rng) for point in points])
    )
    expected, looped = stack([sloped(function)(*point) for point in points])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slopes[-1], looped[-1], rtol=1e-6)


@every_divergence
def test_bad_numbers_inside_jit_are_never_a_plausible_value(function, rng, x64):
    x, y, a, b, number = clouds(rng)
    for at in (0, POINTS - 1):
        spoilt, owed = x.copy(), a.copy()
        spoilt[at, 0], owed[at] = np.nan, -1.0
        assert np.isnan(value(function, spoilt, y, a, b, number))
        assert np.isnan(value(function, x, y, owed, b, number))


@every_divergence
def test_slopes_of_a_divergence_are_finite_where_points_coincide(function, rng, x64):
    x, y, a, b, number = clouds(rng)
    y[:4], x[5] = x[:4], x[6]
    masked = a * (np.arange(POINTS) > 2)
    for data in (x, y, a, b), (x, y, masked, b), (x, x, a, a), (0 * x, 0 * x, a, b):
        for slope in sloped(function)(*data, number)[1]:
            assert np.isfinite(slope).all()
