import csv
import itertools
import re

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from fairjax import bounds, cli, metrics, notions

N, DRAWS = 90, 12
NAMES = ["=B & [x]", "A & [x]", "A & y"]
OPTIONS = ["--score", "p", "--group", "s", "--group", "t"]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["audit", *map(str, arguments)])


def read(path):
    with path.open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    return head, {row[0]: [float(v) if v else np.nan for v in row[1:]] for row in rows}


class People:
    """Rows of three groups, and what plain NumPy says about them."""

    def __init__(self, rng):
        self.groups = np.array(NAMES)[np.sort(rng.integers(3, size=N))]
        self.scores = rng.beta(2, 3, size=N).round(2)
        self.labels = rng.random(N) < self.scores
        self.weights = rng.integers(1, 4, size=N)
        self.truth = rng.normal(size=N)

    def write(self, path):
        with path.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(["p", "s", "t", "y", "z", "w", "u"])
            for i in range(N):
                s, t = self.groups[i].split(" & ")
                y = ["no", "yes"][int(self.labels[i])]
                rows.writerow(
                    [
                        self.scores[i],
                        s,
                        t,
                        y,
                        self.truth[i],
                        self.weights[i],
                        int(y == "yes"),
                    ]
                )
        return path

    def means(self, values, weights, where=True):
        found = []
        for name in NAMES:
            mine = (self.groups == name) & where
            if weights[mine].sum():
                found.append(np.average(values[mine], weights=weights[mine]))
        return np.array(found)

    def gap(self, values, weights, where=True):
        return np.ptp(self.means(values, weights, where))

    def levels(self, weights):
        grid = np.unique(self.scores)
        below = self.scores[None] <= grid[:, None]
        cdf = [
            below[:, mine] @ weights[mine] / weights[mine].sum()
            for mine in (self.groups == name for name in NAMES)
            if weights[mine].sum()
        ]
        pairs = itertools.combinations(cdf, 2)
        return grid, [np.abs(np.subtract(a, b)) for a, b in pairs]

    def quantiles(self, weights):
        """Quantile functions on the steps between all levels, and their widths."""
        own = []
        for name in NAMES:
            mine = np.flatnonzero(self.groups == name)
            order = mine[np.argsort(self.scores[mine])]
            level = np.cumsum(weights[order]) / weights[order].sum()
            own.append((self.scores[order], level))
        cuts = np.unique(np.concatenate([[0], *(level for _, level in own)]).round(12))
        middle = (cuts[1:] + cuts[:-1]) / 2
        values = [score[np.searchsorted(level, middle)] for score, level in own]
        return np.array(values), np.diff(cuts)


def gaps_by_definition(people, weights, *, threshold=0.5):
    chosen = people.scores > threshold
    grid, apart = people.levels(weights)
    true = people.gap(chosen, weights, people.labels)
    false = people.gap(chosen, weights, ~people.labels)
    rates = people.means(chosen, weights)
    return {
        "difference of mean scores [score]": people.gap(people.scores, weights),
        "KS distance [0-1]": max(map(np.max, apart)),
        "Wasserstein-1 distance [score]": max(g[:-1] @ np.diff(grid) for g in apart),
        "difference of selection rates, demographic parity [0-1]": np.ptp(rates),
        "ratio of selection rates [0-1]": rates.min() / rates.max(),
        "difference of true positive rates, equal opportunity [0-1]": true,
        "difference of false positive rates [0-1]": false,
        "the larger of these two, equalized odds [0-1]": max(true, false),
        "difference of accuracies [0-1]": people.gap(chosen == people.labels, weights),
    }


@pytest.fixture(scope="module")
def people():
    return People(np.random.default_rng(3))


