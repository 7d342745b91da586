"""Training: one `lax.scan` program for any model, objective and optimiser.

`fit` takes functions and pytrees. Weights, tolerances and seeds are arrays, so one
compiled program trains every point of a sweep; what goes wrong at one point is a field
of the result and leaves its neighbours alone. `stratified_batches` gives mini-batches
in which a fairness penalty can see every group.

The loop is yours to write as well: `fit` uses nothing that is not public.
"""

from .batches import Batches as Batches
from .batches import stratified_batches as stratified_batches
from .fit import Fit as Fit
from .fit import History as History
from .fit import Init as Init
from .fit import fit as fit
