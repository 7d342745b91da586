"""Public files, each pinned by its digest.

A file comes from the folder `data_dir`; when that is left out, from the folder named by
the environment variable `FAIRJAX_DATA_DIR`, or else from a download into the user's
cache. Its SHA-256 must be the known one, wherever it comes from.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from . import columns

Location = str | os.PathLike[str]


class File(NamedTuple):
    """The address at which a file is published, and its digest there."""

    url: str
    sha256: str


def _pinned() -> dict[str, File]:
    """The files of `sources.txt`, by name: a registry as Pooch reads them."""
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    return {name: File(url, sha256) for name, sha256, url in map(str.split, lines)}


FILES = _pinned()


def read_table(name: str, data_dir: Location | None, **options: Any) -> columns.Frame:
    """The table of a pinned file; the options are those of `pandas.read_csv`."""
    path = find(name, data_dir)
    return columns.extra("pandas").read_csv(path, **options)


def find(name: str, data_dir: Location | None) -> Path:
    """The path of a pinned file: local, or downloaded; its SHA-256 holds either way."""
    url, sha256 = FILES[name]
    folder = os.environ.get("FAIRJAX_DATA_DIR") if data_dir is None else data_dir
    if folder is not None and (path := Path(folder, name)).is_file():
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{str(path)!r} is not the file that fairjax knows: its SHA-256 is "
                f"{found}, expected {sha256}. Replace it by {url}, or remove it, or "
                f"read your own version with `from_csv`."
            )
        return path
    if data_dir is not None:
        raise ValueError(
            f"`data_dir` = {str(data_dir)!r} is not a folder with {name!r}. Put {url} "
            f"there, or leave out `data_dir` to download it."
        )
    pooch = columns.extra("pooch")
    try:
        return Path(
            pooch.retrieve(
                url, f"sha256:{sha256}", fname=name, path=pooch.os_cache("fairjax")
            )
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot download {url}: {error}. Put the file into a folder and name that "
            f"in `data_dir` or in the environment variable FAIRJAX_DATA_DIR."
        ) from error
