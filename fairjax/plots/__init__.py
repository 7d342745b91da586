"""Pictures: what accuracy a smaller unfairness costs, and how scores are distributed.

Arrays in, a `matplotlib.figure.Figure` out. Nothing global is touched: no pyplot, no
backend, no style; matplotlib is imported on the first call. Every mark differs in
shape, fill or line, so that a picture printed in grey still reads.
"""

from .canvas import save as save
from .frontier import Limits as Limits
from .frontier import MeasuredPoints as MeasuredPoints
from .frontier import frontier as frontier
from .frontier import intervals as intervals
from .scores import Scores as Scores
from .scores import distributions as distributions
from .scores import repair as repair
