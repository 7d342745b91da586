"""Datasets: one typed value, from a toy problem, public tables or a CSV file.

Parquet files that do not fit into memory become a stream instead: `from_parquet`.

Every loader goes the same way: find the file, read a table, name what the labels mean
and who belongs to which group, split, encode. In classification label 1 is always the
favourable outcome; `communities`, `student`, `law_school` and `school` have real
numbers to predict. `school` has many tasks, `adult` and `compas` several on request.
Scaling and one-hot encoding learn from the training part only, so nothing of the test
part reaches the training features.

Public files come from the folder `data_dir`; when that is left out, from the folder
named by the environment variable `FAIRJAX_DATA_DIR`, or else from a download into the
user's cache. Each must have its known SHA-256. All but `toy` need `fairjax[data]`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from . import dataset, sources, tables
from .adult import adult as adult
from .compas import compas as compas
from .csv import from_csv as from_csv
from .dataset import Dataset as Dataset
from .dataset import Samples as Samples
from .dataset import subsample as subsample
from .parquet import ParquetStream as ParquetStream
from .parquet import from_parquet as from_parquet
from .school import school as school
from .sources import Location

_RACES = ("racepctblack", "racePctWhite", "racePctAsian", "racePctHisp")
_LAW_TARGETS = {
    "ugpa": "undergraduate grade point average [grade points]",
    "zfygpa": "grade point average of the first year [standard deviations]",
    "pass_bar": "passed the bar exam at the first attempt",
}
_LAW_GRADES = ["decile1b", "decile3", "zfygpa", "zgpa"]
_GERMAN_COLUMNS = """
    account_status duration credit_history purpose credit_amount savings
    employment_since installment_rate sex_and_marital_status other_debtors
    residence_since property age other_installments housing existing_credits job
    dependents telephone foreign_worker credit_risk
