"""Checkpoints: chunks of results on disk that only the same sweep takes up again.

A directory belongs to one sweep, described line by line in its manifest; the manifest's
hash is the stamp of every chunk. orbax writes a chunk, whole or not at all, and a seal
beside it tells whose it is and what its files hold: one that is damaged or stamped
otherwise counts as absent.
"""

import hashlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from .. import files as _files
from . import processes
from .fingerprints import content, form


class Store:
    """Parts of a result on disk, for one process or several; or nothing at all.

    Args:
        checkpoint: the directory; None for no checkpoint.
        manifest: lines that tell this result from any other.
        info: shapes and dtypes of a part.
        part: what a part is called.
        several: whether processes share it: then the first reads and writes.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None,
        manifest: dict[str, str],
        info: PyTree,
        *,
        part: str,
        several: bool = False,
    ) -> None:
        self.directory = None if checkpoint is None else pathlib.Path(checkpoint)
        self.info, self.part, self.several = info, part, several
        self.identity = digest(manifest).hex()
        self._once(lambda at: claim(at, manifest))

    def load(self, number: int) -> PyTree | None:
        """A part that was saved before."""
        stamp, name = self._names(number)
        found = self._once(lambda at: load(at / name, stamp, self.info))
        if self.several and self.directory is not None:
            return processes.from_first(found, self.info)
        return found

    def save(self, number: int, values: PyTree) -> None:
        """Writes a part, whole or not at all."""
        stamp, name = self._names(number)
        self._once(lambda at: store(at / name, stamp, values))

    def _names(self, number: int) -> tuple[str, str]:
        return f"{self.identity}-{number}", f"{self.part}-{number:05d}"

    def _once(self, action: Callable[[pathlib.Path], Any]) -> Any:
        at = self.directory
        if at is None:
            return None
        return processes.by_first(lambda: action(at)) if self.several else action(at)


def describe(name: str, tree: PyTree) -> dict[str, str]:
    """Lines of a manifest: form and hash of every array of a pytree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name + jax.tree_util.keystr(path): content(leaf) for path, leaf in leaves}


def describe_form(name: str, tree: PyTree) -> dict[str, str]:
    """Lines of a manifest: form of every array of a pytree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name + jax.tree_util.keystr(path): form(leaf) for path, leaf in leaves}


def digest(manifest: dict[str, str]) -> bytes:
    """What tells a sweep from any other."""
    return hashlib.sha256(_text(manifest)).digest()


def claim(directory: pathlib.Path, manifest: dict[str, str]) -> None:
    """Takes the directory for this sweep, or raises if another one lives there."""
    file = directory / "sweep.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)  # By a process that was killed.
        found = _manifest_in(file)
        if found is None:
            _files.write_whole({file: lambda stream: stream.write(_text(manifest))})
    except OSError as error:
        raise ValueError(
            f"`checkpoint` must be a directory that can be written: {error}."
        ) from error
    if found is not None and found != manifest:
        names = sorted(manifest.keys() | found.keys())
        differ = "; ".join(
            f"{name} is {found.get(name, 'absent')} there, "
            f"{manifest.get(name, 'absent')} here"
            for name in names
            if found.get(name) != manifest.get(name)
        )
        raise ValueError(
            f"`checkpoint` {directory} holds another sweep: {differ}. Name another "
            f"directory, or delete this one to start afresh."
        )


def _manifest_in(file: pathlib.Path) -> dict[str, str] | None:
    """None where there is none, or a damaged one: chunks still tell whose they are."""
    try:
        found = json.loads(file.read_bytes()) if file.exists() else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _text(manifest: dict[str, str]) -> bytes:
    return json.dumps(manifest, indent=1, sort_keys=True).encode()


def store(at: pathlib.Path, stamp: str, values: PyTree) -> None:
    """Writes the values of a chunk; it is there once its seal is, the last to come."""
    # orbax refuses arrays without entries, whose form says all there is to say.
    leaves = [leaf for leaf in jax.tree.leaves(values) if math.prod(leaf.shape)]
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(at.absolute(), leaves, force=True)
        seal = _text(_seal(at, stamp))
        _files.write_whole({_seal_of(at): lambda stream: stream.write(seal)})
    except Exception as error:  # Storage libraries raise almost anything.
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"`checkpoint` {at.parent} cannot be written: {words.rstrip('.')}. Make "
            f"room, or name another directory."
        ) from error


def load(at: pathlib.Path, stamp: str, info: PyTree) -> PyTree | None:
    """The values of a chunk; None unless it is there, whole and ours."""
    expected, structure = jax.tree.flatten(info)
    try:
        if json.loads(_seal_of(at).read_bytes()) != _seal(at, stamp):
            return None
        with _checkpointer() as checkpointer:
            stored = iter(checkpointer.restore(at.absolute()))
        leaves = [
            np.asarray(next(stored))
            if math.prod(want.shape)
            else np.zeros(want.shape, want.dtype)
            for want in expected
        ]
    except Exception:  # And a damaged chunk anything; recompute it.
        return None
    same = [form(leaf) for leaf in leaves] == [form(want) for want in expected]
    return jax.tree.unflatten(structure, leaves) if same else None


def _checkpointer() -> Any:
    """For this process alone: where several share a directory, the first has it."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix="fairjax"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _seal_of(at: pathlib.Path) -> pathlib.Path:
    return at.with_suffix(".json")


def _seal(at: pathlib.Path, stamp: str) -> dict[str, str]:
    """Whose chunk it is, and a hash of each of its files."""
    files = sorted(path for path in at.rglob("*") if path.is_file())
    return {"stamp": stamp} | {
        path.relative_to(at).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
