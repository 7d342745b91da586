"""Splits: folds and a safety set, stratified on label and group together.

Samples are put in order of group and label, at random inside each such cell, and dealt
out like cards; so every cell has its share in every part.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, PRNGKeyArray, Real

from ..arrays import checks


def folds(
    labels: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    groups: Int[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    *,
    n_folds: int,
    key: PRNGKeyArray,
) -> Int[Array, " n"]:
    """Random folds, stratified on label and group together.

    Samples are put in order of group and label, at random inside each such cell, and
    dealt out like cards: fold sizes differ by at most 1 in every cell and overall.

    Args:
        labels: classes; real labels are spread along their order in each group.
        groups: codes.
        n_folds: static, from 2 to n.
        key: decides who goes where inside a cell.

    Returns:
        The fold of each sample, in `[0, n_folds)`. Cost O(n log n).

    Raises:
        ValueError: for shapes that differ, labels that are not finite, or a number
            of folds below 2 or above n.

    Example:
        >>> labels, groups = jnp.array([1, 1, 0, 0]), jnp.zeros(4, int)
        >>> codes = folds(labels, groups, n_folds=2, key=jax.random.key(0))
        >>> sorted(codes[labels == 1].tolist())
        [0, 1]

    References:
        Kohavi, *A study of cross-validation and bootstrap*, IJCAI 1995.
    """
    labels, groups = _as_samples(labels, groups)
    n = labels.shape[0]
    n_folds = as_count(n_folds, name="n_folds", least=2, most=n)
    dealt = jnp.arange(n, dtype=jnp.int32) % n_folds
    return _dealt(labels, groups, dealt, key)


def safety_split(
    labels: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    groups: Int[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    *,
    share: float = 0.3,
    key: PRNGKeyArray,
) -> Bool[Array, " n"]:
    """Random samples to set aside, on which `select` tests what it promises.

    They must play no part in the models: not in fits, early stopping, scales of
    features, or the choice of a grid.

    Args:
        labels: classes; real labels are spread along their order in each group.
        groups: codes.
        share: of the samples in the safety set, static, in (0, 1).
        key: decides who goes where inside a cell.

    Returns:
        True for the samples of the safety set: `share * n` of them, rounded, and in
        each cell of label and group within 1 of its share. Cost O(n log n).

    Raises:
        ValueError: for shapes that differ, labels that are not finite, a share outside
            (0, 1), or one that leaves one of both parts empty.

    Example:
        >>> labels, groups = jnp.arange(20) % 2, jnp.arange(20) // 10
        >>> safe = safety_split(labels, groups, share=0.4, key=jax.random.key(0))
        >>> safe[labels == 1].sum().item(), safe[groups == 0].sum().item()
        (4, 4)

    References:
        Thomas et al., *Preventing undesirable behavior of intelligent machines*,
        Science 2019, for the safety test on data that are held out.
    """
    labels, groups = _as_samples(labels, groups)
    n = labels.shape[0]
    if not 0 < share < 1:
        raise ValueError(f"`share` must lie in (0, 1), but is {share}.")
    before = np.floor(np.arange(n + 1) * share + 0.5)
    if not 0 < before[-1] < n:
        raise ValueError(
            f"`share` must leave samples in both parts, but {share} of {n} samples are "
            f"{int(before[-1])}."
        )
    return _dealt(labels, groups, jnp.asarray(np.diff(before) > 0), key)


def as_count(value: object, *, name: str, least: int, most: int | None = None) -> int:
    """The integer that it is; raises `ValueError` where it is none, or out of range."""
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = least - 1
    if count < least or (most is not None and count > most):
        above = "" if most is None else f" and at most {most}, the number of samples"
        raise ValueError(
            f"`{name}` must be an integer of at least {least}{above}, but is {value}."
        )
    return count


def as_columns(**columns: ArrayLike) -> list[Array]:
    """Arrays of one shape (n,); raises `ValueError` where they are not."""
    shapes = {name: np.shape(column) for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(
        len(shape) != 1 or shape == (0,) for shape in shapes.values()
    ):
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in columns)} must have one shape (n,) "
            f"with n of at least 1, but the shapes are {list(shapes.values())}."
        )
    return [jnp.asarray(column) for column in columns.values()]


def _as_samples(labels: ArrayLike, groups: ArrayLike) -> list[Array]:
    checks.check_finite(labels, name="labels")
    return as_columns(labels=labels, groups=groups)


def _dealt(labels: Array, groups: Array, dealt: Array, key: PRNGKeyArray) -> Array:
    """What each sample gets of what is dealt in order of the cells."""
    shuffled = jax.random.permutation(key, labels.shape[0])
    order = jnp.lexsort((shuffled, labels, groups))
    return jnp.zeros_like(dealt).at[order].set(dealt)
