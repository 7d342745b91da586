"""`fairjax sweep`: data, a frontier for each notion and seed, and files at the end."""

import contextlib
import dataclasses
import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor
from typing import Any, NamedTuple

from .. import datasets, frontiers, notions
from ..datasets import Dataset, Samples
from . import guarantee, models, report, sweep_report, terminal
from .guarantee import Guarantee
from .models import Model
from .options import DataOptions, ModelOptions, SweepOptions, choose, seed_list
from .sweep_report import Panel

NOTIONS: dict[str, notions.Notion] = {
    "demographic-parity": notions.demographic_parity,
    "equal-opportunity": notions.equal_opportunity,
    "equalized-odds": notions.equalized_odds,
}
FILES = ("results.csv", "report.md", "frontier.png")
CONNECT = 10  # Seconds within which a scheduler must answer.
_SEVERAL_TARGETS = ("adult", "compas")


class Task(NamedTuple):
    """A model, the data sets it is fitted to, and the notions compared.

    Attributes:
        model: adjusted to the data.
        loaded: the data set of each seed.
        safety: rows set aside for a guarantee, or None.
        notions: by name.
    """

    model: Model
    loaded: list[Dataset]
    safety: Samples | None
    notions: dict[str, notions.Notion]


def run(data: DataOptions, model: ModelOptions, options: SweepOptions) -> None:
    """Reads the options, fits, writes and prints."""
    terminal.need_matplotlib()
    read = models.parse(model)
    seeds = seed_list(options.seeds)
    asked = guarantee.parse(options.guarantee, options.confidence)
    if asked and isinstance(read, models.SharedNetwork):
        raise ValueError(
            f"`--guarantee` has no use with `--model {model.model}`, whose decisions "
            f"differ by task. Choose linear, kernel-svm or mlp."
        )
    if asked and len(seeds) > 1:
        raise ValueError(
            f"`--guarantee` is for one model, but `--seeds` asks for {len(seeds)} "
            f"repetitions. Give one, such as --seeds 1."
        )
    load = loader(data, model.model)
    with (
        connected(options.scheduler) as executor,
        terminal.output(options.out, FILES) as paths,
    ):
        task = prepare(read, load, seeds, options.notion, asked)
        panels = trace(task, seeds, options, executor)
        if asked and task.safety:
            safety = task.safety
            panels = [_guaranteed(panel, task, asked, safety) for panel in panels]
        panels = [panel.with_limits() for panel in panels]
        contents = (
            sweep_report.rows(panels, seeds, task.model),
            sweep_report.document(panels, seeds, task.model),
            sweep_report.picture(panels),
        )
        report.write(dict(zip(paths, contents, strict=True)))
        report.show(sweep_report.parts(panels, task.model), quiet=options.quiet)
        wrote = f"Wrote results.csv, report.md and frontier.png to {options.out}."
        report.show([wrote], quiet=options.quiet)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Executor | None]:
    """Yields the executor of a Dask scheduler, or None without an address.

    Raises:
        ValueError: for an address that cannot be one.
        ImportError: without Dask.
        OSError: for a scheduler that does not answer in time, or no longer does.
    """
    if address is None:
        yield None
        return
    # A client that fails for another reason than silence complains at its end too.
    parts = re.fullmatch(r"(?:(?:tcp|tls)://)?[^\s/]+:(\d{1,5})", address)
    if parts is None or not 0 < int(parts[1]) < 2**16:
        raise ValueError(
            f"`--scheduler` must be HOST:PORT, such as tcp://10.0.0.1:8786, but is "
            f"{address!r}."
        )
    try:
        import distributed
        from distributed.utils import silence_logging_cmgr
    except ImportError as error:
        raise ImportError(
            "`--scheduler` needs distributed: install it with "
            '`pip install "fairjax[cluster]"`.'
        ) from error
    with silence_logging_cmgr(logging.CRITICAL):
        try:
            client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise OSError(
                f"no Dask scheduler answered at `--scheduler` {address!r} within "
                f"{CONNECT} s: {error}. Start one with `dask scheduler`."
            ) from error
        with client:
            try:
                yield client.get_executor()
            except (CancelledError, distributed.KilledWorker) as error:
                raise OSError(
                    f"the Dask scheduler at {address}, or each worker that was tried, "
                    f"is gone. What was finished lies in `--checkpoint`, if that was "
                    f"given."
                ) from error


