import csv
import itertools
import re

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from fairjax import barycenters, cli, metrics
from fairjax.plots import canvas


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["repair", *map(str, arguments)])


def write(path, scores, groups, **more):
    """A table with awkward texts, which must come back as they are."""
    names = ["F", "M"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["note", "x", "s", *more])
        for i, (x, g) in enumerate(zip(scores.tolist(), groups, strict=True)):
            extra = [column[i] for column in more.values()]
            rows.writerow([f'say "{i}",\nthen', repr(x), names[g], *extra])
    return path


def distances(scores, groups, weights=None):
    """Largest KS and first Wasserstein distance of two groups, by their definition."""
    weights = np.ones(scores.size) if weights is None else weights
    grid = np.unique(scores)
    cdf = [
        [np.sum(weights[mine & (scores <= x)]) / weights[mine].sum() for x in grid]
        for mine in (groups == g for g in np.unique(groups[weights > 0]))
    ]
    apart = [np.abs(np.subtract(a, b)) for a, b in itertools.combinations(cdf, 2)]
    area = [gap[:-1] @ np.diff(grid) for gap in apart]
    return max(map(np.max, apart)), max(area)


def read(path, column="fair_score"):
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return np.array([float(row[column]) for row in csv.DictReader(stream)])


@pytest.fixture
def people(rng):
    """Scores of two groups, of which the second is higher and narrower."""
    groups = rng.integers(2, size=60)
    scores = rng.normal(size=60) * (1 + groups) + 3 * groups
    # Older versions of pandas read longer numbers only to their last bit but one.
    return scores.round(6), groups


@pytest.fixture
def table(people, tmp_path):
    return write(tmp_path / "scores.csv", *people)


OPTIONS = ["--score", "x", "--group", "s"]


def test_repairs_by_the_map_of_barycenters(people, table, tmp_path, x64):
    scores, groups = people
    out = tmp_path / "fair.csv"
    result = invoke(table, *OPTIONS, "--out", out)
    assert result.exit_code == 0, result.output
    fitted = barycenters.fit_map(scores, groups, n_groups=2)
    fair = np.asarray(barycenters.apply_map(fitted, scores, groups))
    assert read(out).tolist() == fair.tolist()
    # Before and after, in words and in the tables.
    ks, area = zip(*(distances(s, groups) for s in (scores, fair)), strict=True)
    said = " ".join(result.stdout.split())
    assert f"KS distance between groups: {ks[0]:.3f} before, {ks[1]:.3f} after." in said
    assert f"distance: {area[0]:.3g} before, {area[1]:.3g} after." in said
    assert f"a mean squared change of {np.mean((fair - scores) ** 2):.3g} " in said
    assert f"Mean score: {scores.mean():.4g} before, {fair.mean():.4g} after." in said
    assert "distributions learned from these scores themselves, 60 rows." in said
    assert "F │ " in said


def test_every_original_character_is_kept(table, tmp_path):
    out = tmp_path / "fair.csv"
    assert invoke(table, *OPTIONS, "--out", out).exit_code == 0
    with out.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["note", "x", "s", "fair_score"]
    text, fair = out.read_text(), iter(rows)
    header = f",{next(fair)[-1]}\n"
    assert header in text
    for row in fair:
        text = text.replace(f",{row[-1]}\n", "\n")
    assert text.replace(header, "\n") == table.read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("﻿x;s\r\n1;F\r\n\r\n3;M", "﻿x;s;g\r\n1;F;2.0\r\n\r\n3;M;2.0"),
        ('"x";s\n 1;" F"\n3.0;M\n', '"x";s;g\n 1;" F";2.0\n3.0;M;2.0\n'),
        ("x;s\r1;1\r3;0\r", "x;s;g\r1;1;2.0\r3;0;2.0\r"),
    ],
)
def test_line_ends_marks_and_blanks_are_kept(before, after, tmp_path):
    path, out = tmp_path / "scores.csv", tmp_path / "fair.csv"
    path.write_bytes(before.encode())
    result = invoke(path, *OPTIONS, "--sep", ";", "--column", "g", "--out", out)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == after.encode()


