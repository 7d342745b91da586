"""Files that are written whole or not at all.

Everything is written aside first, next to where it belongs, and moved into place when
all of it is complete: whatever fails before leaves older files as they were.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

Writers = Mapping[Path, Callable[[IO[bytes]], object]]

_PARTIAL = ".fairjax-"


def write_whole(writers: Writers) -> None:
    """Writes files by these functions of an open binary stream; all, or none.

    Raises:
        OSError: for a place that cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole({Path(folder, "a"): lambda stream: stream.write(b"one")})
        ...     os.listdir(folder)
        ['a']
    """
    moves: list[tuple[Path, Path]] = []
    try:
        for path, write in writers.items():
            target = _target(path)
            aside = _aside(target)
            moves.append((aside, target))
            with open(aside, "xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
        for aside, target in moves:
            os.replace(aside, target)
    finally:
        for aside, _ in moves:
            aside.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Removes what a killed process was writing into a folder of its own."""
    for partial in folder.glob(f"{_PARTIAL}*"):
        partial.unlink(missing_ok=True)


def state(path: Path) -> tuple[int, ...]:
    """Device, inode, size and time of change of a file: they differ when it does."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_state(path: Path, before: tuple[int, ...]) -> None:
    """Raises `ValueError` when the file is not as it was before."""
    if state(path) != before:
        raise ValueError(
            f"{str(path)!r} has changed while it was read. Run again when it is whole."
        )


def check_writable(path: Path) -> None:
    """Raises `OSError` unless a file can be written, or replaced, there."""
    aside = _aside(_target(path))
    with open(aside, "xb"):
        pass
    aside.unlink()


@contextlib.contextmanager
def folder_for(folder: Path, names: Iterable[str]) -> Iterator[list[Path]]:
    """Yields the paths of files to be written in a folder, which is made if need be.

    What was made goes again when the block fails.

    Raises:
        OSError: at once, when the files could not be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in names]
        for path in paths:
            check_writable(path)
        yield paths
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _aside(target: Path) -> Path:
    """A new name next to the target, for a file that is not yet whole."""
    return target.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")


def _target(path: Path) -> Path:
    """The file behind a link, which stays one; a device is never replaced."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f"{str(path)!r} is there and is no file")
    return target