"""


def toy(*, seed: int = 0, n: int = 1600) -> Dataset:
    """Two groups and two classes in the plane, where the best line is unfair.

    Four unit Gaussians. Group a (80 %) is easy: as many negatives, around (-1, -1.5),
    as positives, around (1, 1.5). In group b (20 %) the negatives look like those of
    a, but the few positives (a quarter) lie around (-2, 1), shifted along the first
    axis beyond the negatives. A linear classifier that minimizes the risk reads both
    axes and misses many positives of b; one that reads mostly the second axis is fair
    at a small cost. Features are not scaled, and the group is not among them.

    Args:
        seed: of the NumPy generator; the same seed gives the same data.
        n: size of the training part, at least 20; the test part is as large.

    Returns:
        `2 n` samples, drawn anew for the test part with the same share of each cell.

    Raises:
        ValueError: for `n` below 20, where group b has no positives.

    Example:
        >>> data = toy()
        >>> data.train.features.shape, data.test.features.shape, data.group_names
        ((1600, 2), (1600, 2), ('a', 'b'))
        >>> [float(data.labels[data.groups == g].mean()) for g in range(data.n_groups)]
        [0.5, 0.25]

    References:
        After the toy problem of Donini et al., *Empirical risk minimization under
        fairness constraints*, NeurIPS 2018, with other numbers.
    """
    if n < 20:
        raise ValueError(
            f"`n` must be at least 20, but is {n}: the positives of group b are 5 % of "
            f"the samples, and each part needs one."
        )
    rng = np.random.default_rng(seed)
    # Counts are exact, not drawn, so that rates are the same for every seed.
    cells = {(0, 0): 0.4, (1, 0): 0.4, (0, 1): 0.15, (1, 1): 0.05}
    centres = {
        (0, 0): (-1, -1.5),
        (1, 0): (1, 1.5),
        (0, 1): (-1, -1.5),
        (1, 1): (-2, 1),
    }
    ends = np.rint(n * np.cumsum(list(cells.values()))).astype(int)
    cell = np.repeat(np.arange(4), np.diff(ends, prepend=0))
    cell = np.concatenate([rng.permutation(cell), rng.permutation(cell)])
    features = np.array(list(centres.values()))[cell] + rng.normal(size=(2 * n, 2))
    labels, groups = np.array(list(cells), np.int32)[cell].T
    return Dataset(
        name="toy",
        features=features.astype(np.float32),
        labels=labels,
        groups=groups,
        is_train=np.arange(2 * n) < n,
        feature_names=("x1", "x2"),
        label_name="positive",
        group_names=("a", "b"),
    )


def german(
    *,
    sensitive: str | Sequence[str] = "sex",
    sensitive_in_features: bool = True,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: Location | None = None,
) -> Dataset:
    """UCI German Credit: is a loan applicant a good risk?

    Args:
        sensitive: "sex", "age" (up to 25 years, or above) or both. Sex is read from
            column 9, which joins it with marital status.
        sensitive_in_features: False leaves the whole of column 9, or `age`, out of the
            features.
        test_size: share of the test part, in (0, 1).
        seed: of the split, which is stratified by label and group.
        data_dir: folder with `german.data`.

    Returns:
        1,000 rows and 61 features, or fewer; label 1 is a good credit risk. Categories
        keep the codes of the source, such as "purpose=A43".

    Raises:
        ValueError: for an unknown column, and a file that is missing or altered.

    References:
        Hofmann, *Statlog (German Credit Data)*, UCI Machine Learning Repository, 1994
        (CC BY 4.0); the threshold of age: Kamiran, Calders, *Classifying without
        discriminating*, IC4 2009.
    """
    path = sources.find("german.data", data_dir)
    names = _GERMAN_COLUMNS.split()
    frame = tables.extra("pandas").read_csv(path, sep=r"\s+", header=None, names=names)
    status = "sex_and_marital_status"
    sex = np.where(frame[status].isin(["A92", "A95"]), "female", "male")
    age = np.where(frame["age"] <= 25, "age <= 25", "age > 25")
    return dataset.build(
        "german",
        frame.drop(columns="credit_risk"),
        frame["credit_risk"].to_numpy() == 1,
        label_name="good credit risk",
        attributes={
            "sex": dataset.Attribute(sex, (status,)),
            "age": dataset.Attribute(age, ("age",)),
        },
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed),
    )


def communities(
    *,
    sensitive: str | Sequence[str] = "racepctblack",
    sensitive_in_features: bool = True,
    police_survey: bool = False,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: Location | None = None,
) -> Dataset:
    """UCI Communities and Crime, regression: how much violent crime has a community?

    Each row is a community of the United States, around 1990. All numbers of the source
    are normalized to [0, 1], the target too. Its identifiers (state, county, community,
    name, fold) are no features. The one missing entry in the columns that stay, of
    `OtherPerCap`, becomes the mean of the training part.

    Args:
        sensitive: one or several of "racepctblack", "racePctWhite", "racePctAsian",
            "racePctHisp", the shares of the population. Communities above the median
            share are compared with all others; the default gives the groups of the
            paper below, 970 and 1,024 communities.
        sensitive_in_features: False leaves these columns out of the features. Others
            that tell them (`whitePerCap`, the remaining shares) stay.
        police_survey: True keeps 22 columns of a survey that 319 communities answered:
            elsewhere they have the mean of the training part, and
            `police_survey=answered` says where. Else they are left out, as is usual.
        test_size: share of the test part, in (0, 1).
        seed: of the split, which keeps the shares of the groups and spreads both parts
            alike over the labels of each.
        data_dir: folder with `communities.data` and `communities.names`.

    Returns:
        1,994 rows and 100 features; labels are `ViolentCrimesPerPop`, the violent
        crimes per 100,000 inhabitants, normalized to [0, 1].

    Raises:
        ValueError: for an unknown column, and a file that is missing or altered.

    Example:
        >>> communities(data_dir="no/such/folder")
        Traceback (most recent call last):
        ValueError: `data_dir` = ... is not a folder with 'communities.names'. ...

    References:
        Redmond, *Communities and Crime*, UCI Machine Learning Repository, 2009 (CC BY
        4.0); the groups: Chzhen et al., *Fair regression with Wasserstein barycenters*,
        NeurIPS 2020.
    """
    text = sources.find("communities.names", data_dir).read_text(encoding="utf-8")
    words = [line.split() for line in text.splitlines()]
    names = [line[1] for line in words if line[:1] == ["@attribute"]]
    frame = tables.extra("pandas").read_csv(
        sources.find("communities.data", data_dir),
        header=None,
        names=names,
        na_values="?",
    )
    attributes = {}
    for name in _RACES:
        median = frame[name].median()
        sides = np.where(frame[name] > median, f"> {median:g}", f"<= {median:g}")
        groups = np.char.add(f"{name} ", sides)
        attributes[name] = dataset.Attribute(groups, (name,))
    labels = frame["ViolentCrimesPerPop"].to_numpy(np.float32)
    frame = frame.drop(columns=[*names[:5], "ViolentCrimesPerPop"])
    unanswered = frame["PolicPerPop"].isna()
    survey = [name for name in frame if frame[name].isna().equals(unanswered)]
    if police_survey:
        answers = np.where(unanswered, "unanswered", "answered")
        # The copy joins the columns' memory; pandas warns about the pieces.
        frame = frame.copy().assign(police_survey=answers)
    else:
        frame = frame.drop(columns=survey)
    return dataset.build(
        "communities",
        frame,
        labels,
        label_name="violent crimes per population [normalized to 0-1]",
        attributes=attributes,
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed),
        fill=True,
    )


def law_school(
    *,
    target: str = "ugpa",
    sensitive: str | Sequence[str] = "race",
    sensitive_in_features: bool = True,
    law_grades: bool | None = None,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: Location | None = None,
) -> Dataset:
    """LSAC Law School: grades (regression) or the bar exam (classification).

    Students who entered law schools of the United States in 1991, without those with
    missing entries. Features are the LSAT score, income bracket of the family, tier of
    the school, full or part time, sex and race, and `ugpa` unless it is the target.

    Args:
        target: "ugpa", the undergraduate grade point average, 1.5 to 4 grade points;
            "zfygpa", the average of the first year at law school, standardized, in
            standard deviations; or "pass_bar", the bar exam passed at the first
            attempt, for classification.
        sensitive: "race" (White or Non-White), "sex" or both.
        sensitive_in_features: False leaves their columns out of the features.
        law_grades: whether the grades at law school (`decile1b`, `decile3`, `zfygpa`,
            `zgpa`) are features. By default only for "pass_bar", before which they are
            known; the others nearly give `zfygpa`.
        test_size: share of the test part, in (0, 1).
        seed: of the split, which is stratified by group, and by label or along it.
        data_dir: folder with `law_school_clean.csv`.

    Returns:
        20,798 rows, and 7 features for "ugpa", 8 for "zfygpa", 12 for "pass_bar", which
        is itself never a feature.

    Raises:
        ValueError: for an unknown column, and a file that is missing or altered.

    Example:
        >>> law_school(target="pass bar")
        Traceback (most recent call last):
        ValueError: `target` names 'pass bar', which is unknown. Nearest: 'pass_bar'.

    References:
        Wightman, *LSAC national longitudinal bar passage study*, 1998, which states no
        licence; cleaned by Le Quy et al., *A survey on datasets for fairness-aware
        machine learning*, WIREs Data Mining and Knowledge Discovery, 2022.
    """
    dataset.check_known(target, _LAW_TARGETS, argument="target")
    path = sources.find("law_school_clean.csv", data_dir)
    frame = tables.extra("pandas").read_csv(path)
    binary = target == "pass_bar"
    labels = frame[target].to_numpy(np.float32)
    if law_grades is None:
        law_grades = binary
    left_out = {target, "pass_bar", *([] if law_grades else _LAW_GRADES)}
    sex = np.where(frame["male"] == 1, "male", "female")
    return dataset.build(
        "law_school",
        frame.drop(columns=list(left_out)),
        labels == 1 if binary else labels,
        label_name=_LAW_TARGETS[target],
        attributes={
            "race": dataset.Attribute(tables.as_text(frame["race"]), ("race",)),
            "sex": dataset.Attribute(sex, ("male",)),
        },
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed),
    )


def student(
    *,
    subject: str = "mathematics",
    sensitive: str | Sequence[str] = "sex",
    sensitive_in_features: bool = True,
    earlier_grades: int = 0,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: Location | None = None,
) -> Dataset:
    """UCI Student Performance, regression: what is a pupil's final grade?

    Pupils of two secondary schools in Portugal, 2005 to 2006, with the answers to a
    questionnaire.

    Args:
        subject: "mathematics" (395 rows) or "portuguese" (649 rows).
        sensitive: "sex", "address" (urban or rural) or both.
        sensitive_in_features: False leaves their columns out of the features.
        earlier_grades: how many grades of the same year are features: 0 for none, 1 for
            that of the first period (`G1`), 2 for both (`G2`). They nearly give the
            final one, and with it whatever made them unfair.
        test_size: share of the test part, in (0, 1).
        seed: of the split, which keeps the shares of the groups and spreads both parts
            alike over the labels of each.
        data_dir: folder with `student-mat.csv` or `student-por.csv`.

    Returns:
        56 features and the earlier grades; labels are `G3`, the final grade, 0 to 20
        points.

    Raises:
        ValueError: for an unknown subject or column, another number of grades, and a
            file that is missing or altered.

    Example:
        >>> student(subject="maths")
        Traceback (most recent call last):
        ValueError: `subject` names 'maths', which is unknown. Nearest: 'mathematics'.

    References:
        Cortez, Silva, *Using data mining to predict secondary school student
        performance*, FUBUTEC 2008, whose settings C, B and A have 0, 1 and 2 earlier
        grades; UCI Machine Learning Repository (CC BY 4.0).
    """
    files = {"mathematics": "student-mat.csv", "portuguese": "student-por.csv"}
    dataset.check_known(subject, files, argument="subject")
    if earlier_grades not in (0, 1, 2):
        raise ValueError(
            f"`earlier_grades` must be 0, 1 or 2, but is {earlier_grades}."
        )
    path = sources.find(files[subject], data_dir)
    frame = tables.extra("pandas").read_csv(path, sep=";")
    sex = np.where(frame["sex"] == "F", "female", "male")
    address = np.where(frame["address"] == "U", "urban", "rural")
    return dataset.build(
        "student",
        frame.drop(columns=["G1", "G2", "G3"][earlier_grades:]),
        frame["G3"].to_numpy(np.float32),
        label_name=f"final grade in {subject} [points, 0-20]",
        attributes={
            "sex": dataset.Attribute(sex, ("sex",)),
            "address": dataset.Attribute(address, ("address",)),
        },
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed),
    )


LOADERS: dict[str, Callable[..., Dataset]] = {
    "toy": toy,
    "adult": adult,
    "compas": compas,
    "german": german,
    "communities": communities,
    "law_school": law_school,
    "student": student,
    "school": school,
}
