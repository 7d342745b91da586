"""Frontiers: what a sweep found, measured on all parts and put in order.

Every way to trace a frontier ends in the same columns, so that tables, pictures and the
selection of a point are the same for linear models and for networks.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from .. import metrics, sweeps
from ..arrays import checks
from ..datasets import Dataset, Samples
from ..notions import Conditionals, Notion


class Frontier(NamedTuple):
    """The points of a sweep, `m` of them, as arrays of the host.

    Unfairness is the largest difference between two groups of their mean decisions, in
    the strata of the notion: a difference of rates, in [0, 1]. For real labels it is
    the Kolmogorov-Smirnov distance of their scores, in [0, 1], and accuracy is the
    explained share of the labels' variance, at most 1.

    Attributes:
        strength: how much fairness was asked for; its meaning is the method's.
        ridge: weight of the ridge term; 0 for networks.
        train_accuracy: share of right decisions on the training part.
        train_unfairness: gap of decisions there.
        cv_accuracy: mean over the validation folds, of models that have not seen them;
            the same as `train_accuracy` when there were no folds. For networks: on the
            part of the training samples that was held out.
        cv_unfairness: likewise.
        test_accuracy: share of right decisions on the test part.
        test_unfairness: gap of decisions there.
        objective: what the fit minimised [units of the loss].
        gap: relative optimality gap of the fit: see `solvers.LinearFit`; NaN for
            networks, which have no certificate.
        violation: by how much its worst bound is exceeded [score]; NaN for networks.
        iterations: steps of the fit, or epochs of a network.
        converged: False where the fit missed its precision; such a point is never
            selected while there are others.
        cv_converged: False where the fit of a fold did, commonly by little.
        on_front: whether no other point is better on the test part. It describes, and
            plays no part in the choice.
        selected: index of the point chosen by the cross-validated numbers; -1 where
            none has an accuracy of 0 or more, as networks of real labels may not.
        unconstrained: index of the point of strength 0 that has the best
            cross-validated accuracy.
        coefficients: of linear models, for features as the data set has them; of kernel
            machines, one per training sample; no columns for networks.
        intercept: of linear models, where a decision is `features @ w + b > 0`, and of
            kernel machines.
        counts: samples in the cells that are compared: training part, then test part.
        test_rates: share of decisions 1 in each cell of the test part; NaN for real
            labels.
        bandwidth: of the kernel; NaN without one.
        params: of networks, each array with a leading axis of m: a slice is what
            `modules.functional` applies to `modules.MLP(d, widths,
            activation=jnp.tanh)`, or to `modules.SharedRepresentation` of as many
            tasks. None for linear models and kernel machines.
    """

    strength: Float[np.ndarray, " m"]
    ridge: Float[np.ndarray, " m"]
    train_accuracy: Float[np.ndarray, " m"]
    train_unfairness: Float[np.ndarray, " m"]
    cv_accuracy: Float[np.ndarray, " m"]
    cv_unfairness: Float[np.ndarray, " m"]
    test_accuracy: Float[np.ndarray, " m"]
    test_unfairness: Float[np.ndarray, " m"]
    objective: Float[np.ndarray, " m"]
    gap: Float[np.ndarray, " m"]
    violation: Float[np.ndarray, " m"]
    iterations: Int[np.ndarray, " m"]
    converged: Bool[np.ndarray, " m"]
    cv_converged: Bool[np.ndarray, " m"]
    on_front: Bool[np.ndarray, " m"]
    selected: int
    unconstrained: int
    coefficients: Float[np.ndarray, "m d"]
    intercept: Float[np.ndarray, " m"]
    counts: Int[np.ndarray, "2 s g"]
    test_rates: Float[np.ndarray, "m s g"]
    bandwidth: Float[np.ndarray, " m"]
    params: PyTree = None


def average(frontiers: Sequence[Frontier], *, keep: float = 0.9) -> Frontier:
    """Means over repetitions of the same sweep, such as other seeds of the split.

    Args:
        frontiers: of the same grid.
        keep: as for `linear`.

    Returns:
        A frontier of means; its front and its selection follow from these. `converged`
        means all of them, `counts` are the smallest, `iterations` the largest. Models
        of different splits have no mean: coefficients, intercepts and parameters are
        the first's.

    Raises:
        ValueError: for no frontier, or different grids.
    """
    if not frontiers:
        raise ValueError("`frontiers` must hold at least one, but is empty.")
    first = frontiers[0]
    for other in frontiers[1:]:
        for name in ("strength", "ridge", "bandwidth"):
            one, two = getattr(first, name), getattr(other, name)
            if not np.array_equal(one, two, equal_nan=True):
                raise ValueError(
                    f"`frontiers` must have the same grid, but their `{name}` differ."
                )
    if len(frontiers) == 1:
        return first
    whole = {"iterations": np.max, "counts": np.min}
    whole |= {"converged": np.all, "cv_converged": np.all}
    same = {"coefficients", "intercept", "params"}
    same |= {"on_front", "selected", "unconstrained"}
    columns = {
        name: whole.get(name, np.mean)(
            np.stack([getattr(f, name) for f in frontiers]), axis=0
        )
        for name in first._fields
        if name not in same
    }
    return choose(first._replace(**columns), keep=keep)


def check(
    dataset: Dataset, *, notion: Notion, n_folds: int, regression: bool = False
) -> Int[np.ndarray, "2 s g"]:
    """Checks a dataset as `linear` does, and counts the samples in each cell.

    Args:
        dataset: from `datasets`.
        notion: a function of `notions`.
        n_folds: of the cross-validation, 0 for none.
        regression: whether real labels are allowed, as `network` allows them.

    Returns:
        Samples per stratum and group, in the training part, then in the test part.

    Raises:
        ValueError: as `linear` does, for the data.
    """
    if dataset.is_regression and not regression:
        raise ValueError(
            f"`dataset` must have labels 0 and 1, but {dataset.name!r} is for "
            f"regression: its labels are {dataset.label_name!r}. Choose a `target` of "
            f"two classes, such as 'pass_bar' of 'law_school', or `frontiers.network` "
            f"(in the command `--model mlp`); `barycenters` makes the scores of a "
            f"regression fair."
        )
    counts = []
    for name, part in (("training", dataset.train), ("test", dataset.test)):
        if not part.features.size:
            raise ValueError(
                f"the {name} part of {dataset.name!r} must have rows and features, but "
                f"its shape is {part.features.shape}."
            )
        checks.check_finite(part.features, name="features")
        checks.check_groups(part.groups, n_groups=dataset.n_groups)
        if name == "training":
            checks.check_group_number(part.groups)
            if dataset.is_regression:
                checks.check_finite(part.labels, name="labels")
            else:
                checks.check_labels(part.labels, n=len(part.features))
        cond = notion(part.groups, part.labels, n_groups=dataset.n_groups)
        groups = ", ".join(f"{i} {g!r}" for i, g in enumerate(dataset.group_names))
        try:
            checks.check_cells(cond.occupied)
        except ValueError as error:
            raise ValueError(
                f"{name} part of {dataset.name!r}, groups {groups}: {error}"
            ) from error
        counts.append(np.asarray((cond.weights > 0).sum(axis=-1)))
        if name == "training" and n_folds and counts[0].min() < 2:
            stratum, group = np.argwhere(counts[0] < 2)[0]
            raise ValueError(
                f"cross-validation needs two members of each cell in the training "
                f"part, but {dataset.name!r} has one of group {group} in stratum "
                f"{stratum}, groups {groups}. Merge small groups, or pass `n_folds=0`."
            )
    return np.stack(counts)


def check_axis(values: Any, *, name: str, positive: bool = False) -> np.ndarray:
    """An axis of a grid as an array, once it is seen to be one."""
    axis = np.asarray(values)
    if axis.ndim != 1 or not axis.size:
        raise ValueError(
            f"`{name}` must be a list of at least one value, but has shape "
            f"{axis.shape}. Write a fixed value as [value]."
        )
    checks.check_finite(axis, name=name)
    checks.check_nonnegative(axis, name=name, positive=positive)
    return axis


def check_selection(*, keep: float, n_folds: int = 0) -> None:
    """Raises `ValueError` unless a point can be selected like this."""
    if isinstance(n_folds, bool) or n_folds < 0 or n_folds == 1:
        raise ValueError(
            f"`n_folds` must be at least 2, or 0 for no cross-validation, but is "
            f"{n_folds}."
        )
    if not 0 < keep <= 1:
        raise ValueError(f"`keep` must be in (0, 1], but is {keep}. The paper has 0.9.")


class Part(NamedTuple):
    """`datasets.Samples` on the device, in JAX's present precision."""

    features: Float[Array, "n d"]
    labels: Real[Array, " n"]
    groups: Int[Array, " n"]


