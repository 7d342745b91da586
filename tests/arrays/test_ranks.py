"""Integer ranks: exact products, exact masses, exact orders, at any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import barycenters as bary
from fairjax.arrays import ranks
from fairjax.barycenters import maps
from tests.reference import barycenters as definitions
from tests.reference.barycenters import G, N, draw


def test_ranks_are_exact_for_a_million_rows(rng):
    n, first = 10**6, 333_333
    order = rng.permutation(n)
    scores = order.astype(np.float32)  # integers below 2^24 are exact
    groups = (order >= first).astype(np.int32)
    fitted = bary.fit_map(scores, groups, n_groups=2)
    fair = np.asarray(bary.apply_map(fitted, scores, groups, variant=bary.step))
    sizes = np.array([first, n - first])
    rank = np.where(groups == 0, order, order - first).astype(np.int64) + 1
    position = [-(-rank * size // sizes[groups]) - 1 for size in sizes]
    shares = (sizes.astype(np.float32) / np.float32(n)).astype(np.float64)
    exact = shares[0] * position[0] + shares[1] * (position[1] + first)
    # One rank is 1/3 or 2/3 of a unit in the result, whose own precision is 0.06.
    assert np.abs(fair - exact).max() <= 0.15


def test_proportions_are_exact(rng):
    total = rng.integers(1, 2**26, size=10_000)
    size = rng.integers(0, 2**26, size=10_000)
    amount = (total * rng.random(10_000)).astype(int)
    amount[:100], size[:100] = total[:100], size[:100] | 1
    whole, rest = ranks.proportion(
        *(jnp.asarray(a.astype(np.int32)) for a in (amount, size, total))
    )
    np.testing.assert_array_equal(whole, amount * size // total)
    np.testing.assert_array_equal(rest, amount * size % total)


def test_masses_are_within_a_unit_of_the_sums_of_weights(rng):
    n = 300_000
    weights = (rng.exponential(size=n) ** 4).astype(np.float32)
    cells = np.sort(rng.integers(3, size=n)).astype(np.int32)
    weights[cells == 2] *= 1e-30
    table, slices, amount = jax.jit(ranks.build, static_argnames="n_cells")(
        jnp.zeros(n), jnp.asarray(cells), None, jnp.asarray(weights), n_cells=3
    )
    sums = [weights[cells == c].astype(float).sum() for c in range(3)]
    np.testing.assert_allclose(amount / amount[0], np.array(sums) / sums[0], rtol=1e-6)
    for c, (start, stop) in enumerate(np.asarray(slices)):
        # Equal scores keep the order of the rows.
        exact = np.cumsum(weights[cells == c].astype(float)) / sums[c]
        levels = np.asarray(table.mass)[start:stop] / float(table.mass[stop - 1])
        assert np.abs(levels - exact).max() <= 2.0**-23


@pytest.mark.parametrize("n_cells", [3, 2**20])
def test_rows_are_visited_by_cell_and_score(n_cells, rng):
    scores = rng.normal(size=N).astype(np.float32)
    cells = np.sort(rng.integers(n_cells, size=N)).astype(np.int32)
    order = np.asarray(
        ranks.cell_order(jnp.asarray(scores), jnp.asarray(cells), n_cells=n_cells)
    )
    np.testing.assert_array_equal(order, np.lexsort((scores, cells)))


@pytest.mark.parametrize("randomised", [False, True])
def test_large_tables_give_the_same_answers(randomised, rng, monkeypatch):
    """They are searched in another order of the rows."""
    key = jax.random.key(0) if randomised else None
    scores, groups = draw(rng, digits=1)
    rows, row_groups = draw(rng, digits=1)
    weights = jnp.asarray(rng.normal(size=N).astype(np.float32))

    @jax.jit
    @jax.value_and_grad
    def both(rows):
        fitted = bary.fit_map(scores, groups, n_groups=G, key=key)
        fair = bary.apply_map(fitted, rows, row_groups, key=key)
        return fair @ weights

    small = both(jnp.asarray(rows))
    monkeypatch.setattr(maps, "_CACHED_ROWS", N - 1)
    jax.clear_caches()
    large = both(jnp.asarray(rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), small, large)
    monkeypatch.undo()
    jax.clear_caches()


def test_every_dtype_and_number_of_groups(x64, rng):
    scores, groups = draw(rng, n=60)
    rows, row_groups = draw(rng, n=60)
    exact = definitions.fair_by_midranks(scores, groups, rows, row_groups, G)
    for dtype, tolerance in [(np.float64, 1e-12), (np.float32, 1e-5)]:
        fitted = bary.fit_map(scores.astype(dtype), groups, n_groups=G)
        fair = bary.apply_map(fitted, rows.astype(dtype), row_groups)
        assert fair.dtype == dtype
        np.testing.assert_allclose(fair, exact, atol=tolerance)


def test_more_groups_than_one_word_can_hold(rng):
    n = 20_000
    scores = rng.normal(size=n).astype(np.float32)
    groups = np.repeat(rng.permutation(n // 2), 2)
    fitted = bary.fit_map(scores, groups, n_groups=n // 2)
    pairs = np.sort(scores[np.argsort(groups, kind="stable")].reshape(-1, 2), axis=1)
    np.testing.assert_array_equal(fitted.scores, pairs.ravel())
    np.testing.assert_array_equal(np.diff(np.asarray(fitted.cdf)), 2)
