"""The loaders, against counts made here from the raw files with the csv module."""

import collections
import csv
import functools
import hashlib
import http.server
import os
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from sklearn.linear_model import LogisticRegression

from fairjax import datasets, frontiers, notions
from fairjax.arrays import checks
from fairjax.datasets import columns, dataset, splits
from fairjax.datasets import sources as _sources


@pytest.fixture
def data_dir():
    """The folder with the public files."""
    folder = os.environ.get("FAIRJAX_DATA_DIR")
    if not folder:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    for name in _sources.FILES:
        if not Path(folder, name).is_file():
            pytest.skip(f"FAIRJAX_DATA_DIR lacks {name}")
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes text or bytes into a file and returns its path."""

    def writer(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return writer


@pytest.fixture
def pinned(monkeypatch, tmp_path):
    """German credit replaced by ten made-up rows whose digest is the pinned one."""
    row = (
        "A11 {} A34 A43 {} A65 A75 4 {} A101 4 A121 {} A143 A152 2 A173 1 A192 A201 {}"
    )
    rows = [
        row.format(6 + i, 1000 + i, "A92" if i % 2 else "A93", 20 + i, 1 + i // 5)
        for i in range(10)
    ]
    content = ("\n".join(rows) + "\n").encode()
    digest = hashlib.sha256(content).hexdigest()
    file = _sources.File("http://127.0.0.1:9/german.data", digest)
    monkeypatch.setitem(_sources.FILES, "german.data", file)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv("FAIRJAX_DATA_DIR", raising=False)
    return content


def raw_rows(folder, name, *, sep=","):
    with Path(folder, name).open(newline="") as lines:
        return [row for row in csv.reader(lines, delimiter=sep) if row]


def raw_adult(folder):
    parts = [raw_rows(folder, name) for name in ("adult.data", "adult.test")]
    return [[[cell.strip() for cell in row] for row in part] for part in parts]


def raw_compas(folder):
    header, *rows = raw_rows(folder, "compas-scores-two-years.csv")
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    return [
        row
        for row in rows
        if row["days_b_screening_arrest"]
        and abs(int(row["days_b_screening_arrest"])) <= 30
        and row["is_recid"] != "-1"
        and row["c_charge_degree"] != "O"
        and row["score_text"] != "N/A"
    ]


def cell_counts(groups, labels):
    """How many samples each (group, label) has."""
    return collections.Counter(zip(groups, labels, strict=True))


def named_counts(data, part):
    return cell_counts([data.group_names[g] for g in part.groups], part.labels.tolist())


def column(data, name):
    return data.features[:, data.feature_names.index(name)]


def one_hot(data, source):
    names = [name for name in data.feature_names if name.startswith(f"{source}=")]
    return np.stack([column(data, name) for name in names], axis=1), names


def check_contract(data):
    n = len(data.labels)
    assert data.features.dtype == np.float32
    assert data.labels.dtype == (np.float32 if data.is_regression else np.int32)
    assert data.groups.dtype == np.int32
    assert data.is_train.dtype == bool
    assert data.features.shape == (n, len(data.feature_names))
    assert data.groups.shape == data.is_train.shape == (n,)
    assert len(set(data.feature_names)) == len(data.feature_names)
    assert data.n_groups == len(data.group_names) == len(np.unique(data.groups))
    assert len(data.train.labels) + len(data.test.labels) == n
    np.testing.assert_array_equal(data.train.features, data.features[data.is_train])
    np.testing.assert_array_equal(data.test.groups, data.groups[~data.is_train])
    for part in (data.train, data.test):
        checks.check_finite(part.features, name="features")
        if data.is_regression:
            checks.check_finite(part.labels, name="labels")
        else:
            checks.check_labels(part.labels, n=len(part.features))
        checks.check_groups(part.groups, n_groups=data.n_groups)


def check_scaled_on_training_part(data):
    numeric = [i for i, name in enumerate(data.feature_names) if "=" not in name]
    train = data.train.features[:, numeric].astype(float)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.var(axis=0), 1, atol=1e-5)
    everything = data.features[:, numeric].astype(float)
    assert (np.abs(everything.mean(axis=0)) > 1e-5).any()


# ---- toy


def test_toy_has_the_documented_cells():
    data = datasets.toy()
    check_contract(data)
    for part in (data.train, data.test):
        counts = {("a", 0): 640, ("a", 1): 640, ("b", 0): 240, ("b", 1): 80}
        assert named_counts(data, part) == counts
        for (g, y), centre in {(0, 1): (1, 1.5), (1, 0): (-1, -1.5)}.items():
            points = part.features[(part.groups == g) & (part.labels == y)]
            np.testing.assert_allclose(points.mean(axis=0), centre, atol=0.25)


def test_toy_follows_its_seed():
    np.testing.assert_array_equal(datasets.toy().features, datasets.toy().features)
    assert not np.array_equal(datasets.toy(seed=1).features, datasets.toy().features)


@pytest.mark.parametrize("n", [20, 37])
def test_toy_fills_every_cell_at_small_sizes(n):
    data = datasets.toy(n=n)
    check_contract(data)
    assert len(data.train.labels) == len(data.test.labels) == n
    assert set(named_counts(data, data.train)) == set(named_counts(data, data.test))
    with pytest.raises(ValueError, match="`n` must be at least 20, but is 19"):
        datasets.toy(n=19)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_line_of_toy_is_unfair_and_a_fair_one_is_nearly_as_good(seed):
    data = datasets.toy(seed=seed)

    def audit(map_features):
        fitted = LogisticRegression().fit(
            map_features(data.train.features), data.train.labels
        )
        decisions = fitted.predict(map_features(data.test.features))
        positives = [(data.test.labels == 1) & (data.test.groups == g) for g in (0, 1)]
        rates = [decisions[rows].mean() for rows in positives]
        return (decisions == data.test.labels).mean(), abs(rates[0] - rates[1])

    accuracy, gap = audit(lambda features: features)
    assert accuracy > 0.92
    assert 0.2 < gap < 0.45
    # The paper's constraint: scores of positives have the same mean in both groups.
    train = data.train
    means = [
        train.features[(train.labels == 1) & (train.groups == g)].mean(0)
        for g in (0, 1)
    ]
    u = (means[0] - means[1]) / np.linalg.norm(means[0] - means[1])
    fair_accuracy, fair_gap = audit(lambda x: x - np.outer(x @ u, u))
    assert fair_gap < 0.12
    assert fair_accuracy > accuracy - 0.06


def test_a_part_feeds_the_notions():
    data = datasets.toy(n=20)
    cond = notions.equal_opportunity(
        jnp.asarray(data.train.groups),
        jnp.asarray(data.train.labels),
        n_groups=data.n_groups,
    )
    assert cond.occupied.all()


# ---- adult


def test_adult_counts_match_the_raw_files(data_dir):
    data = datasets.adult(data_dir=data_dir)
    check_contract(data)
    assert (len(data.train.labels), len(data.test.labels)) == (32561, 16281)
    for raw, part in zip(raw_adult(data_dir), (data.train, data.test), strict=True):
        sexes = [row[9] for row in raw]
        assert named_counts(data, part) == cell_counts(
            sexes, [int(row[14] == ">50K") for row in raw]
        )


def test_adult_rows_keep_the_order_and_content_of_the_source(data_dir):
    data = datasets.adult(data_dir=data_dir)
    train, test = raw_adult(data_dir)
    for source, position in {"occupation": 6, "native-country": 13}.items():
        values, names = one_hot(data, source)
        texts = [row[position].replace("?", "missing") for row in train + test]
        for name in names:
            expected = [name == f"{source}={text}" for text in texts]
            np.testing.assert_array_equal(values[:, names.index(name)], expected)
    ages = np.array([float(row[0]) for row in train + test])
    fitted = ages[: len(train)]
    np.testing.assert_allclose(
        column(data, "age"), (ages - fitted.mean()) / fitted.std(), atol=1e-5
    )


def test_adult_encoding(data_dir):
    data = datasets.adult(data_dir=data_dir)
    check_scaled_on_training_part(data)
    assert len(data.feature_names) == 107
    assert not any(name.startswith("fnlwgt") for name in data.feature_names)
    assert {"education-num", "workclass=missing"} < set(data.feature_names)
    np.testing.assert_array_equal(one_hot(data, "race")[0].sum(axis=1), 1)
    # One country occurs in the training part only, so all countries are known here.
    np.testing.assert_array_equal(one_hot(data, "native-country")[0].sum(axis=1), 1)


def test_adult_without_missing_entries(data_dir):
    data = datasets.adult(data_dir=data_dir, drop_missing=True)
    expected = [sum("?" not in row for row in part) for part in raw_adult(data_dir)]
    assert expected == [30162, 15060]
    assert [len(data.train.labels), len(data.test.labels)] == expected
    assert not any("missing" in name for name in data.feature_names)


def test_adult_intersections_and_removed_columns(data_dir):
    data = datasets.adult(
        data_dir=data_dir, sensitive=["race", "sex"], sensitive_in_features=False
    )
    check_contract(data)
    assert data.n_groups == 10
    train, _ = raw_adult(data_dir)
    assert named_counts(data, data.train) == cell_counts(
        [f"{row[8]} & {row[9]}" for row in train],
        [int(row[14] == ">50K") for row in train],
    )
    assert not any(name.startswith(("sex", "race")) for name in data.feature_names)
    assert len(data.feature_names) == 107 - 2 - 5


def test_adult_targets_match_the_raw_files(data_dir):
    names = ["income", "hours-per-week", "occupation"]
    data = datasets.adult(target=names, data_dir=data_dir)
    check_contract(data)
    parts = [[r for r in part if r[6] != "?"] for part in raw_adult(data_dir)]
    rows = parts[0] + parts[1]
    high = ("Exec-managerial", "Prof-specialty")
    expected = [
        [row[14] == ">50K" for row in rows],
        [int(row[12]) > 40 for row in rows],
        [row[6] in high for row in rows],
    ]
    np.testing.assert_array_equal(data.labels.reshape(3, -1), expected)
    np.testing.assert_array_equal(data.tasks.reshape(3, -1).T, [[0, 1, 2]] * len(rows))
    males = [row[9] == "Male" for row in rows]
    np.testing.assert_array_equal(data.groups.reshape(3, -1), [males] * 3)
    assert data.is_train.reshape(3, -1).sum(axis=1).tolist() == [len(parts[0])] * 3
    assert data.task_names == (
        "income > 50K",
        "more than 40 hours per week",
        "managerial or professional occupation",
    )
    gone = ("hours-per-week", "occupation", "income")
    assert not any(name.startswith(gone) for name in data.feature_names)
    # Every task has the same features, and they are scaled on the training part.
    thirds = np.split(data.features, 3)
    np.testing.assert_array_equal(thirds[0], thirds[2])
    check_scaled_on_training_part(data)
    alone = datasets.adult(target="occupation", data_dir=data_dir)
    assert alone.tasks is None
    assert alone.label_name == data.task_names[2]
    np.testing.assert_array_equal(alone.labels, expected[2])
    assert "hours-per-week" in alone.feature_names


# ---- compas


def test_compas_targets_match_the_raw_file(data_dir):
    names = ["score_text", "two_year_recid", "is_violent_recid"]
    data = datasets.compas(target=names, data_dir=data_dir)
    check_contract(data)
    raw = raw_compas(data_dir)
    expected = [
        [row["score_text"] == "Low" for row in raw],
        [row["two_year_recid"] == "0" for row in raw],
        [row["is_violent_recid"] == "0" for row in raw],
    ]
    np.testing.assert_array_equal(data.labels.reshape(3, -1), expected)
    assert data.task_names[0] == "risk scored as low"
    single = datasets.compas(target="score_text", data_dir=data_dir)
    np.testing.assert_array_equal(single.labels, expected[0])
    # The same persons are in the training part of each task.
    splits = data.is_train.reshape(3, -1)
    np.testing.assert_array_equal(splits, [single.is_train] * 3)


@pytest.mark.parametrize(
    ("load", "target", "message"),
    [
        (datasets.adult, "hours", "`target` names 'hours', which is unknown"),
        (datasets.adult, [], "one or several"),
        (datasets.compas, ["score_text", "score_text"], "different targets"),
        (datasets.compas, "decile_score", "Nearest: 'two_year_recid'"),
    ],
)
def test_unknown_targets_are_named(load, target, message):
    with pytest.raises(ValueError, match=message):
        load(target=target)


def test_a_target_is_no_sensitive_attribute(data_dir):
    with pytest.raises(ValueError, match="`sensitive` names 'occupation'"):
        datasets.adult(target="occupation", sensitive="occupation", data_dir=data_dir)


def test_compas_counts_match_the_raw_file(data_dir):
    data = datasets.compas(data_dir=data_dir)
    check_contract(data)
    raw = raw_compas(data_dir)
    assert len(data.labels) == len(raw) == 6172
    black = "African-American"
    races = [row["race"] if row["race"] == black else "All others" for row in raw]
    labels = [1 - int(row["two_year_recid"]) for row in raw]
    assert named_counts(data, data) == cell_counts(races, labels)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.label_name == "no new offence within two years"


def test_compas_features_hold_neither_scores_nor_later_events(data_dir):
    data = datasets.compas(data_dir=data_dir)
    check_scaled_on_training_part(data)
    used = {"sex", "age", "age_cat", "race", "priors_count", "c_charge_degree"}
    used |= {"juv_fel_count", "juv_misd_count", "juv_other_count"}
    assert {name.split("=")[0] for name in data.feature_names} == used
    assert len(one_hot(data, "race")[1]) == 6


def test_compas_with_all_races(data_dir):
    data = datasets.compas(data_dir=data_dir, sensitive=("race", "sex"), all_races=True)
    raw = raw_compas(data_dir)
    pairs = [f"{row['race']} & {row['sex']}" for row in raw]
    assert set(data.group_names) == set(pairs)
    assert np.bincount(data.groups).tolist() == [
        pairs.count(p) for p in data.group_names
    ]


def test_compas_age_goes_with_its_category(data_dir):
    data = datasets.compas(
        data_dir=data_dir, sensitive="age_cat", sensitive_in_features=False
    )
    assert data.n_groups == 3
    assert not any(name.startswith("age") for name in data.feature_names)
    assert "priors_count" in data.feature_names


# ---- german


def test_german_counts_match_the_raw_file(data_dir):
    data = datasets.german(data_dir=data_dir)
    check_contract(data)
    check_scaled_on_training_part(data)
    raw = raw_rows(data_dir, "german.data", sep=" ")
    sexes = ["female" if row[8] in ("A92", "A95") else "male" for row in raw]
    labels = [int(row[20] == "1") for row in raw]
    assert len(raw) == 1000
    assert named_counts(data, data) == cell_counts(sexes, labels)
    assert cell_counts(sexes, labels)["female", 1] == 201
    assert len({name.split("=")[0] for name in data.feature_names}) == 20


def test_german_by_age(data_dir):
    data = datasets.german(
        data_dir=data_dir, sensitive=["age", "sex"], sensitive_in_features=False
    )
    raw = raw_rows(data_dir, "german.data", sep=" ")
    young = np.array([int(row[12]) <= 25 for row in raw])
    named = np.array(data.group_names)[data.groups]
    np.testing.assert_array_equal(np.char.startswith(named, "age <= 25 & "), young)
    sources = {name.split("=")[0] for name in data.feature_names}
    assert not sources & {"age", "sex_and_marital_status"}
    assert len(sources) == 18


@pytest.mark.parametrize("loader", [datasets.german, datasets.compas])
@pytest.mark.parametrize("test_size", [0.25, 0.4])
def test_split_keeps_the_share_of_every_cell(data_dir, loader, test_size):
    data = loader(data_dir=data_dir, test_size=test_size)
    whole, test = named_counts(data, data), named_counts(data, data.test)
    for cell, count in whole.items():
        assert abs(test[cell] - test_size * count) <= 0.5


def test_split_follows_its_seed(data_dir):
    first, again, other = (
        datasets.german(data_dir=data_dir, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.is_train, again.is_train)
    np.testing.assert_array_equal(first.features, again.features)
    assert not np.array_equal(first.is_train, other.is_train)


def test_unknown_columns_are_named_with_their_neighbours(data_dir):
    with pytest.raises(ValueError, match="`sensitive` names 'Sex'.*Nearest: 'sex'"):
        datasets.adult(data_dir=data_dir, sensitive="Sex")
    with pytest.raises(ValueError, match="`sensitive` names 'zzz'.*'race'.*'age_cat'"):
        datasets.compas(data_dir=data_dir, sensitive="zzz")


def test_registry_holds_every_named_loader(data_dir):
    regression = ["communities", "law_school", "student", "school"]
    names = ["toy", "adult", "compas", "german", *regression]
    assert list(datasets.LOADERS) == names
    for name, loader in datasets.LOADERS.items():
        options = {} if name == "toy" else {"data_dir": data_dir}
        data = loader(**options)
        assert data.name == name
        assert data.is_regression == (name in regression)


# ---- communities


def raw_communities(folder):
    lines = Path(folder, "communities.names").read_text().splitlines()
    names = [line.split()[1] for line in lines if line.startswith("@attribute ")]
    rows = raw_rows(folder, "communities.data")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def is_black(raw):
    shares = np.array(raw["racepctblack"], float)
    return shares > np.median(shares)


def group_labels(data):
    """The sorted labels of each group, by its name."""
    return {
        name: np.sort(data.labels[data.groups == code])
        for code, name in enumerate(data.group_names)
    }


def test_communities_match_the_raw_file(data_dir):
    data = datasets.communities(data_dir=data_dir)
    check_contract(data)
    check_scaled_on_training_part(data)
    raw = raw_communities(data_dir)
    assert len(raw) == 128
    assert len(data.labels) == 1994
    targets = np.array(raw["ViolentCrimesPerPop"], np.float32)
    np.testing.assert_array_equal(data.labels, targets)
    assert (data.labels.min(), data.labels.max()) == (0, 1)
    assert data.group_names == ("racepctblack <= 0.06", "racepctblack > 0.06")
    np.testing.assert_array_equal(data.groups, is_black(raw))
    assert np.bincount(data.groups).tolist() == [1024, 970]
    whole = {n for n in raw if n == "OtherPerCap" or "?" not in raw[n]}
    whole -= {"state", "communityname", "fold", "ViolentCrimesPerPop"}
    assert set(data.feature_names) == whole
    assert len(whole) == 100


def test_communities_have_the_groups_of_the_paper(data_dir):
    folder = Path(data_dir, "crime_rf")
    if not folder.is_dir():
        pytest.skip("FAIRJAX_DATA_DIR lacks crime_rf")
    groups, targets = (
        np.concatenate([np.loadtxt(folder / f"{name}.csv") for name in names])
        for names in (("SL", "ST"), ("RF_YLT", "RF_YTT"))
    )
    ours = group_labels(datasets.communities(data_dir=data_dir))
    for code, name in ((1, "racepctblack <= 0.06"), (0, "racepctblack > 0.06")):
        theirs = np.sort(targets[groups == code])
        np.testing.assert_allclose(ours[name], theirs, atol=1e-6)


def test_communities_fill_the_missing_entry_from_the_training_part(data_dir):
    data = datasets.communities(data_dir=data_dir)
    texts = raw_communities(data_dir)["OtherPerCap"]
    assert texts.count("?") == 1
    known = np.array([t != "?" for t in texts])
    values = np.array([t.replace("?", "nan") for t in texts], float)
    mean = values[known & data.is_train].mean()
    values[~known] = mean
    scaled = (values - mean) / values[data.is_train].std()
    np.testing.assert_allclose(column(data, "OtherPerCap"), scaled, atol=1e-5)


def test_communities_with_the_police_survey(data_dir):
    data = datasets.communities(data_dir=data_dir, police_survey=True)
    check_contract(data)
    check_scaled_on_training_part(data)
    few = set(data.feature_names) - set(
        datasets.communities(data_dir=data_dir).feature_names
    )
    raw = raw_communities(data_dir)
    partial = {n for n in raw if raw[n].count("?") == 1675}
    assert len(partial) == 22
    answers = {"police_survey=answered", "police_survey=unanswered"}
    assert few == partial | answers
    known = np.array([text != "?" for text in raw["PolicPerPop"]])
    np.testing.assert_array_equal(column(data, "police_survey=answered"), known)
    assert np.ptp(column(data, "PolicPerPop")[~known]) == 0
    assert np.ptp(column(data, "PolicPerPop")[known]) > 1


def test_communities_by_other_shares(data_dir):
    data = datasets.communities(
        data_dir=data_dir,
        sensitive=["racePctHisp", "racepctblack"],
        sensitive_in_features=False,
    )
    check_contract(data)
    raw = raw_communities(data_dir)
    shares = np.array(raw["racePctHisp"], float)
    expected = 2 * (shares > np.median(shares)) + is_black(raw)
    np.testing.assert_array_equal(data.groups, expected)
    assert data.group_names[1] == "racePctHisp <= 0.04 & racepctblack > 0.06"
    assert len(data.feature_names) == 98
    assert "racePctWhite" in data.feature_names


# ---- law_school

LAW_COLUMNS = {"lsat", "fulltime", "fam_inc", "male", "tier"}
LAW_COLUMNS |= {"race=White", "race=Non-White"}
LAW_GRADES = {"decile1b", "decile3", "zfygpa", "zgpa"}


def raw_law_school(folder):
    header, *rows = raw_rows(folder, "law_school_clean.csv")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


@pytest.mark.parametrize(
    ("target", "least", "most", "features"),
    [
        ("ugpa", 1.5, 4, LAW_COLUMNS),
        ("zfygpa", -3.35, 3.48, LAW_COLUMNS | {"ugpa"}),
        ("pass_bar", 0, 1, LAW_COLUMNS | {"ugpa"} | LAW_GRADES),
    ],
)
def test_law_school_matches_the_raw_file(data_dir, target, least, most, features):
    data = datasets.law_school(data_dir=data_dir, target=target)
    check_contract(data)
    check_scaled_on_training_part(data)
    assert data.is_regression == (target != "pass_bar")
    assert len(data.labels) == 20798
    raw = raw_law_school(data_dir)
    targets = np.array(raw[target], data.labels.dtype if least else float)
    np.testing.assert_array_equal(data.labels, targets)
    assert data.labels.min() == np.float32(least)
    assert data.labels.max() == np.float32(most)
    assert set(data.feature_names) == features
    assert [data.group_names[g] for g in data.groups] == raw["race"]
    assert np.bincount(data.groups).tolist() == [3307, 17491]


@pytest.mark.parametrize("target", ["ugpa", "zfygpa", "pass_bar"])
@pytest.mark.parametrize("law_grades", [False, True])
def test_law_grades_are_the_users_choice(data_dir, target, law_grades):
    data = datasets.law_school(
        data_dir=data_dir,
        target=target,
        law_grades=law_grades,
        sensitive=["sex", "race"],
        sensitive_in_features=False,
    )
    expected = {"lsat", "fulltime", "fam_inc", "tier", "ugpa"}
    expected |= LAW_GRADES if law_grades else set()
    assert set(data.feature_names) == expected - {target}
    raw = raw_law_school(data_dir)
    sexes = ["male" if float(code) else "female" for code in raw["male"]]
    pairs = map(" & ".join, zip(sexes, raw["race"], strict=True))
    assert [data.group_names[g] for g in data.groups] == list(pairs)


# ---- student


@pytest.mark.parametrize(
    ("subject", "file", "rows", "most"),
    [("mathematics", "student-mat.csv", 395, 20)]
    + [("portuguese", "student-por.csv", 649, 19)],
)
def test_student_matches_the_raw_file(data_dir, subject, file, rows, most):
    data = datasets.student(data_dir=data_dir, subject=subject)
    check_contract(data)
    check_scaled_on_training_part(data)
    header, *raw = raw_rows(data_dir, file, sep=";")
    raw = {name: [row[i] for row in raw] for i, name in enumerate(header)}
    np.testing.assert_array_equal(data.labels, np.array(raw["G3"], np.float32))
    assert (len(data.labels), data.labels.min(), data.labels.max()) == (rows, 0, most)
    assert [data.group_names[g][0].upper() for g in data.groups] == raw["sex"]
    sources = {name.split("=")[0] for name in data.feature_names}
    assert sources == set(header) - {"G1", "G2", "G3"}
    assert len(data.feature_names) == 56
    assert subject in data.label_name


@pytest.mark.parametrize(
    ("earlier_grades", "names"), [(0, set()), (1, {"G1"}), (2, {"G1", "G2"})]
)
def test_earlier_grades_are_the_users_choice(data_dir, earlier_grades, names):
    data = datasets.student(
        data_dir=data_dir,
        earlier_grades=earlier_grades,
        sensitive=["address", "sex"],
        sensitive_in_features=False,
    )
    assert {"G1", "G2", "G3"} & set(data.feature_names) == names
    assert len(data.feature_names) == 52 + len(names)
    assert data.group_names == tuple(
        f"{place} & {sex}" for place in ("rural", "urban") for sex in ("female", "male")
    )


# ---- regression


@pytest.mark.parametrize(
    "loader", [datasets.communities, datasets.law_school, datasets.student]
)
@pytest.mark.parametrize("test_size", [0.25, 0.6])
def test_both_parts_of_a_regression_spread_over_the_labels(data_dir, loader, test_size):
    data = loader(data_dir=data_dir, test_size=test_size)
    whole, part = (
        group_labels(data),
        data._replace(labels=data.test.labels, groups=data.test.groups),
    )
    for name, test in group_labels(part).items():
        n = len(whole[name])
        assert abs(len(test) - test_size * n) <= 0.5
        at = np.unique(whole[name])
        gap = np.searchsorted(test, at, "right") / len(test)
        gap -= np.searchsorted(whole[name], at, "right") / n
        fewer = min(len(test), n - len(test))
        # One row of each of `fewer` blocks of neighbours; counts of the larger part
        # differ as those of the smaller one.
        assert np.abs(gap).max() <= (1 / fewer + 1 / n) * fewer / len(test)


def test_split_of_a_regression_follows_its_seed(data_dir):
    first, again, other = (
        datasets.student(data_dir=data_dir, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.is_train, again.is_train)
    np.testing.assert_array_equal(first.features, again.features)
    assert not np.array_equal(first.is_train, other.is_train)


@pytest.mark.parametrize("test_size", [0.1, 0.25, 0.4, 0.6, 0.9])
def test_every_row_has_the_same_chance_of_either_part(test_size):
    labels, strata = np.linspace(0, 1, 103), np.zeros(103, int)
    draws = [
        splits.stratified_split(strata, test_size=test_size, seed=seed, along=labels)
        for seed in range(1000)
    ]
    share = 1 - np.mean(draws, axis=0)
    # Five standard deviations, and what the ends of the range may differ by.
    assert np.abs(share - test_size).max() < 5 * (0.25 / 1000) ** 0.5


@pytest.mark.parametrize(("size", "test"), [(1, 0), (2, 1), (3, 1), (5, 2)])
def test_small_groups_keep_a_training_row(size, test):
    is_train = splits.stratified_split(
        np.repeat([0, 1], [size, 40]),
        test_size=0.4,
        seed=0,
        along=np.arange(size + 40.0),
    )
    assert (~is_train[:size]).sum() == test
    assert (~is_train[size:]).sum() == 16


def test_a_regression_is_no_classification(data_dir):
    data = datasets.law_school(data_dir=data_dir)
    with pytest.raises(ValueError, match="'law_school' is for regression.*'pass_bar'"):
        frontiers.check_dataset(data, notion=notions.demographic_parity, n_folds=0)
    data = datasets.law_school(data_dir=data_dir, target="pass_bar")
    counts = frontiers.check_dataset(data, notion=notions.equal_opportunity, n_folds=2)
    assert counts.sum() == data.labels.sum()


@pytest.mark.parametrize(
    ("loader", "options", "message"),
    [
        (datasets.communities, {"sensitive": "race"}, "'race'.*Nearest: 'race"),
        (datasets.communities, {"sensitive": []}, "`sensitive` must name one"),
        (datasets.communities, {"test_size": 1.0}, r"share in \(0, 1\), but is 1.0"),
        (datasets.law_school, {"target": "gpa"}, "`target` names 'gpa'.*'zfygpa'"),
        (datasets.law_school, {"sensitive": "male"}, "'male'.*'race', 'sex'"),
        (datasets.student, {"subject": "math"}, "`subject`.*'math'.*'mathematics'"),
        (datasets.student, {"earlier_grades": 3}, "must be 0, 1 or 2, but is 3"),
        (datasets.student, {"sensitive": "seks"}, "Nearest: 'sex'"),
        (datasets.student, {"data_dir": "absent"}, "'absent' is not.*student-mat.csv"),
    ],
)
def test_bad_choices_are_refused(data_dir, loader, options, message):
    with pytest.raises(ValueError, match=message):
        loader(**{"data_dir": data_dir} | options)


def test_labels_all_alike_leave_nothing_to_learn():
    table = columns.extra("pandas").DataFrame({"x": np.arange(8.0)})
    groups = dataset.Attribute(np.array(list("abababab")), ("x",))
    with pytest.raises(ValueError, match="two labels, but its 6 .* Labels are 'y'"):
        dataset.build(
            "same",
            table,
            np.ones(8, np.float32),
            label_name="y",
            attributes={"sex": groups},
            sensitive="sex",
            sensitive_in_features=True,
            split=(0.25, 0),
        )


# ---- where files come from


def test_data_dir_goes_before_the_environment(pinned, write, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "env").mkdir()
    write(pinned, "here/german.data")
    write(b"altered", "env/german.data")
    monkeypatch.setenv("FAIRJAX_DATA_DIR", str(tmp_path / "env"))
    assert len(datasets.german(data_dir=tmp_path / "here").labels) == 10
    with pytest.raises(ValueError, match="env/german.data' is not the file") as caught:
        datasets.german()
    for part in (
        hashlib.sha256(b"altered").hexdigest(),
        "Replace it by http",
        "from_csv",
    ):
        assert part in str(caught.value)
    assert hashlib.sha256(pinned).hexdigest() in str(caught.value)
    write(pinned, "env/german.data")
    assert len(datasets.german().labels) == 10


@pytest.mark.parametrize("folder", [".", "absent"])
def test_data_dir_without_the_file(pinned, tmp_path, folder):
    with pytest.raises(ValueError, match="not a folder with 'german.data'.*leave out"):
        datasets.german(data_dir=tmp_path / folder)


def serve(content):
    """A local server that answers every request with `content`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("altered", [False, True])