def test_a_tab_may_be_written_as_such_and_constant_scores_are_fair(tmp_path):
    path, out = tmp_path / "scores.csv", tmp_path / "fair.csv"
    path.write_text("x\ts\n2\tF\n2\tM\n2\tM\n")
    result = invoke(path, *OPTIONS, "--sep", r"\t", "--out", out)
    assert result.exit_code == 0, result.output
    assert out.read_text() == "x\ts\tfair_score\n2\tF\t2.0\n2\tM\t2.0\n2\tM\t2.0\n"
    assert "--jitter" not in result.stdout


def test_other_encodings_and_column_names_with_a_separator(tmp_path):
    path, out = tmp_path / "scores.csv", tmp_path / "fair.csv"
    path.write_bytes("x,s\n1,Zoé\n3,M\n".encode("latin-1"))
    options = ["--encoding", "latin-1", "--column", "fair, new"]
    result = invoke(path, *OPTIONS, *options, "--out", out)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == 'x,s,"fair, new"\n1,Zoé,2.0\n3,M,2.0\n'.encode("latin-1")
    assert "Zoé" in result.stdout


def test_partial_repair_and_weights(people, tmp_path, rng, x64):
    scores, groups = people
    weights = rng.integers(1, 4, size=60)
    table = write(tmp_path / "scores.csv", scores, groups, w=weights)
    out = tmp_path / "fair.csv"
    options = ["--weight", "w", "--repair", "0.5"]
    result = invoke(table, *OPTIONS, *options, "--out", out)
    assert result.exit_code == 0, result.output
    fitted = barycenters.fit_map(scores, groups, n_groups=2, weights=weights)
    fair = barycenters.apply_map(fitted, scores, groups, repair=0.5)
    np.testing.assert_allclose(read(out), fair, rtol=1e-12)
    mean = np.average(scores, weights=weights)
    assert f"Mean score: {mean:.4g} before" in result.stdout
    result = invoke(table, *OPTIONS, "--repair", "0", "--out", out, "--quiet")
    assert read(out).tolist() == scores.tolist()
    assert "┃" not in result.stdout


def test_a_calibration_table_and_its_doubts(people, table, tmp_path, x64):
    scores, groups = people
    new = write(tmp_path / "new.csv", np.array([-99.0, 0.5]), np.array([0, 1]))
    options = ["--calibration", table, "--picture", tmp_path / "p.svg"]
    result = invoke(new, *OPTIONS, *options, "--out", tmp_path / "o.csv")
    assert result.exit_code == 0, result.output
    fitted = barycenters.fit_map(scores, groups, n_groups=2)
    fair = barycenters.apply_map(fitted, np.array([-99.0, 0.5]), np.array([0, 1]))
    assert read(tmp_path / "o.csv").tolist() == fair.tolist()
    assert "1 of 2 scores lie outside the calibration" in result.stdout
    small = np.flatnonzero(np.bincount(groups) < 30)
    expected = ", ".join(f"{'FM'[g]} ({np.bincount(groups)[g]})" for g in small)
    assert f"fewer than 30 rows: {expected}. What" in result.stdout
    assert (tmp_path / "p.svg").read_bytes().startswith(b"<?xml")


