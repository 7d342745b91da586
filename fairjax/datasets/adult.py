"""UCI Adult: one census table with three things to predict."""

from collections.abc import Sequence

import numpy as np

from . import columns, dataset, roles, sources

_COLUMNS = """
    age workclass fnlwgt education education-num marital-status occupation relationship
    race sex capital-gain capital-loss hours-per-week native-country income
"""
_TARGETS = {
    "income": "income > 50K",
    "hours-per-week": "more than 40 hours per week",
    "occupation": "managerial or professional occupation",
}
_HIGH_OCCUPATIONS = ("Exec-managerial", "Prof-specialty")


def adult(
    *,
    target: str | Sequence[str] = "income",
    sensitive: str | Sequence[str] = "sex",
    sensitive_in_features: bool = True,
    drop_missing: bool = False,
    data_dir: sources.Location | None = None,
) -> dataset.Dataset:
    """UCI Adult: does a person earn more than 50,000 dollars a year?

    Or: work more than 40 hours a week, or in a managerial or professional occupation.

    The official split: 32,561 training and 16,281 test rows. A missing entry is a
    category of its own. All columns are features but `fnlwgt`, a sampling weight of the
    census; `education-num` repeats `education` as a number, and both stay.

    Args:
        target: "income", "hours-per-week", "occupation" or several of them. No target
            is a feature, and the income never is; rows without an entry in a target are
            left out. Several make a dataset of as many `tasks`, each with all rows and
            the same features.
        sensitive: one or several of the categorical columns, such as "sex", "race".
        sensitive_in_features: False leaves these columns out of the features. Others
            that tell them (`relationship` has Husband and Wife) remain.
        drop_missing: leaves out rows with a missing entry: 30,162 and 15,060 remain.
        data_dir: folder with `adult.data` and `adult.test`.

    Returns:
        107 features, or fewer; label 1 is an income above 50K, more than 40 hours, or
        the occupation Exec-managerial or Prof-specialty.

    Raises:
        ValueError: for an unknown column or target, and a file that is missing or
            altered.

    Example:
        >>> adult(data_dir="no/such/folder")
        Traceback (most recent call last):
        ValueError: `data_dir` = 'no/such/folder' is not a folder with 'adult.data'. ...

    References:
        Becker, Kohavi, *Adult*, UCI Machine Learning Repository, 1996 (CC BY 4.0).
    """
    targets = roles.choose(target, _TARGETS, argument="target", what="targets")
    options = {"names": _COLUMNS.split(), "skipinitialspace": True, "na_values": "?"}
    parts = [
        sources.read_table(file, data_dir, header=None, **options)
        for file in ("adult.data", "adult.test")
    ]
    frame = columns.extra("pandas").concat(parts, ignore_index=True)
    is_train = np.arange(len(frame)) < len(parts[0])
    needed = list(frame) if drop_missing else targets
    whole = frame[needed].notna().all(axis=1).to_numpy()
    frame, is_train = frame[whole], is_train[whole]
    labels = {
        "income": (frame["income"] == ">50K").to_numpy(bool),
        "hours-per-week": (frame["hours-per-week"] > 40).to_numpy(bool),
        "occupation": frame["occupation"].isin(_HIGH_OCCUPATIONS).to_numpy(bool),
    }
    attributes = {
        name: dataset.Attribute(frame[name], (name,))
        for name in frame
        if name not in {"income", *targets} and not columns.is_numeric(frame[name])
    }
    left_out = {"fnlwgt", "income", *targets}
    data = dataset.build(
        "adult",
        frame.drop(columns=list(left_out)),
        labels[targets[0]],
        label_name=_TARGETS[targets[0]],
        attributes=attributes,
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=is_train,
    )
    return dataset.with_tasks(data, {_TARGETS[name]: labels[name] for name in targets})
