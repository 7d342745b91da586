"""ProPublica COMPAS: one table of defendants with three things to predict."""

from collections.abc import Sequence

from . import dataset, roles, sources

_FEATURES = """
    sex age age_cat race juv_fel_count juv_misd_count juv_other_count priors_count
    c_charge_degree
"""
_TARGETS = {
    "two_year_recid": "no new offence within two years",
    "is_violent_recid": "no new violent offence",
    "score_text": "risk scored as low",
}


def compas(
    *,
    target: str | Sequence[str] = "two_year_recid",
    sensitive: str | Sequence[str] = "race",
    sensitive_in_features: bool = True,
    all_races: bool = False,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: sources.Location | None = None,
) -> dataset.Dataset:
    """ProPublica COMPAS: does a defendant stay free of a new offence for two years?

    Or: of a violent one, or is his risk of a new offence scored as low by COMPAS.

    The 6,172 rows of ProPublica's own filter: screened within 30 days of the arrest,
    recidivism known, not an ordinary traffic offence, scored. Features are demographic
    columns, criminal history and the degree of the charge; neither the COMPAS scores
    nor anything recorded after the screening.

    Args:
        target: "two_year_recid", "is_violent_recid" (at any time of the record),
            "score_text" or several of them. Several make a dataset of as many `tasks`,
            each with all rows and the same features.
        sensitive: one or several of "race", "sex", "age_cat".
        sensitive_in_features: False leaves their columns out of the features, and
            `age` with `age_cat`.
        all_races: False compares "African-American" with "All others"; True makes each
            of the six recorded races a group. The features have all six either way.
        test_size: share of the test part, in (0, 1).
        seed: of the split, which is stratified by group and label of the first target.
        data_dir: folder with `compas-scores-two-years.csv`.

    Returns:
        18 features, or fewer; label 1, the favourable one, is *no* new offence, no
        violent one, or a score of 1 to 4 of 10.

    Raises:
        ValueError: for an unknown column or target, and a file that is missing or
            altered.

    References:
        Angwin, Larson, Mattu, Kirchner, *Machine bias*, ProPublica, 2016.
    """
    targets = roles.choose(target, _TARGETS, argument="target", what="targets")
    frame = sources.read_table("compas-scores-two-years.csv", data_dir)
    # pandas reads the score "N/A" as missing.
    frame = frame[
        frame["days_b_screening_arrest"].between(-30, 30)
        & (frame["is_recid"] != -1)
        & (frame["c_charge_degree"] != "O")
        & frame["score_text"].notna()
    ]
    race = frame["race"]
    if not all_races:
        race = race.where(race == "African-American", "All others")
    attributes = {
        "race": dataset.Attribute(race, ("race",)),
        "sex": dataset.Attribute(frame["sex"], ("sex",)),
        "age_cat": dataset.Attribute(frame["age_cat"], ("age_cat", "age")),
    }
    labels = {
        "two_year_recid": (frame["two_year_recid"] == 0).to_numpy(bool),
        "is_violent_recid": (frame["is_violent_recid"] == 0).to_numpy(bool),
        "score_text": (frame["score_text"] == "Low").to_numpy(bool),
    }
    data = dataset.build(
        "compas",
        frame[_FEATURES.split()],
        labels[targets[0]],
        label_name=_TARGETS[targets[0]],
        attributes=attributes,
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed),
    )
    return dataset.with_tasks(data, {_TARGETS[name]: labels[name] for name in targets})
