"""Bounds: what a sample shows about the true unfairness of a model.

`metrics` is exact for the sample; the intervals here hold the true means, gaps and
distances with a wanted probability, for every number of samples and every distribution.
No interval rests on a normal approximation.

Assumed throughout: given strata and groups, the samples of a cell are independent draws
from that cell's population, and sample weights say nothing about their values (a mask,
a random subsample; weights that correct for how the sample was drawn are not covered).
The model is fixed before the sample is seen, or is any of `n_configurations` models
that are: a choice made on this sample, such as that of a sweep on a validation set, is
then covered (Bonferroni). Only `rademacher` holds for a model that was fitted on the
very samples.

A result makes two statements. With probability `confidence` all means hold at once, and
with probability `confidence` all gaps, and so the largest, hold at once, over all
strata. Both together hold with `2 confidence - 1`. A cell without samples says nothing:
its interval is the whole range. Methods are functions; each is a guarantee, but taking
the narrowest of several is not, unless they share `1 - confidence` between them.
"""

from .binomial import binomial as binomial
from .cells import Bound as Bound
from .cells import MeanBounds as MeanBounds
from .counts import GapRange as GapRange
from .counts import binomial_gaps as binomial_gaps
from .counts import ks_gaps as ks_gaps
from .distances import KSBounds as KSBounds
from .distances import RepairedKS as RepairedKS
from .distances import dkw as dkw
from .distances import repaired_ks as repaired_ks
from .guarantee import Selection as Selection
from .guarantee import select_guaranteed as select_guaranteed
from .means import empirical_bernstein as empirical_bernstein
from .means import hoeffding as hoeffding
from .means import rademacher as rademacher
from .sample_size import binomial_width as binomial_width
from .sample_size import empirical_bernstein_width as empirical_bernstein_width
from .sample_size import hoeffding_width as hoeffding_width
from .sample_size import ks_width as ks_width
from .sample_size import rademacher_width as rademacher_width
from .sample_size import samples_for as samples_for
