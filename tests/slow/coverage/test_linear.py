"""Cases of `fit_linear` that each compile programs of their own."""

import numpy as np
import pytest

from tests.reference.linear import problems
from tests.solvers.test_linear import (
    LOSSES,
    K,
    check_jit,
    check_more_columns_than_rows,
    check_optimal,
    check_single_calls,
    check_vmap,
    check_without_an_intercept,
    directions_of,
    fit,
    float32_case,
    plain_table,
    settings_for,
)


@pytest.fixture
def table(rng):
    return plain_table(rng)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_more_columns_than_rows(name, dtype, rng):
    check_more_columns_than_rows(dtype, name, rng)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["squared_hinge", "squared"])
def test_without_an_intercept(name, table):
    check_without_an_intercept(name, table)


@pytest.mark.usefixtures("x64")
def test_batches_of_several_configurations_in_float64(table):
    features, labels, groups = table
    u = directions_of(features, labels, groups, kind="pairwise")
    settings = settings_for(u)
    found = fit("logistic", features, labels, u, settings, batch=4)
    cases = problems("logistic", features, labels, u, settings)
    check_optimal(found, cases, relative=1e-10)


def test_a_batch_equals_a_loop_of_single_calls(table):
    check_single_calls("hinge", float32_case(table, kind="pairwise"))


@pytest.mark.parametrize(
    ("name", "check"), [("logistic", check_jit), ("hinge", check_vmap)]
)
def test_transformations_with_one_direction(name, check, table):
    check(name, float32_case(table, kind="one"), k=1)


@pytest.mark.parametrize("check", [check_jit, check_vmap])
@pytest.mark.parametrize("name", ["logistic", "hinge"])
def test_transformations_with_several_directions(name, check, rng):
    check(name, float32_case(plain_table(rng), kind="pairwise"), k=K)
