"""Splits: the same share of each stratum goes to the test part."""

import numpy as np
from jaxtyping import Bool, Float, Int


def stratified_split(
    strata: Int[np.ndarray, " n"],
    *,
    test_size: float,
    seed: int,
    along: Float[np.ndarray, " n"] | None = None,
) -> Bool[np.ndarray, " n"]:
    """Random rows for training: the same share of each stratum, and at least one.

    With `along`, both parts also spread alike over its values in each stratum.
    """
    if not 0 < test_size < 1:
        raise ValueError(f"`test_size` must be a share in (0, 1), but is {test_size}.")
    rng = np.random.default_rng(seed)
    is_train = np.ones(strata.size, bool)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        n_test = min(int(test_size * rows.size + 0.5), rows.size - 1)
        if along is None:
            is_train[rows[:n_test]] = False
        else:
            rows = rows[np.argsort(along[rows], kind="stable")]
            fewer = min(n_test, rows.size - n_test)
            picked = np.isin(rows, _one_per_block(rows, fewer, rng))
            is_train[rows] = picked if fewer < n_test else ~picked
    return is_train


def _one_per_block(
    rows: Int[np.ndarray, " k"], n_blocks: int, rng: np.random.Generator
) -> Int[np.ndarray, " b"]:
    """Cuts rows into blocks of nearly equal size, and draws one row from each."""
    # The random shift gives every row the same chance, whatever the block sizes.
    inner = np.arange(1, n_blocks) * rows.size / max(n_blocks, 1) + rng.random()
    edges = np.concatenate([[0], inner.astype(int), [rows.size]])[: n_blocks + 1]
    return rows[rng.integers(edges[:-1], edges[1:])]
