"""Penalties: scores or representations in, one number out that is 0 when fair.

`loss = erm.empirical_risk(...) + lam * penalty(...)` is the whole recipe: a penalty is
added by the caller, in whatever training loop is theirs.

A batch in which a group is absent has no gap to that group, and a penalty leaves such
pairs out. Its sum is then smaller, which must not read as fairer: the `*_info` siblings
say which pairs were compared and which share of them was missing.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Bool, Float, Real

from . import erm
from .arrays import checks, samples
from .notions import Conditionals, cells

# Returns a scalar, or a NamedTuple that has it as its `value`.
Divergence = Callable[..., Any]


class GapInfo(NamedTuple):
    """A penalty with all that it is the sum of.

    Attributes:
        value: the penalty; the only field to differentiate.
        gaps: per stratum and pair of groups, 0 where not comparable; with
            `pooled=True`, each group against its stratum, in one column.
        comparable: which of them could be estimated; with pairs, symmetric and False
            on the diagonal.
        missing: share of the pairs that could not, in [0, 1]; its mean over batches is
            worth a line in the training log.
        details: what the divergence said of each pair, shape (s, pairs, ...): a
            `SinkhornInfo` for `divergences.sinkhorn_info`, whose `converged.all()` is
            worth another line; None where there is no more to say.
    """

    value: Float[Array, ""]
    gaps: Float[Array, "s g h"]
    comparable: Bool[Array, "s g h"]
    missing: Float[Array, ""]
    details: Any


def mean_gap(
    scores: Float[Array, " n"] | Float[Array, "n k"], cond: Conditionals
) -> Float[Array, ""]:
    """Squared gaps of mean scores, summed over strata and group pairs [score^2].

    Args:
        scores: real outputs of a model, or of each unit of a layer; squares are summed
            over units.
        cond: from a notion; pairs with an empty cell are left out.

    Returns:
        A number >= 0; cost O(s g n + s g^2).

    Raises:
        ValueError: for scores that are not finite, or not one row per sample of `cond`.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1]), n_groups=2)
        >>> mean_gap(jnp.array([1.0, 3.0, 5.0]), cond).item()
        9.0

    References:
        Donini et al., NeurIPS 2018, section 2.2: the linear-loss surrogate, squared.
    """
    return mean_gap_info(scores, cond).value


def mean_gap_info(
    scores: Float[Array, " n"] | Float[Array, "n k"], cond: Conditionals
) -> GapInfo:
    """The gaps that `mean_gap` sums, and which of them could be estimated.

    Args:
        scores: real outputs of a model, or of each unit of a layer.
        cond: from a notion.

    Returns:
        See `GapInfo`; cost as for `mean_gap`.

    Raises:
        ValueError: as in `mean_gap`.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1]), n_groups=3)
        >>> info = mean_gap_info(jnp.array([1.0, 3.0, 5.0]), cond)
        >>> info.value.item(), round(info.missing.item(), 2)
        (9.0, 0.67)
    """
    values = cells.check_values(scores, cond, "scores", columns=True)
    columns = values.reshape(values.shape[0], -1)
    means = cells.cell_means(columns, cond)
    if jnp.issubdtype(scores.dtype, jnp.floating):
        # A loss of half precision stays one, under strict promotion too.
        means = means.astype(scores.dtype)
    return _squared_gaps(means, cond)


def risk_gap(
    scores: Float[Array, " n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    *,
    loss: erm.Loss,
) -> Float[Array, ""]:
    """Squared gaps of conditional risks, summed over strata and pairs [loss^2].

    Args:
        scores: real outputs of a model.
        labels: 0 or 1, or real for a regression loss.
        cond: from a notion; pairs with an empty cell are left out.
        loss: pointwise, `loss(scores, labels) -> (n,)`.

    Returns:
        A number >= 0; cost O(s g n + s g^2).

    Raises:
        ValueError: for scores that are not finite, or not one per sample of `cond`.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 1]), n_groups=2)
        >>> scores, labels = jnp.array([1.0, -1.0]), jnp.array([1, 1])
        >>> risk_gap(scores, labels, cond, loss=erm.hinge).item()
        4.0

    References:
        Donini et al., NeurIPS 2018, Problem 3, its constraint as a smooth penalty.
    """
    return risk_gap_info(scores, labels, cond, loss=loss).value


def risk_gap_info(
    scores: Float[Array, " n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    *,
    loss: erm.Loss,
) -> GapInfo:
    """The gaps that `risk_gap` sums, and which of them could be estimated.

    Args:
        scores: real outputs of a model.
        labels: 0 or 1, or real for a regression loss.
        cond: from a notion.
        loss: pointwise, `loss(scores, labels) -> (n,)`.

    Returns:
        See `GapInfo`; cost as for `risk_gap`.

    Raises:
        ValueError: as in `risk_gap`.
    """
    risks = erm.conditional_risks(scores, labels, cond, loss=loss)
    return _squared_gaps(risks[..., None], cond)


def divergence_gap(
    z: Float[Array, "n d"] | Float[Array, " n"],
    cond: Conditionals,
    *,
    divergence: Divergence,
    pooled: bool = False,
    min_members: int | None = None,
    batch_size: int | None = None,
) -> Float[Array, ""]:
    """Divergences between groups, summed over strata and pairs [its units].

    Every divergence works with every notion: on a representation, demographic parity
    asks that it does not tell the groups apart, equalized odds that it does not inside
    each label.

    Args:
        z: representations, one row per sample, or scores.
        cond: from a notion.
        divergence: called as `divergence(z, z, x_weights=..., y_weights=...)`, with
            rows of `cond.weights` and one and the same `z`. Bind its options first,
            `functools.partial(divergences.sinkhorn, epsilon=0.1)`. The value may be a
            field of what it returns, as in `divergences.sinkhorn_info`.
        pooled: static. True compares each group with all samples of its stratum, its
            own included, instead of the pairs of groups: g terms instead of
            g (g - 1) / 2. A group's share of them is its number of members.
        min_members: static; a cell with fewer samples of positive weight is left out.
            By default 2 for a divergence bound with `unbiased=True`, which has no
            estimate for one sample, and else 1.
        batch_size: static; how many pairs go through `jax.vmap` together, all by
            default. 1 is one after the other: less memory, and no waiting for the
            slowest of a batch, which for an iterative divergence (Sinkhorn) is faster
            on a CPU.

    Returns:
        The sum over comparable pairs. Cost: s g (g - 1) / 2 (or s g) divergences
        between clouds of n points each.

    Raises:
        ValueError: for a `z` that is not finite or not one row per sample of `cond`,
            or a `batch_size` or `min_members` below 1.

    Example:
        >>> from fairjax import divergences
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1]), n_groups=3)
        >>> z = jnp.array([[1.0], [3.0], [5.0]])
        >>> divergence_gap(z, cond, divergence=divergences.wasserstein_1d).item()
        3.0

    References:
        Oneto, Donini, Luise, Ciliberto, Maurer, Pontil, *Exploiting MMD and Sinkhorn
        divergences for fair and transferable representation learning*, NeurIPS 2020.
    """
    return divergence_gap_info(
        z,
        cond,
        divergence=divergence,
        pooled=pooled,
        min_members=min_members,
        batch_size=batch_size,
    ).value


def divergence_gap_info(
    z: Float[Array, "n d"] | Float[Array, " n"],
    cond: Conditionals,
    *,
    divergence: Divergence,
    pooled: bool = False,
    min_members: int | None = None,
    batch_size: int | None = None,
    potentials: Any = None,
) -> GapInfo:
    """The divergences that `divergence_gap` sums, and which could be estimated.

    Args:
        z: representations, one row per sample, or scores.
        cond: from a notion.
        divergence: as in `divergence_gap`, like all that follow.
        pooled: static; against all samples of the stratum.
        min_members: static; least number of samples in a cell.
        batch_size: static; pairs that are computed together.
        potentials: `info.details.potentials` of the last step on the same samples,
            for a warm start of `divergences.sinkhorn_info`.

    Returns:
        See `GapInfo`; cost as for `divergence_gap`.

    Raises:
        ValueError: as in `divergence_gap`.

    Example:
        >>> from fairjax import divergences
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1, 2]), n_groups=4)
        >>> z = jnp.array([[1.0], [3.0], [5.0], [7.0]])
        >>> transport = functools.partial(divergences.sinkhorn_info, epsilon=0.1)
        >>> info = divergence_gap_info(z, cond, divergence=transport)
        >>> info.missing.item(), info.details.converged.all().item()
        (0.5, True)
    """
    n_strata, n_groups, n = cond.weights.shape
    checks.check_length(z, n=n, name="z", to="groups", columns=True)
    checks.check_finite(z, name="z")
    z = z.reshape(n, -1)
    for name, count in (("min_members", min_members), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {count}.")
    if min_members is None:
        min_members = 2 if getattr(divergence, "keywords", {}).get("unbiased") else 1
    first, second = _pairs(n_groups, pooled)
    others = _pool(cond) if pooled else cond
    usable = cond.occupied & ((cond.weights > 0).sum(axis=-1) >= min_members)
    comparable = usable[:, first]
    comparable &= others.occupied if pooled else usable[:, second]
    # Where there is nothing to compare, harmless weights keep gradients finite.
    rows = tuple(
        jnp.where(comparable[..., None], side, 1)
        for side in (cond.weights[:, first], others.weights[:, second])
    )
    started = {} if potentials is None else {"potentials": potentials}

    def compare(pair: tuple[Array, Array, dict[str, Any]]) -> tuple[Array, Any]:
        given = {"x_weights": pair[0], "y_weights": pair[1]} | pair[2]
        found: Any = divergence(z, z, **given)
        return (found, None) if hasattr(found, "dtype") else (found.value, found)

    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), (*rows, started))
    if comparable.size == 1:
        # A single pair needs none of what a batch costs an iterative divergence.
        alone = compare(jax.tree.map(lambda a: a[0], flat))
        found, details = jax.tree.map(lambda a: a[None], alone)
    elif batch_size is None:
        found, details = jax.vmap(lambda *pair: compare(pair))(*flat)
    else:
        several = None if batch_size == 1 else batch_size
        found, details = jax.lax.map(compare, flat, batch_size=several)
    details = jax.tree.map(
        lambda a: a.reshape(*comparable.shape, *a.shape[1:]), details
    )
    found = jnp.where(comparable, found.reshape(comparable.shape), 0)
    shape = n_strata, n_groups, 1 if pooled else n_groups
    gaps = jnp.zeros(shape, found.dtype).at[:, first, second].set(found)
    known = jnp.zeros(shape, bool).at[:, first, second].set(comparable)
    if not pooled:
        gaps, known = gaps + gaps.swapaxes(1, 2), known | known.swapaxes(1, 2)
    return GapInfo(found.sum(), gaps, known, _missing(comparable), details)


def _pairs(n_groups: int, pooled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Groups that are compared, and with which rows."""
    if pooled:
        return np.arange(n_groups), np.zeros(n_groups, int)
    return np.triu_indices(n_groups, 1)


