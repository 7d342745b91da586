"""Fair machine learning as pure JAX functions; start from the README."""

from . import barycenters as barycenters
from . import checks as checks
from . import datasets as datasets
from . import divergences as divergences
from . import erm as erm
from . import frontiers as frontiers
from . import kernels as kernels
from . import metrics as metrics
from . import notions as notions
from . import orthogonality as orthogonality
from . import penalties as penalties
from . import plots as plots
from . import sequences as sequences
from . import sketches as sketches
from . import solvers as solvers
from . import sweeps as sweeps
from . import training as training
