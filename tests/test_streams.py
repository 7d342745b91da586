"""Streams against the same rows in memory, and against definitions in NumPy."""

import decimal
import gc
import os
import threading
import time
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairjax import datasets, erm, metrics, notions, orthogonality, solvers, streams

N, D, CHUNK = 600, 5, 256


@pytest.fixture
def table(rng):
    groups = np.arange(N) % 3
    features = rng.normal(size=(N, D)) + groups[:, None] * np.linspace(0, 1, D)
    features = features * 10.0 ** np.linspace(-2, 2, D) + [0, 3, 0, 50, 1000]
    scores = rng.normal(size=N) + (groups == 1) + features[:, 1]
    labels = (scores > np.median(scores)).astype(np.float32)
    weights = rng.integers(3, size=N).astype(np.float32)
    return features.astype(np.float32), labels, groups.astype(np.int32), weights


# Streams.


def test_chunks_have_one_shape_and_lose_nothing(table):
    features, labels, groups, weights = table
    stream = streams.from_arrays(features, labels, groups, weights=weights, chunk=CHUNK)
    for _ in range(2):
        chunks = list(streams.read(stream))
        assert [c.features.shape for c in chunks] == [(CHUNK, D)] * 3
        joined = [np.concatenate(a) for a in zip(*chunks, strict=True)]
        for found, given in zip(joined, table, strict=True):
            np.testing.assert_array_equal(found[:N], given)
        assert not joined[3][N:].any()


@pytest.mark.parametrize("buffers", [1, 3])
def test_a_stream_may_refill_its_arrays(buffers, table):
    stream = streams.from_arrays(*table[:3], weights=table[3], chunk=50)
    held = [[np.array(a) for a in next(iter(stream))] for _ in range(buffers)]

    class Refilled:
        def __iter__(self):
            for number, chunk in enumerate(stream):
                own = held[number % buffers]
                for array, values in zip(own, chunk, strict=True):
                    array[:] = values
                yield streams.Chunk(*own)

    chunks = []
    for found in streams.read(Refilled()):
        time.sleep(0.01)  # So that the reader is as far ahead as it may be.
        chunks.append(found)
    for found, given in zip(chunks, stream, strict=True):
        for a, b in zip(found, given, strict=True):
            np.testing.assert_array_equal(a, b)


def test_arrays_that_stay_are_not_copied(table):
    features = table[0]
    for stream in (
        streams.from_arrays(features, table[1], chunk=50),
        list(streams.from_arrays(features, table[1], chunk=50)),
    ):
        assert all(np.shares_memory(c.features, features) for c in streams.read(stream))


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("fairjax-reader")]


def test_the_reader_ends_when_its_caller_stops():
    closed = []

    def endless():
        try:
            yield from iter(int, 1)
        finally:
            closed.append(threading.current_thread().name)

    items = streams._read_ahead(endless(), depth=2)
    assert next(items) == 0
    assert len(readers()) == 1
    items.close()
    assert readers() == []
    assert len(closed) == 1
    assert closed[0].startswith("fairjax-reader")


def test_the_reader_stays_ahead_by_a_bounded_number():
    made = []

    def source():
        for number in range(20):
            made.append(number)
            yield number

    items = streams._read_ahead(source(), depth=2)
    next(items)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 4  # one given, two waiting, one in hand
    assert list(items) == list(range(1, 20))
    assert readers() == []


def test_an_error_in_the_reader_reaches_the_caller():
    def source():
        yield 1
        raise OSError("the disk is gone")

    items = streams._read_ahead(source(), depth=2)
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert readers() == []


class Broken:
    """Yields what it is told to, once for each pass; the last again and again."""

    def __init__(self, *passes):
        self.passes, self.number = passes, -1

    def __iter__(self):
        self.number = min(self.number + 1, len(self.passes) - 1)
        return iter(self.passes[self.number])


