"""Checkpoints of frontiers belong to one loss, method and notion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import datasets, erm, frontiers, notions, solvers


@pytest.fixture(scope="module")
def trace():
    return functools.partial(
        frontiers.linear,
        datasets.toy(n=60, seed=0),
        notion=notions.demographic_parity,
        strengths=[1.0],
        n_folds=0,
    )


def zeros(task, *, factors=()):
    """A method of one's own, with an array bound to it; it solves nothing."""
    del factors
    m, d = task.strength.size, task.features.shape[1]
    each = jnp.zeros(m)
    return solvers.LinearFit(
        coefficients=jnp.zeros((m, d)),
        intercept=each,
        objective=each,
        gap=each,
        violation=each,
        multipliers=jnp.zeros((m, 1)),
        iterations=jnp.zeros(m, jnp.int32),
        converged=each == 0,
    )


def test_arrays_bound_to_a_method_are_told_apart_to_the_last_entry(trace, tmp_path):
    factors = np.ones(3000)
    method = functools.partial(zeros, factors=factors)
    first = trace(method=method, checkpoint=tmp_path)
    again = functools.partial(zeros, factors=factors.copy())
    found = trace(method=again, checkpoint=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found.columns(), first.columns())
    other = factors.copy()
    other[1500] = 1 + 1e-9
    with pytest.raises(ValueError, match=r"method\.factors is float64\[3000\] sha256"):
        trace(method=functools.partial(zeros, factors=other), checkpoint=tmp_path)
    bound = functools.partial(zeros, factors=[*factors])
    with pytest.raises(ValueError, match="holds another sweep"):
        trace(method=bound, checkpoint=tmp_path)


def test_two_lambdas_of_one_scope_are_refused_without_a_tag(trace, tmp_path):
    weak, strong = (
        lambda task, factor=factor: zeros(task, factors=[factor]) for factor in (1, 9)
    )
    with pytest.raises(ValueError, match="needs a `tag`: the method is .*<lambda>"):
        trace(method=weak, checkpoint=tmp_path)
    trace(method=weak, checkpoint=tmp_path, tag="weak")
    with pytest.raises(ValueError, match="tag is weak there, strong here"):
        trace(method=strong, checkpoint=tmp_path, tag="strong")


def test_losses_count_by_their_programs(trace, tmp_path):
    def loss_of(scale):
        return lambda scores, labels: scale * erm.squared(scores, labels)

    options = {"method": zeros, "checkpoint": tmp_path}
    trace(loss=loss_of(1.0), **options)
    with pytest.raises(ValueError, match="loss is .*loss_of.* sha256:"):
        trace(loss=loss_of(2.0), **options)
