"""Objectives against their definitions: one task and many, pooled and per task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import erm, notions, penalties
from fairjax.divergences import sinkhorn_info

N, TASKS = 40, 3


def draw(rng):
    """Scores, representation and a batch; the last task has one group only."""
    groups, tasks = rng.integers(2, size=N), rng.integers(TASKS, size=N)
    groups[tasks == TASKS - 1] = 0
    labels, weights = rng.integers(2, size=N), rng.uniform(0.5, 2, size=N)
    arrays = (rng.normal(size=(N, 2)), labels, groups, weights, tasks)
    batch = erm.Batch(*map(jnp.asarray, arrays))
    outputs = erm.Outputs(
        jnp.asarray(rng.normal(size=N)), jnp.asarray(rng.normal(size=(N, 2)))
    )
    return outputs, batch


def squared_gap(values, groups, weights):
    """Between the two groups, of means of scores or vectors."""
    means = [np.average(values[groups == g], 0, weights[groups == g]) for g in (0, 1)]
    return np.square(means[0] - means[1]).sum()


def composed(**options):
    return erm.objective(
        loss=erm.squared, notion=notions.demographic_parity, n_groups=2, **options
    )


def test_one_task_is_risk_plus_strength_times_penalties(rng, x64):
    outputs, batch = draw(rng)
    batch = batch._replace(tasks=None)
    scores, z, labels, groups, weights = map(
        np.asarray, (*outputs, batch.labels, batch.groups, batch.weights)
    )
    risk = np.average((scores - labels) ** 2, weights=weights)
    gaps = [squared_gap(values, groups, weights) for values in (scores, z)]
    on = {"on_scores": penalties.mean_gap_info, "on_representation": penalties.mean_gap}
    for names, expected in (
        ([], 0.0),
        (["on_scores"], gaps[0]),
        (["on_representation"], gaps[1]),
        (["on_scores", "on_representation"], sum(gaps)),
    ):
        call = jax.jit(composed(**{name: on[name] for name in names}))
        value, parts = call(outputs, batch, 0.7)
        np.testing.assert_allclose(parts.risk, risk, rtol=1e-9)
        np.testing.assert_allclose(parts.penalty, expected, rtol=1e-7)
        np.testing.assert_allclose(value, risk + 0.7 * expected, rtol=1e-7)
        assert parts.missing == 0
        assert parts.converged


def test_many_tasks_count_alike_pooled_or_on_their_own(rng, x64):
    outputs, batch = draw(rng)
    scores, labels, groups, weights, tasks = map(
        np.asarray, (outputs.scores, *batch[1:])
    )
    own = [tasks == t for t in range(TASKS)]
    risks = [np.average((scores - labels)[t] ** 2, weights=weights[t]) for t in own]
    pooled = composed(n_tasks=TASKS, on_scores=penalties.mean_gap_info)
    _, parts = pooled(outputs, batch, 1.0)
    np.testing.assert_allclose(parts.risk, np.mean(risks), rtol=1e-9)
    np.testing.assert_allclose(
        parts.penalty, squared_gap(scores, groups, weights), rtol=1e-7
    )
    each = composed(n_tasks=TASKS, on_scores=penalties.mean_gap_info, per_task=True)
    _, parts = each(outputs, batch, 1.0)
    gaps = [squared_gap(scores[t], groups[t], weights[t]) for t in own[:-1]]
    np.testing.assert_allclose(parts.penalty, sum(gaps) / TASKS, rtol=1e-7)
    # In the task with one group there is nothing to compare.
    np.testing.assert_allclose(parts.missing, 1 / TASKS, rtol=1e-6)


def test_tasks_absent_from_a_batch_do_not_dilute_it(rng, x64):
    outputs, batch = draw(rng)
    call = composed(n_tasks=TASKS, on_scores=penalties.mean_gap, per_task=True)
    keep = np.asarray(batch.tasks) == 0
    masked = batch._replace(weights=jnp.where(keep, batch.weights, 0))
    value, _ = call(outputs, masked, 1.0)
    rows = jax.tree.map(lambda a: a[keep], (outputs, batch._replace(tasks=None)))
    single = composed(on_scores=penalties.mean_gap)
    np.testing.assert_allclose(value, single(*rows, 1.0)[0], rtol=1e-9)


def test_a_penalty_that_did_not_converge_is_seen(rng):
    outputs, batch = draw(rng)
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), outputs)
    batch = batch._replace(tasks=None)

    @jax.jit
    def parts_at(threshold):
        divergence = functools.partial(sinkhorn_info, epsilon=0.1, threshold=threshold)
        gap = functools.partial(penalties.divergence_gap_info, divergence=divergence)
        return composed(on_representation=gap)(single, batch, 1.0)[1]

    # No plan comes as close as the first threshold asks.
    for threshold, converged in ((1e-30, False), (1e-3, True)):
        assert parts_at(np.float32(threshold)).converged == converged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_task": True}, "`per_task` needs `n_tasks`"),
        ({"n_tasks": 0}, "`n_tasks` must be at least 1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        composed(**options)
    with pytest.raises(ValueError, match="`n_groups` must be at least 2"):
        erm.objective(loss=erm.squared, notion=notions.demographic_parity, n_groups=1)


def test_a_batch_must_name_its_tasks(rng):
    outputs, batch = draw(rng)
    with pytest.raises(ValueError, match="`batch.tasks` must say which of 3 tasks"):
        composed(n_tasks=TASKS)(outputs, batch._replace(tasks=None), 1.0)


def test_within_splits_each_stratum_of_a_notion(rng, x64):
    _, batch = draw(rng)
    labels, groups, weights, tasks = map(np.asarray, batch[1:])
    cond = notions.equalized_odds(groups, labels, n_groups=2, weights=weights)
    found = notions.within(cond, tasks, n_strata=TASKS)
    for task in range(TASKS):
        inside = weights * (tasks == task)
        expected = notions.equalized_odds(groups, labels, n_groups=2, weights=inside)
        rows = slice(2 * task, 2 * task + 2)
        np.testing.assert_allclose(found.weights[rows], expected.weights, rtol=1e-7)
        np.testing.assert_array_equal(found.occupied[rows], expected.occupied)


def test_a_column_of_scores_is_no_vector(rng, untyped):
    outputs, batch = draw(rng)
    column = outputs._replace(scores=outputs.scores[:, None])
    with pytest.raises(ValueError, match=r"`outputs.scores` .* shape \(40, 1\)"):
        composed()(column, batch, 1.0)
