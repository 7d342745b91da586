"""What `fairjax sweep` does: options, data, fits, and files written at the end."""

import contextlib
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from .. import (
    datasets,
    divergences,
    erm,
    files,
    frontiers,
    kernels,
    notions,
    penalties,
    sweeps,
)
from ..plots import canvas
from . import compilation_cache, terminal
from . import guarantee as _sweep_safety
from . import report as _sweep_report
from .rendezvous import Place
from .report import Panel

NOTIONS: dict[str, notions.Notion] = {
    "demographic-parity": notions.demographic_parity,
    "equal-opportunity": notions.equal_opportunity,
    "equalized-odds": notions.equalized_odds,
}
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
FILES = ("results.csv", "report.md", "frontier.png")
# The options that each model has a use for.
MODELS = {
    "linear": ("loss", "method", "ridges", "folds"),
    "kernel-svm": ("kernel", "bandwidths", "ridges", "folds", "rows"),
    "mlp": ("penalty", "widths", "epochs"),
    "shared": ("penalty", "widths", "epochs"),
}
KERNELS: dict[str, kernels.Kernel] = {
    "rbf": kernels.gaussian,
    "laplacian": kernels.laplacian,
    "inverse-multiquadric": kernels.inverse_multiquadric,
    "linear": partial(kernels.polynomial, degree=1, offset=0.0),
    "quadratic": partial(kernels.polynomial, degree=2),
}
_ROWS = 2000  # that kernel machines learn from, unless told otherwise
_WIDEST = 100_000  # units of a hidden layer
_SEVERAL = ("adult", "compas")  # data sets with several targets


class Weighed(NamedTuple):
    """A penalty of networks, and the strengths that span its frontier."""

    options: Callable[[int], dict[str, erm.Penalty]]
    strengths: tuple[float, ...]


def _between(divergence: Callable[[int], Any]) -> Callable[[int], dict]:
    """A divergence between the groups on the last hidden layer, given its width."""

    def options(width: int) -> dict[str, erm.Penalty]:
        gap = partial(
            penalties.divergence_gap_info, divergence=divergence(width), batch_size=1
        )
        return {"on_representation": gap}

    return options


def _mmd(width: int) -> Any:
    # Tanh units lie in [-1, 1]: typical distances grow like the root of their number.
    kernel = partial(kernels.gaussian_sum, bandwidth=width**0.5 / 2)
    return partial(divergences.mmd_squared, kernel=kernel, unbiased=True)


PENALTIES = {
    "mmd": Weighed(_between(_mmd), (0.0, *np.logspace(-1, 2.5, 15))),
    "energy": Weighed(
        _between(lambda width: partial(divergences.energy_distance, unbiased=True)),
        (0.0, *np.logspace(-2, 1, 13)),
    ),
    "sinkhorn": Weighed(
        _between(lambda width: partial(divergences.sinkhorn_info, epsilon=width / 32)),
        (0.0, *np.logspace(-3, 0, 7)),
    ),
    "mean-gap": Weighed(
        lambda width: {"on_scores": penalties.mean_gap_info},
        (0.0, *np.logspace(-2, 2, 13)),
    ),
}


class How(NamedTuple):
    """How a frontier is traced, and how the report says it."""

    trace: Callable[..., frontiers.Frontier]
    settings: dict[str, Any]
    steps: int  # of its progress
    labels: dict[str, str]
    models: str
    chosen_by: str
    decide: _sweep_safety.Decide | None = None  # on rows that it has not seen


