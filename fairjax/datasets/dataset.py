"""The typed value of a dataset, and the one way in which every loader makes it.

A loader brings a table, labels and who has which sensitive attribute. Groups, split
and encoding are the same for all; scaling and one-hot encoding learn from the training
part only, so nothing of the test part reaches the training features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Shaped

from . import columns, roles, splits
from .columns import Column, Frame
from .encoder import Encoder

Labels = Int32[np.ndarray, " n"] | Float32[np.ndarray, " n"]


class Samples(NamedTuple):
    """One part of a dataset, ready for a solver.

    Attributes:
        features: scaled numbers and one-hot columns.
        labels: as in `Dataset`.
        groups: codes in `[0, n_groups)`.
    """

    features: Float32[np.ndarray, "n d"]
    labels: Labels
    groups: Int32[np.ndarray, " n"]


class Dataset(NamedTuple):
    """A dataset with its split; `train` and `test` give the two parts.

    Attributes:
        name: of the dataset, for tables and titles.
        features: of all samples, in the order of the source.
        labels: 0 or 1 as int32, 1 the favourable outcome; or, where `is_regression`,
            float32 in the unit of the target.
        groups: codes in `[0, n_groups)`.
        is_train: True for the training part, False for the test part.
        feature_names: one per column; `"race=Black"` for a one-hot column.
        label_name: what label 1 means; in regression, what the labels measure, with
            the unit in square brackets.
        group_names: one per code; `"Black & Female"` for an intersection.
        tasks: which task a sample belongs to, in `[0, len(task_names))`; None where
            there is only one.
        task_names: one per task.
    """

    name: str
    features: Float32[np.ndarray, "n d"]
    labels: Labels
    groups: Int32[np.ndarray, " n"]
    is_train: Bool[np.ndarray, " n"]
    feature_names: tuple[str, ...]
    label_name: str
    group_names: tuple[str, ...]
    tasks: Int32[np.ndarray, " n"] | None = None
    task_names: tuple[str, ...] = ()

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
        """The number of groups."""
        return len(self.group_names)

    @property
    def is_regression(self) -> bool:
        """True where labels are real numbers to predict, not classes 0 and 1."""
        return np.issubdtype(self.labels.dtype, np.floating)

    def _part(self, keep: Bool[np.ndarray, " n"]) -> Samples:
        return Samples(self.features[keep], self.labels[keep], self.groups[keep])

    def take(self, rows: Bool[np.ndarray, " n"] | Int[np.ndarray, " r"]) -> "Dataset":
        """The dataset of some of its rows, or of rows that are repeated."""
        arrays = self._asdict().items()
        return self._replace(
            **{k: v[rows] for k, v in arrays if isinstance(v, np.ndarray)}
        )


class Attribute(NamedTuple):
    """A sensitive attribute: who has which value, and the columns that state it."""

    values: Column | Shaped[np.ndarray, " n"]
    columns: tuple[str, ...] = ()


def build(
    name: str,
    frame: Frame,
    labels: Bool[np.ndarray, " n"] | Float32[np.ndarray, " n"],
    *,
    label_name: str,
    attributes: dict[str, Attribute],
    sensitive: str | Sequence[str],
    sensitive_in_features: bool,
    split: Bool[np.ndarray, " n"] | tuple[float, int],
    fill: bool = False,
) -> Dataset:
    """The dataset of a table: groups, split and encoding, as all loaders have them.

    Args:
        name: of the dataset.
        frame: the features.
        labels: True for the favourable class; or real numbers, for regression.
        label_name: as in `Dataset`.
        attributes: the sensitive attributes to choose from.
        sensitive: the names of those chosen.
        sensitive_in_features: whether their columns stay in `frame`.
        split: the training rows; or the share of the test part and a seed, for a split
            that is stratified by group and class, or by group along real labels.
        fill: whether missing numbers take the mean of the training part.
    """
    chosen = roles.choose(sensitive, attributes, argument="sensitive")
    regression = labels.dtype != bool
    series = columns.extra("pandas").Series
    groups, group_names = columns.group_codes(
        [series(attributes[a].values, name=a) for a in chosen]
    )
    if isinstance(split, tuple):
        split = splits.stratified_split(
            groups if regression else groups * 2 + labels,
            test_size=split[0],
            seed=split[1],
            along=labels if regression else None,
        )
    is_train = split
    if is_train.all() or not is_train.any():
        raise ValueError(
            f"all {len(frame)} rows of {name!r} fall into the "
            f"{'training' if is_train.all() else 'test'} part, and the other is empty. "
            f"Change the split, or gather more rows of each label and group."
        )
    check_comparable(
        name,
        int(is_train.sum()),
        n_labels=np.unique(labels[is_train]).size,
        n_groups=np.unique(groups[is_train]).size,
        origin=f"Label{'s are' if regression else ' 1 is'} {label_name!r}; groups "
        f"come from {chosen}.",
    )
    if not sensitive_in_features:
        stated = {column for a in chosen for column in attributes[a].columns}
        frame = frame.drop(columns=[c for c in frame if c in stated])
    encoder = Encoder.learn([(frame, is_train)], fill=fill)
    return Dataset(
        name=name,
        features=encoder.transform(frame),
        labels=labels if regression else labels.astype(np.int32),
        groups=groups,
        is_train=is_train,
        feature_names=encoder.feature_names,
        label_name=label_name,
        group_names=group_names,
    )


def check_comparable(
    name: str, n_rows: int, *, n_labels: int, n_groups: int, origin: str
) -> None:
    """Raises `ValueError` unless the training part has two labels and two groups."""
    for what, count in (("label", n_labels), ("group", n_groups)):
        if count < 2:
            raise ValueError(
                f"the training part of {name!r} needs at least two {what}s, but its "
                f"{n_rows} rows have the same: there is nothing to compare. {origin}"
            )


def with_tasks(data: Dataset, labels: dict[str, Bool[np.ndarray, " n"]]) -> Dataset:
    """Repeats all samples for each of several targets, whose names become the tasks'.

    Args:
        data: with the labels of the first target.
        labels: by what their label 1 means; with one entry, nothing changes.
    """
    if len(labels) == 1:
        return data
    names, n = tuple(labels), len(data.labels)
    return data.take(np.tile(np.arange(n), len(names)))._replace(
        labels=np.concatenate([labels[name] for name in names]).astype(np.int32),
        label_name="; ".join(names),
        tasks=np.repeat(np.arange(len(names), dtype=np.int32), n),
        task_names=names,
    )


def subsample(data: Dataset, *, n_train: int, seed: int = 0) -> Dataset:
    """Draws fewer training samples: the same share of each group and label.

    For methods whose cost grows with the square of their number. The test part stays.

    Args:
        data: any dataset.
        n_train: how many are kept, about: shares are rounded, and none of a group and
            label vanishes.
        seed: of the draw.

    Returns:
        A dataset without the training samples that were not drawn; `data` itself where
        it has no more than `n_train`.

    Raises:
        ValueError: for a number below 1.

    Example:
        >>> from fairjax import datasets
        >>> small = subsample(datasets.toy(n=400), n_train=100)
        >>> int(small.is_train.sum()), int((~small.is_train).sum())
        (100, 400)
    """
    if n_train < 1:
        raise ValueError(f"`n_train` must be at least 1, but is {n_train}.")
    rows = np.flatnonzero(data.is_train)
    if len(rows) <= n_train:
        return data
    strata, along = data.groups[rows].astype(np.int64), None
    if data.tasks is not None:
        strata = strata * len(data.task_names) + data.tasks[rows]
    if data.is_regression:
        along = data.labels[rows].astype(np.float64)
    else:
        strata = 2 * strata + data.labels[rows]
    share = 1 - n_train / len(rows)
    drawn = splits.stratified_split(strata, test_size=share, seed=seed, along=along)
    kept = ~data.is_train
    kept[rows[drawn]] = True
    return data.take(kept)
