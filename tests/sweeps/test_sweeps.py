import collections
import itertools
import json
import math
import os
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fairjax import sweeps


class Fit(collections.namedtuple("Fit", ["loss", "coef", "steps"])):
    __slots__ = ()


def toy(point):
    """Gradient descent on a small ridge problem: loops, several leaves and dtypes."""
    features = jnp.arange(12.0).reshape(4, 3) / 10
    target = jnp.array([1.0, -1.0, 0.5, 2.0])

    def step(_, coef):
        residual = features @ coef - target
        return coef - point["rate"] * (features.T @ residual + point["lam"] * coef)

    coef = jax.lax.fori_loop(0, 5, step, jnp.zeros(3))
    loss = jnp.sum((features @ coef - target) ** 2)
    return Fit(loss, {"w": coef}, (loss > 1).astype(jnp.int32))


POINTS = sweeps.grid(lam=[0.0, 0.1, 1.0, 10.0], rate=[0.01, 0.1])


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)


def counted(fn):
    def wrapped(*args):
        wrapped.traces += 1
        return fn(*args)

    wrapped.traces = 0
    return wrapped


# grid


def test_grid_is_the_cartesian_product_with_the_last_axis_fastest():
    points = sweeps.grid(a=[1, 2], b=np.array([0.5, np.inf, 2.0]), c=[True])
    rows = list(zip(*(points[k].tolist() for k in "abc"), strict=True))
    assert rows == list(itertools.product([1, 2], [0.5, math.inf, 2.0], [True]))
    assert [points[k].dtype.kind for k in "abc"] == ["i", "f", "b"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "needs an axis"),
        ({"lam": []}, "`lam` must be a list of at least one value"),
        ({"lam": 1.0}, r"Write a fixed value as \[value\]"),
        ({"lam": [[1.0]]}, "`lam` must be a list"),
        ({"lam": [0.0, math.nan]}, "no NaN"),
        ({"lam": ["a"]}, "must hold numbers"),
        ({"seed": [0, 2**40]}, "`seed` holds 1099511627776, which int32"),
        ({"lam": [1e300]}, "which float32"),
    ],
)
def test_grid_refuses(axes, message):
    with pytest.raises(ValueError, match=message):
        sweeps.grid(**axes)


@pytest.mark.usefixtures("x64")
def test_grid_keeps_double_precision():
    assert sweeps.grid(lam=[1e300])["lam"].tolist() == [1e300]


# run


@pytest.fixture(scope="module")
def toy_loop():
    one = jax.jit(toy)
    fits = [one({k: v[i] for k, v in POINTS.items()}) for i in range(8)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize(
    ("fn", "strategy"),
    [
        (toy, None),
        (toy, sweeps.mapped),
        (toy, sweeps.vmapped),
        (jax.vmap(toy), sweeps.batched),
        (toy, lambda fn: jax.vmap(fn)),
    ],
)
def test_every_strategy_and_chunk_equals_the_loop(fn, strategy, chunk, toy_loop):
    result = sweeps.run(fn, POINTS, strategy=strategy, chunk=chunk)
    close(result.values, toy_loop)
    same_bits(result.points, POINTS)
    assert result.finite.tolist() == [True] * 8


@pytest.mark.parametrize("strategy", [sweeps.mapped, sweeps.vmapped])
def test_all_chunks_share_one_trace_and_one_compilation(strategy):
    fn = counted(toy)
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event)
    )
    try:
        sweeps.run(fn, POINTS, strategy=strategy, chunk=3)
        first = compilations.count("/jax/core/compile/backend_compile_duration")
        compilations.clear()
        sweeps.run(fn, POINTS, strategy=strategy, chunk=3)
    finally:
        jax.monitoring.clear_event_listeners()
    again = compilations.count("/jax/core/compile/backend_compile_duration")
    assert fn.traces == 2
    assert first >= again == 1


def test_a_second_call_sees_what_a_function_reads_from_outside():
    outside = [jnp.array([1.0, 2.0])]

    def fn(x):
        return outside[0].sum() * x

    points = jnp.arange(3.0)
    assert sweeps.run(fn, points).values.tolist() == [0, 3, 6]
    outside[0] = jnp.array([100.0, 2.0])
    assert sweeps.run(fn, points).values.tolist() == [0, 102, 204]


