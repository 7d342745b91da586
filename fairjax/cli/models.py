"""The models of `fairjax sweep`: linear, kernel machines and networks.

Each is a frozen dataclass of options that were read and checked. It traces its
frontier, and describes itself to the report.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import datasets, divergences, erm, frontiers, kernels, penalties
from ..datasets import Dataset
from ..frontiers import Frontier
from ..notions import Notion
from .options import ModelOptions, choose, numbers

LOSSES: dict[str, erm.Loss] = {
    "logistic": erm.logistic,
    "hinge": erm.hinge,
    "squared-hinge": erm.squared_hinge,
    "squared": erm.squared,
}
METHODS: dict[str, frontiers.Method] = {
    "constraint": frontiers.constraint,
    "penalty": frontiers.penalty,
    "projection": frontiers.projection,
    "elimination": frontiers.elimination,
}
KERNELS: dict[str, kernels.Kernel] = {
    "rbf": kernels.gaussian,
    "laplacian": kernels.laplacian,
    "inverse-multiquadric": kernels.inverse_multiquadric,
    "linear": partial(kernels.polynomial, degree=1, offset=0.0),
    "quadratic": partial(kernels.polynomial, degree=2),
}
_ROWS = 2000  # That kernel machines learn from, unless told otherwise.
_WIDEST = 100_000  # Units of a hidden layer.


class PenaltyPreset(NamedTuple):
    """A penalty of networks, and the strengths that span its frontier."""

    arguments: Callable[[int], dict[str, erm.Penalty]]
    strengths: tuple[float, ...]


def _between_groups(divergence: Callable[[int], Any]) -> Callable[[int], dict]:
    """A divergence between the groups on the last hidden layer, given its width."""

    def arguments(width: int) -> dict[str, erm.Penalty]:
        gap = partial(
            penalties.divergence_gap_info, divergence=divergence(width), batch_size=1
        )
        return {"on_representation": gap}

    return arguments


def _mmd(width: int) -> Any:
    # Tanh units lie in [-1, 1]: typical distances grow like the root of their number.
    kernel = partial(kernels.gaussian_sum, bandwidth=width**0.5 / 2)
    return partial(divergences.mmd_squared, kernel=kernel, unbiased=True)


PENALTIES = {
    "mmd": PenaltyPreset(_between_groups(_mmd), (0.0, *np.logspace(-1, 2.5, 15))),
    "energy": PenaltyPreset(
        _between_groups(lambda _: partial(divergences.energy_distance, unbiased=True)),
        (0.0, *np.logspace(-2, 1, 13)),
    ),
    "sinkhorn": PenaltyPreset(
        _between_groups(
            lambda width: partial(divergences.sinkhorn_info, epsilon=width / 32)
        ),
        (0.0, *np.logspace(-3, 0, 7)),
    ),
    "mean-gap": PenaltyPreset(
        lambda _: {"on_scores": penalties.mean_gap_info},
        (0.0, *np.logspace(-2, 2, 13)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model whose options were read and checked.

    Attributes:
        description: for the report, in half a sentence.
        columns: of `results.csv` that tell which model it is.
        arguments: of its frontier: the grid and what is the model's own.
        folds: of the cross-validation, 0 for none.
    """

    description: str
    columns: dict[str, str]
    arguments: dict[str, Any]
    folds: int = 0
    takes_real_labels: ClassVar[bool] = False

    @property
    def steps(self) -> int:
        """Calls of the progress of one frontier."""
        return self.folds + 1

    @property
    def selected_by(self) -> str:
        """The numbers by which a point is selected."""
        how = (
            f"{self.folds}-fold cross-validation" if self.folds else "training numbers"
        )
        return f"{how} on the training part"

    def prepare(
        self, loaded: list[Dataset], seeds: Sequence[int]
    ) -> tuple["Model", list[Dataset]]:
        """The model, adjusted to the data sets of the seeds, and what it learns from.

        All tasks share one head, so they are no more than rows.
        """
        del seeds
        return self, [data._replace(tasks=None, task_names=()) for data in loaded]

    def check(self, data: Dataset, notions: Iterable[Notion]) -> None:
        """Raises `ValueError` for data that it cannot be fitted to."""
        real = self.takes_real_labels
        for notion in notions:
            frontiers.check_dataset(
                data, notion=notion, n_folds=self.folds, regression=real
            )

    def trace(self, data: Dataset, **run: Any) -> Frontier:
        """The frontier for a data set; `run` are notion, seed, progress and so on."""
        raise NotImplementedError


class Linear(Model):
    """Linear models."""

    @classmethod
    def parse(cls, given: ModelOptions) -> Model:
        """Reads the options."""
        loss, method = given.loss or "logistic", given.method or "constraint"
        arguments = {
            "loss": choose(loss, LOSSES, option="--loss"),
            "method": choose(method, METHODS, option="--method"),
        }
        return cls(
            description=f"Linear models, {loss} loss, method {method}",
            columns={"method": method, "loss": loss},
            **_cross_validated(given, arguments, ridges="1e-4"),
        )

    def trace(self, data: Dataset, **run: Any) -> Frontier:  # noqa: D102
        return frontiers.linear(data, **self.arguments, **run)


