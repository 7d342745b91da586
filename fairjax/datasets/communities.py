"""UCI Communities and Crime: the share of violent crime in 1,994 communities."""

from collections.abc import Sequence

import numpy as np

from . import dataset, sources

_RACES = ("racepctblack", "racePctWhite", "racePctAsian", "racePctHisp")


def communities(
    *,
    sensitive: str | Sequence[str] = "racepctblack",
    sensitive_in_features: bool = True,
    police_survey: bool = False,
    test_size: float = 0.25,
    seed: int = 0,
    data_dir: sources.Location | None = None,
) -> dataset.Dataset:
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
    options = {"header": None, "names": names, "na_values": "?"}
    frame = sources.read_table("communities.data", data_dir, **options)
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