Means = tuple[Float[np.ndarray, "2 m"], Bool[np.ndarray, " m"]]
Fold = Callable[[Bool[np.ndarray, " n"], int], Means]


def cross_validate(
    part: Part,
    fold: Fold,
    *,
    n_folds: int,
    seed: int,
    progress: sweeps.Progress,
) -> Means:
    """Accuracy and gap of models that have not seen the samples.

    Args:
        part: the training samples.
        fold: given a mask of samples to fit on, and a number, fits and measures on the
            others.
        n_folds: at least 2.
        seed: of the folds.
        progress: called after each fold, one fit being done before.

    Returns:
        Means over the folds, and where every fold converged.
    """
    key = jax.random.key(seed)
    codes = np.asarray(sweeps.folds(part.labels, part.groups, n_folds=n_folds, key=key))
    shares, ends = [], []
    for own in range(n_folds):
        measured, converged = fold(codes != own, own)
        shares.append(measured)
        ends.append(converged)
        progress(own + 2, n_folds + 1)
    return np.mean(shares, axis=0), np.all(ends, axis=0)


def choose(found: Frontier, *, keep: float) -> Frontier:
    """Fills in the front, the selected and the unconstrained point."""
    # Without a converged point the best of the others is still an answer, flagged.
    valid = found.converged if found.converged.any() else np.True_
    able = valid & np.isfinite(found.cv_accuracy) & np.isfinite(found.cv_unfairness)
    selected = -1
    # Of real labels less than nothing may be explained: no point is a good one then.
    if (found.cv_accuracy[able] >= 0).any():
        selected = sweeps.select(
            found.cv_accuracy, found.cv_unfairness, keep=keep, valid=able
        )
    free = np.flatnonzero(found.strength == 0)
    front = sweeps.pareto_front(found.test_accuracy, found.test_unfairness)
    return found._replace(
        on_front=np.asarray(front),
        selected=int(selected),
        unconstrained=int(free[np.argmax(found.cv_accuracy[free])]),
    )


def shares_of(
    decisions: Bool[Array, " n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    weights: Bool[Array, " n"] | None,
) -> Float[Array, " c"]:
    """What is kept of a point on one part: accuracy, gap, and the rate of each cell."""
    accuracy = metrics.accuracy(decisions, labels, weights=weights)
    rates = metrics.group_means(decisions, cond)
    gap = metrics.max_gap(decisions, cond)
    return jnp.concatenate([jnp.stack([accuracy, gap]), rates.ravel()])


@functools.partial(jax.jit, static_argnames=("notion", "n_groups"))
def compare(part: Part, weights, *, notion, n_groups) -> Conditionals:
    """The conditional distributions of a part that the notion compares."""
    return notion(part.groups, part.labels, n_groups=n_groups, weights=weights)


def on_device(part: Samples) -> Part:
    """The part as JAX arrays."""
    features = jnp.asarray(part.features, float)
    return Part(features, jnp.asarray(part.labels), jnp.asarray(part.groups))
