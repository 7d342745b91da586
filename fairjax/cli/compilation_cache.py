"""How the command runs: with other processes, and with the programs of earlier runs."""

import contextlib
import functools
import hashlib
import importlib.metadata
import math
import os
import platform
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import jax

from .. import files
from . import rendezvous, terminal
from .rendezvous import Place

_GONE = (
    "another process has ended, or no longer answers: see what it says. What was "
    "finished lies in `--checkpoint`, if that was given: start all processes again."
)
_WORTH_KEEPING = 0.1  # seconds of compilation


@contextlib.contextmanager
def joined(place: Place | None) -> Iterator[jax.sharding.Mesh | None]:
    """Yields a mesh of all devices of all processes, or None for one that is alone.

    No wait is longer than `place.wait`: for processes to come, for one whose machine no
    longer answers (then JAX ends the others), and for all to end. What fails inside
    ends this process, once it has been told: at its usual end JAX would wait for the
    others. Those that have met at an address notice that it has ended, say so, and end
    as well.

    Raises:
        OSError: where others do not come, or the port is taken.
        ValueError: where they do not fit together, or JAX finds none.
    """
    if place is None:
        yield None
        return
    lines = []
    if place.host and place.processes > 1:
        lines = rendezvous.meet(place)
    elif not place.host:
        rendezvous.say(
            f"Waiting for the processes that JAX finds, at most {place.wait:g} s."
        )
    ending = threading.Lock()  # Whoever has it ends this process, and never returns it.

    def gone() -> NoReturn:
        files.WRITING.acquire()  # What is being written is written whole.
        ending.acquire()
        try:
            if sys.stderr.isatty():
                print(file=sys.stderr)  # Below a progress bar.
            terminal.tell(ChildProcessError(_GONE))
        finally:
            os._exit(2)  # Even where nobody reads.

    with contextlib.ExitStack() as stack:
        for line in lines:
            stack.enter_context(line)
        stack.enter_context(_stdout_of_libraries_dropped())
        if lines:
            rendezvous.watch(lines, gone)
        try:
            _start(place)
        except BaseException:
            ending.acquire()  # The others end for this, and need not be told of.
            raise
        try:
            yield jax.make_mesh((jax.device_count(),), ("points",))
        except BaseException as error:
            if "Gloo" in str(error) or isinstance(error, jax.errors.JaxRuntimeError):
                gone()
            ending.acquire()
            status = terminal.tell(error)
            if status == 2:
                jax.distributed.shutdown()
            _exit(status)
        ending.acquire()
        # All come here before any of them ends.
        jax.distributed.shutdown()


def _exit(status: int) -> NoReturn:
    """Without what JAX does at the end of a process: it would wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _start(place: Place) -> None:
    if jax.config.jax_cpu_collectives_implementation in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Below some seconds, a busy process seems a dead one.
    seconds = max(10, math.ceil(place.wait))
    join = functools.partial(
        jax.distributed.initialize,
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=seconds,
        shutdown_timeout_seconds=seconds,
    )
    try:
        if place.host:
            join(
                rendezvous.address(place),
                place.processes,
                place.own,
                cluster_detection_method="deactivate",
            )
        else:
            join()
    except (RuntimeError, ValueError) as error:
        if place.host:
            raise OSError(f"JAX cannot join the processes: {error}") from error
        raise ValueError(
            f"`--coordinator auto` needs a cluster that JAX knows, such as Slurm or a "
            f"cloud TPU: {error} Give `--coordinator HOST:PORT`, `--processes` and "
            f"`--process-id` instead."
        ) from error


@contextlib.contextmanager
def _stdout_of_libraries_dropped() -> Iterator[None]:
    """The library gloo tells of its connections there, among the results."""
    sys.stdout.flush()
    with open(os.dup(1), "w", encoding="utf-8", errors="replace") as stream:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        try:
            with contextlib.redirect_stdout(stream):
                yield
        finally:
            stream.flush()
            os.dup2(stream.fileno(), 1)


@contextlib.contextmanager
def programs_kept(wanted: bool) -> Iterator[None]:
    """Compiled programs are found again by later runs, in the user's cache directory.

    A directory that the user has named to JAX is left alone. One that cannot be written
    is done without. Before JAX 0.11 nothing is kept: there, a process with many
    programs was seen to crash as it wrote one, and on some processors each program
    that is read back is reported as a mismatch (github.com/jax-ml/jax/issues/38445).
    """
    names: dict[str, bool | float | str] = {"jax_enable_compilation_cache": wanted}
    if wanted and jax.config.jax_compilation_cache_dir is None:
        folder = _cache_folder() if jax.__version_info__ >= (0, 11) else None
        if folder is not None:
            names["jax_compilation_cache_dir"] = folder
            names["jax_persistent_cache_min_compile_time_secs"] = _WORTH_KEEPING
    before = {name: getattr(jax.config, name) for name in names}
    with warnings.catch_warnings():
        # A full disk, or an entry that is damaged: the program is compiled.
        warnings.filterwarnings("ignore", message=".*persistent compilation cache.*")
        for name, value in names.items():
            jax.config.update(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)


def _cache_folder() -> str | None:
    """One for each jaxlib and kind of processor: homes are shared by machines.

    A program for another processor could end in an illegal instruction.
    """
    version = importlib.metadata.version("jaxlib")
    kind = f"{version} {platform.machine()} {platform.processor()}"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = [line for line in lines if line.startswith(("flags", "Features"))]
        kind += "".join(found[:1])
    name = hashlib.sha256(kind.encode()).hexdigest()[:16]
    try:
        import pooch

        folder = Path(pooch.os_cache("fairjax")) / "programs" / name
        folder.mkdir(parents=True, exist_ok=True)
        files.check_writable(folder / "program")
    except (ImportError, OSError, RuntimeError):
        return None
    return str(folder)
