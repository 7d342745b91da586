"""Fairness notions: which samples are compared with which.

A notion maps groups and labels to weights: row `weights[s, g]` is the empirical
distribution of group `g` inside stratum `s`. Penalties, constraints, audits and
guarantees read only those rows, so every notion works with all of them. Sample weights
and masks enter here, as `weights`, and nowhere else: a masked sample has weight 0.

*Uncertain groups.* Where the sensitive attribute is not known, every notion takes
memberships instead of codes: entry `[i, g]` is the probability that sample `i` belongs
to group `g`, given what is known of it. It then counts in each group with that share. A
cell's mean of values `f` comes out wrong by

    E[Cov(1{S = g}, f | Z)] / P(S = g)

inside the stratum, if memberships are `P(S = g | Z)` of the known things `Z` (Chen et
al., FAT* 2019). So it is right where `f` depends on the sample by way of `Z` alone,
such as the scores of a model that sees nothing else, and wrong by an unknown amount
where `f` knows more about the group than `Z` does, as labels often do. Under notions
that read labels the memberships must be those given the label, too. Codes guessed from
the largest membership have another bias, and memberships that are not calibrated add an
error of their own. A sample about which nothing is known has the groups' shares as its
row, which draws all gaps towards 0; leaving such samples out, with weight 0, assumes
that they are missing at random.
"""

from .notions import Conditionals as Conditionals
from .notions import Groups as Groups
from .notions import Notion as Notion
from .notions import conditional_parity as conditional_parity
from .notions import demographic_parity as demographic_parity
from .notions import equal_opportunity as equal_opportunity
from .notions import equalized_odds as equalized_odds
from .notions import intersect as intersect
from .notions import within as within
