"""Every loss in both precisions where no row can be dropped."""

import itertools

import numpy as np
import pytest

from tests.solvers.test_linear import LOSSES, check_more_columns_than_rows

QUICK = {(np.float32, "logistic"), (np.float32, "hinge")}


@pytest.mark.parametrize(
    ("dtype", "name"),
    sorted(
        set(itertools.product([np.float32, np.float64], LOSSES)) - QUICK,
        key=lambda case: (case[0].__name__, case[1]),
    ),
)
def test_more_columns_than_rows(dtype, name, rng):
    check_more_columns_than_rows(dtype, name, rng)
