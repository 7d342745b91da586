"""The orthogonality constraint: fairness of a linear score as `<w, u> = 0`.

With the linear loss, the conditional risks of groups a and b differ by `<w, u> / 2`,
where `u` is the difference of the groups' mean features. A fair linear model is one
orthogonal to `u`, which data can be made to guarantee before any model is fitted:

- `project_features` removes `u` from every sample. Fitting on the result equals the
  constrained problem, `solvers.fit_linear(..., tolerance=0)`, exactly: same ridge.
- `eliminate_feature` is the paper's form: one coordinate is expressed through the
  others. It satisfies the constraint too, but ridge now acts on other coordinates, so
  it is another solution (and depends on the pivot).
- `project_weights` repairs a model that is already fitted; it minimises nothing.
- `project_kernel` is `project_features` in the feature space of a kernel: any kernel
  method becomes a fair one.
"""

import contextlib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from . import streams
from .arrays import checks, samples
from .notions import Conditionals, Notion, demographic_parity
from .streams import Stream

Contrasts = Callable[[int], np.ndarray]


def pairwise(n_groups: int) -> Float[np.ndarray, "c g"]:
    """Contrasts of all pairs of groups: `n_groups * (n_groups - 1) / 2` rows.

    A tolerance on these bounds the gap between any two groups.

    Example:
        >>> pairwise(3).tolist()
        [[1.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]
    """
    first, second = np.triu_indices(n_groups, 1)
    identity = np.eye(n_groups)
    return identity[first] - identity[second]


