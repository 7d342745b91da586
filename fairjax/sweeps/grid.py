"""Grids: hyper-parameters as arrays, one entry per point."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def grid(**axes: Any) -> dict[str, Array]:
    """Cartesian product of named axes; the last one varies fastest.

    Args:
        **axes: one-dimensional, numbers; infinity is allowed, NaN is not.

    Returns:
        One array of shape (m,) per axis, m the product of the lengths.

    Raises:
        ValueError: for no axis, an empty one, NaN, or a number that JAX's present
            precision cannot hold.

    Example:
        >>> points = grid(lam=[0.0, 1.0], seed=[3, 4])
        >>> points["lam"].tolist(), points["seed"].tolist()
        ([0.0, 0.0, 1.0, 1.0], [3, 4, 3, 4])
    """
    if not axes:
        raise ValueError("`grid` needs an axis, for example `grid(lam=[0.1, 1.0])`.")
    columns = {}
    for name, axis in axes.items():
        values = np.asarray(axis)
        if values.ndim != 1 or values.size == 0:
            raise ValueError(
                f"`{name}` must be a list of at least one value, but has shape "
                f"{values.shape}. Write a fixed value as [value]."
            )
        real = (jnp.bool_, jnp.integer, jnp.floating)  # bfloat16 too
        known = any(jnp.issubdtype(values.dtype, kind) for kind in real)
        if not known or np.isnan(values.astype(float)).any():
            raise ValueError(
                f"`{name}` must hold numbers and no NaN, but is {values.tolist()}."
            )
        with np.errstate(over="ignore"):
            columns[name] = np.asarray(jnp.asarray(values))
        held = np.isclose(
            columns[name].astype(float), values.astype(float), rtol=1e-6, atol=0
        )
        if not held.all():
            raise ValueError(
                f"`{name}` holds {values[~held][0]}, which {columns[name].dtype} "
                f"cannot. Rescale it, or set `jax_enable_x64`."
            )
    product = np.meshgrid(*columns.values(), indexing="ij")
    return {k: jnp.asarray(v.ravel()) for k, v in zip(columns, product, strict=True)}