def test_download_is_cached_and_checked(pinned, monkeypatch, tmp_path, altered):
    monkeypatch.setenv("FAIRJAX_DATA_DIR", str(tmp_path))  # Lacks the file.
    server = serve(pinned + b"\n" if altered else pinned)
    url = f"http://127.0.0.1:{server.server_port}/german.data"
    file = _sources.FILES["german.data"]._replace(url=url)
    monkeypatch.setitem(_sources.FILES, "german.data", file)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        if altered:
            with pytest.raises(ValueError, match="cannot download .* hash"):
                datasets.german()
            return
        first = datasets.german()
    finally:
        server.shutdown()
        server.server_close()
    assert (tmp_path / "cache" / "fairjax" / "german.data").read_bytes() == pinned
    # The server is gone: the second call must read the cache.
    np.testing.assert_array_equal(datasets.german().features, first.features)


def test_failed_download_says_what_to_do(pinned, monkeypatch):
    def refuse(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr("pooch.retrieve", refuse)
    with pytest.raises(ValueError, match="no route.*`data_dir`.*FAIRJAX_DATA_DIR"):
        datasets.german()


@pytest.mark.parametrize("module", ["pandas", "pooch"])
def test_missing_extra_is_named(pinned, write, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    folder = None if module == "pooch" else write(pinned, "german.data").parent
    with pytest.raises(ImportError, match=rf"needs {module}.*fairjax\[data\]"):
        datasets.german(data_dir=folder)
    assert len(datasets.toy(n=20).labels) == 40


@pytest.mark.parametrize("name", list(_sources.FILES))
def test_local_files_are_the_pinned_ones(data_dir, name):
    content = Path(data_dir, name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == _sources.FILES[name].sha256
    assert _sources.FILES[name].url.endswith(f"/{name}")


# ---- from_csv

SMALL = "x,sex,y\n" + "1,F,yes\n2,M,no\n3,M,yes\n4,F,no\n" * 3
read = functools.partial(datasets.from_csv, target="y", sensitive="sex", positive="yes")


def test_csv_round_trip_with_several_sensitive_columns(write, rng):
    n = 400
    sexes = rng.choice(["F", "M"], size=n)
    races = rng.choice(["u", "v", "w"], size=n)
    # One combination does not occur.
    races[(sexes == "M") & (races == "w")] = "u"
    ages, labels = rng.normal(40, 9, size=n), rng.integers(2, size=n)
    rows = zip(ages, sexes, races, labels, range(n), strict=True)
    lines = [",".join(map(str, row)) for row in rows]
    data = datasets.from_csv(
        write("\n".join(["age,sex,race,hired,id", *lines]), "jobs.csv"),
        target="hired",
        sensitive=["sex", "race"],
        favourable="hired at once",
        exclude="id",
    )
    check_contract(data)
    check_scaled_on_training_part(data)
    assert data.name == "jobs"
    assert data.label_name == "hired at once"
    assert data.group_names == ("F & u", "F & v", "F & w", "M & u", "M & v")
    names = [f"{sex} & {race}" for sex, race in zip(sexes, races, strict=True)]
    assert [data.group_names[g] for g in data.groups] == names
    np.testing.assert_array_equal(data.labels, labels)
    train = ages[data.is_train]
    np.testing.assert_allclose(
        column(data, "age"), (ages - train.mean()) / train.std(), atol=1e-5
    )
    one_hots = ("sex=F", "sex=M", "race=u", "race=v", "race=w")
    assert data.feature_names == ("age", *one_hots)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (SMALL, {}),
        (SMALL.replace("\n", "\r\n"), {}),
        ("\ufeff" + SMALL, {}),
        (SMALL.replace(",", ";"), {"sep": ";"}),
        (SMALL.replace(",", ", ").replace("x, sex", '" x ", sex '), {}),
        ("\n" + SMALL.replace("3,M", "\n3,M") + "\n", {}),
        (SMALL.replace("F", '"F"').replace("yes", '"yes"'), {}),
    ],
    ids=["plain", "crlf", "mark", "semicolon", "spaces", "blank-lines", "quotes"],
)
def test_csv_dialects_read_alike(write, text, options):
    data, plain = read(write(text), **options), read(write(SMALL, "plain.csv"))
    for field in ("feature_names", "group_names", "label_name"):
        assert getattr(data, field) == getattr(plain, field)
    for field in ("features", "labels", "groups", "is_train"):
        np.testing.assert_array_equal(getattr(data, field), getattr(plain, field))


def test_csv_with_quoted_separators_and_another_encoding(write):
    text = SMALL.replace("M,", '"Mann, ä ""x""\nz",')
    data = read(write(text.encode("latin-1")), encoding="latin-1")
    assert data.group_names == ("F", 'Mann, ä "x"\nz')
    with pytest.raises(ValueError, match="utf-8-sig.*can't decode.*Check the path"):
        read(write(text.encode("latin-1")))


@pytest.mark.parametrize(
    ("values", "positive", "label_name"),
    [
        ("01", None, "y = 1"),
        (("-1", "1"), None, "y = 1"),
        (("1.0", "-1.0"), None, "y = 1"),
        (("False", "True"), None, "y = True"),
        ("01", 0, "y = 0"),
        ("12", 2.0, "y = 2"),
        (("good", "bad"), "good", "y = good"),
        (("1.5", "2"), 1.5, "y = 1.5"),
        (("01", "02"), "01", "y = 1"),
        (("true", "false"), "true", "y = True"),
        (("TRUE", "FALSE"), "True", "y = True"),
        (("yes", "None"), "None", "y = None"),
        (("true", "NA"), True, "y = true"),
    ],
)
def test_positive_value(write, values, positive, label_name):
    texts = [values[0], values[1]] * 6
    rows = [f"{i},{'FM'[i % 3 == 0]},{text}" for i, text in enumerate(texts)]
    data = read(write("\n".join(["x,sex,y", *rows])), positive=positive)
    assert data.label_name == label_name
    chosen = label_name.removeprefix("y = ")
    known = (chosen, f"{chosen}.0", f"0{chosen}", chosen.lower(), chosen.upper())
    alike = [text in known for text in texts]
    np.testing.assert_array_equal(data.labels, alike)


def test_one_value_against_all_others(write):
    data = read(write(SMALL.replace("4,F,no", "4,F,perhaps")))
    assert data.labels.tolist() == [1, 0, 1, 0] * 3


def test_numeric_groups_say_which_attribute_they_belong_to(write):
    text = SMALL.replace("F", "1").replace("M", "0")
    assert read(write(text)).group_names == ("sex=0", "sex=1")


SPLIT = (
    "x,colour,sex,y,part\n"
    + "1,red,F,yes,train\n3,blue,M,no,train\n5,red,M,yes,Train\n7,blue,F,no,train\n"
    + "9,green,F,yes,test\n11,red,M,no, TEST\n"
)


def test_named_split_and_categories_unseen_in_training(write):
    data = read(write(SPLIT), split="part")
    assert data.is_train.tolist() == [True] * 4 + [False] * 2
    assert data.feature_names == ("x", "colour=blue", "colour=red", "sex=F", "sex=M")
    assert data.test.features[:, 1:3].tolist() == [[0, 0], [0, 1]]
    np.testing.assert_allclose(
        column(data, "x"), (np.array([1, 3, 5, 7, 9, 11]) - 4) / 5**0.5, rtol=1e-6
    )


def test_test_rows_leave_the_training_features_as_they_are(write):
    altered = SPLIT.replace("9,green", "-1e6,violet").replace("11,red", "0.5,blue")
    first = read(write(SPLIT), split="part")
    second = read(write(altered, "altered.csv"), split="part")
    assert first.train.features.tobytes() == second.train.features.tobytes()
    assert first.feature_names == second.feature_names
    assert not np.array_equal(first.test.features, second.test.features)


def test_constant_column_becomes_zero(write):
    text = SPLIT.replace("colour", "c,colour").replace("red", "0.1,red")
    text = text.replace("blue", "0.1,blue").replace("green", "0.7,green")
    data = read(write(text), split="part")
    np.testing.assert_array_equal(column(data, "c"), 0)


def test_single_rows_of_a_cell_go_to_training(write):
    data = read(write(SMALL + "9,X,no\n8,X,yes\n"), test_size=0.9)
    alone = data.groups == data.group_names.index("X")
    assert alone.sum() == 2
    assert data.is_train[alone].all()
    counts = named_counts(data, data.train)
    assert set(counts) == {(g, y) for g in "FMX" for y in (0, 1)}


def test_missing_categories_are_a_category(write):
    data = read(write(SMALL + "9,,no\n8,,yes\n"))
    assert data.group_names == ("F", "M", "missing")
    assert "sex=missing" in data.feature_names
    dropped = read(write(SMALL + "9,,no\n8,,yes\n,F,no\n"), drop_missing=True)
    assert dropped.group_names == ("F", "M")
    assert len(dropped.labels) == 12


def test_words_for_missing_are_names_among_texts(write):
    text = "x,r,y\n" + "".join(
        f"{x},{r},{y}\n"
        for x in ("1", "NA", "2.5", "nan")
        for r in ("None", "NA", "null", "")
        for y in "01"
    )
    options = {"sensitive": "r", "positive": None}
    data = read(write(text), drop_missing=True, **options)
    assert data.group_names == ("NA", "None", "null")
    assert data.feature_names == ("x", "r=NA", "r=None", "r=null")
    assert np.bincount(data.groups).tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match="'x' must hold.*row 9 has nan"):
        read(write(text), **options)
    data = read(write(text), exclude="x", **options)
    assert data.group_names == ("NA", "None", "missing", "null")
    # A blank in quotes is missing too, and numbers with words for it are numbers.
    blank = text.replace("1,None", '" ",None').replace("2.5,None", '7,"  "')
    data = read(write(blank), drop_missing=True, **options)
    assert data.feature_names == ("x", "r=NA", "r=null")


