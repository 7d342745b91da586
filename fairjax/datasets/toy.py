"""A toy problem whose best line is unfair."""

import numpy as np

from .dataset import Dataset


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