def run(
    place: Place | None = None,
    *,
    checkpoint: Path | None = None,
    columns: dict[str, str | list[str] | None],
    dataset: str | None,
    csv_file: Path | None,
    sensitive: list[str] | None,
    drop_missing: bool,
    without_sensitive: bool,
    data_dir: Path | None,
    notion: Sequence[str] | None,
    model: str,
    given: dict[str, Any],
    strengths: str | None,
    seeds: str,
    guarantee: float | None,
    confidence: float | None,
    out: Path,
    quiet: bool,
) -> None:
    """Reads the options, fits, prints and writes; `given` are those of one model.

    Several processes do the same, and the first one prints and writes.
    """
    terminal.need_matplotlib()
    how = _how(model, given)
    if strengths:
        values = terminal.numbers(strengths, option="--strengths")
        how.settings["strengths"] = values
    seed_list = terminal.seeds(seeds)
    wish = _sweep_safety.wish(guarantee, confidence)
    if wish and how.decide is None:
        raise ValueError(
            f"`--guarantee` has no use with `--model {model}`, whose decisions differ "
            f"by task. Choose linear, kernel-svm or mlp."
        )
    if wish and len(seed_list) > 1:
        raise ValueError(
            f"`--guarantee` is for one model, but `--seeds` asks for {len(seed_list)} "
            f"repetitions. Give one, such as --seeds 1."
        )
    load = _loader(
        dataset,
        csv_file,
        columns=columns,
        model=model,
        sensitive=sensitive,
        drop_missing=drop_missing,
        without_sensitive=without_sensitive,
        data_dir=data_dir,
    )
    with compilation_cache.joined(place) as mesh, contextlib.ExitStack() as stack:
        first = mesh is None or jax.process_index() == 0

        def prepare() -> tuple[list[Path], Prepared]:
            paths = []
            if first:
                paths = stack.enter_context(terminal.output(out, FILES))
            return paths, _prepared(load, seed_list, how, model, given, notion, wish)

        paths, made = prepare()
        loaded, safety, done_so, chosen = made
        panels = _sweep(
            loaded,
            seed_list,
            chosen,
            done_so,
            quiet=quiet or not first,
            mesh=mesh,
            checkpoint=checkpoint,
        )
        if first:
            # Nothing more is needed from others: their end shall not spoil the results.
            stack.enter_context(files.WRITING)
        if wish and safety:
            panels = [
                _promised(panel, loaded[0], safety, done_so, wish, len(panels))
                for panel in panels
            ]
        panels = [_sweep_report.with_limits(panel) for panel in panels]
        write = partial(_write, paths, panels, loaded[0], seed_list, done_so)
        write()
        if first:
            _say(panels, loaded[0], out, done_so.models, quiet=quiet)


class Prepared(NamedTuple):
    """The data of every seed, rows set aside, and what is fitted for which notions."""

    loaded: list[datasets.Dataset]
    safety: datasets.Samples | None
    how: How
    chosen: list[str]


def _prepared(
    load: Callable[[int], datasets.Dataset],
    seeds: Sequence[int],
    how: How,
    model: str,
    given: dict[str, Any],
    notion: Sequence[str] | None,
    wish: _sweep_safety.Wish | None,
) -> Prepared:
    """The data, checked, and what is fitted to them."""
    loaded, safety = [load(seed) for seed in seeds], None
    chosen = _notions(notion, loaded[0])
    if wish:
        if loaded[0].is_regression:
            raise ValueError(
                f"`--guarantee` is for classes, but the labels of {loaded[0].name} are "
                f"real numbers."
            )
        for data in loaded:
            _check(data, chosen, model, how.settings.get("n_folds", 0))
        learn, safety = _sweep_safety.set_aside(loaded[0], seeds[0])
        loaded = [learn]
    if model == "kernel-svm":
        loaded, how = _smaller(loaded, seeds, given["rows"] or _ROWS, how)
    if safety:
        words = f"{how.models}; {len(safety.labels):,} further training rows were set"
        how = how._replace(models=f"{words} aside to test what can be promised")
    if model != "shared":
        # One head for all: the tasks are no more than rows.
        loaded = [data._replace(tasks=None, task_names=()) for data in loaded]
    for data in loaded:
        _check(data, chosen, model, how.settings.get("n_folds", 0))
    return Prepared(loaded, safety, how, chosen)


def _promised(
    panel: Panel,
    data: datasets.Dataset,
    safety: datasets.Samples,
    how: How,
    wish: _sweep_safety.Wish,
    n_notions: int,
) -> Panel:
    """The panel with the selection that the safety set allows."""
    assert how.decide is not None  # `run` has seen to it.
    found, promise = _sweep_safety.promise(
        panel.mean,
        data,
        safety,
        notion=NOTIONS[panel.notion],
        wanted=wish,
        n_notions=n_notions,
        decide=how.decide,
        names=_sweep_report.cell_names(panel, data),
    )
    return Panel(panel.notion, [found], found, promise)


def _write(
    paths: Sequence[Path],
    panels: Sequence[Panel],
    data: datasets.Dataset,
    seeds: Sequence[int],
    how: How,
) -> None:
    results, report, picture = paths
    found = (panels, data, seeds, how.labels)
    text = _sweep_report.report(*found, how.models, how.chosen_by).encode()
    drawn = _sweep_report.picture(panels, data)
    table = partial(terminal.write_rows, rows=_sweep_report.rows(*found))
    files.write_whole(
        {
            results: table,
            report: lambda stream: stream.write(text),
            picture: partial(canvas.write, drawn),
        }
    )


