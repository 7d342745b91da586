"""Kernels, and the fair machines that learn with them.

`kernel(x, y) -> (n, m)` for `x (n, d)` and `y (m, d)`: any such function is a kernel
here, if it is symmetric, `k(a, b) = k(b, a)`. Hyper-parameters are bound with
`functools.partial(gaussian, bandwidth=h)`; those with a fraction are traced, so that a
bandwidth can be swept by `vmap`, differentiated, and changed without recompilation.

`fit_svm`, `fit_ridge` and `fit_logistic` solve a machine under the fairness constraint
in the kernel's feature space, with a certificate; `implicit` differentiates what they
found. `features_for` hands large problems to `solvers.fit_linear`, nearly the same
machines; `orthogonality.project_kernel` makes any other kernel method fair.
"""

from ._feature_maps import FeatureMap as FeatureMap
from ._feature_maps import features_for as features_for
from ._feature_maps import fourier as fourier
from ._feature_maps import nystrom as nystrom
from ._kernel_functions import Scalar as Scalar
from ._kernel_functions import check_bound as check_bound
from ._kernel_functions import distances as distances
from ._kernel_functions import energy as energy
from ._kernel_functions import gaussian as gaussian
from ._kernel_functions import gaussian_sum as gaussian_sum
from ._kernel_functions import inverse_multiquadric as inverse_multiquadric
from ._kernel_functions import laplacian as laplacian
from ._kernel_functions import median_heuristic as median_heuristic
from ._kernel_functions import polynomial as polynomial
from ._kernel_functions import squared_distances as squared_distances
from ._kernel_implicit import Machine as Machine
from ._kernel_implicit import implicit as implicit
from ._kernel_machines import KernelFit as KernelFit
from ._kernel_machines import fit_logistic as fit_logistic
from ._kernel_machines import fit_ridge as fit_ridge
from ._kernel_machines import fit_svm as fit_svm
from ._kernel_machines import predict as predict
from ._kernel_setup import Kernel as Kernel
