"""UCI German Credit: 1,000 loan applicants and their credit risk."""

from collections.abc import Sequence

import numpy as np

from . import dataset, sources

_COLUMNS = """
    account_status duration credit_history purpose credit_amount savings
    employment_since installment_rate sex_and_marital_status other_debtors
    residence_since property age other_installments housing existing_credits job
    dependents telephone foreign_worker credit_risk
"""


def german(
    *,
    sensitive: str | Sequence[str] = "sex",
    sensitive_in_features: bool = True,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: sources.Location | None = None,
) -> dataset.Dataset:
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
    options = {"sep": r"\s+", "header": None, "names": _COLUMNS.split()}
    frame = sources.read_table("german.data", data_dir, **options)
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
