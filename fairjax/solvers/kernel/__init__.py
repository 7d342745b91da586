"""Kernel machines under the orthogonality constraint, each with a certificate."""

from .fit import KernelFit as KernelFit
from .fit import fit_logistic as fit_logistic
from .fit import fit_ridge as fit_ridge
from .fit import fit_svm as fit_svm
from .fit import predict as predict
from .implicit import Machine as Machine
from .implicit import implicit as implicit
from .problem import contrast_weights as contrast_weights
