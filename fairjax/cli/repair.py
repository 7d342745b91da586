"""What `fairjax repair` does: scores moved to the barycenter of their groups."""

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float64

from .. import barycenters, files, plots
from ..plots import canvas
from . import tables as _score_tables
from . import terminal
from .measures import Distances, chance, distances_between
from .tables import Columns, Rows

TIED = 0.01  # Of a group with one score; fewer move the KS distance by less.


class Repaired(NamedTuple):
    """What a repair made of a table.

    Attributes:
        fair: the scores after repair.
        before: distances between groups.
        after: the same for `fair`.
        change: mean squared change [score^2].
        means: mean score before and after.
    """

    fair: Float64[np.ndarray, " n"]
    before: Distances
    after: Distances
    change: float
    means: tuple[float, float]


def run(
    scores: Path,
    columns: Columns,
    *,
    calibration: Path | None,
    repair: float,
    jitter: int | None,
    column: str,
    out: Path,
    picture: Path | None,
    quiet: bool,
) -> None:
    """Reads the options and tables, repairs, writes and prints."""
    if not 0 <= repair <= 1:
        raise ValueError(
            f"`--repair` must lie in [0, 1], but is {repair}: 0 keeps the scores, 1 "
            f"makes them fair."
        )
    if jitter is not None and not 0 <= jitter < 2**32:
        raise ValueError(
            f"`--jitter` must be a seed in [0, 2^32), but is {jitter}: any one will do."
        )
    form = _check_outputs(scores, calibration, out, picture)
    before = files.state(scores) if scores.exists() else ()
    paths = [scores] if calibration is None else [scores, calibration]
    tables, names = _score_tables.read(paths, columns)
    rows, known = tables[0], tables[-1]
    if column in rows.frame:
        raise ValueError(
            f"{str(scores)!r} has a column {column!r} already. Name the new one with "
            f"`--column`."
        )
    _check_known(rows, known, names, paths)
    found = _repair(rows, known, len(names), repair=repair, jitter=jitter)
    writers: dict = {
        out: partial(
            _score_tables.write_with,
            path=scores,
            columns=columns,
            name=column,
            values=found.fair.tolist(),
            state=before,
        )
    }
    if picture:
        drawn = plots.repair(
            rows.scores,
            found.fair,
            rows.groups,
            group_names=names,
            weights=rows.weights,
            labels=(f"{columns.score} [score]", f"{column} [score]"),
            title=f"{scores.name}, repair {repair:g}",
        )
        writers[picture] = partial(canvas.write, drawn, format=form)
    files.write_whole(writers)
    console = terminal.console(sys.stdout)
    if not quiet:
        console.print(_group_table(rows, known, found, names))
        console.print(_distance_table(found))
    sentences = [_source(scores, calibration, known, repair=repair, jitter=jitter)]
    sentences += [*_conclusion(found), *chance(rows.groups, rows.weights)]
    sentences += _doubts(rows, known, found, names, jitter=jitter, repair=repair)
    sentences += [f"Wrote {out}: {scores.name} with the column {column!r}."]
    sentences += [f"Wrote {picture}."] * (picture is not None)
    for sentence in sentences:
        console.print(sentence, soft_wrap=True)


def _check_outputs(
    scores: Path, calibration: Path | None, out: Path, picture: Path | None
) -> str:
    """The format of the picture, if any; both outputs can be written."""
    apart = {"the table of scores": scores}
    apart |= {"the table of `--calibration`": calibration} if calibration else {}
    terminal.check_output(out, option="--out", apart=apart)
    if picture is None:
        return ""
    terminal.need_matplotlib()
    form = terminal.picture_format(picture, option="--picture")
    apart |= {"the table of `--out`": out}
    terminal.check_output(picture, option="--picture", apart=apart)
    return form


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


def _repair(
    rows: Rows, known: Rows, n_groups: int, *, repair: float, jitter: int | None
) -> Repaired:
    fit_key = use_key = None if jitter is None else jax.random.key(jitter)
    if fit_key is not None and rows is not known:
        # Other rows must not share the calibration rows' jitter.
        use_key = jax.random.fold_in(fit_key, 1)
    # A group of weight 0 has no distribution, and is in the calibration table only.
    kept = np.bincount(known.groups, known.weights, n_groups) > 0
    codes = np.cumsum(kept, dtype=np.int32) - 1
    mine = kept[known.groups]
    equal = bool((known.weights[mine] == known.weights[mine][0]).all())
    fitted = barycenters.fit_map(
        known.scores[mine],
        codes[known.groups[mine]],
        n_groups=int(kept.sum()),
        weights=None if equal else known.weights[mine],
        key=fit_key,
        split=False,
    )
    fair = np.asarray(
        barycenters.apply_map(
            fitted, rows.scores, codes[rows.groups], repair=repair, key=use_key
        )
    )
    before, after = (
        distances_between(values, rows.groups, rows.weights, n_groups=n_groups)
        for values in (rows.scores, fair)
    )
    share = rows.weights / rows.weights.sum()
    change = float(share @ np.square(fair - rows.scores))
    means = (float(share @ rows.scores), float(share @ fair))
    return Repaired(fair, before, after, change, means)


