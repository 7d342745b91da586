"""Checks on concrete values, made once, outside `jit`, where data enter.

Every public function calls them first. Under a JAX transformation there are no values
to look at, so the checks step aside and trouble becomes a field of the result. So they
do for an array whose parts lie in several processes: none of them holds it whole, and
one that raised alone would leave the others waiting.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike


def concrete(*arrays: object) -> bool:
    """True if values can be looked at; False inside `jit`, `vmap` or `grad`.

    Also False for an array of which another process holds a part.

    Example:
        >>> concrete(np.ones(2)), bool(jax.jit(concrete)(np.ones(2)))
        (True, False)
    """
    return not any(
        isinstance(a, Tracer) or _is_elsewhere(a) for a in jax.tree.leaves(arrays)
    )


def check_groups(groups: Any, *, n_groups: int, name: str = "groups") -> None:
    """Raises `ValueError` unless every code is an integer in `[0, n_groups)`.

    Example:
        >>> check_groups([0, 3], n_groups=2)
        Traceback (most recent call last):
        ValueError: `groups` must be codes in [0, 2), but groups[1] = 3. ...
    """
    if np.ndim(groups) != 1:
        raise ValueError(
            f"`{name}` must have one code per sample, shape (n,), but has shape "
            f"{np.shape(groups)}. Join several attributes with `notions.intersect`."
        )
    if not concrete(groups):
        return
    codes = np.asarray(groups)
    if not (np.issubdtype(codes.dtype, np.integer) or codes.dtype == bool):
        raise ValueError(
            f"`{name}` must be integer codes, but its dtype is {codes.dtype}. "
            f"Encode with `np.unique(..., return_inverse=True)`."
        )
    bad = np.flatnonzero((codes < 0) | (codes >= n_groups))
    if bad.size:
        raise ValueError(
            f"`{name}` must be codes in [0, {n_groups}), but {name}[{bad[0]}] = "
            f"{codes[bad[0]]}. Re-encode with `np.unique(..., return_inverse=True)`."
        )


def check_memberships(groups: Any, *, n_groups: int, name: str = "groups") -> None:
    """Raises `ValueError` unless every row holds a probability of each group.

    Rows may miss a sum of 1 by what their precision rounds.

    Example:
        >>> check_memberships([[0.5, 0.7]], n_groups=2)
        Traceback (most recent call last):
        ValueError: `groups` must be memberships whose rows sum to 1, but row 0 sums ...
    """
    shape = np.shape(groups)
    if shape[1] != n_groups:
        raise ValueError(
            f"`{name}` must have a membership of each of {n_groups} groups, shape "
            f"(n, {n_groups}), but has shape {shape}. Join several attributes with "
            f"`notions.intersect`."
        )
    if not concrete(groups):
        return
    values = np.asarray(groups)
    if np.isnan(values.astype(float)).any():
        row = int(np.argwhere(np.isnan(values.astype(float)))[0, 0])
        raise ValueError(
            f"`{name}` must not be NaN, but row {row} is. Give a sample about which "
            f"nothing is known the groups' shares, or weight 0."
        )
    check_finite(groups, name=name)
    check_nonnegative(groups, name=name)
    narrow = np.issubdtype(values.dtype, np.floating) or values.dtype.name == "bfloat16"
    eps = float(jnp.finfo(values.dtype).eps) if narrow else 0.0
    total = values.astype(float).sum(axis=1)
    bad = np.flatnonzero(np.abs(total - 1) > max(1e-5, n_groups * eps))
    if bad.size:
        raise ValueError(
            f"`{name}` must be memberships whose rows sum to 1, but row {bad[0]} sums "
            f"to {total[bad[0]]:.6g}. Divide each row by its sum."
        )


def check_group_number(groups: Any) -> None:
    """Raises `ValueError` unless at least two groups have members.

    Example:
        >>> check_group_number([1, 1])
        Traceback (most recent call last):
        ValueError: `groups` must hold at least two groups, but all 2 samples ...
    """
    if not concrete(groups):
        return
    codes = np.asarray(groups)
    if codes.size and (codes == codes[0]).all():
        raise ValueError(
            f"`groups` must hold at least two groups, but all {codes.size} samples "
            f"are in group {codes[0]}: with one group there is nothing to compare."
        )


def check_finite(array: Any, *, name: str) -> None:
    """Raises `ValueError` with the first position that is NaN or infinite.

    Also for a number that JAX's present precision cannot hold: in it, 2^31 would become
    -2^31, and 1e300 infinity.

    Example:
        >>> check_finite(np.array([[1.0, np.nan]]), name="features")
        Traceback (most recent call last):
        ValueError: `features` must be finite, but features[0, 1] = nan. ...
    """
    if not concrete(array):
        return
    values = np.asarray(array)
    if values.dtype.kind not in "fciub" and values.dtype.name != "bfloat16":
        raise ValueError(
            f"`{name}` must be numbers, but its dtype is {values.dtype}. "
            f"Encode categories first, for example with `datasets.from_csv`."
        )
    finite = np.isfinite(values)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        where = "".join(["[", ", ".join(map(str, at)), "]"]) if at else ""
        raise ValueError(
            f"`{name}` must be finite, but {name}{where} = {values[at]}. "
            f"Drop or impute such entries before the call."
        )
    held = jax.dtypes.canonicalize_dtype(values.dtype)
    if held != values.dtype:
        limits = jnp.iinfo(held) if held.kind in "iu" else jnp.finfo(held)
        wide = np.argwhere((values < float(limits.min)) | (values > float(limits.max)))
        if wide.size:
            at = tuple(int(i) for i in wide[0])
            where = "".join(["[", ", ".join(map(str, at)), "]"]) if at else ""
            raise ValueError(
                f"`{name}` must be finite in {held}, but {name}{where} = {values[at]}. "
                f"Rescale it, or set `jax_enable_x64`."
            )


def check_weights(weights: Any, *, n: int, name: str = "weights") -> None:
    """Raises `ValueError` for weights negative, not finite, or all zero or subnormal.

    Example:
        >>> check_weights([0.0, 0.0], n=2)
        Traceback (most recent call last):
        ValueError: `weights` must have a positive entry, but all 2 are zero. ...
    """
    check_length(weights, n=n, name=name)
    if not concrete(weights):
        return
    check_finite(weights, name=name)
    values = np.asarray(weights)
    bad = np.flatnonzero(values < 0)
    if bad.size:
        raise ValueError(
            f"`{name}` must not be negative, but {name}[{bad[0]}] = {values[bad[0]]}. "
            f"Use 0 to leave a sample out."
        )
    if not (values > 0).any():
        raise ValueError(
            f"`{name}` must have a positive entry, but all {values.size} are zero. "
            f"Leave them out to weigh all samples alike."
        )
    held = jax.dtypes.canonicalize_dtype(values.dtype)
    # XLA takes smaller numbers for 0.
    least = 0.0 if held.kind in "iub" else float(jnp.finfo(held).tiny)
    if float(values.max()) < least:
        raise ValueError(
            f"`{name}` must have an entry of at least {least:.2g}, the smallest number "
            f"that {held} has in full precision, but the largest is {values.max()}. "
            f"Multiply all of them by one number."
        )


def check_length(
    array: Any, *, n: int, name: str, to: str = "features", columns: bool = False
) -> None:
    """Raises `ValueError` unless there is one number per sample, or one row of columns.

    A single column would otherwise be compared with a row, each entry with each.

    Example:
        >>> check_length([1, 2], n=3, name="labels")
        Traceback (most recent call last):
        ValueError: `labels` must have as many entries as `features`, 3, but has 2.
        >>> check_length(np.ones((3, 1)), n=3, name="labels")
        Traceback (most recent call last):
        ValueError: `labels` must have one number per sample, shape (3,), but has ...
    """
    shape = np.shape(array)
    if len(shape) > 1 and not columns:
        raise ValueError(
            f"`{name}` must have one number per sample, shape ({n},), but has shape "
            f"{shape}. Give one column, such as `{name}[:, 0]`."
        )
    if not shape or shape[0] != n:
        raise ValueError(
            f"`{name}` must have as many entries as `{to}`, {n}, but has "
            f"{shape[0] if shape else 'shape ()'}."
        )


def check_nonnegative(value: Any, *, name: str, positive: bool = False) -> None:
    """Raises `ValueError` unless every entry is a number >= 0 (or > 0).

    Infinity is allowed: an infinite tolerance means no constraint.

    Example:
        >>> check_nonnegative([1.0, -2.0], name="lam")
        Traceback (most recent call last):
        ValueError: `lam` must be at least 0, but lam[1] = -2.0.
    """
    if not concrete(value):
        return
    values = np.atleast_1d(np.asarray(value, dtype=float))
    good = values > 0 if positive else values >= 0
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        where = f"[{', '.join(map(str, at))}]" if np.ndim(value) else ""
        bound = "above 0" if positive else "at least 0"
        raise ValueError(f"`{name}` must be {bound}, but {name}{where} = {values[at]}.")


def check_fraction(value: Any, *, name: str) -> None:
    """Raises `ValueError` unless the value is a number in [0, 1].

    Example:
        >>> check_fraction(1.5, name="repair")
        Traceback (most recent call last):
        ValueError: `repair` must lie in [0, 1], but is 1.5.
    """
    if np.ndim(value):
        raise ValueError(
            f"`{name}` must be one number in [0, 1], but has shape {np.shape(value)}. "
            f"Map over several with `jax.vmap`."
        )
    if concrete(value) and not 0 <= float(np.asarray(value)) <= 1:
        raise ValueError(f"`{name}` must lie in [0, 1], but is {value}.")


def check_label_range(
    labels: Any, *, weights: Any = None, name: str = "labels"
) -> None:
    """Raises `ValueError` for labels outside [0, 1], which are 0 and 1 or soft.

    Those of -1 and 1 would be trained on without a word: margin losses map 0 to -1
    themselves. Samples of weight 0 may have any.

    Example:
        >>> check_label_range([1, -1])
        Traceback (most recent call last):
        ValueError: `labels` must lie in [0, 1], but labels[1] = -1. Map the favour...
    """
    if not concrete(labels, weights):
        return
    values = np.asarray(labels)
    bad = ~((values >= 0) & (values <= 1))
    if weights is not None:
        bad &= np.asarray(weights) > 0
    for at in np.flatnonzero(bad)[:1]:
        raise ValueError(
            f"`{name}` must lie in [0, 1], but {name}[{at}] = {values[at]}. Map the "
            f"favourable outcome to 1 and the other one to 0."
        )


def check_labels(labels: Any, *, n: int) -> None:
    """Raises `ValueError` unless labels are 0 and 1, and both occur.

    Example:
        >>> check_labels([1, 1], n=2)
        Traceback (most recent call last):
        ValueError: `labels` must hold both 0 and 1, but all 2 are 1: ...
    """
    if not concrete(labels):
        return
    check_length(labels, n=n, name="labels")
    check_finite(labels, name="labels")
    values = np.asarray(labels)
    bad = np.flatnonzero((values != 0) & (values != 1))
    if bad.size:
        raise ValueError(
            f"`labels` must be 0 or 1, but labels[{bad[0]}] = {values[bad[0]]}. "
            f"Map the favourable outcome to 1 and the other one to 0."
        )
    if values.size and (values == values[0]).all():
        raise ValueError(
            f"`labels` must hold both 0 and 1, but all {values.size} are "
            f"{values[0]}: there is nothing to learn."
        )


def check_cells(occupied: Any) -> None:
    """Raises `ValueError` naming the first (stratum, group) cell without members.

    Example:
        >>> check_cells(np.array([[True, False]]))
        Traceback (most recent call last):
        ValueError: the notion compares groups inside stratum 0, but group 1 has no ...
    """
    if not concrete(occupied):
        return
    empty = np.argwhere(~np.asarray(occupied))
    if empty.size:
        stratum, group = (int(i) for i in empty[0])
        raise ValueError(
            f"the notion compares groups inside stratum {stratum}, but group {group} "
            f"has no member there. Merge small groups, choose another notion, or "
            f"gather more data."
        )


def check_disjoint(weights: Any) -> None:
    """Raises `ValueError` where a sample is in two groups of one stratum.

    Example:
        >>> check_disjoint(np.full((1, 2, 1), 0.5))
        Traceback (most recent call last):
        ValueError: `cond` must have each sample in one group per stratum, but ...
    """
    if not concrete(weights):
        return
    shared = np.argwhere((np.asarray(weights) > 0).sum(axis=1) > 1)
    if shared.size:
        raise ValueError(
            f"`cond` must have each sample in one group per stratum, but sample "
            f"{shared[0, 1]} is in several of stratum {shared[0, 0]}. Draw its group "
            f"from its memberships, or repeat it once per group with a weight."
        )


def as_count(value: object, *, name: str, least: int, most: int | None = None) -> int:
    """An integer, checked; raises `ValueError` where it is none or out of range."""
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
    """Arrays of one shape (n,), checked; raises `ValueError` where they differ."""
    shapes = {name: np.shape(column) for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(
        len(shape) != 1 or shape == (0,) for shape in shapes.values()
    ):
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in columns)} must have one shape (n,) "
            f"with n of at least 1, but the shapes are {list(shapes.values())}."
        )
    return [jnp.asarray(column) for column in columns.values()]


def _is_elsewhere(array: object) -> bool:
    """True if this process lacks a part of the array."""
    return isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    )