def test_errors_of_streams_say_which_chunk(table, untyped):
    features, labels, groups, weights = table
    whole = list(streams.from_arrays(features, labels, chunk=CHUNK))
    bad = whole[1].features.copy()
    bad[7, 2] = np.nan
    infinite = np.where(np.arange(CHUNK) == 7, np.inf, 1)
    wrapped = np.arange(N, dtype=np.uint64) // (N - 1) * 2**32
    wide = streams.Chunk(np.ones((9, D + 1)), *(np.ones(9, int),) * 3)
    fit = solvers.fit_linear_stream
    for message, call in {
        "ends after one pass": lambda: fit(iter(whole)),
        "at least one chunk": lambda: fit(Broken([])),
        r"chunk 1: features\[7, 2\] = nan": lambda: fit(
            Broken([whole[0], whole[1]._replace(features=bad)])
        ),
        r"chunk 0 labels\[0\] = 3": lambda: fit(
            Broken([whole[0]._replace(labels=whole[0].labels + 3)])
        ),
        "all are 1": lambda: fit(
            Broken([whole[0]._replace(labels=np.ones(CHUNK, np.float32))])
        ),
        "chunk 0: weights.* at least 0": lambda: fit(
            Broken([whole[0]._replace(weights=-whole[0].weights)])
        ),
        "all are zero": lambda: fit(
            Broken([whole[0]._replace(weights=0 * whole[0].weights)])
        ),
        "chunk 1 has": lambda: fit(Broken([whole[0], wide])),
        "2 parts": lambda: fit(Broken([whole[0][:2]])),
        "the same in every pass": lambda: fit(Broken(whole, whole[:2])),
        "must be smooth": lambda: fit(whole, loss=erm.hinge),
        "`ridge`": lambda: fit(whole, ridge=0.0),
        "`max_passes`": lambda: fit(whole, max_passes=1),
        "`directions` must have": lambda: fit(whole, directions=np.ones((1, 2))),
        "`chunk` must": lambda: streams.from_arrays(features, labels, chunk=0),
        "`labels` must": lambda: streams.from_arrays(features, labels[:3]),
        "chunk 0: groups": lambda: orthogonality.directions_stream(
            [whole[0]._replace(groups=whole[0].groups + 9)], n_groups=3
        ),
        "chunk 1: `groups` must be integer codes, .* float64": lambda: list(
            streams.read([whole[0], whole[1]._replace(groups=np.full(CHUNK, -0.5))])
        ),
        "chunk 0: `groups` must be integer codes, .* float64": lambda: list(
            streams.from_arrays(features, labels, groups + 0.9)
        ),
        "chunk 2: `groups` .* int32 holds, but one is 4294967296": lambda: list(
            streams.from_arrays(features, labels, wrapped, chunk=CHUNK)
        ),
        r"`coefficients`.* \(5,\) and \(\), but have shapes \(5, 1\)": lambda: list(
            streams.scored(whole, np.ones((D, 1)))
        ),
        r"`coefficients`.* and \(2,\). Of several": lambda: list(
            streams.scored(whole, np.ones(D), np.ones(2))
        ),
        r"chunk 1: weights\[7\] = inf": lambda: orthogonality.directions_stream(
            [whole[0], whole[1]._replace(weights=infinite)], n_groups=3
        ),
        "positive weight, but the largest weight is 0": lambda: (
            orthogonality.directions_stream(
                streams.from_arrays(features, labels, weights=0 * weights), n_groups=1
            )
        ),
        "sums that float32 can hold": lambda: orthogonality.directions_stream(
            streams.from_arrays(features, labels, weights=weights * 1e38), n_groups=1
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    assert readers() == []


# Memory.


def test_a_pass_holds_a_few_chunks_only(table):
    features, labels, *_ = table
    seen, alive = [], []

    class Many:
        lasting = True

        def __iter__(self):
            for _ in range(30):
                rows = features[:32].copy()
                seen.append(weakref.ref(rows))
                chunk = streams.Chunk(
                    rows, labels[:32], np.zeros(32, np.int32), np.ones(32, np.float32)
                )
                del rows
                yield chunk
                del chunk
                gc.collect()
                alive.append(sum(rows() is not None for rows in seen))

    gc.collect()
    gc.freeze()  # What was there before need not be looked at again and again.
    try:
        orthogonality.directions_stream(Many(), n_groups=1)
    finally:
        gc.unfreeze()
    assert len(alive) == 30
    assert max(alive) <= 5


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_a_file_is_read_page_by_page(size, tmp_path):
    rng, n = np.random.default_rng(0), 300_000
    numbers = {name: rng.normal(size=n) for name in "abcdef"}
    table = pa.table(
        numbers | {"sex": rng.choice(["F", "M"], n), "y": rng.integers(2, size=n)}
    )
    path = tmp_path / "rows.parquet"
    # Numbers at random: nothing becomes smaller in the file.
    pq.write_table(table, path, row_group_size=size, use_dictionary=["sex"])
    assert path.stat().st_size > 14e6
    stream = datasets.from_parquet(path, target="y", sensitive="sex", chunk=1_000)
    values = np.stack(list(numbers.values()), axis=1)
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    before, held, rows = pa.total_allocated_bytes(), 0, 0
    for chunk in stream:
        held = max(held, pa.total_allocated_bytes() - before)
        own = expected[rows : rows + 1_000]
        np.testing.assert_allclose(chunk.features[:, :6], own, atol=1e-6)
        rows += len(chunk.weights)
    assert rows == n
    # A page of a megabyte of each of the eight columns, not the file.
    assert held < 10e6, held


# Directions.


@pytest.mark.parametrize(
    "notion",
    [notions.demographic_parity, notions.equal_opportunity, notions.equalized_odds],
)
@pytest.mark.parametrize(
    "contrasts", [orthogonality.pairwise, orthogonality.against_mean]
)
def test_directions_are_those_in_memory(notion, contrasts, table):
    features, labels, groups, weights = table
    stream = streams.from_arrays(features, labels, groups, weights=weights, chunk=CHUNK)
    # A fourth group has no members: its rows are zeros.
    found = orthogonality.directions_stream(
        stream, n_groups=4, notion=notion, contrasts=contrasts
    )
    cond = notion(groups, labels.astype(int), n_groups=4, weights=weights)
    rows, occupied = np.asarray(cond.weights, float), np.asarray(cond.occupied)
    means = rows @ features.astype(float)
    expected = []
    for mean, some in zip(means, occupied, strict=True):
        for contrast in contrasts(4):
            good = some[contrast != 0].all()
            expected.append(contrast @ mean if good else np.zeros(D))
    scale = features.std(axis=0)
    np.testing.assert_allclose(found / scale, np.array(expected) / scale, atol=1e-5)
    assert (np.abs(found).max(axis=1) > 0).sum() == (
        0 if contrasts is orthogonality.against_mean else 3 * len(means)
    )


# Parquet.


def loans(rng, n=300):
    """All kinds of columns; the split leaves a category to the test part alone."""
    job = np.array(["cook", "clerk ", "nurse", None], object)[rng.integers(4, size=n)]
    part = np.where(rng.random(n) < 0.7, "train", "test")
    job[np.flatnonzero(part == "test")[:3]] = "pilot"
    return pa.table(
        {
            "age": rng.integers(18, 80, size=n),
            "income": rng.lognormal(8, 1, size=n),
            "constant": np.full(n, 3.5),
            "job": pa.array(job),
            "owner": rng.random(n) < 0.4,
            "sex": np.array(["F", "M"])[rng.integers(2, size=n)],
            "band": rng.integers(3, size=n),
            "part": part,
            "id": np.arange(n),
            "repaid": np.array(["yes", "no"])[rng.integers(2, size=n)],
        }
    )


ROLES = {
    "target": "repaid",
    "positive": "yes",
    "sensitive": ["sex", "band"],
    "split": "part",
    "exclude": "id",
}


def rows_of(stream):
    """All rows of a stream, without those that fill up."""
    chunks = list(stream)
    assert len({c.features.shape for c in chunks}) == 1
    joined = [np.concatenate(a) for a in zip(*chunks, strict=True)]
    keep = joined[3] > 0
    assert keep[: keep.sum()].all()
    return [a[keep] for a in joined[:3]]


@pytest.mark.parametrize("with_sensitive", [True, False])
def test_parquet_is_encoded_as_csv_is(with_sensitive, rng, tmp_path):
    table = loans(rng)
    frame = table.to_pandas()
    frame.to_csv(tmp_path / "loans.csv", index=False)
    pq.write_table(table.slice(0, 110), tmp_path / "a.parquet", row_group_size=30)
    pq.write_table(table.slice(110), tmp_path / "b.parquet", use_dictionary=False)
    roles = ROLES | {"sensitive_in_features": with_sensitive}
    data = datasets.from_csv(tmp_path / "loans.csv", **roles)
    stream = datasets.from_parquet(
        [tmp_path / "a.parquet", tmp_path / "b.parquet"], chunk=64, **roles
    )
    assert stream.feature_names == data.feature_names
    assert stream.group_names == data.group_names
    assert stream.n_groups == data.n_groups
    assert stream.label_name == data.label_name
    for part, own in ((data.train, stream), (data.test, stream.test)):
        assert own.n_rows == len(part.labels)
        features, labels, groups = rows_of(own)
        np.testing.assert_allclose(features, part.features, atol=2e-6)
        np.testing.assert_array_equal(labels, part.labels)
        np.testing.assert_array_equal(groups, part.groups)


def test_other_files_have_the_same_encoding(rng, tmp_path):
    table = loans(rng)
    train = table.filter(pa.array(np.asarray(table["part"]) == "train"))
    test = table.filter(pa.array(np.asarray(table["part"]) == "test"))
    pq.write_table(train, tmp_path / "train.parquet")
    pq.write_table(test.drop_columns(["part"]), tmp_path / "test.parquet")
    pq.write_table(table, tmp_path / "both.parquet")
    roles = {**ROLES, "exclude": ["id", "part"], "split": None}
    stream = datasets.from_parquet(str(tmp_path / "train.parquet"), chunk=50, **roles)
    both = datasets.from_parquet(tmp_path / "both.parquet", chunk=50, **ROLES)
    assert stream.part is None
    assert stream.feature_names == both.feature_names
    pairs = ((stream, both), (stream.on(tmp_path / "test.parquet"), both.test))
    for ours, theirs in pairs:
        for a, b in zip(rows_of(ours), rows_of(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="there is no test part"):
        _ = stream.test


def test_missing_entries_are_named_or_dropped(rng, tmp_path):
    table = loans(rng, n=40)
    ages = table["age"].to_pylist()
    ages[29] = None
    table = table.set_column(0, "age", pa.array(ages, pa.int64()))
    incomes = table["income"].to_numpy().copy()
    incomes[7] = np.nan
    path = tmp_path / "holes.parquet"
    roles = ROLES | {"split": None, "exclude": ["id", "part"]}
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=r"'age'.*data row 30 of '.*holes.parquet'"):
        datasets.from_parquet(path, chunk=16, **roles)
    table = table.set_column(1, "income", pa.array(incomes))
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=r"'income'.*data row 8 of '.*holes.parquet'"):
        datasets.from_parquet(path, chunk=16, **roles)
    stream = datasets.from_parquet(path, chunk=16, drop_missing=True, **roles)
    whole = np.array([j is not None for j in table["job"].to_pylist()])
    whole[[7, 29]] = False
    assert stream.n_rows == whole.sum()
    assert len(rows_of(stream)[1]) == whole.sum()
    answers = table["repaid"].to_pylist()
    answers[3] = None
    table = table.set_column(9, "repaid", pa.array(answers))
    pq.write_table(table.drop_columns(["age", "income"]), path)
    with pytest.raises(ValueError, match=r"'repaid' is empty in data row 4 of"):
        datasets.from_parquet(path, **roles)


def test_numbers_of_any_size_are_scaled(tmp_path):
    signs = np.resize([1.0, -1.0, 3.0, 0.0, 0.0], 40)
    signs[:4] = 0.0  # The first chunk tells nothing of the size.
    sizes = 10.0 ** np.array([-308, -200, 0, 200, 307])
    columns = {f"x{i}": signs * size for i, size in enumerate(sizes)}
    mixed = np.where(np.arange(40) < 20, 1e-200, 1e200) * signs
    table = pa.table(columns | {"mixed": mixed, "s": list("ab") * 20, "y": [0, 1] * 20})
    path = tmp_path / "sizes.parquet"
    pq.write_table(table, path)
    stream = datasets.from_parquet(
        path, target="y", sensitive="s", sensitive_in_features=False, chunk=4
    )
    features = rows_of(stream)[0]
    scaled = (signs - signs.mean()) / signs.std()
    np.testing.assert_allclose(features[:, :5], scaled[:, None] * np.ones(5), rtol=1e-5)
    values = np.where(np.arange(40) < 20, 0, signs)
    expected = (values - values.mean()) / values.std()
    np.testing.assert_allclose(features[:, 5], expected, rtol=1e-5)
    pq.write_table(table.set_column(0, "x0", table["x3"]), path)
    other = datasets.from_parquet(path, target="y", sensitive="s")
    pq.write_table(table.set_column(2, "x2", table["x3"]), tmp_path / "far.parquet")
    message = r"'x2' must be finite in float32 when scaled, but data row 6 of '.*far.pa"
    with pytest.raises(ValueError, match=message):
        list(other.on(tmp_path / "far.parquet"))


def test_a_number_has_one_text_in_all_types(tmp_path):
    decimals = [decimal.Decimal(text) for text in ("0.10", "2.00", "30.00")]
    ones = [decimal.Decimal(text) for text in ("1.000", "0.000", "1.000")]
    paths = []
    for i, (groups, labels) in enumerate(
        (
            (pa.array([0.1, 2, 30]), pa.array([1, 0, 1])),
            (pa.array([0.1, 2, 30], pa.float32()), pa.array([1.0, 0.0, 1.0])),
            (pa.array([0.1, 2, 30]).cast(pa.float16()), pa.array([1, 0, 1], pa.int8())),
            (pa.array(decimals, pa.decimal128(9, 2)), pa.array(ones)),
        )
    ):
        paths.append(tmp_path / f"{i}.parquet")
        table = {"x": [0, 1, 2], "s": groups, "y": labels}
        pq.write_table(pa.table(table), paths[-1])
    roles = {"target": "y", "sensitive": "s"}
    first = datasets.from_parquet(paths[0], **roles)
    for path in paths[:2] + paths[3:]:
        own = datasets.from_parquet(path, **roles)
        assert own.group_names == ("s=0.1", "s=2", "s=30")
        for stream in (own, first.on(path)):
            _, labels, groups = rows_of(stream)
            assert labels.tolist() == [1, 0, 1]
            assert groups.tolist() == [0, 1, 2]


def test_blank_texts_are_missing(tmp_path):
    path = tmp_path / "blank.parquet"
    table = {
        "job": ["cook", "", None, " ", "cook", "nurse", "cook", "nurse"],
        "sex": list("FFFFFMMM"),
        "repaid": ["yes", "no", "yes", "no", "", "no", "yes", " "],
    }
    pq.write_table(pa.table(table), path)
    roles = {"target": "repaid", "sensitive": "sex", "positive": "yes"}
    with pytest.raises(ValueError, match="'repaid' is empty in data row 5 of"):
        datasets.from_parquet(path, **roles)
    stream = datasets.from_parquet(path, drop_missing=True, **roles)
    assert stream.n_rows == 3
    assert stream.feature_names == ("job=cook", "job=nurse", "sex=F", "sex=M")
    table["repaid"][4], table["repaid"][7] = "no", "yes"
    pq.write_table(pa.table(table), path)
    stream = datasets.from_parquet(path, **roles)
    assert rows_of(stream)[0][:, 1].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
    assert stream.feature_names[1] == "job=missing"


def test_large_integers_are_numbers(tmp_path):
    path = tmp_path / "large.parquet"
    rows = {"s": ["a", "b"] * 2, "y": [0, 1] * 2}
    signed = pa.array([2**62, 2**62 + 2**54, 0, 2**53 + 1], pa.int64())
    unsigned = pa.array([2**63, 2**64 - 2**60, 0, 2**53 + 1], pa.uint64())
    pq.write_table(pa.table({"i": signed, "u": unsigned} | rows), path)
    stream = datasets.from_parquet(path, target="y", sensitive="s")
    for i, column in enumerate((signed, unsigned)):
        values = np.array(column.to_pylist(), float)
        expected = (values - values.mean()) / values.std()
        np.testing.assert_allclose(rows_of(stream)[0][:, i], expected, rtol=1e-6)


def test_a_file_that_changes_between_passes_is_noticed(rng, tmp_path):
    path = tmp_path / "loans.parquet"
    table = loans(rng)
    pq.write_table(table, path)
    stream = datasets.from_parquet(path, chunk=64, **ROLES)
    list(stream)
    pq.write_table(table.slice(0, 200), path)
    with pytest.raises(ValueError, match="has changed since its encoding"):
        list(stream)
    stat = path.stat()
    stream = datasets.from_parquet(path, chunk=64, **ROLES)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="has changed since its encoding"):
        solvers.fit_linear_stream(stream)
    path.unlink()
    with pytest.raises(ValueError, match="cannot read"):
        list(stream)


