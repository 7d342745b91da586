"""Progress of long work: a callable, and a bar on the terminal that is one."""

import contextlib
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]


@contextlib.contextmanager
def progress_bar(description: str = "sweep") -> Iterator[Progress]:
    """A `progress` callable that draws a bar with the time left on stderr.

    It draws nothing when stderr is no terminal or rich is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> from fairjax import sweeps
        >>> with progress_bar("lam") as progress:
        ...     _ = sweeps.run(jnp.sqrt, jnp.arange(4.0), chunk=2, progress=progress)
    """
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:
        yield lambda done, total: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Bar(console=console) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
