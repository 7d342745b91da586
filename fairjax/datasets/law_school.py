"""LSAC Law School: grades of law students, and whether they passed the bar exam."""

from collections.abc import Sequence

import numpy as np

from . import dataset, roles, sources

_TARGETS = {
    "ugpa": "undergraduate grade point average [grade points]",
    "zfygpa": "grade point average of the first year [standard deviations]",
    "pass_bar": "passed the bar exam at the first attempt",
}
_GRADES = ["decile1b", "decile3", "zfygpa", "zgpa"]


def law_school(
    *,
    target: str = "ugpa",
    sensitive: str | Sequence[str] = "race",
    sensitive_in_features: bool = True,
    law_grades: bool | None = None,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: sources.Location | None = None,
) -> dataset.Dataset:
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
    roles.check_known(target, _TARGETS, argument="target")
    frame = sources.read_table("law_school_clean.csv", data_dir)
    binary = target == "pass_bar"
    labels = frame[target].to_numpy(np.float32)
    if law_grades is None:
        law_grades = binary
    left_out = {target, "pass_bar", *([] if law_grades else _GRADES)}
    sex = np.where(frame["male"] == 1, "male", "female")
    return dataset.build(
        "law_school",
        frame.drop(columns=list(left_out)),
        labels == 1 if binary else labels,
        label_name=_TARGETS[target],
        attributes={
            "race": dataset.Attribute(frame["race"], ("race",)),
            "sex": dataset.Attribute(sex, ("male",)),
        },
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed),
    )
