"""Sweeps: grids of hyper-parameters as data, run by one compiled program.

A point is a pytree of scalars, a grid is the same pytree with a leading axis. How a
function of one point becomes a function of many is a choice, and a choice is a
function: `vmapped`, `mapped`, `batched`, or your own. `run` adds what a long sweep
needs around it: chunks, progress, resume, and failed points that stay alone. Devices
of a mesh share the points of each chunk; the workers of any `concurrent.futures`
executor, on as many machines as it has, share the chunks.

Bind data with `jax.tree_util.Partial(fn, data)`: they become arguments of the program,
not constants inside it, and a checkpoint tells when they have changed.

Folds, the Pareto front and the choice of one point are here too; fairness is not: all
of it works for any two columns of numbers.
"""

from .batches import map_batches as map_batches
from .grid import grid as grid
from .progress import Progress as Progress
from .progress import progress_bar as progress_bar
from .run import PointFunction as PointFunction
from .run import Strategy as Strategy
from .run import SweepResult as SweepResult
from .run import batched as batched
from .run import default_strategy as default_strategy
from .run import mapped as mapped
from .run import run as run
from .run import vmapped as vmapped
from .selection import pareto_front as pareto_front
from .selection import select as select
from .splits import cross_validate as cross_validate
from .splits import folds as folds
from .splits import safety_split as safety_split
