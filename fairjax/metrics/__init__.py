"""Audits: how accurate and how unequal decisions and scores are.

Decisions are 0 or 1, scores are real; an audit of either compares the cells of a
notion, so sample weights and masks are already inside `cond`. Every number is exact for
the sample: no grid, no smoothing. It says little about the population where cells are
small: `interval(max_gap, decisions, cond, bootstrap=Bootstrap(key))` resamples it, and
`bounds` holds for every sample size. A group without members cannot show a gap: look at
`cond.occupied` before reading 0 as fair.
"""

from .audit import Audit as Audit
from .audit import audit as audit
from .bootstrap import Bootstrap as Bootstrap
from .bootstrap import Estimate as Estimate
from .bootstrap import Interval as Interval
from .bootstrap import bootstrap as bootstrap
from .bootstrap_statistics import interval as interval
from .distributions import ks_distance as ks_distance
from .distributions import price_of_fairness as price_of_fairness
from .distributions import wasserstein as wasserstein
from .rates import Numbers as Numbers
from .rates import Scalar as Scalar
from .rates import Table as Table
from .rates import accuracy as accuracy
from .rates import balanced_accuracy as balanced_accuracy
from .rates import group_means as group_means
from .rates import max_gap as max_gap
from .rates import min_ratio as min_ratio
from .scores import ScoreDistances as ScoreDistances
from .scores import ks_by_chance as ks_by_chance
from .scores import score_distances as score_distances
from .scores import score_gaps as score_gaps
from .streaming import audit_stream as audit_stream