def _say(
    panels: Sequence[Panel],
    data: datasets.Dataset,
    out: Path,
    models: str,
    *,
    quiet: bool,
) -> None:
    console = terminal.console(sys.stdout)
    if not quiet:
        console.print(_sweep_report.headline(data), soft_wrap=True)
        console.print(f"{models}.", soft_wrap=True)
    for panel in panels:
        if not quiet:
            console.print()
            console.print(_sweep_report.table(panel, data))
            console.print(_sweep_report.legend(panel.mean), soft_wrap=True)
        for sentence in _sweep_report.sentences(panel, data):
            console.print(sentence, soft_wrap=True)
    if not quiet:
        console.print()
    console.print(
        f"Wrote results.csv, report.md and frontier.png to {out}.", soft_wrap=True
    )


def _how(model: str, given: dict[str, Any]) -> How:
    """Reads the options of a model; refuses those of others."""
    useful = terminal.choose(model, MODELS, option="--model")
    for name, value in given.items():
        if value is not None and name not in useful:
            raise ValueError(f"`--{name}` has no use with `--model {model}`.")
    makers = {"linear": _linear, "kernel-svm": _kernel}
    return makers[model](given) if model in makers else _networks(model, given)


def _linear(given: dict[str, Any]) -> How:
    loss, method = given["loss"] or "logistic", given["method"] or "constraint"
    folds = 5 if given["folds"] is None else given["folds"]
    settings = {
        "loss": terminal.choose(loss, LOSSES, option="--loss"),
        "method": terminal.choose(method, METHODS, option="--method"),
        "ridges": terminal.numbers(given["ridges"] or "1e-4", option="--ridges"),
        "n_folds": folds,
    }
    return How(
        frontiers.linear,
        settings,
        folds + 1,
        {"method": method, "loss": loss},
        f"Linear models, {loss} loss, method {method}",
        f"{_selection(folds)} on the training part",
        _sweep_safety.by_coefficients,
    )


def _selection(folds: int) -> str:
    return f"{folds}-fold cross-validation" if folds else "training numbers"


def _kernel(given: dict[str, Any]) -> How:
    name = given["kernel"] or "rbf"
    kernel = terminal.choose(name, KERNELS, option="--kernel")
    folds = 5 if given["folds"] is None else given["folds"]
    settings = {
        "kernel": kernel,
        "ridges": terminal.numbers(given["ridges"] or "1e-3", option="--ridges"),
        "n_folds": folds,
    }
    if given["bandwidths"] is not None:
        if not frontiers.is_open(kernel):
            raise ValueError(f"`--bandwidths` has no use with `--kernel {name}`.")
        values = terminal.numbers(given["bandwidths"], option="--bandwidths")
        settings["bandwidths"] = values
    return How(
        frontiers.kernel,
        settings,
        folds + 1,
        {"model": "kernel-svm", "kernel": name, "method": "constraint"},
        f"Support vector machines, {name} kernel",
        f"{_selection(folds)} on the training part",
        partial(_sweep_safety.by_kernel, kernel=kernel),
    )


def _smaller(
    loaded: Sequence[datasets.Dataset], seeds: Sequence[int], n_train: int, how: How
) -> tuple[list[datasets.Dataset], How]:
    """Kernel machines learn from some rows, with a bandwidth that suits these."""
    drawn = [
        datasets.subsample(data, n_train=n_train, seed=seed)
        for data, seed in zip(loaded, seeds, strict=True)
    ]
    words = how.models
    few, all_ = (int(data[0].is_train.sum()) for data in (drawn, loaded))
    if few < all_:
        words += f", learned from {few:,} of {all_:,} training rows"
    kernel, settings = how.settings["kernel"], how.settings
    if frontiers.is_open(kernel):
        if "bandwidths" not in settings:
            width = frontiers.median_bandwidth(drawn[0], seeds[0])
            settings = settings | {"bandwidths": [width]}
        shown = ", ".join(f"{width:g}" for width in settings["bandwidths"])
        words += f", bandwidth {shown}"
    return drawn, how._replace(settings=settings, models=words)


def _networks(model: str, given: dict[str, Any]) -> How:
    penalty, epochs = given["penalty"] or "mmd", given["epochs"] or 20
    weighed = terminal.choose(penalty, PENALTIES, option="--penalty")
    widths = terminal.numbers(given["widths"] or "64", option="--widths")
    if not all(1 <= width <= _WIDEST and width % 1 == 0 for width in widths):
        raise ValueError(
            f"`--widths` must be whole numbers from 1 to {_WIDEST:,}, but is "
            f"{given['widths']!r}."
        )
    widths = [int(width) for width in widths]
    settings = {
        "widths": widths,
        "epochs": epochs,
        "strengths": weighed.strengths,
        **weighed.options(widths[-1]),
    }
    shared = " shared by all tasks" if model == "shared" else ""
    units = " and ".join(map(str, widths))
    return How(
        frontiers.network,
        settings,
        epochs,
        {"model": model, "penalty": penalty},
        f"Networks, hidden layers of {units} tanh units{shared}, {epochs} epochs, "
        f"penalty {penalty}",
        "a fifth of the training part that was held out",
        None if shared else partial(_sweep_safety.by_network, widths=widths),
    )


