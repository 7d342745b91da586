"""The School data: one prediction task per school, in the form of multitask papers."""

import numpy as np

from . import columns, dataset, sources, splits
from .encoder import Encoder

_COLUMNS = (
    *(f"year={i}" for i in (1, 2, 3)),
    "free_school_meals",
    "in_vr_band_1",
    *(f"gender={i}" for i in (1, 2)),
    *(f"vr_band={i}" for i in (1, 2, 3)),
    *(f"ethnic_group={i}" for i in range(1, 12)),
    *(f"school_gender={i}" for i in (1, 2, 3)),
    *(f"school_denomination={i}" for i in (1, 2, 3)),
    "constant",
)


def school(
    *,
    data_dir: sources.Location | None = None,
    sensitive_in_features: bool = False,
    test_size: float = 0.3,
    seed: int = 0,
) -> dataset.Dataset:
    """School: exam scores of 15,362 students in 139 schools, each school a task.

    Scores are from the Inner London Education Authority, 1985 to 1987. The sensitive
    attribute is the student's gender. 75 of the schools have students of one gender
    only, and cannot be compared within themselves.

    Args:
        data_dir: where `school.mat` lies.
        sensitive_in_features: whether the gender is a feature. The gender of the school
            is one in any case.
        test_size: share of each school's students in the test part, spread along
            their scores.
        seed: of the split.

    Returns:
        A regression dataset [exam points, 1-70] with `tasks`. The file does not say
        which of its two genders is which: groups are `gender=1` and `gender=2`, its
        columns 5 and 6. The constant column is left out; percentages of the school are
        scaled.

    Raises:
        ValueError: as all loaders do for the file, and for a bad `test_size`.

    References:
        Goldstein, *Better ways to compare schools?*, Journal of Educational Statistics
        1991; Argyriou, Evgeniou, Pontil, *Convex multi-task feature learning*, 2008.
    """
    path = sources.find("school.mat", data_dir)
    table = columns.extra("scipy.io").loadmat(path)
    inputs, targets = (
        [np.asarray(cell, np.float64) for cell in table[name].ravel()] for name in "XY"
    )
    values = np.concatenate(inputs)
    labels = np.concatenate(targets).ravel().astype(np.float32)
    tasks = np.repeat(np.arange(len(inputs)), [len(x) for x in inputs])
    groups = values[:, _COLUMNS.index("gender=2")].astype(np.int32)
    is_train = splits.stratified_split(
        tasks, test_size=test_size, seed=seed, along=labels
    )
    frame = columns.extra("pandas").DataFrame(values, columns=list(_COLUMNS))
    left_out = {"constant"}
    if not sensitive_in_features:
        left_out |= {"gender=1", "gender=2"}
    kept = [name for name in _COLUMNS if name not in left_out]
    shares = frame[["free_school_meals", "in_vr_band_1"]]
    frame[list(shares)] = Encoder.learn([(shares, is_train)]).transform(shares)
    return dataset.Dataset(
        name="school",
        features=frame[kept].to_numpy(np.float32),
        labels=labels,
        groups=groups,
        is_train=is_train,
        feature_names=tuple(kept),
        label_name="exam score [points, 1-70]",
        group_names=("gender=1", "gender=2"),
        tasks=tasks.astype(np.int32),
        task_names=tuple(f"school {i}" for i in range(1, len(inputs) + 1)),
    )
