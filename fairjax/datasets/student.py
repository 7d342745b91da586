"""UCI Student Performance: final grades of pupils in two schools."""

from collections.abc import Sequence

import numpy as np

from . import dataset, roles, sources


def student(
    *,
    subject: str = "mathematics",
    sensitive: str | Sequence[str] = "sex",
    sensitive_in_features: bool = True,
    earlier_grades: int = 0,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: sources.Location | None = None,
) -> dataset.Dataset:
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
    roles.check_known(subject, files, argument="subject")
    if earlier_grades not in (0, 1, 2):
        raise ValueError(
            f"`earlier_grades` must be 0, 1 or 2, but is {earlier_grades}."
        )
    frame = sources.read_table(files[subject], data_dir, sep=";")
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
