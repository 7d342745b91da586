"""Linear models under the orthogonality constraint, each with a certificate.

`problem` states the problem; `whitening` holds the coordinates that all methods work
in, `multipliers` the exact solution of the constraint, `certificate` the duality gap.
`fit` solves in memory, `streaming` in passes over chunks of rows.
"""

from .fit import fit_linear as fit_linear
from .results import LinearFit as LinearFit
from .streaming import fit_linear_stream as fit_linear_stream