def _check(
    data: datasets.Dataset, chosen: Sequence[str], model: str, n_folds: int
) -> None:
    if model == "shared" and data.tasks is None:
        raise ValueError(
            f"`--model shared` is for data with several tasks, but {data.name} has "
            f"one. Choose `--model mlp`, or `--dataset school`."
        )
    regression = model in ("mlp", "shared")
    for name in chosen:
        frontiers.check(
            data, notion=NOTIONS[name], n_folds=n_folds, regression=regression
        )


def _notions(names: Sequence[str] | None, data: datasets.Dataset) -> list[str]:
    if data.is_regression:
        for name in names or ():
            if name != "demographic-parity":
                raise ValueError(
                    f"`--notion {name}` compares groups of one class, but the labels "
                    f"of {data.name} are real numbers. Leave it out."
                )
        return ["demographic-parity"]
    names = names or ["both"]
    groups = {name: [name] for name in NOTIONS}
    groups |= {"both": list(NOTIONS)[:2], "all": list(NOTIONS)}
    chosen = [terminal.choose(name, groups, option="--notion") for name in names]
    return list(dict.fromkeys(name for group in chosen for name in group))


def _loader(
    dataset: str | None,
    path: Path | None,
    *,
    columns: dict[str, str | list[str] | None],
    model: str,
    sensitive: list[str] | None,
    drop_missing: bool,
    without_sensitive: bool,
    data_dir: Path | None,
) -> Callable[[int], datasets.Dataset]:
    """The data set for a seed; only given options are passed on."""
    given = {name: value for name, value in columns.items() if value not in (None, [])}
    targets = list(columns["target"] or [])
    several = len(targets) > 1
    given |= {"target": targets if several else targets[0]} if targets else {}
    if several and (dataset not in _SEVERAL or model != "shared"):
        raise ValueError(
            f"several `--target` make tasks of the same rows, which needs `--model "
            f"shared` and `--dataset` {' or '.join(_SEVERAL)}. Give one."
        )
    if path is None:
        dataset = dataset or "toy"
        load = terminal.choose(dataset, datasets.LOADERS, option="--dataset")
        where = f"--dataset {dataset}"
    else:
        if dataset is not None:
            raise ValueError("give one of `--dataset` and `--csv`, not both.")
        if not columns["target"] or not sensitive:
            raise ValueError(
                "`--csv` needs `--target COLUMN`, what to predict, and `--sensitive "
                "COLUMN`, what tells the groups apart."
            )
        load = datasets.from_csv
        where = "--csv"
        given["path"] = str(path)
    options: dict[str, Any] = dict(given)
    options |= {"sensitive": sensitive} if sensitive else {}
    options |= {"drop_missing": True} if drop_missing else {}
    options |= {"sensitive_in_features": False} if without_sensitive else {}
    options |= {"data_dir": data_dir} if data_dir else {}
    known = inspect.signature(load).parameters
    for name in options:
        if name not in known:
            flag = {"sensitive_in_features": "without-sensitive"}.get(name, name)
            raise ValueError(f"`--{flag.replace('_', '-')}` has no use with `{where}`.")
    if "seed" not in known or columns["split"]:
        once = []

        def fixed(seed: int) -> datasets.Dataset:
            # The seeds differ in their folds only: the same rows serve all.
            once[:] = once or [load(**options)]
            return once[0]

        return fixed
    return lambda seed: load(**options, seed=seed)


def _sweep(
    loaded: Sequence[datasets.Dataset],
    seeds: Sequence[int],
    chosen: Sequence[str],
    how: How,
    *,
    quiet: bool,
    mesh: Mesh | None,
    checkpoint: Path | None,
) -> list[Panel]:
    each = how.steps
    total = each * len(chosen) * len(seeds)
    bar = contextlib.nullcontext() if quiet else sweeps.progress_bar("fitting")
    panels = []
    with bar as progress:
        before = 0

        def report(done: int, _: int) -> None:
            if progress:
                progress(before + done, total)

        for name in chosen:
            runs = []
            for data, seed in zip(loaded, seeds, strict=True):
                kept = checkpoint and checkpoint / f"{name}-{seed}"
                runs.append(
                    how.trace(
                        data,
                        notion=NOTIONS[name],
                        seed=seed,
                        mesh=mesh,
                        progress=report,
                        checkpoint=kept,
                        **how.settings,
                    )
                )
                before += each
            panels.append(Panel(name, runs, frontiers.average(runs)))
    return panels
