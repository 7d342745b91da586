"""Linear models under the orthogonality constraint, each with a certificate."""

from .fit import fit_linear as fit_linear
from .results import LinearFit as LinearFit
from .streaming import fit_linear_stream as fit_linear_stream
