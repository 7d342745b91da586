"""What every benchmark shares: laps, peak memory, and the machine it ran on."""

import importlib.metadata
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np


def seconds(fn: Callable[[], object], *, repeats: int = 5) -> tuple[float, float]:
    """Returns (first call including compilation, median of the later calls)."""
    laps = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        laps.append(time.perf_counter() - start)
    return laps[0], float(np.median(laps[1:])) if repeats else laps[0]


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Collects how far resident memory rose above its start [MB], on Linux."""
    statm = Path("/proc/self/statm")
    found = [float("nan")]
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


def once(program, args: tuple) -> tuple[object, float]:
    """The result of one call, and the memory it took [MB]: XLA's plan, or measured."""
    if hasattr(program, "lower"):
        return jax.block_until_ready(program(*args)), held(program, *args)
    with peak_memory() as rise:
        result = program(*args)
    return result, rise[0]


def machine(*packages: str) -> str:
    """One line: device, cores, and the versions that matter."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", *packages)
    )
    return (
        f"{device.device_kind} ({device.platform}), {cores} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, {versions}"
    )
