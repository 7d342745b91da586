"""What a benchmark yields: one record per case, size and alternative.

A script prints its records, or writes one JSON object per line for the runner, so that
nothing is measured in two ways. Nothing here imports JAX: the process that collects
records must not hold the device.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Fields that JSON may hold as words: "nan", "inf" or "-inf".
NUMBERS = ("first", "median", "fastest", "slowest", "memory", "error")


class Record(NamedTuple):
    """One measurement.

    Attributes:
        benchmark: name of the script.
        case: what is computed, such as "d = 64"; alternatives share it.
        size: how much of it.
        unit: what the size counts, such as "rows per group".
        alternative: who computes it; ours begin with "fairjax".
        first: the first call, with compilation [s].
        median: of the calls after it [s].
        fastest: of the same calls [s].
        slowest: of the same calls [s].
        repeats: their number; 0 where one call is all there is, and these are its
            seconds.
        memory: held beside arguments and results: XLA's plan of a compiled program,
            otherwise how far the process rose [MB].
        error: against float64, or what `error_is` says.
        error_is: in words.
        operations: floating-point operations of the matrix products that the task
            needs, however it is computed.
        traffic: bytes that the task must read and write.
        precision: data type of the computation.
        host: True for what stays on the host's CPU, whatever device JAX sees.
        notes: further numbers by name.
    """

    benchmark: str
    case: str
    size: float
    unit: str
    alternative: str
    first: float
    median: float
    fastest: float
    slowest: float
    repeats: int
    memory: float | None = None
    error: float | None = None
    error_is: str = ""
    operations: float | None = None
    traffic: float | None = None
    precision: str = "float32"
    host: bool = False
    notes: Mapping[str, float | str] = {}

    @property
    def ours(self) -> bool:
        """Whether fairjax computes it."""
        return self.alternative.startswith("fairjax")

    @property
    def place(self) -> tuple[str, str, float]:
        """What alternatives share: benchmark, case and size."""
        return self.benchmark, self.case, self.size


def floor(
    record: Record, ceilings: Mapping[str, float], *, platform: str
) -> float | None:
    """The least seconds that the device's ceilings allow; None where not known.

    Args:
        record: with operations, traffic or both; the larger of their times counts.
        ceilings: rates by name, `copy` [bytes/s] and one product per precision, such
            as `float32 product` [operations/s].
        platform: of the device that has these ceilings; what stays on the host has
            them only if this is "cpu".
    """
    if record.host and platform != "cpu":
        return None
    times = [
        amount / ceilings[name]
        for name, amount in (
            (f"{record.precision} product", record.operations),
            ("copy", record.traffic),
        )
        if amount is not None and ceilings.get(name)
    ]
    return max(times, default=None)


def share(
    record: Record, ceilings: Mapping[str, float], *, platform: str
) -> float | None:
    """The part of the device's ceiling that was reached; above 1 inside a cache."""
    least = floor(record, ceilings, platform=platform)
    return None if least is None or not record.median > 0 else least / record.median


def times_ours(records: Iterable[Record]) -> list[float | None]:
    """How many times as long as fairjax in the same case and size each one takes."""
    records = list(records)
    ours = {r.place: r.median for r in records if r.alternative == "fairjax"}
    return [r.median / ours[r.place] if ours.get(r.place) else None for r in records]


def finite(value):
    """The same with words for NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    return float(value) if math.isfinite(value) else str(float(value))


def to_json(record: Record) -> str:
    """One line of JSON."""
    if record.memory is not None and math.isnan(record.memory):
        record = record._replace(memory=None)  # Nobody could say.
    return json.dumps(finite(record._asdict()), allow_nan=False)


def from_json(line: str) -> Record | None:
    """The record of a line; None for a line that holds none."""
    try:
        record = Record(**json.loads(line))
        numbers = {name: getattr(record, name) for name in NUMBERS}
        found = {k: None if v is None else float(v) for k, v in numbers.items()}
    except (ValueError, TypeError):
        return None
    return record._replace(**found)


def fault(record: Record) -> str:
    """Why its seconds are none; empty where they are."""
    laps = (record.first, record.median, record.fastest, record.slowest)
    if all(lap is not None and 0 <= lap < math.inf for lap in laps):
        return ""
    words = ", ".join(map(str, laps))
    return f"has no seconds for {record.alternative}, {record.case}: {words}"


def number(value: float | None) -> str:
    """Three digits, and nothing for None or NaN."""
    if value is None or not math.isfinite(value):
        return ""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value) or 1)))}f}"
    return f"{value:.1e}"


def heading(record: Record) -> str:
    """The line above the records of one case and size."""
    place = f"{record.case}, {record.size:,.0f} {record.unit}"
    return (
        f"{place:40} {'first s':>8} {'median s':>9} {'fastest to slowest':>19}"
        f" {'error':>8} {'MB':>7}"
    )


def line(record: Record) -> str:
    """One line of a table in the terminal; notes come last."""
    spread = ""
    if record.repeats:
        spread = f"{number(record.fastest)} to {number(record.slowest)}"
    error = "" if record.error is None else f"{record.error:.0e}"
    notes = "; ".join(
        f"{name} {value if isinstance(value, str) else f'{value:.4g}'}"
        for name, value in record.notes.items()
    )
    text = (
        f"  {record.alternative:38} {number(record.first):>8}"
        f" {number(record.median):>9} {spread:>19} {error:>8}"
        f" {number(record.memory):>7}  {notes}"
    )
    return text.rstrip()


def parser_for(doc: str | None) -> argparse.ArgumentParser:
    """The options that all scripts share; the first line of the header says what."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument(
        "--smoke", action="store_true", help="tiny, to see that it runs"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per line, for the runner"
    )
    return parser


def tell(machine: str, records: Iterable[Record], *, as_json: bool) -> None:
    """Prints records as they come: a table, or JSON lines."""
    if as_json:
        for record in records:
            print(to_json(record), flush=True)
        return
    print(machine)
    place = None
    for record in records:
        if record.place != place:
            place = record.place
            print(f"\n{heading(record)}")
        print(line(record), flush=True)
