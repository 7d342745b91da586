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

from ._hsic import hsic as hsic
from ._mmd import energy_distance as energy_distance
from ._mmd import mmd_linear_time as mmd_linear_time
from ._mmd import mmd_random_features as mmd_random_features
from ._mmd import mmd_squared as mmd_squared
from ._sinkhorn import Potentials as Potentials
from ._sinkhorn import SinkhornInfo as SinkhornInfo
from ._sinkhorn import sinkhorn as sinkhorn
from ._sinkhorn import sinkhorn_info as sinkhorn_info
from ._wasserstein import sliced_wasserstein as sliced_wasserstein
from ._wasserstein import wasserstein_1d as wasserstein_1d
