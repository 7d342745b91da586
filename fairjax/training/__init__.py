"""Training: one `lax.scan` program for any model, objective and optimiser.

`fit` takes functions and pytrees. Weights, tolerances and seeds are arrays, so one
compiled program trains every point of a sweep; what goes wrong at one point is a field
of the result and leaves its neighbours alone. `stratified_batches` gives mini-batches
in which a fairness penalty can see every group.

The loop is yours to write as well: `examples/training_loop.py` has it in twenty lines.
"""

from .batches import Batches as Batches
from .batches import stratified_batches as stratified_batches
from .fit import fit as fit
from .program import Fit as Fit
from .program import History as History
from .program import Init as Init
