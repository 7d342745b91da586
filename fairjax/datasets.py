"""Datasets: one typed value, from a toy problem, public tables or a CSV file.

Every loader goes the same way: find the file, read a table, name what label 1 means and
who belongs to which group, split, encode. Label 1 is always the favourable outcome.
Scaling and one-hot encoding learn from the training part only, so nothing of the test
part reaches the training features.

Public files come from the folder `data_dir`; when that is left out, from the folder
named by the environment variable `FAIRJAX_DATA_DIR`, or else from a download into the
user's cache. Each must have its known SHA-256. All but `toy` need `fairjax[data]`.
"""

import difflib
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Shaped

from . import _tables

_Location = str | os.PathLike[str]

_ADULT_COLUMNS = """
    age workclass fnlwgt education education-num marital-status occupation relationship
    race sex capital-gain capital-loss hours-per-week native-country income
"""
_COMPAS_FEATURES = """
    sex age age_cat race juv_fel_count juv_misd_count juv_other_count priors_count
    c_charge_degree
"""
_GERMAN_COLUMNS = """
    account_status duration credit_history purpose credit_amount savings
    employment_since installment_rate sex_and_marital_status other_debtors
    residence_since property age other_installments housing existing_credits job
    dependents telephone foreign_worker credit_risk
"""


class Samples(NamedTuple):
    """One part of a dataset, ready for a solver.

    Attributes:
        features: scaled numbers and one-hot columns.
        labels: 0 or 1; 1 is the favourable outcome.
        groups: codes in `[0, n_groups)`.
    """

    features: Float32[np.ndarray, "n d"]
    labels: Int32[np.ndarray, " n"]
    groups: Int32[np.ndarray, " n"]


class Dataset(NamedTuple):
    """A dataset with its split; `train` and `test` give the two parts.

    Attributes:
        name: of the dataset, for tables and titles.
        features: of all samples, in the order of the source.
        labels: 0 or 1; 1 is the favourable outcome.
        groups: codes in `[0, n_groups)`.
        is_train: True for the training part, False for the test part.
        feature_names: one per column; `"race=Black"` for a one-hot column.
        label_name: what label 1 means.
        group_names: one per code; `"Black & Female"` for an intersection.
    """

    name: str
    features: Float32[np.ndarray, "n d"]
    labels: Int32[np.ndarray, " n"]
    groups: Int32[np.ndarray, " n"]
    is_train: Bool[np.ndarray, " n"]
    feature_names: tuple[str, ...]
    label_name: str
    group_names: tuple[str, ...]

    @property
    def train(self) -> Samples:
        """The training part."""
        return self._part(self.is_train)

    @property
    def test(self) -> Samples:
        """The test part."""
        return self._part(~self.is_train)

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return len(self.group_names)

    def _part(self, keep: Bool[np.ndarray, " n"]) -> Samples:
        return Samples(self.features[keep], self.labels[keep], self.groups[keep])


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


def adult(
    *,
    sensitive: str | Sequence[str] = "sex",
    sensitive_in_features: bool = True,
    drop_missing: bool = False,
    data_dir: _Location | None = None,
) -> Dataset:
    """UCI Adult: does a person earn more than 50,000 dollars a year?

    The official split: 32,561 training and 16,281 test rows. A missing entry is a
    category of its own. All columns are features but `fnlwgt`, a sampling weight of the
    census; `education-num` repeats `education` as a number, and both stay.

    Args:
        sensitive: one or several of the categorical columns, such as "sex", "race".
        sensitive_in_features: False leaves these columns out of the features. Others
            that tell them (`relationship` has Husband and Wife) remain.
        drop_missing: leaves out rows with a missing entry: 30,162 and 15,060 remain.
        data_dir: folder with `adult.data` and `adult.test`.

    Returns:
        107 features, or fewer; label 1 is an income above 50K.

    Raises:
        ValueError: for an unknown column, and a file that is missing or altered.

    Example:
        >>> adult(data_dir="no/such/folder")
        Traceback (most recent call last):
        ValueError: `data_dir` = 'no/such/folder' is not a folder with 'adult.data'. ...

    References:
        Becker, Kohavi, *Adult*, UCI Machine Learning Repository, 1996 (CC BY 4.0).
    """
    pd = _tables.extra("pandas")
    parts = [
        pd.read_csv(
            _find(file, data_dir),
            header=None,
            names=_ADULT_COLUMNS.split(),
            skipinitialspace=True,
            na_values="?",
        )
        for file in ("adult.data", "adult.test")
    ]
    frame = pd.concat(parts, ignore_index=True)
    is_train = np.arange(len(frame)) < len(parts[0])
    if drop_missing:
        whole = frame.notna().all(axis=1).to_numpy()
        frame, is_train = frame[whole], is_train[whole]
    labels = frame["income"].to_numpy() == ">50K"
    frame = frame.drop(columns=["fnlwgt", "income"])
    texts = [name for name in frame if not _tables.is_numeric(frame[name])]
    return _build(
        "adult",
        frame,
        labels,
        label_name="income > 50K",
        attributes={
            name: _Attribute(_tables.as_text(frame[name]), (name,)) for name in texts
        },
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=is_train,
    )


