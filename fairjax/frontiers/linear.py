"""The frontier of linear models, and the methods that make them fair.

A method is a function from a task to its fits: `constraint`, `penalty`, `projection`,
`elimination`, or your own. What a strength means is the method's choice, except that 0
is the model without fairness.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Real

from .. import erm, orthogonality, solvers, sweeps
from ..datasets import Dataset, Samples
from ..notions import Notion
from ..solvers import LinearFit
from .driver import Compare, Part, describe_function, scalars, trace
from .frontier import Frontier
from .validation import check_axis


class Task(NamedTuple):
    """Input of a method: training samples and a grid.

    Attributes:
        features: of the training samples.
        labels: as the loss wants them.
        directions: from `orthogonality.directions` on the same samples.
        strength: how much fairness, at least 0; one entry per point.
        ridge: weight of the ridge term, above 0; one entry per point.
        loss: one that `solvers.fit_linear` knows.
        weights: a mask, the samples to fit on.
    """

    features: Float[Array, "n d"]
    labels: Real[Array, " n"]
    directions: Float[Array, "k d"]
    strength: Float[np.ndarray, " m"]
    ridge: Float[np.ndarray, " m"]
    loss: erm.Loss
    weights: Bool[Array, " n"]

    def fit(self, **changes) -> LinearFit:
        """`solvers.fit_linear` on this task, without a fairness term by itself."""
        known = {
            "features": self.features,
            "labels": self.labels,
            "loss": self.loss,
            "ridge": jnp.asarray(self.ridge),
            "directions": self.directions,
            "weights": self.weights,
        }
        return solvers.fit_linear(**(known | changes))


Method = Callable[[Task], LinearFit]


def constraint(task: Task) -> LinearFit:
    """Bounds the gaps of mean scores by a share of the unconstrained model's.

    With the gaps `g0_k = <w0, u_k>` of the unconstrained fit at the same ridge, a
    strength s in [0, 1] asks for `|<w, u_k>| <= (1 - s) |g0_k|`; 1 is the paper's
    constraint, exact orthogonality. Equal mean scores still leave unequal decisions,
    so s above 1 turns the gaps around, `<w, u_k> = (1 - s) g0_k`: the gap of decisions
    often vanishes there, and sometimes below 1.

    Args:
        task: samples and grid.

    Returns:
        The models; cost of one batch more, of the different ridges.

    References:
        Donini et al., NeurIPS 2018, Problem 11 and Eq. 12.
    """
    ridges, row = np.unique(task.ridge, return_inverse=True)
    free = task.fit(ridge=jnp.asarray(ridges)).coefficients
    gaps = jnp.matmul(free, task.directions.T, precision="highest")
    gaps = np.asarray(gaps, np.float64)[row.ravel()]
    share = (1 - task.strength.astype(np.float64))[:, None]
    # At strength 0 the bound would hold with equality: rounding must not make it bind.
    tolerance = np.where(share < 1, np.maximum(share, 0) * np.abs(gaps), np.inf)
    target = np.minimum(share, 0) * gaps
    return task.fit(tolerance=jnp.asarray(tolerance), target=jnp.asarray(target))


def penalty(task: Task) -> LinearFit:
    """Adds `strength * sum_k <w, u_k>^2` to the objective.

    The strength is a weight [loss / score^2]: mean scores get equal in the limit only.
    Argument and result as for `constraint`.
    """
    return task.fit(lam=jnp.asarray(task.strength))


def projection(task: Task) -> LinearFit:
    """Pre-processing: fits on features without their part along the directions.

    Equals `constraint` at strength 1. The strength is 1, or 0 for features as they are:
    there are no degrees in between. Coefficients are for features as they are. Argument
    and result as for `constraint`.

    References:
        Donini et al., NeurIPS 2018, section 4, as an orthogonal projection.
    """
    return _preprocessed(task, orthogonality.project_features)


def elimination(task: Task) -> LinearFit:
    """Pre-processing in the paper's form: one coordinate less per direction.

    As `projection`, with `orthogonality.eliminate_feature`: the gaps of mean scores
    vanish as well, by another model.

    References:
        Donini et al., NeurIPS 2018, section 4, Eq. 13.
    """
    return _preprocessed(task, orthogonality.eliminate_feature)


# Points beyond 1 turn the gap of mean scores around; 1 itself must be among them.
STRENGTHS: dict[Method, tuple[float, ...]] = {
    constraint: (*np.linspace(0, 1, 33), *np.linspace(1, 2, 32)[1:]),
    penalty: (0.0, *np.logspace(-3, 3, 63)),
    projection: (0.0, 1.0),
    elimination: (0.0, 1.0),
}


def linear(
    dataset: Dataset,
    *,
    notion: Notion,
    loss: erm.Loss = erm.logistic,
    method: Method = constraint,
    strengths: Sequence[float | int] | Real[np.ndarray, " s"] | None = None,
    ridges: Sequence[float | int] | Real[np.ndarray, " r"] = (1e-4,),
    n_folds: int = 5,
    seed: int = 0,
    keep: float = 0.9,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    executor: Executor | None = None,
    progress: sweeps.Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    tag: str = "",
) -> Frontier:
    """Fits, measures and selects linear models over strengths and ridges.

    Args:
        dataset: from `datasets`.
        notion: a function of `notions`; binds the strata.
        loss: static; `erm.logistic`, `erm.hinge`, `erm.squared_hinge` or
            `erm.squared`, which regresses on labels -1 and 1.
        method: a function such as `constraint`.
        strengths: at least 0; sorted, and 0 is added. The method's default (see
            `STRENGTHS`) when None: 64 points in [0, 2] for `constraint`, 0 and 63
            points from 1e-3 to 1e3 for `penalty`.
        ridges: weights of the ridge term, above 0; the grid is the product.
        n_folds: folds of the cross-validation, stratified on label and group. 0 means
            none: then the selection reads the training numbers, which flatters.
        seed: of the folds.
        keep: settings with this share of the best accuracy are good enough, in (0, 1].
        chunk: points per batch, for the whole training part and for each fold. When
            None all of them, or a 32nd with `executor`.
        mesh: devices of this process that share the points of each batch. Results are
            those of one device, up to rounding; a method is given some of the points
            at a time.
        executor: runs the batches, such as a `ProcessPoolExecutor` or Dask's
            `Client.get_executor()`. For other processes data, notion, loss and method
            must be picklable: functions that can be imported, or
            `functools.partial` of such.
        progress: called as `progress(done, n_folds + 1)` after each batch.
        checkpoint: a directory. Every batch is saved there, whole or not at all, and
            found again by a later run. One of other data, points or options is
            refused. Notion and loss count by their jaxprs, the method by its name and
            what `functools.partial` binds; a lambda or an inner function needs a tag.
        tag: whatever else the results depend on, such as a version of your method; a
            checkpoint under another tag is refused.

    Returns:
        All points, ridges slowest. Directions and unconstrained gaps of a fold come
        from its own training samples. Computes in float32, or in float64 under
        `jax_enable_x64`. Cost: `n_folds + 1` batches of `solvers.fit_linear` with one
        compiled program; memory O(n d), scores of one point at a time.

    Raises:
        ValueError: before any compilation, for an empty dataset or part, features that
            are not finite, labels all alike, one group only, a cell that the notion
            needs without members in either part (or with one only, under
            cross-validation), bad strengths, ridges, folds, chunks or `keep`, fewer
            points than devices, a mesh and an executor, and a checkpoint of another
            frontier.

    Example:
        >>> from fairjax import datasets, notions
        >>> found = linear(datasets.toy(n=200), notion=notions.equal_opportunity,
        ...     strengths=[0.0, 1.0], n_folds=0)
        >>> found.strength.tolist(), found.selected, found.unconstrained
        ([0.0, 1.0], 1, 0)

    References:
        Donini et al., NeurIPS 2018, section 5, for the validation procedure.
    """
    return trace(
        dataset,
        LinearModels(loss, method),
        _grid(strengths, ridges, method=method),
        notion=notion,
        n_folds=n_folds,
        seed=seed,
        keep=keep,
        chunk=chunk,
        mesh=mesh,
        executor=executor,
        progress=progress,
        checkpoint=checkpoint,
        tag=tag,
    )


@jax.tree_util.register_static
@dataclass(frozen=True)
class LinearModels:
    """Linear models with a loss, made fair by a method."""

    loss: erm.Loss
    method: Method

    def fit(
        self,
        train: Part,
        used: Bool[np.ndarray, " n"],
        points: dict[str, np.ndarray],
        compare: Compare,
    ) -> LinearFit:
        """Models of some points, fitted on some of the training samples."""
        weights = jnp.asarray(used)
        directions = orthogonality.directions(train.features, compare(train, weights))
        labels = train.labels
        # Labels -1 and 1 keep the decision at a score above 0.
        targets = 2 * labels - 1 if self.loss is erm.squared else labels
        task = Task(
            train.features,
            targets,
            directions,
            loss=self.loss,
            weights=weights,
            **points,
        )
        return self.method(task)

    def fit_dtypes(self) -> Any:
        """Dtypes of what `fit` returns."""
        return scalars(LinearFit, jax.dtypes.canonicalize_dtype(float), np.int32)

    def describe(self, train: Samples) -> dict[str, str]:
        """Lines of a manifest."""
        del train
        program = jax.make_jaxpr(self.loss)(*np.zeros((2, 1), np.float32))
        lines = describe_function("loss", self.loss, program)
        return lines | describe_function("method", self.method)

    def decide(
        self,
        fit: LinearFit,
        train: Float[Any, "n d"],
        features: Float[Any, "r d"],
    ) -> Bool[Array, "m r"]:
        """Decisions of every model; `train` is not needed."""
        del train
        return _decisions(fit.coefficients, fit.intercept, jnp.asarray(features, float))


@jax.jit
def _decisions(
    coefficients: Float[Any, "m d"],
    intercept: Float[Any, " m"],
    features: Float[Array, "r d"],
) -> Bool[Array, "m r"]:
    """One model's scores at a time."""

    def of_model(model: tuple[Array, Array]) -> Bool[Array, " r"]:
        return jnp.matmul(features, model[0], precision="highest") + model[1] > 0

    return jax.lax.map(of_model, (coefficients, intercept))