def _group_table(
    rows: Rows, known: Rows, found: Repaired, names: tuple[str, ...]
) -> terminal.Table:
    head = ["group", "rows", "calibration\nrows", "mean\nbefore", "mean\nafter"]
    sizes = _score_tables.member_counts(rows.groups, len(names))
    known_sizes = _score_tables.member_counts(
        known.groups, len(names), known.weights > 0
    )
    cells = []
    for group, name in enumerate(names):
        mine = rows.groups == group
        weights = rows.weights[mine]
        means = [
            f"{np.average(v[mine], weights=weights):.4g}" if weights.sum() > 0 else "-"
            for v in (rows.scores, found.fair)
        ]
        cells.append([name, f"{sizes[group]:,}", f"{known_sizes[group]:,}", *means])
    return terminal.table("", head, cells)


def _distance_table(found: Repaired) -> terminal.Table:
    head = ["largest distance between two groups", "before", "after"]
    cells = [
        ["KS [0-1]", f"{found.before.ks:.4f}", f"{found.after.ks:.4f}"],
        [
            "Wasserstein-1 [score]",
            f"{found.before.wasserstein:.4g}",
            f"{found.after.wasserstein:.4g}",
        ],
    ]
    return terminal.table("", head, cells)


def _source(
    scores: Path,
    calibration: Path | None,
    known: Rows,
    *,
    repair: float,
    jitter: int | None,
) -> str:
    words = "these scores themselves" if calibration is None else str(calibration)
    how = "" if jitter is None else f", ties split at random with seed {jitter}"
    return (
        f"Repair {repair:g} of {scores.name}; distributions learned from {words}, "
        f"{int((known.weights > 0).sum()):,} rows{how}."
    )


def _conclusion(found: Repaired) -> list[str]:
    before, after = found.before, found.after
    return [
        f"KS distance between groups: {before.ks:.3f} before, {after.ks:.3f} after. "
        f"Wasserstein-1 distance: {before.wasserstein:.3g} before, "
        f"{after.wasserstein:.3g} after.",
        f"Price: a mean squared change of {found.change:.3g} (a typical score moves by "
        f"{np.sqrt(found.change):.3g}). Mean score: {found.means[0]:.4g} before, "
        f"{found.means[1]:.4g} after.",
    ]


def _doubts(
    rows: Rows,
    known: Rows,
    found: Repaired,
    names: tuple[str, ...],
    *,
    jitter: int | None,
    repair: float,
) -> list[str]:
    """What keeps the result from being exact."""
    doubts = []
    sizes = _score_tables.member_counts(known.groups, len(names), known.weights > 0)
    small = [
        f"{name} ({size:,})"
        for name, size in zip(names, sizes, strict=True)
        if 0 < size < terminal.FEW
    ]
    if small:
        doubts.append(
            f"Warning: calibration groups of fewer than {_terminal.FEW} rows: "
            f"{', '.join(small)}. What their scores become is uncertain."
        )
    block = _largest_block(known)
    if jitter is None and repair > 0 and block >= TIED and found.after.ks > 1e-9:
        doubts.append(
            f"Note: up to {block:.0%} of a group have one score, and equal scores of "
            f"a group stay equal. Exact parity needs `--jitter SEED`, which splits "
            f"them at random."
        )
    outside = _outside(rows, known)
    if outside and repair > 0:
        doubts.append(
            f"Note: {outside:,} of {rows.scores.size:,} scores lie outside the "
            f"calibration scores of their group, where the fair score is constant."
        )
    return doubts


def _largest_block(known: Rows) -> float:
    """Largest share of a group that several rows with one score have."""
    order = np.lexsort((known.scores, known.groups))
    scores, groups = known.scores[order], known.groups[order]
    fresh = np.append(True, (scores[1:] != scores[:-1]) | (groups[1:] != groups[:-1]))
    block = np.cumsum(fresh) - 1
    mass = np.bincount(block, known.weights[order])
    several = np.bincount(block) > 1
    total = np.bincount(known.groups, known.weights)[groups[fresh]]
    shares = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    return float(np.max(shares, where=several, initial=0.0))


def _outside(rows: Rows, known: Rows) -> int:
    """Rows beyond the calibration range of their group; weight 0 has no part in it."""
    used = known.weights > 0
    if rows is known and used.all():
        return 0
    n_groups = int(max(rows.groups.max(), known.groups.max())) + 1
    low, high = np.full(n_groups, np.inf), np.full(n_groups, -np.inf)
    np.minimum.at(low, known.groups[used], known.scores[used])
    np.maximum.at(high, known.groups[used], known.scores[used])
    beyond = (rows.scores < low[rows.groups]) | (rows.scores > high[rows.groups])
    return int(beyond.sum())
