"""What `fairjax sweep` does: options, data, fits, and files written at the end."""

import contextlib
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import (
    _canvas,
    _files,
    _sweep_report,
    _terminal,
    datasets,
    erm,
    frontiers,
    notions,
    sweeps,
)
from ._sweep_report import Panel

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


def run(
    *,
    columns: dict[str, str | list[str] | None],
    dataset: str | None,
    csv_file: Path | None,
    sensitive: list[str] | None,
    drop_missing: bool,
    without_sensitive: bool,
    data_dir: Path | None,
    notion: Sequence[str],
    loss: str,
    method: str,
    strengths: str | None,
    ridges: str,
    seeds: str,
    folds: int,
    out: Path,
    quiet: bool,
) -> None:
    """Reads the options, fits, prints and writes."""
    _terminal.need_matplotlib()
    settings = {
        "loss": _terminal.choose(loss, LOSSES, option="--loss"),
        "method": _terminal.choose(method, METHODS, option="--method"),
        "strengths": strengths and _terminal.numbers(strengths, option="--strengths"),
        "ridges": _terminal.numbers(ridges, option="--ridges"),
        "n_folds": folds,
    }
    chosen = _notions(notion)
    seed_list = _terminal.seeds(seeds)
    load = _loader(
        dataset,
        csv_file,
        columns=columns,
        sensitive=sensitive,
        drop_missing=drop_missing,
        without_sensitive=without_sensitive,
        data_dir=data_dir,
    )
    with _terminal.output(out, FILES) as (results, report, picture):
        loaded = [load(seed) for seed in seed_list]
        for data in loaded:
            for name in chosen:
                frontiers.check(data, notion=NOTIONS[name], n_folds=folds)
        panels = _sweep(loaded, seed_list, chosen, settings, quiet=quiet)
        found = (panels, loaded[0], seed_list, {"method": method, "loss": loss})
        text = _sweep_report.report(*found, folds).encode()
        drawn = _sweep_report.picture(panels, loaded[0])
        table = partial(_terminal.write_rows, rows=_sweep_report.rows(*found))
        _files.write_whole(
            {
                results: table,
                report: lambda stream: stream.write(text),
                picture: partial(_canvas.write, drawn),
            }
        )
        _say(panels, loaded[0], out, quiet=quiet)


def _say(
    panels: Sequence[Panel], data: datasets.Dataset, out: Path, *, quiet: bool
) -> None:
    console = _terminal.console(sys.stdout)
    if not quiet:
        console.print(_sweep_report.headline(data), soft_wrap=True)
    for panel in panels:
        if not quiet:
            console.print()
            console.print(_sweep_report.table(panel))
            console.print(_sweep_report.legend(panel.mean), soft_wrap=True)
        for sentence in _sweep_report.sentences(panel, data):
            console.print(sentence, soft_wrap=True)
    if not quiet:
        console.print()
    console.print(
        f"Wrote results.csv, report.md and frontier.png to {out}.", soft_wrap=True
    )


def _notions(names: Sequence[str]) -> list[str]:
    groups = {name: [name] for name in NOTIONS}
    groups |= {"both": list(NOTIONS)[:2], "all": list(NOTIONS)}
    chosen = [_terminal.choose(name, groups, option="--notion") for name in names]
    return list(dict.fromkeys(name for group in chosen for name in group))


def _loader(
    dataset: str | None,
    path: Path | None,
    *,
    columns: dict[str, str | list[str] | None],
    sensitive: list[str] | None,
    drop_missing: bool,
    without_sensitive: bool,
    data_dir: Path | None,
) -> Callable[[int], datasets.Dataset]:
    """The data set for a seed; only given options are passed on."""
    given = {name: value for name, value in columns.items() if value}
    if path is None:
        dataset = dataset or "toy"
        load = _terminal.choose(dataset, datasets.LOADERS, option="--dataset")
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
    settings: dict,
    *,
    quiet: bool,
) -> list[Panel]:
    each = settings["n_folds"] + 1
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
                runs.append(
                    frontiers.linear(
                        data,
                        notion=NOTIONS[name],
                        seed=seed,
                        progress=report,
                        **settings,
                    )
                )
                before += each
            panels.append(Panel(name, runs, frontiers.average(runs)))
    return panels