def compas(
    *,
    sensitive: str | Sequence[str] = "race",
    sensitive_in_features: bool = True,
    all_races: bool = False,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: _Location | None = None,
) -> Dataset:
    """ProPublica COMPAS: does a defendant stay free of a new offence for two years?

    The 6,172 rows of ProPublica's own filter: screened within 30 days of the arrest,
    recidivism known, not an ordinary traffic offence, scored. Features are demographic
    columns, criminal history and the degree of the charge; neither the COMPAS scores
    nor anything recorded after the screening.

    Args:
        sensitive: one or several of "race", "sex", "age_cat".
        sensitive_in_features: False leaves their columns out of the features, and
            `age` with `age_cat`.
        all_races: False compares "African-American" with "All others"; True makes each
            of the six recorded races a group. The features have all six either way.
        test_size: share of the test part, in (0, 1).
        seed: of the split, which is stratified by label and group.
        data_dir: folder with `compas-scores-two-years.csv`.

    Returns:
        18 features, or fewer; label 1, the favourable one, is *no* new offence.

    Raises:
        ValueError: for an unknown column, and a file that is missing or altered.

    References:
        Angwin, Larson, Mattu, Kirchner, *Machine bias*, ProPublica, 2016.
    """
    path = _find("compas-scores-two-years.csv", data_dir)
    frame = _tables.extra("pandas").read_csv(path)
    # pandas reads the score "N/A" as missing.
    frame = frame[
        frame["days_b_screening_arrest"].between(-30, 30)
        & (frame["is_recid"] != -1)
        & (frame["c_charge_degree"] != "O")
        & frame["score_text"].notna()
    ]
    race, sex, age_cat = (
        _tables.as_text(frame[name]) for name in ("race", "sex", "age_cat")
    )
    if not all_races:
        race = np.where(race == "African-American", race, "All others")
    attributes = {
        "race": _Attribute(race, ("race",)),
        "sex": _Attribute(sex, ("sex",)),
        "age_cat": _Attribute(age_cat, ("age_cat", "age")),
    }
    return _build(
        "compas",
        frame[_COMPAS_FEATURES.split()],
        frame["two_year_recid"].to_numpy() == 0,
        label_name="no new offence within two years",
        attributes=attributes,
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed),
    )


def german(
    *,
    sensitive: str | Sequence[str] = "sex",
    sensitive_in_features: bool = True,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: _Location | None = None,
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
    path = _find("german.data", data_dir)
    names = _GERMAN_COLUMNS.split()
    frame = _tables.extra("pandas").read_csv(path, sep=r"\s+", header=None, names=names)
    status = "sex_and_marital_status"
    sex = np.where(frame[status].isin(["A92", "A95"]), "female", "male")
    age = np.where(frame["age"] <= 25, "age <= 25", "age > 25")
    return _build(
        "german",
        frame.drop(columns="credit_risk"),
        frame["credit_risk"].to_numpy() == 1,
        label_name="good credit risk",
        attributes={
            "sex": _Attribute(sex, (status,)),
            "age": _Attribute(age, ("age",)),
        },
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed),
    )