def test_errors_of_parquet_say_which_file_and_what_to_do(rng, tmp_path):
    table = loans(rng)

    def written(name, table):
        pq.write_table(table, tmp_path / name)
        return tmp_path / name

    good = written("good.parquet", table)
    fewer = written("fewer.parquet", table.drop_columns(["job"]))
    empty = written("empty.parquet", table.slice(0, 0))
    text = table["age"].cast(pa.string())
    other = written("other.parquet", table.set_column(0, "age", text))
    alike = np.full(len(table), "yes")
    same = written("same.parquet", table.set_column(9, "repaid", pa.array(alike)))
    (tmp_path / "no.parquet").write_text("age,sex\n1,F\n")
    new = table.set_column(5, "sex", pa.array(np.full(len(table), "X")))
    new = written("new.parquet", new)
    parts = pa.array([[1, 2]] * len(table))
    lists = written("lists.parquet", table.append_column("parts", parts))
    structs = table.append_column("parts", pa.array([{"a": 1}] * len(table)))
    structs = written("structs.parquet", structs)
    twice = written("twice.parquet", table.append_column("age", table["age"]))
    for message, paths, changes in (
        ("cannot read '.*gone.parquet'", tmp_path / "gone.parquet", {}),
        ("as Parquet", tmp_path / "no.parquet", {}),
        ("'.*empty.parquet' has no rows", empty, {}),
        ("at least one file", [], {}),
        ("'.*fewer.parquet' has no column 'job'", [good, fewer], {}),
        ("categories in '.*other.parquet', but numbers", [good, other], {}),
        ("`target` names 'repayed'.*Nearest: 'repaid'", good, {"target": "repayed"}),
        ("`sensitive` must name", good, {"sensitive": []}),
        ("`target` and `split` both", good, {"split": "repaid"}),
        ("must hold two values", same, {}),
        ("`positive` must name", good, {"positive": None}),
        ("`positive` = 'Yes' does not occur", good, {"positive": "Yes"}),
        ('must say "train" or "test".* data row 1 of', good, {"split": "sex"}),
        ("`chunk` must be at least 1", good, {"chunk": 0}),
        ("no feature is left", good, {"exclude": table.column_names}),
        ("'parts' of '.*lists.parquet' holds lists or structs", lists, {}),
        ("'parts' of '.*structs.parquet' holds lists or structs", structs, {}),
        ("'.*twice.parquet' has 2 columns 'age'", twice, {}),
    ):
        with pytest.raises(ValueError, match=message):
            datasets.from_parquet(paths, **(ROLES | changes))
    stream = datasets.from_parquet(good, **ROLES)
    with pytest.raises(ValueError, match="a group that was not there.*'X & "):
        list(stream.on(new))
    third = np.where(np.arange(len(table)) == 70, "never", table["repaid"])
    third = written("third.parquet", table.set_column(9, "repaid", pa.array(third)))
    with pytest.raises(ValueError, match="'.*third.parquet' has a target.*: 'never'"):
        list(stream.on(third))
    assert readers() == []


def test_a_parquet_stream_is_fitted_and_audited(rng, tmp_path):
    path = tmp_path / "loans.parquet"
    pq.write_table(loans(rng), path)
    stream = datasets.from_parquet(path, chunk=64, **(ROLES | {"sensitive": "sex"}))
    along = orthogonality.directions_stream(stream, n_groups=stream.n_groups)
    fit = solvers.fit_linear_stream(stream, ridge=1e-2, directions=along, tolerance=0.0)
    assert bool(fit.converged)
    scored = streams.scored(stream, fit.coefficients, fit.intercept)
    found = metrics.audit_stream(
        scored, n_groups=2, edges=np.linspace(-3, 3, 999), rank_error=0.1
    )
    features, labels, groups = rows_of(stream)
    scores = features @ np.asarray(fit.coefficients) + np.asarray(fit.intercept)
    whole = metrics.audit(scores, labels, groups, n_groups=2)
    np.testing.assert_array_equal(found.counts, whole.counts)
    np.testing.assert_allclose(found.rates, whole.rates, atol=1e-6)
    means = [scores[groups == g].mean() for g in range(2)]
    assert abs(means[0] - means[1]) < 1e-5
