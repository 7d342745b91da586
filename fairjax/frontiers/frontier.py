"""The result of a sweep: points measured on all parts, a front and a selected point.

Every family of models ends in the same columns, so that tables, pictures and the
selection of a point are the same for linear models, kernel machines and networks. What
only one family has is in its own result, `Frontier.fit`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from .. import sweeps
from ..datasets import Samples


@runtime_checkable
class Models(Protocol):
    """A family of models, as much as decisions on new rows need to know of it."""

    def decide(
        self, fit: Any, train: Float[Any, "n d"], features: Float[Any, "r d"]
    ) -> Bool[Any, "m r"]:
        """Decisions of every fitted model.

        Args:
            fit: `Frontier.fit`.
            train: the features that the models were fitted on.
            features: of the samples to decide.
        """
        ...


class Frontier(NamedTuple):
    """The points of a sweep, `m` of them, as arrays of the host.

    Unfairness is the largest difference between two groups of their mean decisions, in
    the strata of the notion: a difference of rates, in [0, 1]. For real labels it is
    the Kolmogorov-Smirnov distance of their scores, in [0, 1], and accuracy is the
    explained share of the labels' variance, at most 1.

    Attributes:
        points: the settings of each point. All have a "strength", how much fairness was
            asked for, in the method's own meaning; linear models and kernel machines
            have a "ridge", the weight of the ridge term; kernel machines have a
            "bandwidth" unless the kernel has none.
        train_accuracy: share of right decisions on the training part.
        train_unfairness: gap of decisions there.
        cv_accuracy: mean over the validation folds, of models that have not seen them;
            the same as `train_accuracy` when there were no folds. For networks: on the
            part of the training samples that was held out.
        cv_unfairness: likewise.
        test_accuracy: share of right decisions on the test part.
        test_unfairness: gap of decisions there.
        objective: minimum found by the fit [units of the loss].
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
        counts: samples in the cells that are compared: training part, then test part.
        test_rates: share of decisions 1 in each cell of the test part; no strata for
            real labels, on which nothing is decided.
        fit: the models themselves, as their solver returns them, on the host. Linear
            models: `solvers.LinearFit`, for features as the data set has them, where a
            decision is `features @ w + b > 0`. Kernel machines: `solvers.KernelFit`,
            with a coefficient per training sample. Networks: `training.Fit`, where a
            slice of `params` is what `modules.functional` applies to `modules.MLP(d,
            widths, activation=jnp.tanh)`, or to `modules.SharedRepresentation` of as
            many tasks.
        models: the family that the fit belongs to; `decide` asks it.
    """

    points: dict[str, Float[np.ndarray, " m"]]
    train_accuracy: Float[np.ndarray, " m"]
    train_unfairness: Float[np.ndarray, " m"]
    cv_accuracy: Float[np.ndarray, " m"]
    cv_unfairness: Float[np.ndarray, " m"]
    test_accuracy: Float[np.ndarray, " m"]
    test_unfairness: Float[np.ndarray, " m"]
    objective: Float[np.ndarray, " m"]
    iterations: Int[np.ndarray, " m"]
    converged: Bool[np.ndarray, " m"]
    cv_converged: Bool[np.ndarray, " m"]
    on_front: Bool[np.ndarray, " m"]
    selected: int
    unconstrained: int
    counts: Int[np.ndarray, "2 s g"]
    test_rates: Float[np.ndarray, "m s g"]
    fit: PyTree
    models: Models

    @property
    def strength(self) -> Float[np.ndarray, " m"]:
        """Strength of fairness asked for, in the method's own meaning."""
        return self.points["strength"]

    def columns(self) -> dict[str, np.ndarray]:
        """A table of the points: one number or flag each per column.

        Returns:
            The settings, the measures, the certificate of each fit (`gap` and
            `violation`) where its solver gives one, and flags for the front, the
            selected and the unconstrained point.
        """
        measures = [
            f"{part}_{measure}"
            for part in ("train", "cv", "test")
            for measure in ("accuracy", "unfairness")
        ]
        ends = ("iterations", "converged", "cv_converged", "on_front")
        certificate = [name for name in ("gap", "violation") if hasattr(self.fit, name)]
        indices = np.arange(self.strength.size)
        return {
            **self.points,
            **{name: getattr(self, name) for name in [*measures, "objective"]},
            **{name: getattr(self.fit, name) for name in certificate},
            **{name: getattr(self, name) for name in ends},
            "selected": indices == self.selected,
            "unconstrained": indices == self.unconstrained,
        }


