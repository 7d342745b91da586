"""What every benchmark shares: laps, peak memory, and the machine it ran on."""

import importlib.metadata
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class Laps(NamedTuple):
    """Seconds of the same call, again and again.

    Attributes:
        first: the first call, with compilation.
        median: of the later calls.
        fastest: of the later calls.
        slowest: of the later calls.
        repeats: their number; 0 where one call is all, and these are its seconds.
    """

    first: float
    median: float
    fastest: float
    slowest: float
    repeats: int

    def per(self, count: int) -> "Laps":
        """Seconds for each of so many things that a call does."""
        first, median, fastest, slowest = (lap / count for lap in self[:-1])
        return Laps(first, median, fastest, slowest, self.repeats)


def summary(laps: list[float]) -> Laps:
    """The first lap apart from the others."""
    later = laps[1:] or laps
    median = float(np.median(later))
    return Laps(laps[0], median, min(later), max(later), len(laps) - 1)


def seconds(fn: Callable[[], object], *, repeats: int = 5) -> Laps:
    """Times a first call, which compiles, and so many later ones."""
    laps = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        laps.append(time.perf_counter() - start)
    return summary(laps)


@contextmanager
def peak_memory(*, host: bool = False) -> Iterator[list[float]]:
    """Collects how far memory rose above its start [MB]; NaN where nobody can say.

    On a CPU, and for what stays on the host, it is the resident memory of the process,
    on Linux; on other devices what JAX's allocator counts, where this block sets its
    record.
    """
    found, device = [float("nan")], jax.devices()[0]
    statm = Path("/proc/self/statm")
    if device.platform != "cpu" and not host:
        before = device.memory_stats() or {}
        yield found
        after = device.memory_stats() or {}
        peak = after.get("peak_bytes_in_use", 0)
        if peak > before.get("peak_bytes_in_use", 0):
            found[0] = (peak - before["bytes_in_use"]) / 1e6
        return
    if not statm.exists():
        yield found
        return
    page = os.sysconf("SC_PAGE_SIZE") / 1e6

    def resident() -> float:
        return int(statm.read_text().split()[1]) * page

    start = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found[0] = peak - start


def held(program, *args: object) -> float:
    """What a jitted program holds beside arguments and results, says XLA [MB]."""
    plan = program.lower(*args).compile().memory_analysis()
    return plan.temp_size_in_bytes / 1e6


def once(program, args: tuple) -> tuple[Any, float]:
    """The result of one call, and the memory it took [MB]: XLA's plan, or measured."""
    if hasattr(program, "lower"):
        return jax.block_until_ready(program(*args)), held(program, *args)
    with peak_memory(host=True) as rise:
        result = program(*args)
    return result, rise[0]


def cores() -> int | None:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def machine(*packages: str) -> str:
    """One line: device, cores, the versions that matter, and how busy it is."""
    device = jax.devices()[0]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", *packages)
    )
    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{device.device_kind} ({device.platform}), {cores()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, {versions}{load}"
    )