def prepare(
    model: Model,
    load: Callable[[int], Dataset],
    seeds: Sequence[int],
    names: Sequence[str] | None,
    asked: Guarantee | None,
) -> Task:
    """The data, checked, and what is fitted to them."""
    loaded, safety = [load(seed) for seed in seeds], None
    chosen = chosen_notions(names, loaded[0])
    if asked:
        if loaded[0].is_regression:
            raise ValueError(
                f"`--guarantee` is for classes, but the labels of {loaded[0].name} are "
                f"real numbers."
            )
        for data in loaded:
            model.check(data, chosen.values())
        learn, safety = guarantee.set_aside(loaded[0], seeds[0])
        loaded = [learn]
    model, loaded = model.prepare(loaded, seeds)
    if safety:
        description = (
            f"{model.description}; {len(safety.labels):,} further training rows were "
            f"set aside to test what can be promised"
        )
        model = dataclasses.replace(model, description=description)
    for data in loaded:
        model.check(data, chosen.values())
    return Task(model, loaded, safety, chosen)


def trace(
    task: Task,
    seeds: Sequence[int],
    options: SweepOptions,
    executor: Executor | None,
) -> list[Panel]:
    """The frontiers of all notions and seeds."""
    where = {} if executor is None else {"executor": executor}
    steps = task.model.steps
    total, before = steps * len(task.notions) * len(seeds), 0
    panels = []
    with terminal.progress("fitting", quiet=options.quiet) as progress:
        for name, notion in task.notions.items():
            runs = []
            for data, seed in zip(task.loaded, seeds, strict=True):
                kept = options.checkpoint and options.checkpoint / f"{name}-{seed}"
                found = task.model.trace(
                    data,
                    notion=notion,
                    seed=seed,
                    progress=lambda done, _, before=before: progress(
                        before + done, total
                    ),
                    checkpoint=kept,
                    **where,
                )
                runs.append(found)
                before += steps
            panels.append(Panel(name, task.loaded[0], runs, frontiers.average(runs)))
    return panels


def chosen_notions(
    names: Sequence[str] | None, data: Dataset
) -> dict[str, notions.Notion]:
    """The notions that `--notion` names, each once."""
    if data.is_regression:
        for name in names or ():
            if name != "demographic-parity":
                raise ValueError(
                    f"`--notion {name}` compares groups of one class, but the labels "
                    f"of {data.name} are real numbers. Leave it out."
                )
        names = ["demographic-parity"]
    sets = {name: [name] for name in NOTIONS}
    sets |= {"both": list(NOTIONS)[:2], "all": list(NOTIONS)}
    chosen = [choose(name, sets, option="--notion") for name in names or ["both"]]
    return {name: NOTIONS[name] for own in chosen for name in own}


def loader(given: DataOptions, model: str) -> Callable[[int], Dataset]:
    """The function from a seed to its data set; only given options are passed on.

    Raises:
        ValueError: for options that do not fit together.
    """
    options: dict[str, Any] = {
        name: value
        for name, value in vars(given).items()
        if value not in (None, [], False)
    }
    dataset, path = options.pop("dataset", None), options.pop("csv_file", None)
    targets = options.get("target", [])
    if len(targets) == 1:
        options["target"] = targets[0]
    elif targets and (dataset not in _SEVERAL_TARGETS or model != "shared"):
        raise ValueError(
            f"several `--target` make tasks of the same rows, which needs `--model "
            f"shared` and `--dataset` {' or '.join(_SEVERAL_TARGETS)}. Give one."
        )
    if options.pop("without_sensitive", False):
        options["sensitive_in_features"] = False
    if path is None:
        dataset = dataset or "toy"
        load = choose(dataset, datasets.LOADERS, option="--dataset")
        where = f"--dataset {dataset}"
    else:
        if dataset is not None:
            raise ValueError("give one of `--dataset` and `--csv`, not both.")
        if not targets or not given.sensitive:
            raise ValueError(
                "`--csv` needs `--target COLUMN`, what to predict, and `--sensitive "
                "COLUMN`, what tells the groups apart."
            )
        load, where = datasets.from_csv, "--csv"
        options["path"] = str(path)
    known = inspect.signature(load).parameters
    for name in options:
        if name not in known:
            flag = {"sensitive_in_features": "without-sensitive"}.get(name, name)
            raise ValueError(f"`--{flag.replace('_', '-')}` has no use with `{where}`.")
    if "seed" in known and not given.split:
        return lambda seed: load(**options, seed=seed)
    # The seeds differ in their folds only: the same rows serve all.
    once = functools.cache(lambda: load(**options))
    return lambda seed: once()


def _guaranteed(panel: Panel, task: Task, asked: Guarantee, safety: Samples) -> Panel:
    """The panel with the selection that the safety set allows."""
    found, result = guarantee.select(
        panel.mean,
        frontiers.decide(panel.mean, panel.data.train, safety),
        safety,
        notion=task.notions[panel.notion],
        guarantee=asked,
        n_notions=len(task.notions),
        names=sweep_report.cell_names(panel.notion, panel.data),
    )
    return panel._replace(runs=[found], mean=found, guarantee=result)