def from_csv(
    path: _Location,
    *,
    target: str,
    sensitive: str | Sequence[str],
    positive: str | int | float | bool | None = None,
    favourable: str | None = None,
    split: str | None = None,
    exclude: str | Sequence[str] = (),
    sensitive_in_features: bool = True,
    drop_missing: bool = False,
    test_size: float = 0.25,
    seed: int = 0,
    sep: str = ",",
    encoding: str = "utf-8-sig",
) -> Dataset:
    r"""Reads a CSV file with a header line.

    Columns of numbers are scaled; all others are categories, one-hot encoded, where a
    missing entry is a category of its own.

    Args:
        path: of the file.
        target: column to predict.
        sensitive: one or several columns; several make intersections, as groups only
            those that occur.
        positive: the value of `target` that becomes label 1, the favourable outcome;
            all other values become 0. May be left out for 0 and 1, -1 and 1, or False
            and True.
        favourable: what label 1 means, in words; "<target> = <positive>" when absent.
        split: column that says "train" or "test"; when absent, a seeded split,
            stratified by label and group, with single rows of a kind in training.
        exclude: columns that are no features: identifiers, weights, other outcomes.
        sensitive_in_features: False leaves the sensitive columns out of the features.
        drop_missing: leaves out rows with a missing entry in a column that is used.
        test_size: share of the test part, in (0, 1); not read with `split`.
        seed: of the split; not read with `split`.
        sep: the character between entries.
        encoding: of the file; the default reads UTF-8 with or without a mark.

    Returns:
        The dataset, named after the file, rows in its order.

    Raises:
        ValueError: for a file that cannot be read or has no rows, unknown columns,
            numbers that are missing or infinite, and labels or groups all alike. Data
            rows are counted from 1, below the header.

    Example:
        >>> import pathlib, tempfile
        >>> text = "age,sex,repaid\n" + "31,F,yes\n40,M,no\n25,M,yes\n58,F,no\n" * 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "loans.csv")
        ...     _ = path.write_text(text)
        ...     data = from_csv(path, target="repaid", sensitive="sex", positive="yes")
        >>> data.feature_names, data.group_names, data.label_name
        (('age', 'sex=F', 'sex=M'), ('F', 'M'), 'repaid = yes')
    """
    frame = _tables.read_csv(Path(path), sep=sep, encoding=encoding)
    sensitive, exclude = _listed(sensitive), _listed(exclude)
    roles = {
        "target": [target],
        "sensitive": sensitive,
        "exclude": exclude,
        "split": [] if split is None else [split],
    }
    for argument, names in roles.items():
        for name in names:
            _check_known(name, list(frame), argument=argument)
    for argument in ("sensitive", "split"):
        if target in roles[argument]:
            raise ValueError(
                f"`target` and `{argument}` both name {target!r}: what is to be "
                f"predicted must be another column."
            )
    used = {name for name in frame if name not in exclude}
    used |= {target, *sensitive, *roles["split"]}
    if drop_missing:
        frame = frame.dropna(subset=sorted(used))
    if not len(frame):
        raise ValueError(
            f"{str(path)!r} has no rows{' without missing entries' * drop_missing}."
        )
    labels, value = _tables.favourable(frame[target], target=target, positive=positive)
    return _build(
        Path(path).stem,
        frame.drop(columns=list({target, *exclude, *roles["split"]})),
        labels,
        label_name=favourable or f"{target} = {value}",
        attributes={
            name: _Attribute(_tables.as_names(frame[name]), (name,))
            for name in sensitive
        },
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed) if split is None else _tables.named_split(frame[split]),
    )


LOADERS: dict[str, Callable[..., Dataset]] = {
    "toy": toy,
    "adult": adult,
    "compas": compas,
    "german": german,
}


class _Attribute(NamedTuple):
    """A sensitive attribute: who has which value, and the columns that state it."""

    values: Shaped[np.ndarray, " n"]
    columns: tuple[str, ...]