@pytest.mark.parametrize("scale", [1e-308, 1e-200, 1.0, 1e200, 1e307])
def test_columns_of_any_size_are_scaled(write, scale):
    head, *lines = SPLIT.splitlines()
    rows = [f"{scale * (i - 3)!r},{line}" for i, line in enumerate(lines)]
    data = read(write("\n".join([f"v,{head}", *rows])), split="part")
    expected = (np.arange(6) - 1.5) / 1.25**0.5
    np.testing.assert_allclose(column(data, "v"), expected, rtol=1e-6)


def test_missing_entries_of_excluded_columns_do_not_matter(write):
    text = "".join(
        f"{'note' * (not i)},{line}\n" for i, line in enumerate(SMALL.split())
    )
    data = read(write(text), exclude=["note"], drop_missing=True)
    assert len(data.labels) == 12
    assert data.feature_names == ("x", "sex=F", "sex=M")


def test_true_and_false_are_categories_and_dates_too(write):
    text = "t,d,sex,y\n" + "true,2020-01-01,F,1\nfalse,2021-01-01,M,0\n" * 4
    data = read(write(text + "true,2020-01-01,M,1\nfalse,2020-01-01,F,0\n"), positive=1)
    assert data.feature_names[:2] == ("t=False", "t=True")
    assert data.feature_names[2:4] == ("d=2020-01-01", "d=2021-01-01")