def _preprocessed(task: Task, remove: Callable[[Array, Array], Array]) -> LinearFit:
    # The map of a sample, as a matrix: transposed, it takes coefficients back.
    identity = jnp.eye(task.features.shape[1], dtype=task.directions.dtype)
    maps = {0.0: identity, 1.0: remove(identity, task.directions)}
    fits, order = [], []
    for value in np.unique(task.strength).tolist():
        rows = np.flatnonzero(task.strength == value)
        inputs = remove(task.features, task.directions) if value else task.features
        ridge = jnp.asarray(task.ridge[rows])
        fit = task.fit(features=inputs, ridge=ridge)
        back = jnp.matmul(fit.coefficients, maps[value].T, precision="highest")
        fits.append(fit._replace(coefficients=back))
        order.append(rows)
    place = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[place], *fits)


def _grid(strengths: Any, ridges: Any, *, method: Method) -> dict[str, np.ndarray]:
    if strengths is None:
        if method not in STRENGTHS:
            raise ValueError(
                "`strengths` must be given for a method without default ones, but is "
                "None."
            )
        strengths = STRENGTHS[method]
    axes = {
        "strengths": check_axis(strengths, name="strengths"),
        "ridges": check_axis(ridges, name="ridges", positive=True),
    }
    strengths = np.union1d([0.0], axes["strengths"])
    if method in (projection, elimination) and not np.isin(strengths, (0, 1)).all():
        raise ValueError(
            f"`strengths` must be 0 (features as they are) or 1 (pre-processed) for a "
            f"pre-processing method, but holds {np.setdiff1d(strengths, (0, 1))[0]:g}. "
            f"Leave them out, or choose `constraint`."
        )
    points = sweeps.grid(
        ridge=np.unique(axes["ridges"].astype(float)), strength=strengths
    )
    return {name: np.asarray(points[name]) for name in ("strength", "ridge")}
