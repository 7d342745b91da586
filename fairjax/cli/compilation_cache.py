"""Compiled programs are kept for later runs."""

import contextlib
import hashlib
import importlib.metadata
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from .. import files

_WORTH_KEEPING = 0.1  # seconds of compilation


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