@pytest.fixture(scope="module")
def done(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    table = people.write(folder / "people $x$.csv")
    out = folder / "new" / "out"
    result = invoke(
        table, *OPTIONS, "--label", "y", "--positive", "yes", "--weight", "w",
        "--draws", DRAWS, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return result, out, table


def test_groups_have_the_numbers_of_plain_numpy(people, done):
    head, found = read(done[1] / "groups.csv")
    assert head == [
        "group", "rows", "mean", "10%", "median", "90%", "selected", "positives",
        "true positive rate", "false positive rate", "accuracy",
    ]  # fmt: skip
    assert list(found) == ["'" + NAMES[0], *NAMES[1:]]
    chosen = people.scores > 0.5
    columns = [
        [np.sum(people.groups == name) for name in NAMES],
        people.means(people.scores, people.weights),
        *np.transpose(
            [
                np.quantile(
                    np.repeat(people.scores[mine], people.weights[mine]),
                    [0.1, 0.5, 0.9],
                    method="inverted_cdf",
                )
                for mine in (people.groups == name for name in NAMES)
            ]
        ),
        people.means(chosen, people.weights),
        [np.sum(people.labels[people.groups == name]) for name in NAMES],
        people.means(chosen, people.weights, people.labels),
        people.means(chosen, people.weights, ~people.labels),
        people.means(chosen == people.labels, people.weights),
    ]
    np.testing.assert_allclose(list(found.values()), np.transpose(columns), rtol=1e-8)


def test_gaps_and_their_intervals_are_those_of_plain_numpy(people, done):
    head, found = read(done[1] / "gaps.csv")
    assert head == ["gap", "value", "low", "high"]
    expected = gaps_by_definition(people, people.weights)
    values, widths = people.quantiles(people.weights)
    shares = [people.weights[people.groups == name].sum() for name in NAMES]
    shares = np.array(shares) / np.sum(shares)
    squared = [np.square(a - b) @ widths for a, b in itertools.combinations(values, 2)]
    price = shares @ (np.square(values - shares @ values) @ widths)
    assert found.pop("Wasserstein-2 distance [score]")[0] == pytest.approx(
        np.sqrt(max(squared)), rel=1e-7
    )
    assert found.pop("price of fairness [score^2]")[0] == pytest.approx(price, rel=1e-7)
    assert set(found) == set(expected)
    # The command sorts the rows by score, and draws from these.
    order = np.argsort(people.scores, kind="stable")
    draws = []
    with jax.enable_x64(True):
        for key in jax.random.split(jax.random.key(0), DRAWS):
            picks = np.asarray(jax.random.randint(key, (N,), 0, N))
            counts = np.zeros(N)
            counts[order] = np.bincount(picks, minlength=N)
            draws.append(gaps_by_definition(people, people.weights * counts))
    for name, (value, low, high) in found.items():
        sample = [draw[name] for draw in draws]
        ends = np.quantile(sample, [0.05, 0.95])
        np.testing.assert_allclose([low, high], ends, rtol=1e-7, atol=1e-9)
        assert value == pytest.approx(expected[name], rel=1e-7)


def test_it_says_what_was_compared_and_what_is_too_small(people, done):
    result, out, _ = done
    said = " ".join(result.stdout.split())
    assert "a score above 0.5" in said
    assert "Positive: y = yes." in said
    assert f"90% bootstrap percentiles from {DRAWS} draws" in said
    sizes = [np.sum(people.groups == name) for name in NAMES]
    small = [f"{name} ({n})" for name, n in zip(NAMES, sizes, strict=True) if n < 30]
    few = np.sum(people.labels & (people.groups == NAMES[0]))
    assert few < 30
    assert f"conclude anything: {', '.join(small)}" in said
    assert f"{NAMES[0]} with a positive label ({few})" in said
    assert sorted(path.name for path in out.iterdir()) == [
        "gaps.csv", "gaps.png", "groups.csv", "report.md", "scores.png",
    ]  # fmt: skip
    report = (out / "report.md").read_text(encoding="utf-8")
    assert r"# Audit of p in people \$x\$.csv" in report
    assert r"| =B \& \[x\] |" in report
    assert "![distribution of the scores in each group](scores.png)" in report
    assert "![gaps between groups with their intervals](gaps.png)" in report
    for name in ("scores", "gaps"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # Rows of different weights have no exact limits, and no law of their distance.
    assert "confidence" not in said
    assert "By chance" not in said


def test_it_says_what_the_rows_can_tell(people, done):
    result = invoke(done[2], *OPTIONS, "--label", "u", "--draws", DRAWS, "--quiet")
    assert result.exit_code == 0, result.output
    said = re.findall(
        r"true difference of (.*?) lies between ([\d.]+) and ([\d.]+) with 95% "
        r"confidence(.*?): (.*?) has (\d+) (rows|positives), and the gap is known to "
        r"\+-([\d.]+)\.",
        " ".join(result.stdout.split()),
    )
    assert [row[0] for row in said] == ["selection rates", "true positive rates"]
    first, second = sorted(np.sum(people.groups == name) for name in NAMES)[:2]
    bound = np.sqrt(-np.log(0.05) / 2) * np.sqrt(1 / first + 1 / second)
    words = " ".join(result.stdout.split())
    assert f"of {first} and {second} rows" in words
    assert f"below a KS distance of {bound:.2g} in 90%" in words
    chosen, everyone = people.scores > 0.5, np.ones(N)
    for row, part in zip(said, (everyone > 0, people.labels), strict=True):
        low, high, half = (float(row[i]) for i in (1, 2, 7))
        codes = np.searchsorted(np.sort(NAMES), people.groups)
        cond = notions.demographic_parity(codes, n_groups=3, weights=part)
        largest = bounds.binomial(chosen, cond).largest
        np.testing.assert_allclose(
            [low, high], [largest.low[0], largest.high[0]], atol=6e-4
        )
        gap = people.gap(chosen, everyone, part)
        np.testing.assert_allclose(half, max(high - gap, gap - low), rtol=0.06)
        assert ("cannot be told from 0" in row[3]) == (low == 0)
        counts = [np.sum(part & (people.groups == name)) for name in NAMES]
        assert int(row[5]) == min(counts)
        assert row[4] == NAMES[int(np.argmin(counts))]


def test_real_labels_give_errors_instead_of_rates(people, done, tmp_path):
    result = invoke(
        done[2], *OPTIONS, "--label", "z", "--draws", DRAWS, "--out", tmp_path,
        "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Selected" not in result.stdout
    assert "│" not in result.stdout
    weights = np.ones(N)
    error = people.scores - people.truth
    head, found = read(tmp_path / "groups.csv")
    assert head[-3:] == ["mean label", "mean error", "mean squared error"]
    for column, values in ((-3, people.truth), (-2, error), (-1, error**2)):
        np.testing.assert_allclose(
            [row[column] for row in found.values()],
            people.means(values, weights),
            rtol=1e-7,
        )
    _, gaps = read(tmp_path / "gaps.csv")
    assert gaps["difference of mean errors [score]"][0] == pytest.approx(
        people.gap(error, weights), rel=1e-7
    )
    assert gaps["difference of mean squared errors [score^2]"][0] == pytest.approx(
        people.gap(error**2, weights), rel=1e-7
    )
    assert "ratio of selection rates [0-1]" not in gaps


@pytest.mark.parametrize(
    ("options", "scores", "expected"),
    [
        ([], "0.1 0.9", "a score above 0.5"),
        ([], "0.1 1.9", "Without `--threshold` there are no selection rates"),
        (["--label", "u"], "0.1 1.9", "a score above 0 "),
        (["--threshold", "0.2"], "0.1 1.9", "a score above 0.2"),
        (["--label", "z"], "0.1 0.9", "intervals:"),
        (["--label", "z", "--threshold", "3"], "0.1 0.9", "a score above 3"),
    ],
)
def test_the_threshold_that_is_taken(options, scores, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "score_gaps", lambda *rows, **options: {})
    low, high = scores.split()
    path = tmp_path / "scores.csv"
    path.write_text(f"p,s,t,u,z\n{low},A,x,0,5\n{high},B,x,1,6\n{high},B,x,1,7\n")
    result = invoke(path, *OPTIONS, *options)
    assert result.exit_code == 0, result.output
    assert expected in result.stdout
    assert ("a score above" in result.stdout) == ("a score above" in expected)


GOOD = "p,s,t,y\n0.1,F,x,0\n0.2,M,x,1\n0.3,M,x,1\n"
BAD = [
    (GOOD, ["--positive", "1"], "`--positive` needs `--label COLUMN`"),
    (GOOD, ["--threshold", "nan"], "`--threshold` must be finite"),
    (GOOD, ["--draws", "0"], "`--draws` must be at least 1"),
    (GOOD, ["--label", "yy"], "`--label` names 'yy', which is no column"),
    (GOOD, ["--label", "p"], "`--score` and `--label` both name 'p'"),
    (GOOD, ["--label", "y", "--positive", "3"], "`--positive` = '3' does not occur"),
    (GOOD.replace("0.2", "a"), [], "data row 2 says 'a'"),
    (GOOD.replace("M", "F"), [], "have 1 value here"),
    (GOOD.replace(",0\n", ",\n"), ["--label", "y"], "is empty in data row 1"),
    (GOOD.replace(",0\n", ",1\n"), ["--label", "y"], "`--label`: column 'y' must hold"),
    (GOOD.replace(",0\n", ",no\n"), ["--label", "y"], "`--positive` must name"),
    ("", [], "different column names"),
]


@pytest.mark.parametrize(("text", "options", "message"), BAD)
def test_bad_input_gets_one_line_and_status_2(text, options, message, tmp_path):
    path, out = tmp_path / "scores.csv", tmp_path / "out"
    path.write_text(text)
    result = invoke(path, *OPTIONS, *options, "--out", out)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert not out.exists()


def test_an_input_is_not_replaced_by_a_result(tmp_path):
    path = tmp_path / "gaps.csv"
    path.write_text(GOOD)
    result = invoke(path, *OPTIONS, "--out", tmp_path)
    assert result.exit_code == 2
    assert "is the table of scores, which would be lost" in result.stderr
    result = invoke(tmp_path / "no.csv", *OPTIONS, "--out", path)
    assert result.exit_code == 2
    assert "`--out`" in result.stderr
    assert path.read_text() == GOOD


def test_rows_without_weight_are_no_evidence(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "scores.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["p", "g", "w", "y"])
        for i in range(200):
            b = i >= 94
            rows.writerow([rng.random(), "ab"[b], int(not b or i < 99), i % 2])
    out = tmp_path / "out"
    options = ["--score", "p", "--group", "g", "--weight", "w", "--label", "y"]
    result = invoke(path, *options, "--draws", "5", "--out", out)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    bound = (np.log(20) / 2 * (1 / 94 + 1 / 5)) ** 0.5
    assert "two groups of 5 and 94 rows" in said
    assert f"stay below a KS distance of {bound:.2g}" in said
    few = "b (5), b with a positive label (2), b without a positive label (3)"
    assert f"too few to conclude anything: {few}" in said
    head, groups = read(out / "groups.csv")
    assert [groups[g][head.index("rows") - 1] for g in "ab"] == [94, 5]
    assert groups["b"][head.index("positives") - 1] == 2
    # One of which no row counts leaves what is known of the others as it is.
    known = re.findall(r"The true difference of .*? is known to \+-[\d.]+", said)
    assert len(known) == 2
    with path.open("a", encoding="utf-8") as stream:
        stream.write("0.5,c,0,1\n")
    result = invoke(path, *options, "--draws", "5")
    assert all(words in " ".join(result.stdout.split()) for words in known)
    text = path.read_text(encoding="utf-8").replace(",b,1,", ",b,2,")
    path.write_text(text, encoding="utf-8")
    result = invoke(path, *options, "--draws", "5")
    assert result.exit_code == 0, result.output
    assert "By chance alone" not in result.stdout