def _build(
    name: str,
    frame: _tables.Frame,
    labels: Bool[np.ndarray, " n"],
    *,
    label_name: str,
    attributes: dict[str, _Attribute],
    sensitive: str | Sequence[str],
    sensitive_in_features: bool,
    split: Bool[np.ndarray, " n"] | tuple[float, int],
) -> Dataset:
    """Groups, split and encoding: what all loaders have in common."""
    sensitive = _listed(sensitive)
    if not sensitive or len(set(sensitive)) < len(sensitive):
        raise ValueError(
            f"`sensitive` must name one or several different columns, but is "
            f"{sensitive}."
        )
    for attribute in sensitive:
        _check_known(attribute, attributes, argument="sensitive")
    groups, group_names = _tables.joint_codes([attributes[a].values for a in sensitive])
    if isinstance(split, tuple):
        test_size, seed = split
        strata = groups * 2 + labels
        is_train = _tables.stratified(strata, test_size=test_size, seed=seed)
    else:
        is_train = split
    if is_train.all() or not is_train.any():
        raise ValueError(
            f"all {len(frame)} rows of {name!r} fall into the "
            f"{'training' if is_train.all() else 'test'} part, and the other is empty. "
            f"Change the split, or gather more rows of each label and group."
        )
    for what, values in (("label", labels), ("group", groups)):
        if np.unique(values[is_train]).size < 2:
            raise ValueError(
                f"the training part of {name!r} needs at least two {what}s, but its "
                f"{is_train.sum()} rows have the same: there is nothing to compare. "
                f"Label 1 is {label_name!r}; groups come from {sensitive}."
            )
    if not sensitive_in_features:
        stated = {column for a in sensitive for column in attributes[a].columns}
        frame = frame.drop(columns=[c for c in frame if c in stated])
    features, feature_names = _tables.encoded(frame, is_train)
    return Dataset(
        name=name,
        features=features,
        labels=labels.astype(np.int32),
        groups=groups,
        is_train=is_train,
        feature_names=feature_names,
        label_name=label_name,
        group_names=group_names,
    )


class _File(NamedTuple):
    url: str
    sha256: str


_RAW = "https://raw.githubusercontent.com"
_FILES = {
    "adult.data": _File(
        f"{_RAW}/jmikko/fair_ERM/b501848d5beb4df24c1fe98366d6c5609d0ca932"
        "/datasets/adult/adult.data",
        "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    ),
    "adult.test": _File(
        f"{_RAW}/jmikko/fair_ERM/b501848d5beb4df24c1fe98366d6c5609d0ca932"
        "/datasets/adult/adult.test",
        "26854bfda83653b56af5431fd07c9b43b6a2ddea70e5a0a8b6a0445c83d78e34",
    ),
    "compas-scores-two-years.csv": _File(
        f"{_RAW}/propublica/compas-analysis/bafff5da3f2e45eca6c2d5055faad269defd135a"
        "/compas-scores-two-years.csv",
        "c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
    ),
    "german.data": _File(
        f"{_RAW}/RAO-EPFL/Metrizing-Fairness/0c96cd89003ed8e1d6ea5823c557d914c36c8cb8"
        "/offline_experiments/src/data/classification/german/german.data",
        "af2607959c93df2416fadd6a7e73bb21f7e7c640d810b00ac0c81c6e83dcc2bd",
    ),
}


def _find(name: str, data_dir: _Location | None) -> Path:
    """The path of a pinned file: local, or downloaded; its SHA-256 holds either way."""
    url, sha256 = _FILES[name]
    folder = os.environ.get("FAIRJAX_DATA_DIR") if data_dir is None else data_dir
    if folder is not None and (path := Path(folder, name)).is_file():
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{str(path)!r} is not the file that fairjax knows: its SHA-256 is "
                f"{found}, expected {sha256}. Replace it by {url}, or remove it, or "
                f"read your own version with `from_csv`."
            )
        return path
    if data_dir is not None:
        raise ValueError(
            f"`data_dir` = {str(data_dir)!r} is not a folder with {name!r}. Put {url} "
            f"there, or leave out `data_dir` to download it."
        )
    pooch = _tables.extra("pooch")
    try:
        return Path(
            pooch.retrieve(
                url, f"sha256:{sha256}", fname=name, path=pooch.os_cache("fairjax")
            )
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot download {url}: {error}. Put the file into a folder and name that "
            f"in `data_dir` or in the environment variable FAIRJAX_DATA_DIR."
        ) from error


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _check_known(name: str, known: Iterable[str], *, argument: str) -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known) or known[:10]
        raise ValueError(
            f"`{argument}` names {name!r}, which is not a column to choose. Nearest: "
            f"{', '.join(map(repr, near))}."
        )