def test_jitter_splits_ties_and_its_seed_repeats(tmp_path, x64):
    scores = np.repeat([0.0, 1.0, 2.0, 5.0], [30, 10, 20, 20])
    groups = np.repeat([0, 1], [40, 40])
    table = write(tmp_path / "scores.csv", scores, groups)
    found = {}
    for name, options in {
        "plain": [],
        "one": ["--jitter", 1],
        "again": ["--jitter", 1],
        "two": ["--jitter", 2],
    }.items():
        out = tmp_path / f"{name}.csv"
        result = invoke(table, *OPTIONS, *options, "--out", out)
        assert result.exit_code == 0, result.output
        found[name] = read(out)
        assert ("needs `--jitter SEED`" in result.stdout) == (name == "plain")
    assert (
        "up to 75% of a group have one score"
        in invoke(table, *OPTIONS, "--out", tmp_path / "o.csv").stdout
    )
    key = jax.random.key(1)
    fitted = barycenters.fit_map(scores, groups, n_groups=2, key=key, split=False)
    fair = barycenters.apply_map(fitted, scores, groups, key=key)
    assert found["one"].tolist() == found["again"].tolist() == fair.tolist()
    assert found["two"].tolist() != fair.tolist()
    assert distances(found["plain"], groups)[0] >= 0.25
    assert distances(found["one"], groups)[0] <= 1e-12


def test_groups_have_one_name_whatever_a_file_makes_of_them(tmp_path):
    """The code 1 is 1.0 next to an empty entry, and text next to a word."""
    old, new, out = (tmp_path / name for name in ("old.csv", "new.csv", "out.csv"))
    old.write_text("x,s\n1,1\n3,2\n5,\n7,b\n")
    new.write_text("s,x\n1,1\n2,3\n,5\n")
    result = invoke(new, *OPTIONS, "--calibration", old, "--out", out)
    assert result.exit_code == 0, result.output
    assert read(out).tolist() == [4.0, 4.0, 4.0]
    assert "missing" in result.stdout


@pytest.mark.parametrize("n_groups", [3, 5])
def test_distances_equal_their_definition(n_groups, rng, x64):
    scores = rng.normal(size=60).round(1)
    groups = rng.integers(n_groups - 1, size=60).astype(np.int32)  # The last is empty.
    weights = rng.integers(3, size=60).astype(float)
    found = metrics.score_distances(scores, groups, weights, n_groups=n_groups)
    np.testing.assert_allclose(found, distances(scores, groups, weights), atol=1e-12)


GOOD = "x,s,w\n1,F,1\n2,M,1\n"
BAD = [
    ("", [], "different column names"),
    ("x,s,w\n", [], "has no rows"),
    ("x,s,w\n1,F,1\n2,M\n", [], "line 3 has 2 entries"),
    (GOOD, ["--score", "xx"], "`--score` names 'xx', which is no column"),
    (GOOD, ["--score", "xx"], "Nearest: 'x'"),
    (GOOD, ["--group", "t"], "`--group` names 't'"),
    (GOOD, ["--weight", "v"], "`--weight` names 'v'"),
    (GOOD, ["--score", "s"], "`--score` and `--group` both name 's'"),
    (GOOD, ["--group", "s"], "`--group` and `--group` both name 's'"),
    ("x,s,w\n1,F,1\n1e,M,1\n", [], "data row 2 says '1e'"),
    ("x,s,w\n1,F,1\n,M,1\n", [], "data row 2 is empty or NaN"),
    ("x,s,w\n1,F,1\ninf,M,1\n", [], "data row 2 says 'inf'"),
    ("x,s,w\n1,F,1\n-1e200,M,1\n", [], "up to 1e+150, but data row 2 says '-1e+200'"),
    ("x,s,w\n1,F,1\n2,F,1\n", [], "'s' has 1 value here"),
    ("x,s,w\n" + "".join(f"1,{i},1\n" for i in range(101)), [], "has 101 values"),
    (GOOD, ["--repair", "1.5"], "`--repair` must lie in [0, 1], but is 1.5"),
    (GOOD, ["--repair", "nan"], "`--repair` must lie in [0, 1]"),
    (GOOD, ["--jitter", "-1"], "`--jitter` must be a seed"),
    (GOOD, ["--column", "w"], "has a column 'w' already"),
    ("x,s,w\n1,F,-1\n2,M,1\n", ["--weight", "w"], "data row 1 says -1"),
    ("x,s,w\n1,F,0\n2,M,0\n", ["--weight", "w"], "must have a positive entry"),
    ("x,s,w\n1,F,0\n2,M,1\n", ["--weight", "w"], "has only rows of weight 0"),
    (GOOD, ["--calibration", "no.csv"], "cannot read 'no.csv' as CSV"),
    (GOOD, ["--sep", "ab"], "must be one character"),
    (GOOD, ["--encoding", "no-such"], "cannot read"),
    (GOOD, ["--picture", "p.doc"], "`--picture` must end in one of"),
    (GOOD, ["--picture", "no/such/p.png"], "`--picture` 'no/such/p.png' cannot be"),
]


