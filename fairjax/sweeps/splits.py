"""Splits: folds and a safety set, stratified on label and group together.

Samples are put in order of group and label, at random inside each such cell, and dealt
out like cards; so every cell has its share in every part.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Int, PRNGKeyArray, PyTree, Real

from ..arrays import checks
from .progress import Progress
from .run import PointFunction


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
    n_folds = checks.as_count(n_folds, name="n_folds", least=2, most=n)
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


def cross_validate(
    fn: PointFunction,
    fold_codes: Int[ArrayLike, " n"],
    *,
    n_folds: int,
    progress: Progress | None = None,
) -> PyTree:
    """Calls `fn(train, validation)` once per fold; one program serves all folds.

    A fold is a pair of masks, so shapes never change: fit with `weights=train` and
    score with `weights=validation`. Grids go inside: `mapped(...)(points)` in `fn`
    gives (n_folds, m) tables. Where chunks or a checkpoint are wanted, make the fold
    an axis instead: `run(fn, grid(fold=range(n_folds), lam=...))`.

    Args:
        fn: two boolean masks (n,) to a pytree of arrays; it is traced once. Bind data
            with `jax.tree_util.Partial`.
        fold_codes: from `folds`; each of `[0, n_folds)` must occur.
        n_folds: static.
        progress: called as `progress(done, n_folds)` after each fold.

    Returns:
        The values of `fn`, stacked on a new axis 0 of length `n_folds`.

    Raises:
        ValueError: for codes out of range, an empty fold, or fewer than 2 folds.

    Example:
        >>> codes = jnp.array([0, 1, 1])
        >>> cross_validate(
        ...     lambda train, validation: validation.sum(), codes, n_folds=2).tolist()
        [1, 2]
    """
    n = np.shape(fold_codes)[0]
    n_folds = checks.as_count(n_folds, name="n_folds", least=2, most=n)
    checks.check_groups(fold_codes, n_groups=n_folds, name="fold_codes")
    if checks.concrete(fold_codes):
        sizes = np.bincount(np.asarray(fold_codes), minlength=n_folds)
        if not sizes.all():
            raise ValueError(
                f"every fold needs a sample, but fold {int(np.argmin(sizes))} of "
                f"{n_folds} has none. Make the codes with `sweeps.folds`."
            )
    codes = jnp.asarray(fold_codes)
    bound = jax.device_put(fn if isinstance(fn, Partial) else Partial(fn))
    one = jax.jit(lambda bound, codes, fold: bound(codes != fold, codes == fold))
    values = []
    for fold in range(n_folds):
        values.append(one(bound, codes, jnp.asarray(fold, codes.dtype)))
        if progress:
            jax.block_until_ready(values[-1])
            progress(fold + 1, n_folds)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)


def _as_samples(labels: ArrayLike, groups: ArrayLike) -> list[Array]:
    checks.check_finite(labels, name="labels")
    return checks.as_columns(labels=labels, groups=groups)


def _dealt(labels: Array, groups: Array, dealt: Array, key: PRNGKeyArray) -> Array:
    """Value of each sample when values are dealt in order of the cells."""
    shuffled = jax.random.permutation(key, labels.shape[0])
    order = jnp.lexsort((shuffled, labels, groups))
    return jnp.zeros_like(dealt).at[order].set(dealt)
