"""The notions: functions from groups and labels to rows of weights.

Each is a choice of strata for `conditional_parity`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real, Shaped

from ..arrays import checks, samples


class Conditionals(NamedTuple):
    """The conditional distributions that a notion compares.

    Attributes:
        weights: a row sums to 1, or to 0 when its cell is empty.
        occupied: False for an empty cell, which penalties and metrics skip.
    """

    weights: Float[Array, "s g n"]
    occupied: Bool[Array, "s g"]


Notion = Callable[..., Conditionals]
# Codes, or the probabilities of each group.
Groups = Shaped[ArrayLike, " n"] | Float[ArrayLike, "n g"]


def conditional_parity(
    groups: Groups,
    strata: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    n_strata: int,
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
) -> Conditionals:
    """Compares groups inside each stratum; every other notion is a choice of strata.

    Args:
        groups: codes in `[0, n_groups)`, or memberships `(n, n_groups)` whose rows sum
            to 1. Inside `jit`, where values cannot be checked, a sample with another
            code belongs to no group.
        strata: codes; a sample outside `[0, n_strata)` is compared with nobody.
        n_groups: static, so that `jit` knows the output shape.
        n_strata: static; cost O(n_strata * n_groups * n) in time and memory.
        weights: non-negative sample weights, or a mask; all ones when absent.

    Returns:
        The rows and which of them have any weight.

    Raises:
        ValueError: for a group code out of range, memberships that are no
            probabilities, and bad weights.

    Example:
        >>> import jax.numpy as jnp
        >>> cond = conditional_parity(
        ...     jnp.array([0, 1, 1]), jnp.array([0, 0, 5]), n_groups=2, n_strata=1)
        >>> cond.weights.tolist(), cond.occupied.tolist()
        ([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], [[True, True]])
        >>> likely = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
        >>> demographic_parity(likely, n_groups=2).weights.tolist()
        [[[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]]]

    References:
        Ritov, Sun, Zhao, *On conditional parity as a notion of non-discrimination in
        machine learning*, 2017; the notions of Donini et al. (NeurIPS 2018),
        Definition 1, are special cases. Chen, Kallus, Mao, Svacha, Udell, *Fairness
        under unawareness*, FAT* 2019, on memberships.
    """
    if np.ndim(groups) == 2:
        checks.check_memberships(groups, n_groups=n_groups)
    else:
        checks.check_groups(groups, n_groups=n_groups)
    n = np.shape(groups)[0]
    checks.check_length(strata, n=n, name="strata", to="groups")
    if weights is not None:
        checks.check_weights(weights, n=n)
    mass = _as_mass(weights, n)
    return _rows(
        _as_codes(groups), _as_codes(strata), mass, n_groups=n_groups, n_strata=n_strata
    )


def demographic_parity(
    groups: Groups,
    labels: Shaped[ArrayLike, " n"] | None = None,
    *,
    n_groups: int,
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
) -> Conditionals:
    """Compares groups among all samples: one stratum.

    Args:
        groups: codes in `[0, n_groups)`, or memberships `(n, n_groups)`.
        labels: not read; accepted so that notions can be swapped for one another.
        n_groups: static; cost O(n_groups * n).
        weights: non-negative sample weights, or a mask.

    Returns:
        One stratum: `weights` is `(1, n_groups, n)`.

    Example:
        >>> import jax.numpy as jnp
        >>> demographic_parity(jnp.array([0, 1, 1]), n_groups=2).weights.tolist()
        [[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]]

    References:
        Calders, Kamiran, Pechenizkiy, *Building classifiers with independency
        constraints*, ICDM Workshops 2009.
    """
    del labels
    strata = np.zeros(np.shape(groups)[0], np.int32)
    return conditional_parity(
        groups, strata, n_groups=n_groups, n_strata=1, weights=weights
    )


def equal_opportunity(
    groups: Groups,
    labels: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
) -> Conditionals:
    """Compares groups among positives only: one stratum, `labels == 1`.

    Args:
        groups: codes in `[0, n_groups)`, or memberships `(n, n_groups)`.
        labels: binary, in `{0, 1}`; 1 is the favourable outcome.
        n_groups: static; cost O(n_groups * n).
        weights: non-negative sample weights, or a mask.

    Returns:
        One stratum: `weights` is `(1, n_groups, n)`.

    Example:
        >>> import jax.numpy as jnp
        >>> equal_opportunity(
        ...     jnp.array([0, 1, 1]), jnp.array([1, 0, 1]), n_groups=2).weights.tolist()
        [[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]

    References:
        Donini et al., *Empirical risk minimization under fairness constraints*,
        NeurIPS 2018, Definition 1; Hardt, Price, Srebro, NeurIPS 2016.
    """
    strata = _positives(_as_codes(labels))
    return conditional_parity(
        groups, strata, n_groups=n_groups, n_strata=1, weights=weights
    )


def equalized_odds(
    groups: Groups,
    labels: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
) -> Conditionals:
    """Compares groups among negatives and among positives: two strata.

    Args:
        groups: codes in `[0, n_groups)`, or memberships `(n, n_groups)`.
        labels: binary, in `{0, 1}`; stratum `s` holds the samples with label `s`.
        n_groups: static; cost O(2 * n_groups * n).
        weights: non-negative sample weights, or a mask.

    Returns:
        Two strata: `weights` is `(2, n_groups, n)`. A sample with another label, such
        as -1 for an unknown one, is compared with nobody.

    Raises:
        ValueError: for labels of which none is 0 and some are -1: they are -1 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> cond = equalized_odds(
        ...     jnp.array([0, 1, 1]), jnp.array([1, 0, 1]), n_groups=2)
        >>> cond.occupied.tolist()
        [[False, True], [True, True]]

    References:
        Hardt, Price, Srebro, *Equality of opportunity in supervised learning*,
        NeurIPS 2016, Definition 2.1.
    """
    if checks.concrete(labels):
        values = np.asarray(labels)
        if (values == -1).any() and not (values == 0).any():
            raise ValueError(
                "`labels` must be 0 or 1, but are -1 and 1: those of -1 would be "
                "compared with nobody. Map -1 to 0."
            )
    return conditional_parity(
        groups, labels, n_groups=n_groups, n_strata=2, weights=weights
    )


def within(
    cond: Conditionals, strata: Shaped[ArrayLike, " n"], *, n_strata: int
) -> Conditionals:
    """The same comparison inside each of further strata, such as tasks or age bands.

    Args:
        cond: from a notion.
        strata: codes; a sample outside `[0, n_strata)` is compared with nobody.
        n_strata: static; cost O(n_strata * s * g * n) in time and memory.

    Returns:
        `n_strata * s` strata, those of the first code first.

    Raises:
        ValueError: for strata that are not one per sample.

    Example:
        >>> import jax.numpy as jnp
        >>> cond = demographic_parity(jnp.array([0, 1, 1]), n_groups=2)
        >>> within(cond, jnp.array([0, 0, 1]), n_strata=2).occupied.tolist()
        [[True, True], [False, True]]
    """
    n = cond.weights.shape[-1]
    checks.check_length(strata, n=n, name="strata", to="groups")
    return _within(cond, _as_codes(strata), n_strata=n_strata)


@functools.partial(jax.jit, static_argnames="n_strata")
def _within(
    cond: Conditionals, codes: Shaped[Array, " n"], *, n_strata: int
) -> Conditionals:
    n_before, n_groups, n = cond.weights.shape
    inside = codes[None] == jnp.arange(n_strata, dtype=codes.dtype)[:, None]
    rows = jnp.where(inside[:, None, None], cond.weights[None], 0)
    total = rows.sum(axis=-1, keepdims=True)
    rows = rows / jnp.where(total > 0, total, 1)
    shape = n_strata * n_before, n_groups
    return Conditionals(rows.reshape(*shape, n), (total > 0).reshape(shape))


def intersect(
    attributes: Sequence[Int[ArrayLike, " n"]], *, sizes: Sequence[int]
) -> tuple[Int[Array, " n"], int]:
    """Joins several sensitive attributes into one, with a group per combination.

    Args:
        attributes: one array of codes each, the codes of attribute `a` in
            `[0, sizes[a])`.
        sizes: static; how many codes each attribute has.

    Returns:
        The joint codes (the last attribute varies fastest) and their number, the
        product of `sizes`: combinations without members become empty cells. Inside
        `jit`, where values cannot be checked, a sample with a code out of range has the
        joint code -1, which is in no group.

    Raises:
        ValueError: for a code out of range, lengths that differ, numbers of
            attributes and sizes that differ, or more combinations than 32 bits hold.

    Example:
        >>> import jax.numpy as jnp
        >>> codes, n_groups = intersect(
        ...     [jnp.array([0, 1]), jnp.array([2, 0])], sizes=[2, 3])
        >>> codes.tolist(), n_groups
        ([2, 3], 6)

    References:
        Kearns et al., *Preventing fairness gerrymandering*, ICML 2018, on why the
        intersections matter. Cost O(n) per attribute.
    """
    if len(attributes) != len(sizes) or not sizes:
        raise ValueError(
            f"`attributes` and `sizes` must name the same attributes, at least one, "
            f"but there are {len(attributes)} and {len(sizes)}."
        )
    n = np.shape(attributes[0])[0]
    n_groups = math.prod(sizes)
    if n_groups > np.iinfo(np.int32).max:
        raise ValueError(
            f"`sizes` must have a product that 32 bits hold, but it is {n_groups:,}. "
            f"Join fewer attributes, or encode the combinations that occur."
        )
    joint = jnp.zeros(n, jnp.int32)
    known = jnp.ones(n, bool)
    for codes, size in zip(attributes, sizes, strict=True):
        checks.check_length(codes, n=n, name="attributes", to="attributes[0]")
        checks.check_groups(codes, n_groups=size, name="attributes")
        codes = _as_codes(codes)
        known &= (codes >= 0) & (codes < size)
        joint = joint * size + codes.astype(jnp.int32)
    return jnp.where(known, joint, -1), n_groups


def _as_codes(codes: ArrayLike) -> Shaped[Array, "n *g"]:
    if checks.concrete(codes) and not isinstance(codes, jax.Array):
        codes = np.asarray(codes)
        held = jax.dtypes.canonicalize_dtype(codes.dtype)
        if held != codes.dtype and held.kind in "iu":
            # In 32 bits, 2 ** 32 would be code 0.
            codes = np.clip(codes, np.iinfo(held).min, np.iinfo(held).max)
    codes = jnp.asarray(codes)
    # Booleans have no `arange`, and one of small integers would wrap around.
    small = jnp.issubdtype(codes.dtype, jnp.integer) and codes.dtype.itemsize < 4
    return codes.astype(jnp.int32) if small or codes.dtype == bool else codes


@jax.jit
def _positives(labels: Shaped[Array, " n"]) -> Int[Array, " n"]:
    """Stratum 0 for positives and none for others."""
    return jnp.where(labels == 1, 0, -1)


@functools.partial(jax.jit, static_argnames=("n_groups", "n_strata"))
def _rows(
    groups: Int[Array, " n"] | Float[Array, "n g"],
    strata: Int[Array, " n"],
    mass: Float[Array, " n"],
    *,
    n_groups: int,
    n_strata: int,
) -> Conditionals:
    in_stratum = strata[None, :] == jnp.arange(n_strata, dtype=strata.dtype)[:, None]
    if groups.ndim == 2:
        possible = groups.T > 0
    else:
        possible = groups[None, :] == jnp.arange(n_groups, dtype=groups.dtype)[:, None]
    inside = in_stratum[:, None, :] & possible[None]
    mass = jnp.where(inside, mass, 0)
    if groups.ndim == 2:
        # To the largest: the product of two small numbers would vanish.
        mass = samples.to_largest(mass)[0] * groups.T[None].astype(mass.dtype)
    return Conditionals(*samples.normalised(mass))


def _as_mass(weights: ArrayLike | None, n: int) -> Float[Array, " n"]:
    if weights is None:
        return jnp.asarray(np.ones(n, jax.dtypes.canonicalize_dtype(float)))
    mass = jnp.asarray(weights)
    floating = jnp.issubdtype(mass.dtype, jnp.floating)
    return mass if floating else mass.astype(jax.dtypes.canonicalize_dtype(float))
