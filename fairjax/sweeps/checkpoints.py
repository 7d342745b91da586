"""Checkpoints: finished batches on disk that only the same sweep takes up again.

A directory belongs to one sweep, described line by line in its manifest: digests of
points and data, options, and a digest of the program. A batch is one `.npz` file,
written whole or not at all and stamped with the hash of the manifest; one that is
damaged (the format has checksums) or stamped otherwise counts as absent.
"""

import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jaxtyping import PyTree

from .. import files
from .batches import Work, map_batches
from .progress import Progress


class Checkpoint:
    """Batches of one sweep in a directory; without a directory none is kept.

    Args:
        directory: None for no checkpoint.
        manifest: lines that tell this sweep from any other.
        shapes: of a batch, as `jax.eval_shape` gives them.
        name: of a batch, in file names.

    Raises:
        ValueError: for a directory that cannot be written, or of another sweep; the
            message says in which lines they differ.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        manifest: dict[str, str],
        shapes: PyTree,
        *,
        name: str,
    ) -> None:
        self.directory = None if directory is None else pathlib.Path(directory)
        self.shapes, self.name = shapes, name
        text = _as_json(manifest)
        self.identity = hashlib.sha256(text).hexdigest()
        if self.directory is not None:
            _claim(self.directory, manifest)

    def load(self, number: int) -> PyTree | None:
        """A batch that was saved before; None unless it is there, whole and ours."""
        if self.directory is None:
            return None
        expected, structure = jax.tree.flatten(self.shapes)
        try:
            file = self.directory / self._file(number)
            with open(file, "rb") as stream, np.load(stream) as stored:
                if str(stored["stamp"]) != self._stamp(number):
                    return None
                # NumPy stores bfloat16 and the like as plain bytes.
                leaves = [
                    stored[f"arr_{i}"].view(leaf.dtype)
                    for i, leaf in enumerate(expected)
                ]
        except Exception:  # A damaged file raises almost anything; recompute it.
            return None
        return jax.tree.unflatten(structure, leaves)

    def save(self, number: int, values: PyTree) -> None:
        """Writes a batch, whole or not at all.

        Raises:
            ValueError: where it cannot be written.
        """
        if self.directory is None:
            return
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(values)]
        stamp = np.asarray(self._stamp(number))
        file = self.directory / self._file(number)
        try:
            files.write_whole(
                {file: lambda stream: np.savez(stream, *leaves, stamp=stamp)}
            )
        except OSError as error:
            raise ValueError(
                f"`checkpoint` {self.directory} cannot be written: {error}. Make room, "
                f"or name another directory."
            ) from error

    def map_batches(
        self,
        work: Work,
        batches: Sequence[Any],
        *,
        executor: Executor | None = None,
        progress: Progress | None = None,
    ) -> list[Any]:
        """Results of all batches in order: found again, or worked out now and saved.

        Args:
            work: as for `sweeps.map_batches`.
            batches: likewise.
            executor: likewise.
            progress: called as `progress(done, total)`, in batches.
        """
        total = len(batches)
        results = [self.load(number) for number in range(total)]
        missing = [number for number in range(total) if results[number] is None]

        def keep(index: int, result: Any) -> None:
            self.save(missing[index], result)
            results[missing[index]] = result
            report()

        def report() -> None:
            if progress:
                progress(total - sum(result is None for result in results), total)

        if len(missing) < total:
            report()
        pending = (batches[number] for number in missing)
        map_batches(work, pending, executor=executor, done=keep)
        return results

    def _file(self, number: int) -> str:
        return f"{self.name}-{number:05d}.npz"

    def _stamp(self, number: int) -> str:
        return f"{self.identity}-{self.name}-{number}"


def describe(name: str, tree: PyTree) -> dict[str, str]:
    """Lines of a manifest: dtype, shape and hash of every array of a pytree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name + jax.tree_util.keystr(path): _digest(leaf) for path, leaf in leaves}


def describe_shapes(name: str, tree: PyTree) -> dict[str, str]:
    """Lines of a manifest: dtype and shape of every array of a pytree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name + jax.tree_util.keystr(path): _shape(leaf) for path, leaf in leaves}


def program_digest(program: Any) -> str:
    """Hash of a traced function, from `jax.make_jaxpr`: its text and its constants.

    The same in every process and on every device. What host callbacks do is not seen.
    """
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        text = re.sub(r"\b0x\w+", "", str(program))  # Addresses differ by process,
    text = re.sub(  # and so does the order of a set.
        r"\{('[^{}]*')\}", lambda found: str(sorted(found[1].split(", "))), text
    )
    lines = [
        text,
        *(_digest(jnp.asarray(constant)) for constant in _constants(program)),
    ]
    return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def _constants(value: Any) -> Iterator[Any]:
    """Arrays that a program and the programs inside it have closed over."""
    if hasattr(value, "jaxpr"):
        yield from value.consts
        value = value.jaxpr
    if isinstance(value, Jaxpr):
        value = [param for eqn in value.eqns for param in eqn.params.values()]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _constants(item)


def _shape(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _digest(leaf: Any) -> str:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    plain = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return f"{_shape(leaf)} sha256:{hashlib.sha256(plain.tobytes()).hexdigest()}"


def _as_json(manifest: dict[str, str]) -> bytes:
    return json.dumps(manifest, indent=1, sort_keys=True).encode()


def _claim(directory: pathlib.Path, manifest: dict[str, str]) -> None:
    """Takes the directory for this sweep, or raises if another one lives there."""
    file = directory / "sweep.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files.remove_partial(directory)
        found = _read_manifest(file)
        if found is None:
            text = _as_json(manifest)
            files.write_whole({file: lambda stream: stream.write(text)})
    except OSError as error:
        raise ValueError(
            f"`checkpoint` must be a directory that can be written: {error}."
        ) from error
    if found is not None and found != manifest:
        names = sorted(manifest.keys() | found.keys())
        differences = "; ".join(
            f"{name} is {found.get(name, 'absent')} there, "
            f"{manifest.get(name, 'absent')} here"
            for name in names
            if found.get(name) != manifest.get(name)
        )
        raise ValueError(
            f"`checkpoint` {directory} holds another sweep: {differences}. Name "
            f"another directory, or delete this one to start afresh."
        )


def _read_manifest(file: pathlib.Path) -> dict[str, str] | None:
    """None where it is absent or damaged: batches still tell whose they are."""
    try:
        found = json.loads(file.read_bytes()) if file.exists() else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
