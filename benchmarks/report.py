"""Records as a table of Markdown, with shares of the device's ceilings."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from .records import Record, number, share, times_ours

COLUMNS = (
    "case",
    "size",
    "alternative",
    "first s",
    "median s",
    "fastest to slowest s",
    "repeats",
    "x fairjax",
    "share of ceiling",
    "memory MB",
    "error",
)


def with_shares(
    records: Sequence[Record], ceilings: Mapping[str, Mapping[str, Any]], platform: str
) -> list[dict[str, Any]]:
    """Records as dictionaries, each with its share of the ceiling, or None."""
    rates = {name: ceiling["rate"] for name, ceiling in ceilings.items()}
    return [
        record._asdict() | {"share": share(record, rates, platform=platform)}
        for record in records
    ]


def table(
    about: Mapping[str, Any],
    ceilings: Mapping[str, Mapping[str, Any]],
    records: Sequence[Record],
    failures: Mapping[str, str],
) -> str:
    """What a run found, as Markdown: the machine, its ceilings, a table for each."""
    device, lines = about["device"], ["# Benchmarks", ""]
    facts = {
        "device": f"{device['kind']} ({device['platform']}), "
        f"{device.get('count', '?')} of them",
        "host": f"{device.get('processor') or device.get('machine', 'unknown')}, "
        f"{device.get('cores', '?')} cores, load {number(about['load'])} at the start",
        "versions": ", ".join(f"{k} {v}" for k, v in about["versions"].items()),
        "precision": ", ".join(f"{k}: {v}" for k, v in about["precision"].items()),
        "time": f"{about['started']} to {about['finished'] or '(not finished)'}",
    }
    if about["smoke"]:
        facts["sizes"] = "smoke: that it runs is all that these numbers tell"
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    lines += ["", *_rows(["ceiling", "rate", "unit"], _ceiling_rows(ceilings)), ""]
    for name, group in groupby(records, key=lambda record: record.benchmark):
        found = list(group)
        lines += [f"## {name}", ""]
        lines += _rows(COLUMNS, _record_rows(found, ceilings, device["platform"]))
        kinds: dict[str, dict[str, None]] = {}
        for record in found:
            if record.error is not None:
                kinds.setdefault(record.error_is, {})[record.alternative] = None
        lines += [""]
        lines += [f"- error of {', '.join(who)}: {kind}" for kind, who in kinds.items()]
        lines += [""] if kinds else []
    if failures:
        lines += ["## Failures", ""]
        lines += [f"- {name} {trouble}" for name, trouble in failures.items()]
        lines.append("")
    return "\n".join(lines)


def _ceiling_rows(ceilings):
    for name, ceiling in ceilings.items():
        yield name, f"{ceiling['rate']:.3g}", ceiling["unit"]


def _record_rows(records, ceilings, platform):
    shares = [row["share"] for row in with_shares(records, ceilings, platform)]
    for record, part, ratio in zip(records, shares, times_ours(records), strict=True):
        spread = f"{number(record.fastest)} to {number(record.slowest)}"
        yield (
            record.case,
            f"{record.size:,.0f} {record.unit}",
            record.alternative,
            number(record.first),
            number(record.median),
            spread if record.repeats else "",
            str(record.repeats),
            number(ratio),
            "" if part is None else f"{100 * part:.3g} %",
            number(record.memory),
            "" if record.error is None else f"{record.error:.1e}",
        )


def _rows(columns, rows):
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" * len(columns)
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in row)
        yield "| " + " | ".join(cells) + " |"