def test_sensitive_columns_can_leave_the_features(write):
    data = read(write(SMALL), sensitive_in_features=False)
    assert data.feature_names == ("x",)
    assert data.group_names == ("F", "M")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (SMALL, {"target": "yy"}, "`target` names 'yy'.*Nearest: 'y'"),
        (SMALL, {"sensitive": "six"}, "`sensitive` names 'six'.*Nearest: 'sex'"),
        (SMALL, {"exclude": ["id"]}, "`exclude` names 'id'.*'x', 'sex', 'y'"),
        (SMALL, {"split": "prt"}, "`split` names 'prt'"),
        (SMALL, {"sensitive": ["sex", "y"]}, "`target` and `sensitive` both name 'y'"),
        (SMALL, {"split": "y"}, "`target` and `split` both name 'y'"),
        (SMALL, {"sensitive": []}, "`sensitive` must name one or several"),
        (SMALL, {"sensitive": ["sex", "sex"]}, "different columns.*'sex', 'sex'"),
        (SMALL, {"positive": None}, "`positive` must name.*'no', 'yes'"),
        (SMALL, {"positive": "oui"}, "`positive` = 'oui' does not occur.*'no', 'yes'"),
        (SMALL, {"test_size": 1.0}, r"`test_size` must be a share in \(0, 1\).*1.0"),
        (SMALL, {"test_size": 0.01}, "12 rows.*fall into the training part"),
        (SMALL, {"sep": ";;"}, "`sep` must be one character.*';;'"),
        (SMALL, {"sep": " "}, "`sep` must be one character.*' '"),
        (SMALL, {"sep": ";"}, "`target` names 'y'.*'x,sex,y'"),
        (SMALL, {"encoding": "klingon"}, "unknown encoding: klingon"),
        (SMALL, {"exclude": ["x", "sex"]}, "no feature is left"),
        (SMALL.replace("no", "yes"), {}, "two values or more, but holds only 'yes'"),
        (SMALL.replace("M", "F"), {}, r"at least two groups.*\['sex'\]"),
        (
            SPLIT.lower().replace("train", "test"),
            {"split": "part"},
            "into the test part",
        ),
        (
            SPLIT.replace("7,blue,F", "7,blue,M").replace("1,red,F", "1,red,M"),
            {"split": "part"},
            "training part.*at least two groups",
        ),
        (
            SPLIT.replace("blue,M,no", "blue,M,yes").replace(
                "7,blue,F,no", "7,blue,F,yes"
            ),
            {"split": "part"},
            "training part.*at least two labels.*4 rows",
        ),
        (
            SPLIT.replace("Train", "valid"),
            {"split": "part"},
            "'part'.*'valid' in data row 3",
        ),
        (
            SPLIT.replace(" TEST", ""),
            {"split": "part"},
            "'part'.*'missing' in data row 6",
        ),
        (SMALL.replace("3,M,yes", ",M,yes"), {}, "'x' must hold.*row 3 has nan"),
        (SMALL.replace("3,M,yes", "-inf,M,yes"), {}, "'x' must hold.*row 3 has -inf"),
        (
            SMALL.replace("3,M,yes", "3,M,"),
            {},
            "'y' is empty in data row 3.*drop_missing",
        ),
        (SMALL.replace("3,M,yes", "3,M"), {}, "3 columns, but line 4 has 2 entries"),
        (SMALL.replace("3,M,yes", "3,M,yes,1"), {}, "3 columns, but line 4 has 4"),
        (SMALL.replace("3,M,yes", '3,M,"y,e"s'), {}, "as CSV.*expected after"),
        (SMALL.replace("sex", "x"), {}, r"different column names.*\['x', 'x', 'y'\]"),
        ("", {}, "different column names, but it has none"),
        ("x,sex,y\n", {}, "table.csv' has no rows"),
        ("x,sex,y\n,F,yes\n", {"drop_missing": True}, "no rows without missing"),
        (b"\xff\xfe\x00\x01", {}, "utf-8-sig.*can't decode"),
        (SPLIT.replace("11,", "1e200,"), {"split": "part"}, r"'x' must be finite"),
    ],
)
def test_bad_input_is_refused(write, text, options, message):
    with pytest.raises(ValueError, match=message):
        read(write(text), **options)


