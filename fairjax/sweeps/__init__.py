"""Sweeps: grids of hyper-parameters as data, run by one compiled program.

A point is a pytree of scalars, a grid is the same pytree with a leading axis. How a
function of one point becomes a function of many is a choice, and a choice is a
function: `vmapped`, `mapped`, `batched`, or your own. `run` adds what a long sweep
needs around it: chunks, progress, resume, and failed points that stay alone.

Bind data with `jax.tree_util.Partial(fn, data)`: they become arguments of the program,
not constants inside it, and a checkpoint tells when they have changed.
"""

from .executors import map_batches as map_batches
from .run import PointFunction as PointFunction
from .run import Progress as Progress
from .run import Strategy as Strategy
from .run import SweepResult as SweepResult
from .run import batched as batched
from .run import cross_validate as cross_validate
from .run import grid as grid
from .run import mapped as mapped
from .run import progress_bar as progress_bar
from .run import run as run
from .run import vmapped as vmapped
from .selection import eligible as eligible
from .selection import pareto_front as pareto_front
from .selection import select as select
from .splits import folds as folds
from .splits import safety_split as safety_split
