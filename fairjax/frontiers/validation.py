"""Requirements on data, grids and selection, checked before any compilation."""

from typing import Any

import numpy as np
from jaxtyping import Int

from ..arrays import checks
from ..datasets import Dataset
from ..notions import Notion


def check_dataset(
    dataset: Dataset, *, notion: Notion, n_folds: int, regression: bool = False
) -> Int[np.ndarray, "2 s g"]:
    """Number of samples in each cell of a dataset that a frontier can be fitted on.

    Args:
        dataset: from `datasets`.
        notion: a function of `notions`.
        n_folds: of the cross-validation, 0 for none.
        regression: whether real labels are allowed, as `network` allows them.

    Returns:
        Samples per stratum and group, in the training part, then in the test part.

    Raises:
        ValueError: as `linear` does, for the data.
    """
    if dataset.is_regression and not regression:
        raise ValueError(
            f"`dataset` must have labels 0 and 1, but {dataset.name!r} is for "
            f"regression: its labels are {dataset.label_name!r}. Choose a `target` of "
            f"two classes, such as 'pass_bar' of 'law_school', or `frontiers.network` "
            f"(in the command `--model mlp`); `barycenters` makes the scores of a "
            f"regression fair."
        )
    counts = []
    for name, part in (("training", dataset.train), ("test", dataset.test)):
        if not part.features.size:
            raise ValueError(
                f"the {name} part of {dataset.name!r} must have rows and features, but "
                f"its shape is {part.features.shape}."
            )
        checks.check_finite(part.features, name="features")
        checks.check_groups(part.groups, n_groups=dataset.n_groups)
        if name == "training":
            checks.check_group_number(part.groups)
            if dataset.is_regression:
                checks.check_finite(part.labels, name="labels")
            else:
                checks.check_labels(part.labels, n=len(part.features))
        cond = notion(part.groups, part.labels, n_groups=dataset.n_groups)
        groups = ", ".join(f"{i} {g!r}" for i, g in enumerate(dataset.group_names))
        try:
            checks.check_cells(cond.occupied)
        except ValueError as error:
            raise ValueError(
                f"{name} part of {dataset.name!r}, groups {groups}: {error}"
            ) from error
        counts.append(np.asarray((cond.weights > 0).sum(axis=-1)))
        if name == "training" and n_folds and counts[0].min() < 2:
            stratum, group = np.argwhere(counts[0] < 2)[0]
            raise ValueError(
                f"cross-validation needs two members of each cell in the training "
                f"part, but {dataset.name!r} has one of group {group} in stratum "
                f"{stratum}, groups {groups}. Merge small groups, or pass `n_folds=0`."
            )
    return np.stack(counts)


def check_axis(values: Any, *, name: str, positive: bool = False) -> np.ndarray:
    """An axis of a grid as an array; raises `ValueError` unless it is one."""
    axis = np.asarray(values)
    if axis.ndim != 1 or not axis.size:
        raise ValueError(
            f"`{name}` must be a list of at least one value, but has shape "
            f"{axis.shape}. Write a fixed value as [value]."
        )
    checks.check_finite(axis, name=name)
    checks.check_nonnegative(axis, name=name, positive=positive)
    return axis


def check_selection(*, keep: float, n_folds: int = 0) -> None:
    """Raises `ValueError` for shares or numbers of folds that select no point."""
    if isinstance(n_folds, bool) or n_folds < 0 or n_folds == 1:
        raise ValueError(
            f"`n_folds` must be at least 2, or 0 for no cross-validation, but is "
            f"{n_folds}."
        )
    if not 0 < keep <= 1:
        raise ValueError(f"`keep` must be in (0, 1], but is {keep}. The paper has 0.9.")
