"""Where processes meet: the first one listens, and tells who has not come yet.

They meet here before `jax.distributed` joins them, because that ends a process outright
when another one is missing. Their lines stay open, so that the end of one is known at
once: JAX learns of it with the next collective, or when heartbeats fail to come.
"""

import contextlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from . import terminal

WAIT, LONGEST = 60.0, 604_800.0  # seconds
_AUTO = "auto"
_LETTERS = 1024  # of a message between processes


class Place(NamedTuple):
    """Where a process stands among others.

    Attributes:
        host: of the first process; empty where JAX finds the others by itself.
        port: where it listens.
        processes: how many there are.
        own: which one this is.
        wait: seconds to wait for others.
    """

    host: str
    port: int
    processes: int
    own: int
    wait: float


def place(
    coordinator: str | None,
    processes: int | None,
    process_id: int | None,
    wait: float | None,
) -> Place | None:
    """Reads the options; None for a process that works alone."""
    given = {
        "--coordinator": coordinator,
        "--processes": processes,
        "--process-id": process_id,
    }
    if wait is not None and not 0 < wait <= LONGEST:
        raise ValueError(
            f"`--wait` must be seconds above 0, at most {LONGEST:g}, a week, but is "
            f"{wait:g}."
        )
    limit = WAIT if wait is None else wait
    if coordinator == _AUTO:
        if processes is not None or process_id is not None:
            raise ValueError(
                "`--coordinator auto` finds `--processes` and `--process-id` by "
                "itself. Leave them out."
            )
        return Place("", 0, 0, 0, limit)
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if wait is not None:
            raise ValueError("`--wait` has no use without `--coordinator`.")
        return None
    if coordinator is None or processes is None or process_id is None:
        raise ValueError(
            f"`--coordinator`, `--processes` and `--process-id` belong together, but "
            f"{' and '.join(f'`{name}`' for name in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise ValueError(
            f"`--coordinator` must be HOST:PORT, such as 10.0.0.1:9876, or auto, but "
            f"is {coordinator!r}."
        )
    if processes < 1:
        raise ValueError(f"`--processes` must be at least 1, but is {processes}.")
    if not 0 <= process_id < processes:
        raise ValueError(
            f"`--process-id` must be from 0 to {processes - 1}, one less than "
            f"`--processes`, but is {process_id}."
        )
    return Place(host.strip("[]"), int(port), processes, process_id, limit)


def meet(place: Place) -> list[socket.socket]:
    """Returns when all processes have come to the coordinator's address.

    Returns:
        Open lines: those of the first process to all others, of another one to it. None
        is used any more; one breaks when the process at its other end ends.
    """
    end = time.monotonic() + place.wait
    return _receive(place, end) if place.own == 0 else [_come(place, end)]


def watch(lines: Iterable[socket.socket], broken: Callable[[], object]) -> None:
    """Calls a function, in a thread of its own, as soon as any line breaks.

    The thread lasts as long as the process.
    """
    selector = selectors.DefaultSelector()
    for line in lines:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        selector.register(line, selectors.EVENT_READ)

    def wait() -> None:
        with selector:
            selector.select()
        broken()

    threading.Thread(target=wait, daemon=True).start()


def _come(place: Place, end: float) -> socket.socket:
    say(
        f"Waiting for the other processes at {address(place)}, at most "
        f"{place.wait:g} s."
    )
    reason = "no answer"
    while (left := end - time.monotonic()) > 0:
        with contextlib.ExitStack() as stack:
            try:
                line = socket.create_connection((place.host, place.port), left)
                stack.enter_context(line)
                line.sendall(f"fairjax {place.processes} {place.own}\n".encode())
                # The first process may have begun to wait later than this one.
                line.settimeout(place.wait + 10)
                answer = _read(line)
            except OSError as error:
                reason = str(error)
                time.sleep(min(0.2, max(left, 0)))
                continue
            if answer == "go":
                stack.pop_all()
                return line
            if answer:
                raise ValueError(answer)
            reason = "it hung up"
    raise OSError(
        f"process 0 was not to be reached at {address(place)} within {place.wait:g} "
        f"s: {reason}. See that it runs, and that `--coordinator` names its machine."
    )


def _receive(place: Place, end: float) -> list[socket.socket]:
    lines: dict[int, socket.socket] = {}
    missing = set(range(1, place.processes))
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(
            ("", place.port), family=family, dualstack_ipv6=both
        )
    except OSError as error:
        raise OSError(
            f"port {place.port} cannot be used here: {error.strerror}. Name another "
            f"one in `--coordinator`, in all processes."
        ) from error
    with server, contextlib.ExitStack() as stack:
        say(
            f"Waiting for {_named(missing)} at {address(place)}, at most "
            f"{place.wait:g} s."
        )
        try:
            while missing:
                left = end - time.monotonic()
                server.settimeout(max(left, 0.001))
                try:
                    line = stack.enter_context(server.accept()[0])
                except TimeoutError:
                    raise OSError(
                        f"{_named(missing)} did not come to {address(place)} within "
                        f"{place.wait:g} s. Start all {place.processes} processes, or "
                        f"wait longer with `--wait`."
                    ) from None
                own = _introduced(line, place, taken=lines)
                if own is None:
                    line.close()
                    continue
                if own in lines:
                    lines[own].close()
                lines[own] = line
                missing.discard(own)
        except (OSError, ValueError) as error:
            _answer(lines.values(), str(error))
            raise
        _answer(lines.values(), "go")
        stack.pop_all()
        return list(lines.values())


def _introduced(
    line: socket.socket, place: Place, *, taken: Mapping[int, socket.socket]
) -> int | None:
    """Which process calls; None for anything else that knocks at a port."""
    line.settimeout(2)
    try:
        name, processes, own = _read(line).split()
        processes, own = int(processes), int(own)
    except (OSError, ValueError):
        return None
    if name != "fairjax" or not own > 0:
        return None
    problem = ""
    if processes != place.processes:
        problem = (
            f"`--processes` must be the same everywhere, but is {place.processes} in "
            f"process 0 and {processes} in process {own}."
        )
    elif own in taken and not _hung_up(taken[own]):
        problem = (
            f"`--process-id` must be another one in each process, but {own} is there "
            f"twice."
        )
    if problem:
        _answer([line], problem)
        raise ValueError(problem)
    return own


def _hung_up(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return not line.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _answer(lines: Iterable[socket.socket], words: str) -> None:
    for line in lines:
        with contextlib.suppress(OSError):
            line.sendall(words.encode()[: _LETTERS - 1] + b"\n")


def _read(line: socket.socket) -> str:
    """A line of text; empty where the other side has hung up."""
    found = b""
    while not found.endswith(b"\n") and len(found) < _LETTERS:
        part = line.recv(_LETTERS)
        if not part:
            return ""
        found += part
    return found.decode(errors="replace").strip()


def _named(processes: Iterable[int]) -> str:
    names = [str(process) for process in sorted(processes)]
    shown = ", ".join(names[:10]) + (" and others" if len(names) > 10 else "")
    return f"process{'' if len(names) == 1 else 'es'} {shown}"


def address(place: Place) -> str:
    """As `--coordinator` has it."""
    host = f"[{place.host}]" if ":" in place.host else place.host
    return f"{host}:{place.port}"


def say(words: str) -> None:
    """A line of the command on standard error."""
    print(terminal.line(words), file=sys.stderr, flush=True)