@pytest.mark.parametrize(
    ("backend", "expected"), [("cpu", "mapped"), ("gpu", "vmapped"), ("tpu", "vmapped")]
)
def test_the_default_strategy_follows_the_device(backend, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert sweeps.default_strategy() is getattr(sweeps, expected)


@pytest.mark.parametrize("strategy", [sweeps.mapped, sweeps.vmapped])
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_failed_point_is_flagged_and_leaves_its_neighbours_alone(
    strategy, chunk, bad
):
    spoiled = POINTS | {"lam": POINTS["lam"].at[4].set(bad)}
    good = sweeps.run(toy, POINTS, strategy=strategy, chunk=chunk)
    mixed = sweeps.run(toy, spoiled, strategy=strategy, chunk=chunk)
    assert mixed.finite.tolist() == [True] * 4 + [False] + [True] * 3
    keep = np.arange(8) != 4
    rest = [jax.tree.map(lambda leaf: leaf[keep], r.values) for r in (good, mixed)]
    same_bits(*rest)


def test_finite_looks_at_every_floating_leaf_and_at_no_other():
    def fn(x):
        return {"i": jnp.int32(7), "none": jnp.zeros((0,)), "m": jnp.ones((2, 2)) / x}

    result = sweeps.run(fn, jnp.array([1.0, 0.0]))
    assert result.finite.tolist() == [True, False]
    assert sweeps.run(lambda x: x > 0, jnp.array([jnp.nan])).finite.tolist() == [True]


def test_points_may_be_any_pytree_of_arrays_even_keys():
    points = (jax.random.split(jax.random.key(0), 5), [np.arange(5)])

    def draw(point):
        return jax.random.normal(point[0], (2,)) * jnp.float32(point[1][0])

    result = sweeps.run(draw, points, chunk=2)
    expected = [draw((points[0][i], [i])) for i in range(5)]
    np.testing.assert_allclose(result.values, np.stack(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("chunk", "expected"), [(3, [(3, 7), (6, 7), (7, 7)]), (100, [(7, 7)])]
)
def test_progress_reports_points_done(chunk, expected):
    calls = []
    result = sweeps.run(
        lambda x: x + 1,
        jnp.arange(7.0),
        chunk=chunk,
        progress=lambda *c: calls.append(c),
    )
    assert calls == expected
    assert result.values.tolist() == list(range(1, 8))


def test_progress_bar_draws_only_on_a_terminal(monkeypatch, capsys):
    with sweeps.progress_bar("quiet") as progress:
        progress(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with sweeps.progress_bar("loud") as progress:
        progress(2, 2)
    assert "loud" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with sweeps.progress_bar() as progress:
        progress(1, 2)


def test_exceptions_in_the_function_pass_through():
    def fn(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sweeps.run(fn, jnp.arange(2.0))


@pytest.mark.parametrize(
    ("fn", "points", "options", "message"),
    [
        (jnp.sin, {}, {}, "one leading axis in common"),
        (jnp.sin, jnp.zeros(0), {}, "at least 1 long"),
        (jnp.sin, jnp.array(1.0), {}, "one leading axis in common"),
        (jnp.sin, [0.1, 0.2], {}, "sweeps.grid"),
        (sum, [jnp.zeros(2), jnp.zeros(3)], {}, r"shapes are \[\(2,\), \(3,\)\]"),
        (jnp.sin, jnp.zeros(2), {"chunk": 0}, "`chunk` must be an integer of at least"),
        (lambda x: None, jnp.zeros(2), {}, "at least one array"),
        (jnp.sum, jnp.zeros(2), {"strategy": sweeps.batched}, "leading axis 2"),
    ],
)
def test_run_refuses(fn, points, options, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run(fn, points, **options)


def test_run_inside_jit_says_what_to_call_instead():
    with pytest.raises(ValueError, match=r"sweeps\.mapped\(fn\)\(points\)"):
        jax.jit(lambda x: sweeps.run(jnp.sin, x).values)(jnp.arange(2.0))


def test_bound_data_are_arguments_of_the_program_not_constants():
    seen = []

    def fn(data, x):
        seen.append(isinstance(data, jax.core.Tracer))
        return x * data.sum()

    result = sweeps.run(Partial(fn, np.ones(3)), jnp.arange(2.0), chunk=1)
    assert seen == [True]
    assert result.values.tolist() == [0.0, 3.0]


# checkpoints


def test_a_resumed_sweep_computes_nothing_and_has_the_same_bits(tmp_path):
    folder = tmp_path / "new" / "sweep"
    plain = sweeps.run(toy, POINTS, chunk=3)
    first = sweeps.run(toy, POINTS, chunk=3, checkpoint=folder)
    written = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    again = sweeps.run(toy, POINTS, chunk=3, checkpoint=str(folder))
    same_bits(plain, first)
    same_bits(first, again)
    assert sorted(written) == [
        *(f"chunk-0000{i}.npz" for i in range(3)),
        "sweep.json",
    ]
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == written


def test_bfloat16_results_survive_the_checkpoint(tmp_path):
    def fn(x):
        return (x.astype(jnp.bfloat16), x > 1, jnp.stack([x, x]).astype(jnp.complex64))

    first = sweeps.run(fn, jnp.arange(3.0), checkpoint=tmp_path)
    same_bits(first, sweeps.run(fn, jnp.arange(3.0), checkpoint=tmp_path))
    assert first.values[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": sweeps.grid(lam=[0.1, 0.2, 0.3])}, r"points\['lam'\] is float32"),
        ({"points": sweeps.grid(mu=[0.1, 0.2])}, r"points\['mu'\] is absent there"),
        ({"chunk": 2}, "chunk is 1 there, 2 here"),
        ({"tag": "v2"}, "tag is v1 there, v2 here"),
        ({"strategy": sweeps.vmapped}, "strategy is mapped there, vmapped here"),
        ({"data": np.zeros(3)}, r"data\[0\] is float32\[3\] sha256"),
        ({"returns": jnp.int32}, r"results is float32\[1\] there, int32\[1\] here"),
    ],
)
def test_a_checkpoint_of_another_sweep_is_refused(change, message, tmp_path):
    def start(points=None, data=None, returns=jnp.float32, **options):
        fn = Partial(
            lambda d, p: (d.sum() * sum(p.values())).astype(returns),
            np.ones(3) if data is None else data,
        )
        points = sweeps.grid(lam=[0.1, 0.2]) if points is None else points
        options = {"strategy": sweeps.mapped, "chunk": 1, "tag": "v1"} | options
        return sweeps.run(fn, points, checkpoint=tmp_path, **options)

    start()
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    before = [f.read_bytes() for f in files]
    with pytest.raises(ValueError, match=message) as caught:
        start(**change)
    assert "Name another directory, or delete this one" in str(caught.value)
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == files
    assert [f.read_bytes() for f in files] == before
    start()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of four chunks, and its checkpoint."""
    folder = tmp_path_factory.mktemp("finished")
    points = jnp.linspace(0.0, 1.0, 400)
    return points, sweeps.run(jnp.sin, points, chunk=100, checkpoint=folder), folder


@pytest.mark.parametrize(
    "damage",
    ["empty", "half", "end", "text", "foreign", "gone", *(f"flip {i}" for i in "2468")],
)
def test_a_damaged_chunk_is_recomputed(damage, finished, tmp_path):
    """The second run has the same bits, and computes what is damaged and no more."""
    points, first, kept = finished
    folder = tmp_path / "copy"
    shutil.copytree(kept, folder)
    chunk = folder / "chunk-00001.npz"
    if damage == "foreign":
        shutil.copy(folder / "chunk-00002.npz", chunk)
    else:
        spoil(chunk, damage)
    others = [folder / f"chunk-0000{i}.npz" for i in (0, 2, 3)]
    before = [file.stat().st_mtime_ns for file in others]
    was = chunk.stat().st_mtime_ns if chunk.exists() else None
    same_bits(first, sweeps.run(jnp.sin, points, chunk=100, checkpoint=folder))
    assert [file.stat().st_mtime_ns for file in others] == before
    assert chunk.stat().st_mtime_ns != was
    assert chunk.read_bytes() == (kept / chunk.name).read_bytes()


def spoil(file, damage):
    if damage == "gone":
        file.unlink()
        return
    whole = file.read_bytes()
    place = int(damage.partition(" ")[2] or 5) * len(whole) // 10
    damaged = {
        "empty": b"",
        "half": whole[:place],
        "end": whole[:-1],
        "flip": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        "text": b"hello",
    }
    file.write_bytes(damaged[damage.partition(" ")[0]])


@pytest.mark.parametrize("damaged", ["{", "[]", "3", '"x"', "null"])
def test_a_damaged_manifest_does_not_let_foreign_chunks_in(damaged, tmp_path):
    sweeps.run(jnp.sin, jnp.zeros(2), checkpoint=tmp_path)
    (tmp_path / "sweep.json").write_text(damaged)
    result = sweeps.run(jnp.sin, jnp.ones(2), checkpoint=tmp_path)
    np.testing.assert_allclose(result.values, np.sin([1.0, 1.0]), rtol=1e-6)
    assert json.loads((tmp_path / "sweep.json").read_text())["chunk"] == "2"


def test_a_checkpoint_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a directory that can be written"):
        sweeps.run(jnp.sin, jnp.zeros(2), checkpoint=tmp_path / "file")


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="nowhere to fail")
def test_a_directory_that_takes_no_files_is_refused():
    with pytest.raises(ValueError, match="must be a directory that can be written: "):
        sweeps.run(jnp.sin, jnp.zeros(2), checkpoint="/proc")


def test_a_directory_in_place_of_a_chunk_is_told(tmp_path):
    (tmp_path / "chunk-00000.npz").mkdir()
    with pytest.raises(
        ValueError, match=r"is there and is no file\. Make room, or name"
    ):
        sweeps.run(jnp.sin, jnp.zeros(2), checkpoint=tmp_path)


def test_a_failed_write_is_told_and_leaves_no_chunk_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ValueError, match="cannot be written: .*No space left") as found:
        sweeps.run(jnp.sin, jnp.zeros(2), checkpoint=tmp_path)
    assert str(found.value).endswith("Make room, or name another directory.")
    monkeypatch.undo()
    result = sweeps.run(jnp.sin, jnp.ones(2), checkpoint=tmp_path / "other")
    result = sweeps.run(jnp.sin, jnp.zeros(2), checkpoint=tmp_path)
    assert result.values.tolist() == [0.0, 0.0]
    kept = sorted(f.name for f in tmp_path.iterdir())
    assert kept == ["chunk-00000.npz", "other", "sweep.json"]


# pareto_front


def front_by_definition(quality, unfairness):
    """No other point is at least as good in both and better in one; first of equals."""
    front = []
    for i, (q, u) in enumerate(zip(quality, unfairness, strict=True)):
        dominated = not (math.isfinite(q) and math.isfinite(u))
        for j, (r, v) in enumerate(zip(quality, unfairness, strict=True)):
            if math.isfinite(r) and math.isfinite(v) and r >= q and v <= u:
                dominated |= r > q or v < u or j < i
        front.append(not dominated)
    return front


@pytest.mark.parametrize("m", [1, 2, 7, 60])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_pareto_front_matches_its_definition(m, levels, rng):
    for _ in range(5):
        quality, unfairness = rng.integers(levels, size=(2, m)).astype(np.float32)
        quality[rng.random(m) < 0.1] = np.nan
        unfairness[rng.random(m) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
        expected = front_by_definition(quality, unfairness)
        assert sweeps.pareto_front(quality, unfairness).tolist() == expected
        assert jax.jit(sweeps.pareto_front)(quality, unfairness).tolist() == expected


def test_pareto_front_vmaps(rng):
    tables = jnp.asarray(rng.integers(4, size=(2, 6, 9)).astype(np.float32))
    fronts = jax.vmap(sweeps.pareto_front)(*tables)
    for i in range(6):
        assert fronts[i].tolist() == front_by_definition(*np.asarray(tables[:, i]))


# select


def select_by_definition(accuracy, unfairness, keep, valid):
    able = [
        i
        for i, (a, u) in enumerate(zip(accuracy, unfairness, strict=True))
        if math.isfinite(a) and math.isfinite(u) and valid[i]
    ]
    best = max(accuracy[i] for i in able)
    near = [i for i in able if accuracy[i] >= np.float32(keep) * best]
    return min(near, key=lambda i: (unfairness[i], -accuracy[i], i))


@pytest.mark.parametrize("keep", [0.5, 0.9, 1.0])
def test_select_matches_its_definition(keep, rng):
    for _ in range(20):
        accuracy = (rng.integers(1, 20, size=15) / 20).astype(np.float32)
        unfairness = (rng.integers(4, size=15) / 4).astype(np.float32)
        accuracy[rng.random(15) < 0.1] = np.nan
        unfairness[rng.random(15) < 0.1] = rng.choice([np.nan, np.inf])
        valid = rng.random(15) < 0.9
        expected = select_by_definition(accuracy, unfairness, keep, valid)
        chosen = sweeps.select(accuracy, unfairness, keep=keep, valid=valid)
        assert chosen.item() == expected
        jitted = jax.jit(sweeps.select)(accuracy, unfairness, keep=keep, valid=valid)
        assert jitted.item() == expected


@pytest.mark.parametrize("keep", [0.9, 1.0])
@pytest.mark.parametrize(
    ("accuracy", "unfairness"),
    [([np.nan, 0.5], [0.1, np.inf]), ([-0.5, -0.1], [0.1, 0.2])],
)
def test_select_with_nothing_to_choose(accuracy, unfairness, keep):
    table = np.float32(accuracy), np.float32(unfairness)
    with pytest.raises(ValueError, match="none of the 2 points can be chosen"):
        sweeps.select(*table, keep=keep)
    assert jax.jit(sweeps.select)(*table, keep=keep).item() == -1
    with pytest.raises(ValueError, match="not `valid`"):
        sweeps.select(np.ones(2), np.ones(2), valid=np.zeros(2, bool))


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.1, math.nan])
def test_select_refuses_a_share_outside_its_range(keep):
    with pytest.raises(ValueError, match=r"`keep` must be in \(0, 1\]"):
        sweeps.select(np.ones(2), np.ones(2), keep=keep)


@pytest.mark.parametrize("fn", [sweeps.select, sweeps.pareto_front])
def test_tables_must_have_points(fn):
    with pytest.raises(ValueError, match="n of at least 1"):
        fn(np.zeros(0), np.zeros(0))


# folds


@pytest.mark.parametrize("n_folds", [2, 3, 10])
def test_folds_spread_every_cell_evenly(n_folds, rng):
    labels, groups = rng.integers(2, size=97), rng.integers(3, size=97)
    codes = sweeps.folds(labels, groups, n_folds=n_folds, key=jax.random.key(1))
    everyone = np.ones(97, bool)
    cells = [(labels == y) & (groups == g) for y in range(2) for g in range(3)]
    for members in [everyone, *cells]:
        sizes = np.bincount(np.asarray(codes)[members], minlength=n_folds)
        assert sizes.sum() == members.sum()
        assert sizes.max() - sizes.min() <= 1


def test_folds_follow_their_key_alone(rng):
    labels, groups = jnp.asarray(rng.integers(2, size=(2, 60)))

    def make(seed):
        return sweeps.folds(labels, groups, n_folds=5, key=jax.random.key(seed))

    same_bits(make(0), make(0))
    same_bits(make(0), jax.jit(make)(0))
    assert (make(0) != make(1)).any()


def test_folds_separate_neighbours_within_a_cell():
    ones = jnp.ones(8, int)
    keys = jax.random.split(jax.random.key(0), 60)
    codes = jax.vmap(lambda k: sweeps.folds(ones, ones, n_folds=2, key=k))(keys)
    # Each sample falls into either fold about half of the time: standard error 0.065.
    share = np.asarray(codes, float).mean(axis=0)
    assert np.abs(share - 0.5).max() < 0.25


@pytest.mark.parametrize(
    ("labels", "groups", "n_folds", "message"),
    [
        ([0, 1], [0, 1], 1, "`n_folds` must be an integer of at least 2"),
        ([0, 1], [0, 1], 3, "at most 2, the number of samples, but is 3"),
        ([0.0, np.nan], [0, 1], 2, "`labels` must be finite"),
    ],
)
def test_folds_refuse(labels, groups, n_folds, message):
    with pytest.raises(ValueError, match=message):
        sweeps.folds(
            np.array(labels), np.array(groups), n_folds=n_folds, key=jax.random.key(0)
        )


# cross_validate


def test_cross_validate_equals_fitting_on_subsets_with_one_trace(rng):
    x, y = rng.normal(size=(2, 30)).astype(np.float32)
    codes = sweeps.folds(
        y > 0, rng.integers(2, size=30), n_folds=4, key=jax.random.key(2)
    )

    def fn(x, y, train, validation):
        slope = jnp.sum(x * y, where=train) / jnp.sum(x * x, where=train)
        error = jnp.mean((y - slope * x) ** 2, where=validation)
        return {"slope": slope, "error": error}

    traced, calls = counted(fn), []
    values = sweeps.cross_validate(
        Partial(traced, x, y), codes, n_folds=4, progress=lambda *c: calls.append(c)
    )
    for fold in range(4):
        out = np.asarray(codes) == fold
        slope = (x[~out] @ y[~out]) / (x[~out] @ x[~out])
        error = np.mean((y[out] - slope * x[out]) ** 2)
        np.testing.assert_allclose(values["slope"][fold], slope, rtol=1e-5)
        np.testing.assert_allclose(values["error"][fold], error, rtol=1e-5)
    assert traced.traces == 1
    assert calls == [(i, 4) for i in range(1, 5)]


def test_a_grid_inside_a_fold_equals_a_fold_axis_in_the_grid(rng):
    y = jnp.asarray(rng.normal(size=20).astype(np.float32))
    codes = jnp.arange(20, dtype=jnp.int32) % 4
    lams = sweeps.grid(lam=[0.0, 1.0, 2.0])

    def score(train, validation, point):
        total = jnp.sum(train, dtype=jnp.float32) + point["lam"]
        mean = jnp.sum(y, where=train) / total
        return jnp.sum((y - mean) ** 2, where=validation)

    inside = sweeps.cross_validate(
        lambda t, v: sweeps.mapped(Partial(score, t, v))(lams), codes, n_folds=4
    )
    axis = sweeps.run(
        lambda p: score(codes != p["fold"], codes == p["fold"], p),
        sweeps.grid(fold=range(4), lam=lams["lam"]),
    )
    np.testing.assert_allclose(inside, axis.values.reshape(4, 3), rtol=1e-5)


@pytest.mark.parametrize(
    ("codes", "n_folds", "message"),
    [
        ([0, 1], 1, "`n_folds` must be an integer of at least 2"),
        ([0, 1], 3, "at most 2"),
        ([0, 2, 1], 2, r"fold_codes\[1\] = 2"),
        ([0, 0, 2], 3, "fold 1 of 3 has none"),
    ],
)
def test_cross_validate_refuses(codes, n_folds, message):
    with pytest.raises(ValueError, match=message):
        sweeps.cross_validate(lambda t, v: v.sum(), np.array(codes), n_folds=n_folds)


def test_a_grid_takes_bfloat16_and_refuses_what_is_no_real_number():
    values = jnp.asarray([0.5, 1.5], jnp.bfloat16)
    points = sweeps.grid(lam=values, seed=[1])
    assert points["lam"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(points["lam"].astype(float), [0.5, 1.5])
    for bad in (["a"], [1j], [None], jnp.asarray([jnp.nan], jnp.bfloat16)):
        with pytest.raises(ValueError, match="`lam` must hold numbers and no NaN"):
            sweeps.grid(lam=bad)
