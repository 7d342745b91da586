"""Fair machine learning as pure JAX functions; start from the README."""

from . import checks as checks
from . import erm as erm
from . import notions as notions
from . import orthogonality as orthogonality
from . import penalties as penalties
from . import solvers as solvers