def against_mean(n_groups: int) -> Float[np.ndarray, "c g"]:
    """Contrasts of each group with the plain average of all: `n_groups` rows.

    Fewer rows than `pairwise` for many groups; with tolerance 0 they say the same, and
    a tolerance t on these bounds the gap between any two groups by 2 t.

    Example:
        >>> against_mean(2).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    return np.eye(n_groups) - 1 / n_groups


def directions(
    features: Real[Array, "n d"],
    cond: Conditionals,
    *,
    contrasts: Contrasts = pairwise,
) -> Float[Array, "k d"]:
    """Differences of mean features between groups, one row per stratum and contrast.

    `directions @ w` are the gaps of mean scores of the linear model `w`; the fairness
    constraint bounds them and its surrogate status is the paper's: gaps of mean scores,
    not of decisions, so a model that satisfies it can still decide unequally.

    Args:
        features: the model's inputs.
        cond: from a notion; sample weights and masks are already in it.
        contrasts: static; which groups are compared, `pairwise` or `against_mean`, or
            any function from the number of groups to rows that sum to 0.

    Returns:
        One row for each stratum and contrast, strata first; a contrast that involves
        an empty cell is a row of zeros, which constrains nothing. Cost O(s g n d).

    Raises:
        ValueError: for features that are not finite, or whose sums overflow.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 1, 1]), n_groups=2)
        >>> directions(jnp.array([[4.0, 0.0], [1.0, 0.0], [1.0, 2.0]]), cond).tolist()
        [[3.0, -1.0]]

    References:
        Donini et al., NeurIPS 2018, section 4: `u`, the difference of the barycenters.
    """
    checks.check_finite(features, name="features")
    rows = contrasts(cond.weights.shape[1])
    found = _mean_gaps(jnp.asarray(features), cond, rows)
    if checks.concrete(found) and not np.isfinite(found).all():
        raise ValueError(
            f"`features` must have sums that {found.dtype} can hold. Rescale them."
        )
    return found


def directions_stream(
    chunks: Stream,
    *,
    n_groups: int,
    notion: Notion = demographic_parity,
    contrasts: Contrasts = pairwise,
) -> Float[np.ndarray, "k d"]:
    """`directions` of rows that do not fit into memory, in one pass.

    Args:
        chunks: a stream, from `datasets.from_parquet` or `streams.from_arrays`; its
            weights are read.
        n_groups: how many groups there are.
        notion: from `notions`; any function of groups and labels that tells for each
            sample alone to which cell it belongs.
        contrasts: which groups are compared, as in `directions`.

    Returns:
        The directions in float64, rows as those of `directions`; sums of chunks are in
        double precision. Cost O(s g n d).

    Raises:
        ValueError: for features and weights that are not finite, codes out of range and
            negative weights, with the chunk; for weights that are all zero, sums that
            overflow, and a stream that cannot be read again.

    Example:
        >>> from fairjax import streams
        >>> stream = streams.from_arrays(
        ...     np.array([[4.0, 0.0], [1.0, 0.0], [1.0, 2.0]]), np.array([0, 1, 1]),
        ...     np.array([0, 1, 1]), chunk=2)
        >>> directions_stream(stream, n_groups=2).tolist()
        [[3.0, -1.0]]
    """
    mass, sums, centre, max_weight = 0.0, 0.0, None, 0.0
    with contextlib.closing(streams.read(chunks)) as reader:
        for number, chunk in enumerate(reader):
            place = f"chunk {number}: "
            checks.check_finite(chunk.features, name=f"{place}features")
            checks.check_groups(chunk.groups, n_groups=n_groups, name=f"{place}groups")
            checks.check_finite(chunk.weights, name=f"{place}weights")
            checks.check_nonnegative(chunk.weights, name=f"{place}weights")
            max_weight = max(max_weight, float(chunk.weights.max()))
            if centre is None:
                centre = chunk.features.mean(axis=0, dtype=np.float64)
                centre = centre.astype(np.float32)
            found = _cell_sums(*chunk, centre, notion=notion, n_groups=n_groups)
            chunk_mass, chunk_sums = (np.asarray(a, np.float64) for a in found)
            mass, sums = mass + chunk_mass, sums + chunk_sums
    # XLA takes smaller numbers for 0.
    if max_weight < np.finfo(np.float32).tiny:
        raise ValueError(
            f"`chunks` must hold rows of positive weight, but the largest weight is "
            f"{max_weight:g}."
        )
    mass, sums = np.asarray(mass), np.asarray(sums)
    if not (np.isfinite(mass).all() and np.isfinite(sums).all()):
        raise ValueError(
            "`chunks` must have weights, and weights times features, with sums that "
            "float32 can hold. Rescale them."
        )
    occupied = mass > 0
    means = sums / np.where(occupied, mass, 1)[:, :, None]
    rows = contrasts(n_groups)
    gaps = np.einsum("cg,sgd->scd", rows, means)
    gaps = np.where(_incomparable(occupied, rows)[:, :, None], 0, gaps)
    return gaps.reshape(-1, means.shape[-1])


def project_features(
    features: Real[Array, "n d"], directions: Float[Array, "k d"]
) -> Float[Array, "n d"]:
    """The features without the directions: `x - Q Q' x`, Q a basis of them.

    Fit any linear model on the result: its gaps along the directions are 0. Directions
    come from the training part; use the same ones for test samples.

    Args:
        features: samples to transform, training or test.
        directions: from `orthogonality.directions`.

    Returns:
        Features of the same shape; cost O(n d k + d k^2).

    Raises:
        ValueError: for input that is not finite.

    Example:
        >>> u = jnp.array([[1.0, 0.0]])
        >>> project_features(jnp.array([[5.0, 2.0]]), u).tolist()
        [[0.0, 2.0]]

    References:
        Donini et al., NeurIPS 2018, section 4, Eq. 13, as an orthogonal projection: the
        form whose ridge solution equals the constrained one.
    """
    checks.check_finite(features, name="features")
    return _project_out(jnp.asarray(features, directions.dtype), directions)


def project_weights(
    coefficients: Float[Array, "*m d"], directions: Float[Array, "k d"]
) -> Float[Array, "*m d"]:
    """Coefficients of a fitted linear model without the directions.

    The nearest coefficients that satisfy the constraint, without another fit. They do
    not minimise the risk: prefer `solvers.fit_linear` where the data are at hand.

    Args:
        coefficients: one model or a batch of them.
        directions: from `orthogonality.directions`.

    Returns:
        Coefficients of the same shape; cost O(m d k + d k^2).

    Raises:
        ValueError: for input that is not finite.

    Example:
        >>> project_weights(jnp.array([3.0, 4.0]), jnp.array([[0.0, 2.0]])).tolist()
        [3.0, 0.0]
    """
    checks.check_finite(coefficients, name="coefficients")
    return _project_out(coefficients, directions)


def eliminate_feature(
    features: Real[Array, "n d"], directions: Float[Array, "k d"]
) -> Float[Array, "n d"]:
    """Features with one coordinate per direction expressed through the others.

    The paper's map. For one direction `u` with pivot `i = argmax |u|` a sample becomes
    `x - x_i u / u_i`, whose coordinate i is 0: any model on the result, mapped back,
    satisfies `<w, u> = 0`. Several directions are eliminated one after the other.

    Args:
        features: samples to transform, training or test.
        directions: from `orthogonality.directions` on the training part.

    Returns:
        Features of the same shape, so that shapes stay static; the column of each pivot
        is 0 (the paper drops it). A zero direction changes nothing. Cost O(n d k).

    Raises:
        ValueError: for input that is not finite.

    Example:
        >>> u = jnp.array([[2.0, 1.0]])
        >>> eliminate_feature(jnp.array([[4.0, 3.0]]), u).tolist()
        [[0.0, 1.0]]

    References:
        Donini et al., NeurIPS 2018, section 4, Eq. 13.
    """
    checks.check_finite(features, name="features")
    checks.check_finite(directions, name="directions")
    return _eliminate(jnp.asarray(features, directions.dtype), directions)


@jax.jit
def _eliminate(
    features: Float[Array, "n d"], directions: Float[Array, "k d"]
) -> Float[Array, "n d"]:
    floor = _rank_tolerance(directions) * jnp.abs(directions).max(initial=0)
    for row in range(directions.shape[0]):
        direction = directions[row]
        pivot = jnp.argmax(jnp.abs(direction))
        # What earlier eliminations left of a dependent direction is rounding.
        live = jnp.abs(direction[pivot]) > floor
        ratio = jnp.where(live, direction / jnp.where(live, direction[pivot], 1), 0)
        ratio = ratio.at[pivot].set(live.astype(ratio.dtype))
        features = features - features[:, pivot][:, None] * ratio[None, :]
        directions = directions - directions[:, pivot][:, None] * ratio[None, :]
    return features


def project_kernel(
    kernel: Float[Array, "n n"],
    cond: Conditionals,
    *,
    rows: Float[Array, "m n"] | None = None,
    contrasts: Contrasts = pairwise,
) -> Float[Array, "*r n"]:
    """The kernel without the fairness directions: `K - K A' (A K A')^+ A K`.

    The directions are differences of group means in the kernel's feature space,
    `u = A phi`, so the result is the kernel of the samples without them. A support
    vector machine, a Gaussian process or kernel ridge regression that is fitted on it
    minimises what it did before, under the constraint `<w, u> = 0`: gaps of mean scores
    are 0 on the training part, those of decisions need not be.

    Args:
        kernel: table of the training samples with each other, symmetric and positive
            semidefinite.
        cond: from a notion, on the training samples.
        rows: table of other samples with the training samples. Given, it is projected
            instead: what a fitted model needs to predict.
        contrasts: static; which groups are compared, as in `directions`.

    Returns:
        The projected table of the training samples, or of `rows`. Positive semidefinite
        up to rounding, which in float32 is seen: prefer float64. A contrast with an
        empty cell removes nothing. Cost O(n^2 k) and k vectors beside the result.

    Raises:
        ValueError: for tables that are not finite, or whose sizes do not match.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> x = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, 4.0]])
        >>> cond = demographic_parity(jnp.array([0, 1, 1]), n_groups=2)
        >>> fair = project_features(x, directions(x, cond))
        >>> found = project_kernel(x @ x.T, cond)
        >>> bool(jnp.allclose(found, fair @ fair.T, atol=1e-5))
        True

    References:
        Donini et al., NeurIPS 2018, section 4. Their code adds a row to the standard
        dual instead, whose solution does not solve the constrained problem.
    """
    n = kernel.shape[0]
    if kernel.shape != (n, n) or cond.weights.shape[-1] != n:
        raise ValueError(
            f"`kernel` must be the table of the {cond.weights.shape[-1]} samples of "
            f"`cond` with each other, but has shape {kernel.shape}."
        )
    if rows is not None and rows.shape[1:] != (n,):
        raise ValueError(
            f"`rows` must have a column for each of the {n} training samples, but "
            f"their shape is {rows.shape}."
        )
    checks.check_finite(kernel, name="kernel")
    if rows is not None:
        checks.check_finite(rows, name="rows")
    return _project_table(
        kernel,
        kernel if rows is None else rows,
        cond,
        contrasts(cond.weights.shape[1]),
    )


def basis(directions: Float[Array, "k d"]) -> Float[Array, "r d"]:
    """Orthonormal rows that span the directions, zero rows where rank is missing.

    Example:
        >>> jnp.abs(basis(jnp.array([[0.0, 3.0], [0.0, 1.0]]))).round(3).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    _, singular, rows = jnp.linalg.svd(_wide(directions), full_matrices=False)
    tolerance = _rank_tolerance(directions) * singular.max(initial=0)
    rows = jnp.where((singular > tolerance)[:, None], rows, 0)
    return rows.astype(directions.dtype)