def test_path_that_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="No such file or directory.*absent.csv"):
        read(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="cannot read .*Is a directory"):
        read(tmp_path)


def test_names_of_people_do_not_become_features(write):
    rows = [f"name{i},{'FM'[i % 2]},{'yes' if i % 3 else 'no'}" for i in range(1500)]
    path = write("\n".join(["x,sex,y", *rows]))
    with pytest.raises(ValueError, match="'x' has 1124 categories.*`exclude`"):
        read(path)
    assert read(path, exclude="x").feature_names == ("sex=F", "sex=M")


# ---- school


def test_school_matches_the_raw_file(data_dir):
    data = datasets.school(data_dir=data_dir)
    check_contract(data)
    raw = scipy.io.loadmat(Path(data_dir, "school.mat"))
    inputs = [np.asarray(cell, float) for cell in raw["X"].ravel()]
    values = np.concatenate(inputs)
    assert len(data.task_names) == len(inputs) == 139
    assert data.features.shape == (15_362, 25)
    sizes = np.bincount(data.tasks, minlength=139)
    assert sizes.tolist() == [len(x) for x in inputs]
    np.testing.assert_array_equal(
        data.labels, np.concatenate([y.ravel() for y in raw["Y"].ravel()])
    )
    np.testing.assert_array_equal(data.groups, values[:, 6])
    assert np.bincount(data.groups).tolist() == values[:, 5:7].sum(axis=0).tolist()
    # Neither the gender nor the constant is a feature; percentages are scaled.
    kept = [i for i in range(27) if i not in (3, 4, 5, 6)]
    one_hot = [n for n in data.feature_names if "=" in n]
    columns = [data.feature_names.index(n) for n in one_hot]
    np.testing.assert_array_equal(data.features[:, columns], values[:, kept])
    for i, name in ((3, "free_school_meals"), (4, "in_vr_band_1")):
        train = values[data.is_train, i]
        scaled = (values[:, i] - train.mean()) / train.std()
        column = data.features[:, data.feature_names.index(name)]
        np.testing.assert_allclose(column, scaled, rtol=1e-5, atol=1e-6)


