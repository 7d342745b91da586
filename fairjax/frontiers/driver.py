"""Batches of fits: devices share the points of each, and a directory keeps it.

A frontier of linear models or kernel machines is a few batches of independent points,
one for the whole training part and one per fold. Whoever fits them, the numbers are the
same, up to rounding.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from .. import sweeps
from ..datasets import Dataset
from .frontier import Frontier


class Fits(NamedTuple):
    """What is kept of a batch of fits; columns as in `Frontier`.

    Attributes:
        shares: `shares_of` of each part that was measured, one after the other.
    """

    shares: Float[np.ndarray, "m c"]
    objective: Float[np.ndarray, " m"]
    gap: Float[np.ndarray, " m"]
    violation: Float[np.ndarray, " m"]
    iterations: Int[np.ndarray, " m"]
    converged: Bool[np.ndarray, " m"]
    coefficients: Float[np.ndarray, "m d"]
    intercept: Float[np.ndarray, " m"]


def kept(shares: list[Float[Array, "m c"]], fit: Any) -> Fits:
    """Of a `LinearFit` or `KernelFit`, with the shares of its points on each part."""
    names = Fits._fields[1:]
    columns = jax.device_get([getattr(fit, name) for name in names])
    measured = np.concatenate([np.asarray(share) for share in shares], axis=1)
    return Fits(measured, *map(np.asarray, columns))


class Sharing(NamedTuple):
    """Who fits the points of a frontier, and where the results are kept.

    Attributes:
        mesh: devices that share the points; None for one program.
        checkpoint: directory; None for none.
        manifest: tells this frontier from any other.
        m: number of points.
    """

    mesh: Mesh | None
    checkpoint: str | os.PathLike[str] | None
    manifest: dict[str, str]
    m: int

    def fit(
        self,
        work: Callable[[Int[np.ndarray, " r"]], Fits],
        form: Fits,
        *,
        part: str,
        number: int = 0,
    ) -> Fits:
        """One batch: found in the directory, or fitted and put there.

        Args:
            work: fits and measures some of the points.
            form: dtypes and shapes of a batch, from `form_of`.
            part: what the batch is called.
            number: of the batch, among those called alike.
        """
        with sweeps.without_context(self.mesh):
            stored = sweeps.Checkpoint(self.checkpoint, self.manifest, form, name=part)
            found = stored.load(number)
            if found is None:
                found = sweeps.map_rows(work, self.m, self.mesh)
                stored.save(number, found)
        return found


def sharing(
    dataset: Dataset,
    points: dict[str, np.ndarray],
    *,
    mesh: Mesh | None,
    checkpoint: str | os.PathLike[str] | None,
    **options: Any,
) -> Sharing:
    """Who fits the points, with the mesh checked and the manifest written.

    Args:
        dataset: whole.
        points: the grid.
        mesh: see `Sharing`.
        checkpoint: likewise.
        **options: whatever else the results depend on.
    """
    m = len(points["strength"])
    if mesh is not None:
        mesh = sweeps.check_mesh(mesh, m, checkpoint=checkpoint)
    manifest = {}
    if checkpoint is not None:
        columns = dataset.features, dataset.labels, dataset.groups, dataset.is_train
        manifest = {name: option_text(value) for name, value in options.items()}
        manifest["precision"] = str(jax.dtypes.canonicalize_dtype(float))
        manifest |= sweeps.describe("points", points)
        manifest |= sweeps.describe("data", columns)
    return Sharing(mesh, checkpoint, manifest, m)


def option_text(value: Any) -> str:
    """Text of an option, the same in every process: functions count by their names."""
    if isinstance(value, functools.partial):
        bound = [*value.args, *value.keywords.items()]
        return f"{option_text(value.func)}({', '.join(map(option_text, bound))})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(option_text, value))}]"
    if isinstance(value, jax.Array | np.ndarray):
        return ", ".join(sweeps.describe("", value).values())
    if callable(value):
        kind = value if hasattr(value, "__qualname__") else type(value)
        return f"{kind.__module__}.{kind.__qualname__}"
    return repr(value)


def form_of(
    m: int,
    *,
    parts: int,
    counts: Int[np.ndarray, "2 s g"],
    width: int,
    measured: DTypeLike,
    fitted: DTypeLike,
    counted: DTypeLike,
) -> Fits:
    """Shapes and dtypes of a batch.

    Args:
        m: points.
        parts: how many are measured.
        counts: as in `Frontier`.
        width: coefficients of a point.
        measured: dtype of the shares.
        fitted: of other numbers.
        counted: of steps.
    """
    forms: dict[str, Any] = dict.fromkeys(
        Fits._fields, jax.ShapeDtypeStruct((m,), fitted)
    )
    shares = parts * (2 + counts[0].size)
    forms["shares"] = jax.ShapeDtypeStruct((m, shares), measured)
    forms["iterations"] = jax.ShapeDtypeStruct((m,), counted)
    forms["converged"] = jax.ShapeDtypeStruct((m,), bool)
    forms["coefficients"] = jax.ShapeDtypeStruct((m, width), fitted)
    return Fits(**forms)


def frontier_of(
    whole: Fits,
    *,
    cv_shares: Float[np.ndarray, "2 m"],
    counts: Int[np.ndarray, "2 s g"],
    objective: Float[np.ndarray, " m"] | None = None,
    **columns: Any,
) -> Frontier:
    """The columns of a frontier, without its front and its selection.

    Args:
        whole: the models, with shares of the training and of the test part.
        cv_shares: means over the folds.
        counts: as in `Frontier`.
        objective: where it is not that of the fits.
        **columns: the others.
    """
    train, test = np.split(whole.shares.T, 2)
    rates = test[2:].T.reshape(-1, *counts.shape[1:])
    own = whole._asdict() | {"counts": counts, "test_rates": rates}
    del own["shares"]
    own |= {} if objective is None else {"objective": objective}
    parts = {"train": train[:2], "cv": cv_shares, "test": test[:2]}
    for name, (accuracy, unfairness) in parts.items():
        own |= {f"{name}_accuracy": accuracy, f"{name}_unfairness": unfairness}
    front = np.zeros(train.shape[1], bool)
    return Frontier(**own, **columns, on_front=front, selected=-1, unconstrained=-1)