class KernelMachine(Model):
    """Support vector machines, which learn from some of the rows only."""

    @classmethod
    def parse(cls, given: ModelOptions) -> Model:
        """Reads the options."""
        name = given.kernel or "rbf"
        kernel = choose(name, KERNELS, option="--kernel")
        arguments = {"kernel": kernel, "rows": given.rows or _ROWS}
        read = _cross_validated(given, arguments, ridges="1e-3")
        if given.bandwidths is not None:
            if not frontiers.needs_bandwidth(kernel):
                raise ValueError(f"`--bandwidths` has no use with `--kernel {name}`.")
            widths = numbers(given.bandwidths, option="--bandwidths")
            arguments["bandwidths"] = widths
        return cls(
            description=f"Support vector machines, {name} kernel",
            columns={"model": "kernel-svm", "kernel": name, "method": "constraint"},
            **read,
        )

    def prepare(  # noqa: D102
        self, loaded: list[Dataset], seeds: Sequence[int]
    ) -> tuple[Model, list[Dataset]]:
        arguments, description = dict(self.arguments), self.description
        n_train = arguments.pop("rows")
        drawn = [
            datasets.subsample(data, n_train=n_train, seed=seed)
            for data, seed in zip(loaded, seeds, strict=True)
        ]
        few, all_ = (int(data[0].is_train.sum()) for data in (drawn, loaded))
        if few < all_:
            description += f", learned from {few:,} of {all_:,} training rows"
        if frontiers.needs_bandwidth(arguments["kernel"]):
            if "bandwidths" not in arguments:
                width = frontiers.median_bandwidth(drawn[0], seeds[0])
                arguments["bandwidths"] = [width]
            widths = ", ".join(f"{width:g}" for width in arguments["bandwidths"])
            description += f", bandwidth {widths}"
        made = dataclasses.replace(self, description=description, arguments=arguments)
        return super(KernelMachine, made).prepare(drawn, seeds)

    def trace(self, data: Dataset, **run: Any) -> Frontier:  # noqa: D102
        return frontiers.kernel(data, **self.arguments, **run)


class Network(Model):
    """Networks of tanh units, one for each point."""

    takes_real_labels = True

    @classmethod
    def parse(cls, given: ModelOptions) -> Model:
        """Reads the options."""
        penalty, epochs = given.penalty or "mmd", given.epochs or 20
        preset = choose(penalty, PENALTIES, option="--penalty")
        text = given.widths or "64"
        widths = numbers(text, option="--widths")
        if not all(1 <= width <= _WIDEST and width % 1 == 0 for width in widths):
            raise ValueError(
                f"`--widths` must be whole numbers from 1 to {_WIDEST:,}, but is "
                f"{text!r}."
            )
        widths = [int(width) for width in widths]
        arguments = {"widths": widths, "epochs": epochs, "strengths": preset.strengths}
        arguments |= preset.arguments(widths[-1])
        units = " and ".join(map(str, widths))
        shared = " shared by all tasks" if issubclass(cls, SharedNetwork) else ""
        return cls(
            description=f"Networks, hidden layers of {units} tanh units{shared}, "
            f"{epochs} epochs, penalty {penalty}",
            columns={"model": given.model, "penalty": penalty},
            arguments=arguments | _strengths(given),
        )

    @property
    def steps(self) -> int:  # noqa: D102
        return self.arguments["epochs"]

    @property
    def selected_by(self) -> str:  # noqa: D102
        return "a fifth of the training part that was held out"

    def trace(self, data: Dataset, **run: Any) -> Frontier:  # noqa: D102
        return frontiers.network(data, **self.arguments, **run)


class SharedNetwork(Network):
    """Networks whose hidden layers serve all tasks; decisions differ by task."""

    def prepare(  # noqa: D102
        self, loaded: list[Dataset], seeds: Sequence[int]
    ) -> tuple[Model, list[Dataset]]:
        del seeds
        return self, loaded

    def check(self, data: Dataset, notions: Iterable[Notion]) -> None:  # noqa: D102
        if data.tasks is None:
            raise ValueError(
                f"`--model shared` is for data with several tasks, but {data.name} has "
                f"one. Choose `--model mlp`, or `--dataset school`."
            )
        super().check(data, notions)


# The classes of `--model`, and the options that each has a use for.
MODELS: dict[str, tuple[type[Linear | KernelMachine | Network], set[str]]] = {
    "linear": (Linear, {"loss", "method", "ridges", "folds"}),
    "kernel-svm": (
        KernelMachine,
        {"kernel", "bandwidths", "ridges", "folds", "rows"},
    ),
    "mlp": (Network, {"penalty", "widths", "epochs"}),
    "shared": (SharedNetwork, {"penalty", "widths", "epochs"}),
}


def parse(given: ModelOptions) -> Model:
    """The model that the options ask for.

    Raises:
        ValueError: for an unknown name or number, or an option of another model.
    """
    model, useful = choose(given.model, MODELS, option="--model")
    for name, value in vars(given).items():
        if value is not None and name not in useful | {"model", "strengths"}:
            raise ValueError(f"`--{name}` has no use with `--model {given.model}`.")
    return model.parse(given)


def _cross_validated(
    given: ModelOptions, arguments: dict[str, Any], *, ridges: str
) -> dict[str, Any]:
    """The fields of a model with ridges and folds, besides its own arguments."""
    folds = 5 if given.folds is None else given.folds
    arguments["ridges"] = numbers(given.ridges or ridges, option="--ridges")
    arguments |= {"n_folds": folds} | _strengths(given)
    return {"arguments": arguments, "folds": folds}


def _strengths(given: ModelOptions) -> dict[str, list[float]]:
    """The strengths, unless those of the method are to be taken."""
    if not given.strengths:
        return {}
    return {"strengths": numbers(given.strengths, option="--strengths")}
