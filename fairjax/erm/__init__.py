"""Empirical risk, overall and per cell, for any pointwise loss; composed objectives.

A loss takes scores and labels and returns one value per sample. Binary labels are 0 and
1 everywhere in fairjax; the margin losses here map them to -1 and 1 themselves, so a
decision is `scores > 0` under each of them.
"""

from .losses import Loss as Loss
from .losses import SmoothLoss as SmoothLoss
from .losses import hinge as hinge
from .losses import linear as linear
from .losses import logistic as logistic
from .losses import squared as squared
from .losses import squared_hinge as squared_hinge
from .losses import zero_one as zero_one
from .objectives import Apply as Apply
from .objectives import Batch as Batch
from .objectives import Objective as Objective
from .objectives import Outputs as Outputs
from .objectives import Parts as Parts
from .objectives import Penalty as Penalty
from .objectives import evaluate as evaluate
from .objectives import objective as objective
from .risks import conditional_risks as conditional_risks
from .risks import empirical_risk as empirical_risk
from .risks import max_risk_gap as max_risk_gap
