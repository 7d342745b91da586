"""Several sensitive attributes, repaired one after the other.

Each map of a sequence is fitted on what the maps before it return, so members are
needed per code of an attribute and not per combination. The result is fair to each
attribute, not to their intersections: for those, join the attributes with
`notions.intersect` and fit one map.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Real, Shaped

from ..arrays import checks, ranks
from .maps import BarycenterMap, Variant, apply_map, fit_map


def fit_maps(
    scores: Real[ArrayLike, " n"],
    attributes: Sequence[Shaped[ArrayLike, " n"]],
    *,
    sizes: Sequence[int],
    key: PRNGKeyArray | None = None,
    rows: Int[ArrayLike, " n"] | None = None,
    fit: Callable[..., BarycenterMap] = fit_map,
) -> tuple[BarycenterMap, ...]:
    """Maps for several attributes, each fitted on what the ones before it return.

    Args:
        scores: as in `barycenters.fit_map`.
        attributes: one array of codes each, of attribute `a` in `[0, sizes[a])`.
        sizes: static; how many codes each attribute has.
        key: as in `fit_map`; attribute `a` uses `fold_in(key, a)`.
        rows: as in `fit_map`.
        fit: `fit_map` with more arguments bound: `partial(fit_map, weights=w)`.

    Returns:
        One map per attribute, for `apply_maps`. In the limit, the order of the
        attributes does not matter where they shift the scores independently. In
        general orders differ, and only the last attribute is treated exactly.

    Raises:
        ValueError: as `fit_map`, and for numbers of attributes and sizes that differ.
            Cost: one fit and one application per attribute.

    Example:
        >>> scores = jnp.array([0.0, 1.0, 4.0, 5.0])
        >>> attributes = [jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1])]
        >>> maps = fit_maps(scores, attributes, sizes=[2, 2])
        >>> apply_maps(maps, scores, attributes).tolist()
        [2.5, 2.5, 2.5, 2.5]

    References:
        Hu, Ratz, Charpentier, *A sequentially fair mechanism for multiple sensitive
        attributes*, AAAI 2024.
    """
    _check_number(attributes, sizes, "sizes")
    fitted = []
    for a, (groups, size) in enumerate(zip(attributes, sizes, strict=True)):
        own = None if key is None else jax.random.fold_in(key, a)
        fitted.append(fit(scores, groups, n_groups=size, key=own, rows=rows))
        scores = apply_map(fitted[-1], scores, groups, key=own, rows=rows)
    return tuple(fitted)


def apply_maps(
    maps: Sequence[BarycenterMap],
    scores: Real[ArrayLike, " k"],
    attributes: Sequence[Shaped[ArrayLike, " k"]],
    *,
    repair: float | Float[ArrayLike, ""] = 1.0,
    key: PRNGKeyArray | None = None,
    rows: Int[ArrayLike, " k"] | None = None,
    variant: Variant | None = None,
) -> Float[Array, " k"]:
    """Applies the maps of `fit_maps` in turn; `repair` blends first and last.

    Arguments, result and errors are those of `barycenters.apply_map`, once per map.
    """
    checks.check_fraction(repair, name="repair")
    _check_number(attributes, maps, "maps")
    start = fair = ranks.floating(scores)
    for a, (fitted, groups) in enumerate(zip(maps, attributes, strict=True)):
        own = None if key is None else jax.random.fold_in(key, a)
        fair = apply_map(fitted, fair, groups, key=own, rows=rows, variant=variant)
    repair = jnp.asarray(repair, fair.dtype)
    known = (repair >= 0) & (repair <= 1)
    mixed = ranks.blend(start.astype(fair.dtype), fair, repair)
    return jnp.where(known, mixed, jnp.nan)


def _check_number(attributes, others, name):
    if len(attributes) != len(others) or not others:
        raise ValueError(
            f"`attributes` and `{name}` must name the same attributes, at least one, "
            f"but there are {len(attributes)} and {len(others)}."
        )