def decide(
    frontier: Frontier, train: Samples, samples: Samples
) -> Bool[np.ndarray, "m n"]:
    """Decisions of all models of a frontier on samples, which may be new.

    Args:
        frontier: of a data set with labels 0 and 1.
        train: the training part that it was fitted on; kernel machines score by it.
        samples: to decide, of one task.

    Returns:
        True where the decision is 1, one row per point.

    Raises:
        ValueError: for real labels, and for heads that differ by task.

    Example:
        >>> from fairjax import datasets, frontiers, notions
        >>> data = datasets.toy(n=200)
        >>> found = frontiers.linear(
        ...     data, notion=notions.demographic_parity, strengths=[1.0], n_folds=0)
        >>> right = decide(found, data.train, data.test) == data.test.labels
        >>> bool(np.allclose(right.mean(axis=1), found.test_accuracy))
        True
    """
    return np.asarray(
        frontier.models.decide(frontier.fit, train.features, samples.features)
    )


def average(frontiers: Sequence[Frontier], *, keep: float = 0.9) -> Frontier:
    """Means over repetitions of the same sweep, such as other seeds of the split.

    Args:
        frontiers: of the same grid.
        keep: as for `linear`.

    Returns:
        A frontier of means; its front and its selection follow from these. `converged`
        means all of them, `counts` are the smallest, `iterations` the largest. Models
        of different splits have no mean: `fit` is the first's.

    Raises:
        ValueError: for no frontier, or different grids.
    """
    if not frontiers:
        raise ValueError("`frontiers` must hold at least one, but is empty.")
    first = frontiers[0]
    for other in frontiers[1:]:
        for name in first.points.keys() | other.points.keys():
            one, two = (frontier.points.get(name) for frontier in (first, other))
            if one is None or two is None or not np.array_equal(one, two):
                raise ValueError(
                    f"`frontiers` must have the same grid, but their `{name}` differ."
                )
    if len(frontiers) == 1:
        return first
    reductions = {"iterations": np.max, "counts": np.min}
    reductions |= {"converged": np.all, "cv_converged": np.all}
    measured = [name for name in first._fields if name.endswith(_MEASURES)]
    reductions |= dict.fromkeys([*measured, "objective", "test_rates"], np.mean)
    columns = {
        name: reduction(np.stack([getattr(f, name) for f in frontiers]), axis=0)
        for name, reduction in reductions.items()
    }
    return select_points(first._replace(**columns), keep=keep)


_MEASURES = ("_accuracy", "_unfairness")


def select_points(frontier: Frontier, *, keep: float) -> Frontier:
    """The frontier with its front, its selected and its unconstrained point."""
    accuracy, unfairness = frontier.cv_accuracy, frontier.cv_unfairness
    # Without a converged point the best of the others is still an answer, flagged.
    valid = frontier.converged if frontier.converged.any() else np.True_
    valid = valid & np.isfinite(accuracy) & np.isfinite(unfairness)
    selected = -1
    # Of real labels less than nothing may be explained: no point is a good one then.
    if (accuracy[valid] >= 0).any():
        selected = sweeps.select(accuracy, unfairness, keep=keep, valid=valid)
    free = np.flatnonzero(frontier.strength == 0)
    front = sweeps.pareto_front(frontier.test_accuracy, frontier.test_unfairness)
    return frontier._replace(
        on_front=np.asarray(front),
        selected=int(selected),
        unconstrained=int(free[np.argmax(accuracy[free])]),
    )
