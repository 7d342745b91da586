"""The optimal fair predictor: every group's scores moved to one common distribution.

Under demographic parity the least-squares optimal change of a predictor `f` is
`g(x, s) = sum_r p_r Q_r(F_s(f(x, s)))`: the score's rank `F_s` in its own group, then
the quantiles `Q_r` of all groups at that rank, averaged with the group shares `p_r`.
That is the transport to the Wasserstein-2 barycenter of the groups' distributions, and
it needs scores and groups alone: no labels, no features, no access to the model.

A map is a table of sorted calibration scores in which each group owns one slice for
`F` and one for `Q`. A prediction reads its own row and the table, nothing else.
"""

from .maps import BarycenterMap as BarycenterMap
from .maps import Variant as Variant
from .maps import apply_map as apply_map
from .maps import excess_risk as excess_risk
from .maps import fit_map as fit_map
from .maps import interp as interp
from .maps import repair_for as repair_for
from .maps import step as step
from .sequences import apply_maps as apply_maps
from .sequences import fit_maps as fit_maps
from .sketches import Sketch as Sketch
from .sketches import bin_means as bin_means
from .sketches import fit_map_from_sketch as fit_map_from_sketch
from .sketches import init_sketch as init_sketch
from .sketches import merge_sketches as merge_sketches
from .sketches import sketch_rank_error as sketch_rank_error
from .sketches import update_sketch as update_sketch