def test_school_splits_every_task_alike(data_dir):
    data, other = (datasets.school(data_dir=data_dir, seed=s) for s in (0, 1))
    sizes = np.bincount(data.tasks)
    tests = np.bincount(data.tasks[~data.is_train], minlength=139)
    assert np.abs(tests - 0.3 * sizes).max() <= 0.5
    assert (data.is_train != other.is_train).any()
    with_gender = datasets.school(data_dir=data_dir, sensitive_in_features=True)
    assert set(with_gender.feature_names) - set(data.feature_names) == {
        "gender=1",
        "gender=2",
    }


def test_a_subsample_has_the_shares_of_the_whole():
    data = datasets.toy(n=1000)
    small = datasets.subsample(data, n_train=100, seed=3)
    assert small.is_train.sum() == pytest.approx(100, abs=2)
    np.testing.assert_array_equal(small.test.features, data.test.features)
    for cell in range(4):
        share = (2 * data.train.groups + data.train.labels == cell).mean()
        own = (2 * small.train.groups + small.train.labels == cell).sum()
        assert own == pytest.approx(100 * share, abs=1)
    rows = {row.tobytes() for row in data.train.features}
    assert all(row.tobytes() in rows for row in small.train.features)
    again = datasets.subsample(data, n_train=100, seed=3)
    np.testing.assert_array_equal(again.features, small.features)
    other = datasets.subsample(data, n_train=100, seed=4)
    assert not np.array_equal(other.features, small.features)
    assert datasets.subsample(data, n_train=10_000) is data
    with pytest.raises(ValueError, match="`n_train` must be at least 1"):
        datasets.subsample(data, n_train=0)
    # Real labels and tasks keep their spread.
    real = data._replace(
        labels=data.features[:, 0].copy(),
        tasks=(np.arange(len(data.labels)) % 2).astype(np.int32),
        task_names=("a", "b"),
    )
    small = datasets.subsample(real, n_train=200)
    assert small.train.labels.mean() == pytest.approx(real.train.labels.mean(), abs=0.1)
    assert small.tasks[small.is_train].mean() == pytest.approx(0.5, abs=0.02)
