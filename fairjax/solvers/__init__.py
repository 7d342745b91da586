"""Fair empirical risk minimisation, solved with a certificate.

`fit_linear` solves the convex problem of a linear model for a whole batch of
configurations and proves how far each is from the optimum; `fit_linear_stream` does so
where the rows do not fit into memory; `fit_svm`, `fit_ridge` and `fit_logistic` do so
for kernel machines, and `implicit` differentiates those. `augmented_lagrangian` puts
the same constraint on any differentiable model, where a certificate is out of reach.
"""

from .augmented_lagrangian import AugmentedLagrangianFit as AugmentedLagrangianFit
from .augmented_lagrangian import augmented_lagrangian as augmented_lagrangian
from .kernel import KernelFit as KernelFit
from .kernel import Machine as Machine
from .kernel import fit_logistic as fit_logistic
from .kernel import fit_ridge as fit_ridge
from .kernel import fit_svm as fit_svm
from .kernel import implicit as implicit
from .kernel import predict as predict
from .linear import LinearFit as LinearFit
from .linear import fit_linear as fit_linear
from .linear import fit_linear_stream as fit_linear_stream
