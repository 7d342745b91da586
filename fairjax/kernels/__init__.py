"""Kernels, sums of them over all pairs of samples, and features that stand for them.

`kernel(x, y) -> (n, m)` for `x (n, d)` and `y (m, d)`: any such function is a kernel
here, if it is symmetric, `k(a, b) = k(b, a)`. Hyper-parameters are bound with
`functools.partial(gaussian, bandwidth=h)`; those with a fraction are traced, so that a
bandwidth can be swept by `vmap`, differentiated, and changed without recompilation.

`solvers.fit_svm`, `fit_ridge` and `fit_logistic` learn with them under the fairness
constraint; `features_for` hands large problems to `solvers.fit_linear`, nearly the same
machines; `orthogonality.project_kernel` makes any other kernel method fair. `pair_sum`
and its helpers are what the divergences of kernels are made of.
"""

from .features import FeatureMap as FeatureMap
from .features import features_for as features_for
from .features import fourier as fourier
from .features import nystrom as nystrom
from .functions import Scalar as Scalar
from .functions import check_bound as check_bound
from .functions import distances as distances
from .functions import energy as energy
from .functions import gaussian as gaussian
from .functions import gaussian_sum as gaussian_sum
from .functions import inverse_multiquadric as inverse_multiquadric
from .functions import laplacian as laplacian
from .functions import median_heuristic as median_heuristic
from .functions import polynomial as polynomial
from .functions import squared_distances as squared_distances
from .pairwise import Kernel as Kernel