@pytest.mark.parametrize(("text", "options", "message"), BAD)
def test_bad_input_gets_one_line_and_status_2(text, options, message, tmp_path):
    path, out = tmp_path / "scores.csv", tmp_path / "fair.csv"
    path.write_text(text)
    out.write_text("older")
    result = invoke(path, "--score", "x", "--group", "s", *options, "--out", out)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("fairjax: ")
    assert message in result.stderr
    assert out.read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fair.csv", "scores.csv"]


def test_a_group_that_was_not_calibrated_is_named(tmp_path):
    new, old = tmp_path / "new.csv", tmp_path / "old.csv"
    new.write_text("x,s\n1,F\n2,M\n3,X\n")
    old.write_text("x,s\n1,F\n2,M\n")
    out = tmp_path / "out.csv"
    result = invoke(new, *OPTIONS, "--calibration", old, "--out", out)
    assert result.exit_code == 2
    assert "group 'X' occurs in" in result.stderr
    assert "(first in data row 3), but has no rows in" in result.stderr
    assert not out.exists()


def test_an_input_is_never_overwritten(tmp_path):
    path, old, link = (tmp_path / name for name in ("a.csv", "b.csv", "link.csv"))
    path.write_text(GOOD)
    old.write_text(GOOD)
    link.symlink_to(path)
    for options in (
        ["--out", path],
        ["--out", link],
        ["--out", tmp_path / "x" / ".." / "a.csv"],
        ["--out", old],
        ["--out", tmp_path / "new.png", "--picture", tmp_path / "new.png"],
    ):
        result = invoke(path, *OPTIONS, "--calibration", old, *options)
        assert result.exit_code == 2
        assert "would be lost" in result.stderr
    for out in (tmp_path, path / "deep.csv"):
        result = invoke(path, *OPTIONS, "--out", out)
        assert result.exit_code == 2
        assert "`--out`" in result.stderr
        assert "cannot be written" in result.stderr
    assert path.read_text() == old.read_text() == GOOD


def test_a_failing_run_leaves_both_older_outputs(tmp_path, monkeypatch):
    path, out, picture = (tmp_path / name for name in ("a.csv", "o.csv", "p.png"))
    path.write_text(GOOD)
    out.write_text("older")
    picture.write_text("older")

    def fail(figure, stream, *, format):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(canvas, "write", fail)
    result = invoke(path, *OPTIONS, "--out", out, "--picture", picture)
    assert result.exit_code == 2
    assert result.stderr == "fairjax: disk full\n"
    assert out.read_text() == picture.read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 3


def test_calibration_rows_without_weight_are_not_counted(people, tmp_path):
    scores, groups = people
    weights = np.where((groups == 0) | (np.cumsum(groups) <= 4), 1, 0)
    path = write(tmp_path / "scores.csv", scores, groups, w=weights.tolist())
    result = invoke(path, *OPTIONS, "--weight", "w", "--out", tmp_path / "fair.csv")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert f"these scores themselves, {weights.sum()} rows." in said
    assert f"two groups of 4 and {(groups == 0).sum()} rows" in said
    assert re.search(r"calibration groups of fewer than 30 rows: .*M \(4\)", said)