@jax.jit
def _pool(cond: Conditionals) -> Conditionals:
    """All samples of a stratum as one row, if two groups at least are among them."""
    members = (cond.weights > 0).sum(axis=-1).astype(cond.weights.dtype)
    rows = jnp.einsum("sg,sgn->sn", members, cond.weights)[:, None]
    return Conditionals(rows, cond.occupied.sum(axis=-1, keepdims=True) >= 2)


def covariance(
    scores: Float[Array, " n"],
    attribute: Real[Array, " n"] | Real[Array, "n k"],
    *,
    weights: Real[Array, " n"] | Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Squared covariance of scores with a continuous attribute [score^2 attribute^2].

    For two groups, coded 0 and 1 with shares p and 1 - p, it is `mean_gap` times
    `(p (1 - p))^2`. It sees linear dependence only; `divergences.hsic` sees all.

    Args:
        scores: real outputs of a model.
        attribute: sensitive numbers, one or several per sample; squares are summed.
        weights: non-negative sample weights, or a mask: `labels == 1` makes it a
            penalty for equal opportunity.

    Returns:
        A number >= 0; 0 when all weights are 0. Cost O(n k).

    Raises:
        ValueError: for scores or an attribute that are not finite or not one row per
            score, and for bad weights.

    Example:
        >>> covariance(jnp.array([1.0, 3.0]), jnp.array([20.0, 40.0])).item()
        100.0

    References:
        Zafar et al., *Fairness constraints: mechanisms for fair classification*,
        AISTATS 2017, Eq. 2, squared.
    """
    n = scores.shape[0]
    checks.check_length(scores, n=n, name="scores")
    checks.check_length(attribute, n=n, name="attribute", to="scores", columns=True)
    checks.check_finite(scores, name="scores")
    checks.check_finite(attribute, name="attribute")
    mass = jnp.full(n, 1 / n, scores.dtype)
    if weights is not None:
        checks.check_weights(weights, n=n)
        dtype = samples.wide(scores, weights)
        mass = samples.shares(samples.as_weights(weights, n, dtype))
        mass = mass.astype(scores.dtype)
    columns = attribute.astype(scores.dtype).reshape(n, -1)
    return _squared_covariance(scores, columns, mass)


@jax.jit
def _squared_covariance(
    scores: Float[Array, " n"], columns: Float[Array, "n k"], mass: Float[Array, " n"]
) -> Float[Array, ""]:
    product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)
    centred = columns - product(mass, columns)[None]
    covariances = product(mass * (scores - product(mass, scores)), centred)
    return jnp.square(covariances).sum()


def orthogonality(
    coefficients: Float[Array, " d"] | Float[Array, "d k"],
    directions: Float[Array, "c d"],
) -> Float[Array, ""]:
    """Squared inner products of a linear model with the unfair directions [score^2].

    The paper's constraint `<w, u> = 0` as a penalty. With all pairs of groups in
    `directions` it is `mean_gap` of the scores `features @ coefficients`, at a cost
    without n. A row of zeros, which stands for an empty cell, adds nothing.

    Args:
        coefficients: of one or of `k` linear outputs.
        directions: from `orthogonality.directions`.

    Returns:
        A number >= 0, summed over directions and outputs; cost O(c d k).

    Raises:
        ValueError: for numbers of features that differ.

    Example:
        >>> orthogonality(jnp.array([1.0, 2.0]), jnp.array([[2.0, 0.0]])).item()
        4.0

    References:
        Donini et al., NeurIPS 2018, section 4.
    """
    if directions.shape[1] != coefficients.shape[0]:
        raise ValueError(
            f"`coefficients` and `directions` must have as many features, but have "
            f"{coefficients.shape[0]} and {directions.shape[1]}."
        )
    rows = directions.astype(coefficients.dtype)
    gaps = jnp.matmul(rows, coefficients, precision=Precision.HIGHEST)
    return jnp.square(gaps).sum()


@jax.jit
def _squared_gaps(means: Float[Array, "s g k"], cond: Conditionals) -> GapInfo:
    gaps = jnp.square(means[:, :, None] - means[:, None, :]).sum(axis=-1)
    comparable = cond.occupied[:, :, None] & cond.occupied[:, None, :]
    comparable &= ~jnp.eye(means.shape[1], dtype=bool)[None]
    gaps = jnp.where(comparable, gaps, 0)
    first, second = _pairs(means.shape[1], pooled=False)
    missing = _missing(comparable[:, first, second])
    return GapInfo(jnp.sum(gaps) / 2, gaps, comparable, missing, None)


def _missing(comparable: Bool[Array, "s p"]) -> Float[Array, ""]:
    return 1 - comparable.astype(float).sum() / max(1, comparable.size)
