"""More columns than rows for every loss; several directions inside transformations."""

import itertools

import numpy as np
import pytest

from tests.solvers.test_linear import (
    LOSSES,
    K,
    check_jit,
    check_more_columns_than_rows,
    check_vmap,
    float32_case,
    plain_table,
)

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


@pytest.mark.parametrize("check", [check_jit, check_vmap])
@pytest.mark.parametrize("name", ["logistic", "hinge"])
def test_transformations_with_several_directions(name, check, rng):
    check(name, float32_case(plain_table(rng), kind="pairwise"), k=K)
