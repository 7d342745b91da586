"""From a data set to its frontier between accuracy and fairness.

`linear` fits linear models over a grid of strengths and ridges, as one batch, measures
decisions on the training and the test part, and chooses one setting by P1's validation
procedure: cross-validated on the training part, which never sees the test part.
`kernel` does the same with kernel machines, and `network` with networks, for classes,
real labels and many tasks.

A method is a function from a task to its fits: `constraint`, `penalty`, `projection`,
`elimination`, or your own. What a strength means is the method's choice, except that 0
is the model without fairness.
"""

from .frontier import Frontier as Frontier
from .frontier import Models as Models
from .frontier import average as average
from .frontier import decide as decide
from .kernel import kernel as kernel
from .kernel import median_bandwidth as median_bandwidth
from .kernel import needs_bandwidth as needs_bandwidth
from .linear import STRENGTHS as STRENGTHS
from .linear import Method as Method
from .linear import Task as Task
from .linear import constraint as constraint
from .linear import elimination as elimination
from .linear import linear as linear
from .linear import penalty as penalty
from .linear import projection as projection
from .network import network as network
from .validation import check_dataset as check_dataset