@jax.jit
def _project_table(
    kernel: Float[Array, "n n"],
    rows: Float[Array, "m n"],
    cond: Conditionals,
    contrasts: Real[Array, "c g"],
) -> Float[Array, "m n"]:
    """`rows` without the directions, in the feature space of the kernel."""
    product = functools.partial(jnp.matmul, precision="highest")
    gaps = gap_weights(cond, contrasts).astype(kernel.dtype)
    projected = product(gaps, kernel)
    gram = product(projected, gaps.T)
    # `pinv` has a derivative where directions depend on each other; `eigh` has none.
    # Tenfold, because the entries of `gram` are sums that were rounded.
    floor = 10 * _rank_tolerance(gram)
    inverse = jnp.linalg.pinv(_wide(gram), rtol=floor, hermitian=True)
    inverse = inverse.astype(gram.dtype)
    return rows - product(product(product(rows, gaps.T), inverse), projected)


def gap_weights(
    cond: Conditionals, contrasts: Real[Array, "c g"]
) -> Float[Array, "k n"]:
    """Weights of the samples in each direction, zero where a cell is empty."""
    rows = contrasts.astype(cond.weights.dtype)
    gaps = jnp.einsum("cg,sgn->scn", rows, cond.weights, precision="highest")
    gaps = jnp.where(_incomparable(cond.occupied, rows)[:, :, None], 0, gaps)
    return gaps.reshape(-1, cond.weights.shape[-1])


