"""`fairjax repair`: scores moved to the barycenter of their groups."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float64, Int

from .. import barycenters, files, metrics, plots
from . import report, tables, terminal
from .options import RepairOptions
from .report import Content, Table
from .tables import Rows

LEVEL = 0.9  # Of the distance that is due to chance.
TIED = 0.01  # Of a group with one score; fewer move the KS distance by less.


class Repaired(NamedTuple):
    """A table and its repaired scores.

    Attributes:
        rows: of the table.
        known: from which the distributions were learned.
        names: of the groups.
        fair: the scores after repair.
        before: distances between groups.
        after: the same for `fair`.
    """

    rows: Rows
    known: Rows
    names: tuple[str, ...]
    fair: Float64[np.ndarray, " n"]
    before: metrics.ScoreDistances
    after: metrics.ScoreDistances


def run(options: RepairOptions) -> None:
    """Reads the options and tables, repairs, writes and prints."""
    if not 0 <= options.repair <= 1:
        raise ValueError(
            f"`--repair` must lie in [0, 1], but is {options.repair}: 0 keeps the "
            f"scores, 1 makes them fair."
        )
    if options.jitter is not None and not 0 <= options.jitter < 2**32:
        raise ValueError(
            f"`--jitter` must be a seed in [0, 2^32), but is {options.jitter}: any one "
            f"will do."
        )
    _check_outputs(options)
    scores, out = options.scores, options.out
    before = files.state(scores) if scores.exists() else ()
    paths = [scores, options.calibration] if options.calibration else [scores]
    read, names = tables.read(paths, options)
    rows, known = read[0], read[-1]
    if options.column in rows.frame:
        raise ValueError(
            f"{str(scores)!r} has a column {options.column!r} already. Name the new "
            f"one with `--column`."
        )
    _check_known(rows, known, names, paths)
    found = repair(rows, known, names, options)
    contents: dict[Path, Content] = {
        out: partial(
            tables.write_with,
            path=scores,
            options=options,
            name=options.column,
            values=found.fair.tolist(),
            state=before,
        )
    }
    wrote = [f"Wrote {out}: {scores.name} with the column {options.column!r}."]
    if options.picture:
        contents[options.picture] = plots.repair(
            rows.scores,
            found.fair,
            rows.groups,
            group_names=names,
            weights=rows.weights,
            labels=(f"{options.score} [score]", f"{options.column} [score]"),
            title=f"{scores.name}, repair {options.repair:g}",
        )
        wrote.append(f"Wrote {options.picture}.")
    report.write(contents)
    said = [_source(found, options), *_conclusion(found)]
    said += report.by_chance(rows.groups, rows.weights, level=LEVEL)
    said += [*_doubts(found, options), *wrote]
    parts = [_group_table(found), _distance_table(found), *said]
    report.show(parts, quiet=options.quiet)


def repair(
    rows: Rows, known: Rows, names: tuple[str, ...], options: RepairOptions
) -> Repaired:
    """The repaired scores of a table, by distributions from the known rows."""
    fit_key = apply_key = None
    if options.jitter is not None:
        fit_key = apply_key = jax.random.key(options.jitter)
        if rows is not known:
            # Other rows must not share the calibration rows' jitter.
            apply_key = jax.random.fold_in(fit_key, 1)
    # A group of weight 0 has no distribution, and is in the calibration table only.
    kept = np.bincount(known.groups, known.weights, len(names)) > 0
    codes = np.cumsum(kept, dtype=np.int32) - 1
    mine = kept[known.groups]
    weights = known.weights[mine]
    fitted = barycenters.fit_map(
        known.scores[mine],
        codes[known.groups[mine]],
        n_groups=int(kept.sum()),
        weights=None if (weights == weights[0]).all() else weights,
        key=fit_key,
        split=False,
    )
    fair = np.asarray(
        barycenters.apply_map(
            fitted,
            rows.scores,
            codes[rows.groups],
            repair=options.repair,
            key=apply_key,
        )
    )
    before, after = (
        metrics.score_distances(values, rows.groups, rows.weights, n_groups=len(names))
        for values in (rows.scores, fair)
    )
    return Repaired(rows, known, names, fair, before, after)


def _check_outputs(options: RepairOptions) -> None:
    """Raises `ValueError` unless both outputs can be written, apart from the inputs."""
    apart = {"the table of scores": options.scores}
    if options.calibration:
        apart["the table of `--calibration`"] = options.calibration
    terminal.check_output(options.out, option="--out", apart=apart)
    if options.picture:
        terminal.need_matplotlib()
        terminal.check_picture(options.picture, option="--picture")
        apart["the table of `--out`"] = options.out
        terminal.check_output(options.picture, option="--picture", apart=apart)


def _check_known(
    rows: Rows, known: Rows, names: tuple[str, ...], paths: list[Path]
) -> None:
    """Every group that occurs must have calibration rows with weight."""
    mass = np.bincount(known.groups, known.weights, len(names))
    for row in np.flatnonzero(mass[rows.groups] == 0)[:1]:
        group = rows.groups[row]
        there = "no rows" if group not in known.groups else "only rows of weight 0"
        raise ValueError(
            f"group {names[group]!r} occurs in {str(paths[0])!r} (first in data row "
            f"{row + 1}), but has {there} in {str(paths[-1])!r}, from which the "
            f"distributions are learned. Add some, or repair the other groups alone."
        )


def _group_table(found: Repaired) -> Table:
    head = ["group", "rows", "calibration\nrows", "mean\nbefore", "mean\nafter"]
    rows, cells = found.rows, []
    sizes, known = _sizes(found, found.rows), _sizes(found, found.known, used=True)
    for group, name in enumerate(found.names):
        mine = rows.groups == group
        weights = rows.weights[mine]
        means = [
            f"{np.average(v[mine], weights=weights):.4g}" if weights.sum() > 0 else "-"
            for v in (rows.scores, found.fair)
        ]
        cells.append([name, f"{sizes[group]:,}", f"{known[group]:,}", *means])
    return Table(head, cells)


def _sizes(found: Repaired, rows: Rows, *, used: bool = False) -> Int[np.ndarray, " g"]:
    """Rows of each group, or those with a weight."""
    groups = rows.groups[rows.weights > 0] if used else rows.groups
    return np.bincount(groups, minlength=len(found.names))


def _distance_table(found: Repaired) -> Table:
    (ks, area), (fair_ks, fair_area) = found.before, found.after
    cells = [
        ["KS [0-1]", f"{ks:.4f}", f"{fair_ks:.4f}"],
        ["Wasserstein-1 [score]", f"{area:.4g}", f"{fair_area:.4g}"],
    ]
    return Table(["largest distance between two groups", "before", "after"], cells)


def _source(found: Repaired, options: RepairOptions) -> str:
    source = options.calibration or "these scores themselves"
    ties = ""
    if options.jitter is not None:
        ties = f", ties split at random with seed {options.jitter}"
    return (
        f"Repair {options.repair:g} of {options.scores.name}; distributions learned "
        f"from {source}, {int((found.known.weights > 0).sum()):,} rows{ties}."
    )


def _conclusion(found: Repaired) -> list[str]:
    before, after, scores = found.before, found.after, found.rows.scores
    share = found.rows.weights / found.rows.weights.sum()
    change = float(share @ np.square(found.fair - scores))
    return [
        f"KS distance between groups: {before.ks:.3f} before, {after.ks:.3f} after. "
        f"Wasserstein-1 distance: {before.wasserstein:.3g} before, "
        f"{after.wasserstein:.3g} after.",
        f"Price: a mean squared change of {change:.3g} (a typical score moves by "
        f"{np.sqrt(change):.3g}). Mean score: {share @ scores:.4g} before, "
        f"{share @ found.fair:.4g} after.",
    ]


def _doubts(found: Repaired, options: RepairOptions) -> list[str]:
    """Sentences on what keeps the result from being exact."""
    doubts, known = [], found.known
    counts = _sizes(found, known, used=True).tolist()
    sizes = dict(zip(found.names, counts, strict=True))
    if small := report.small({name: size for name, size in sizes.items() if size}):
        doubts.append(
            f"Warning: calibration groups of fewer than {report.FEW} rows: {small}. "
            f"What their scores become is uncertain."
        )
    tied = options.jitter is None and options.repair > 0 and found.after.ks > 1e-9
    if tied and (block := _largest_tie(known)) >= TIED:
        doubts.append(
            f"Note: up to {block:.0%} of a group have one score, and equal scores of "
            f"a group stay equal. Exact parity needs `--jitter SEED`, which splits "
            f"them at random."
        )
    outside = _outside(found.rows, known)
    if outside and options.repair > 0:
        doubts.append(
            f"Note: {outside:,} of {found.rows.scores.size:,} scores lie outside the "
            f"calibration scores of their group, where the fair score is constant."
        )
    return doubts


def _largest_tie(known: Rows) -> float:
    """The largest share of a group that has one score, in several rows."""
    order = np.lexsort((known.scores, known.groups))
    scores, groups = known.scores[order], known.groups[order]
    fresh = np.append(True, (scores[1:] != scores[:-1]) | (groups[1:] != groups[:-1]))
    tie = np.cumsum(fresh) - 1
    mass = np.bincount(tie, known.weights[order])
    several = np.bincount(tie) > 1
    total = np.bincount(known.groups, known.weights)[groups[fresh]]
    shares = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    return float(np.max(shares, where=several, initial=0.0))


def _outside(rows: Rows, known: Rows) -> int:
    """The number of rows beyond the calibration range of their group.

    Rows of weight 0 are no part of that range.
    """
    used = known.weights > 0
    if rows is known and used.all():
        return 0
    n_groups = int(max(rows.groups.max(), known.groups.max())) + 1
    low, high = np.full(n_groups, np.inf), np.full(n_groups, -np.inf)
    np.minimum.at(low, known.groups[used], known.scores[used])
    np.maximum.at(high, known.groups[used], known.scores[used])
    beyond = (rows.scores < low[rows.groups]) | (rows.scores > high[rows.groups])
    return int(beyond.sum())
