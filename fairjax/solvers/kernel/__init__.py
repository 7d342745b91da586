"""Kernel machines under the orthogonality constraint, each with a certificate.

A machine is a primal and a dual problem (`problem`); their gap is the certificate.
`fit` holds the public functions, `inputs` their checks, `batch` the order in which a
batch of configurations is solved. Support vector machines: `svm`, by way of `smo`,
`active_set` and `proximal_point`, with `published` for comparison; smooth losses:
`newton`; derivatives of all of them: `implicit`.
"""

from .batch import KernelFit as KernelFit
from .fit import fit_logistic as fit_logistic
from .fit import fit_ridge as fit_ridge
from .fit import fit_svm as fit_svm
from .fit import predict as predict
from .implicit import Machine as Machine
from .implicit import implicit as implicit
