"""The barycenter map's definition in float64, and data to compare with it."""

from fractions import Fraction

import numpy as np

N, G = 120, 3  # one shape in most tests, so that they share compiled programs


def draw(rng, n=N, n_groups=G, digits=None):
    """Scores whose laws differ by group; every group has members."""
    groups = np.concatenate([np.arange(n_groups), rng.integers(n_groups, size=n)])[:n]
    scores = rng.normal(size=n) * (1 + groups) + groups
    scores = scores if digits is None else np.round(scores, digits)
    return scores.astype(np.float32), groups


def tables(scores, groups, weights, n_groups):
    """Per group: distinct scores and their weights; and the groups' shares."""
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    result = []
    for s in range(n_groups):
        own = (groups == s) & (weights > 0)
        distinct, inverse = np.unique(
            np.asarray(scores, float)[own], return_inverse=True
        )
        result.append((distinct, np.bincount(inverse, weights[own])))
    total = sum(mass.sum() for _, mass in result)
    return result, [mass.sum() / total for _, mass in result]


def fair_by_midranks(scores, groups, rows, row_groups, n_groups, weights=None):
    """`sum_r p_r Q_r(F_s(x))`, both linear through the mid-ranks."""
    cells, shares = tables(scores, groups, weights, n_groups)
    levels = [(np.cumsum(m) - m / 2) / m.sum() for _, m in cells]
    result = []
    for x, s in zip(np.asarray(rows, float), row_groups, strict=True):
        u = np.interp(x, cells[s][0], levels[s])
        quantiles = [np.interp(u, levels[r], cells[r][0]) for r in range(n_groups)]
        result.append(np.dot(shares, quantiles))
    return np.array(result)


def fair_by_steps(scores, groups, rows, row_groups, n_groups, weights=None):
    """The same with `F(x) = P(score <= x)` and `Q(u) = min {t: F(t) >= u}`."""
    cells, shares = tables(scores, groups, weights, n_groups)
    result = []
    for x, s in zip(np.asarray(rows, float), row_groups, strict=True):
        values, mass = cells[s]
        u = Fraction(mass[values <= x].sum()) / Fraction(mass.sum())
        quantiles = [
            next(
                v
                for v, m in zip(values, np.cumsum(mass), strict=True)
                if Fraction(m) >= u * Fraction(mass.sum())
            )
            for values, mass in cells
        ]
        result.append(np.dot(shares, quantiles))
    return np.array(result)


def ks(scores, groups):
    """Largest KS distance between two groups, exact."""
    scores = np.asarray(scores)
    at = np.sort(scores)
    cdfs = np.array(
        [
            np.searchsorted(np.sort(scores[groups == s]), at, side="right")
            / np.sum(groups == s)
            for s in np.unique(groups)
        ]
    )
    return np.abs(cdfs[:, None] - cdfs[None]).max()