def _incomparable(
    occupied: Bool[Array | np.ndarray, "s g"], rows: Real[Array | np.ndarray, "c g"]
) -> Bool[Array | np.ndarray, "s c"]:
    """True where a contrast involves an empty cell of the stratum."""
    empty = (rows[None, :, :] != 0) & ~occupied[:, None, :]
    return empty.any(axis=-1)


@functools.partial(jax.jit, static_argnames=("notion", "n_groups"))
def _cell_sums(
    features: Float[Array, "r d"],
    labels: Float[Array, " r"],
    groups: Int[Array, " r"],
    weights: Float[Array, " r"],
    centre: Float[Array, " d"],
    *,
    notion: Notion,
    n_groups: int,
) -> tuple[Float[Array, "s g"], Float[Array, "s g d"]]:
    """Weight of each cell in a chunk, and its weighted sum of `features - centre`."""
    codes = labels.astype(jnp.int32)
    cond = notion(groups, codes, n_groups=n_groups, weights=weights)
    mass = jnp.where(cond.weights > 0, weights.astype(cond.weights.dtype), 0)
    centred = (features - centre[None]).astype(mass.dtype)
    sums = jnp.einsum("sgn,nd->sgd", mass, centred, precision="highest")
    return mass.sum(axis=-1), sums


@jax.jit
def _mean_gaps(
    features: Real[Array, "n d"], cond: Conditionals, contrasts: Real[Array, "c g"]
) -> Float[Array, "k d"]:
    """Contrasts of the cells' mean features, zero where a cell is empty."""
    dtype = samples.wide(features, cond.weights)
    rows, features = contrasts.astype(dtype), features.astype(dtype)
    # Differences of means do not see a common shift, but float32 does: centre first.
    centred = features - features.mean(axis=0, keepdims=True)
    weights = cond.weights.astype(dtype)
    means = jnp.einsum("sgn,nd->sgd", weights, centred, precision="highest")
    gaps = jnp.einsum("cg,sgd->scd", rows, means, precision="highest")
    gaps = jnp.where(_incomparable(cond.occupied, rows)[:, :, None], 0, gaps)
    return gaps.reshape(-1, features.shape[1])


def _project_out(vectors: Array, directions: Array) -> Array:
    """Vectors without their components along the directions."""
    checks.check_finite(directions, name="directions")
    return _without(vectors, directions)


@jax.jit
def _without(vectors: Array, directions: Array) -> Array:
    rows = basis(directions)
    for _ in range(2):  # once more, for what rounding left (Kahan: twice is enough)
        components = jnp.matmul(vectors, rows.T, precision="highest")
        vectors = vectors - jnp.matmul(components, rows, precision="highest")
    return vectors


def _wide(table: Array) -> Array:
    """A table of at least 32 bits, as decompositions require."""
    return table.astype(jnp.float32) if table.dtype.itemsize < 4 else table


def _rank_tolerance(directions: Array) -> float:
    """Singular values below this share of the largest count as zero."""
    return max(directions.shape) * float(jnp.finfo(directions.dtype).eps)
