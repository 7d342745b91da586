"""Divergences: how far apart two weighted clouds of points are.

All have one signature, `divergence(x, y, *, x_weights, y_weights, ...) -> scalar`:
points are rows, weights are non-negative and normalised inside, and a weight of 0 masks
a point. So a row of `notions.Conditionals.weights` turns the whole batch into one
group's conditional distribution, and `penalties.divergence_gap` compares all groups.

`hsic` is the exception: it measures how far pairs `(x_i, y_i)` are from independence,
for a sensitive attribute that is a number and makes no groups.

A cloud without any weight has a divergence of 0 from every other one, which must not be
read as likeness: `divergence_gap` leaves such pairs out and says so.
"""

from .hsic import hsic as hsic
from .mmd import energy_distance as energy_distance
from .mmd import mmd_linear_time as mmd_linear_time
from .mmd import mmd_random_features as mmd_random_features
from .mmd import mmd_squared as mmd_squared
from .sinkhorn import Potentials as Potentials
from .sinkhorn import SinkhornInfo as SinkhornInfo
from .sinkhorn import sinkhorn as sinkhorn
from .sinkhorn import sinkhorn_info as sinkhorn_info
from .wasserstein import sliced_wasserstein as sliced_wasserstein
from .wasserstein import wasserstein_1d as wasserstein_1d
