"""Linear models under constraints, from the problem statement, in float64 NumPy.

The optimum is a dense quadratic program (a sequence of them for the logistic loss) over
coefficients, intercept and one slack per sample.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.special


def pointwise(name, scores, labels):
    margins = (2 * labels - 1) * scores
    return {
        "logistic": lambda: np.logaddexp(0, -margins),
        "hinge": lambda: np.maximum(0, 1 - margins),
        "squared_hinge": lambda: np.maximum(0, 1 - margins) ** 2,
        "squared": lambda: (scores - labels) ** 2,
    }[name]()


class Problem(NamedTuple):
    """One configuration in float64."""

    loss: str
    features: np.ndarray
    labels: np.ndarray
    directions: np.ndarray
    ridge: float
    tolerance: np.ndarray
    target: np.ndarray
    lam: float
    mass: np.ndarray
    intercept: bool

    def objective(self, coefficients, intercept):
        scores = self.features @ coefficients + intercept
        risk = self.mass @ pointwise(self.loss, scores, self.labels)
        gaps = self.directions @ coefficients
        ridge = self.ridge / 2 * coefficients @ coefficients
        return risk + ridge + self.lam * gaps @ gaps

    def violation(self, coefficients):
        off = np.abs(self.directions @ coefficients - self.target) - self.tolerance
        return max(0.0, off.max(initial=0))


def solve_quadratic(p, q, g, h):
    """argmin x'Px/2 + q'x subject to Gx <= h: primal-dual interior point, dense."""
    x, z, s = np.zeros(len(q)), np.ones(len(h)), np.ones(len(h))
    if not len(h):
        return scipy.linalg.solve(p, -q, assume_a="pos")
    s = np.maximum(h - g @ x, 1.0)
    best, lowest = x, np.inf
    for _ in range(60):
        dual, primal, nu = p @ x + q + g.T @ z, g @ x + s - h, s @ z / len(h)
        size = max(np.abs(dual).max(), np.abs(primal).max(), nu)
        if size < lowest:
            best, lowest = x, size
        if size < 1e-14:
            break
        # The whole system, not its normal equations: accurate to the last digits.
        system = np.block([[p, g.T], [g, -np.diag(s / z)]])
        factor = scipy.linalg.lu_factor(system, check_finite=False)

        def move(centre, factor=factor, dual=dual, primal=primal, s=s, z=z):
            residual = (centre - z * s) / z
            both = scipy.linalg.lu_solve(factor, np.append(-dual, -primal - residual))
            dx, dz = np.split(both, [len(dual)])
            return dx, residual - s / z * dz, dz

        def length(ds, dz, s=s, z=z):
            steps = np.concatenate([-s[ds < 0] / ds[ds < 0], -z[dz < 0] / dz[dz < 0]])
            return min(1.0, 0.995 * steps.min(initial=np.inf))

        dx, ds, dz = move(0.0)
        step = length(ds, dz)
        after = (s + step * ds) @ (z + step * dz) / len(h)
        dx, ds, dz = move(nu * (after / nu) ** 3 - ds * dz)
        step = length(ds, dz)
        x, s, z = x + step * dx, s + step * ds, z + step * dz
    assert lowest <= 1e-11
    return best


def reference(problem, *, rank=1e-10):
    """Coefficients, intercept and value of the optimum."""
    x, y = problem.features, problem.labels
    keep = problem.mass > 0
    x, y, c = x[keep], y[keep], problem.mass[keep]
    n, d = x.shape
    centre = c @ x if problem.intercept else np.zeros(d)
    # Unit curvature per coordinate, so that any scale of the columns is harmless.
    scale = np.sqrt(c @ (x - centre) ** 2 + problem.ridge)
    design = (x - centre) / scale
    rows = problem.directions / scale
    if problem.intercept:
        design = np.column_stack([design, np.ones(n)])
        rows = np.column_stack([rows, np.zeros(len(rows))])
    size = design.shape[1]
    square = np.zeros((size, size))
    square[:d, :d] = np.diag(problem.ridge / scale**2)
    square += 2 * problem.lam * rows.T @ rows

    # Equalities by coordinates in their null space, inequalities as they are.
    tight = problem.tolerance == 0
    start, basis = np.zeros(size), np.eye(size)
    if tight.any() and np.abs(rows[tight]).max() > 0:
        start = np.linalg.lstsq(rows[tight], problem.target[tight], rcond=rank)[0]
        basis = scipy.linalg.null_space(rows[tight], rcond=rank)
    loose = ~tight & np.isfinite(problem.tolerance)
    bounds = np.vstack([rows[loose], -rows[loose]])
    limits = np.concatenate(
        [
            problem.tolerance[loose] + problem.target[loose],
            problem.tolerance[loose] - problem.target[loose],
        ]
    )
    g, h = bounds @ basis, limits - bounds @ start
    p, q = basis.T @ square @ basis, basis.T @ square @ start
    signs = 2 * y - 1
    z, moved = design @ basis, design @ start

    if problem.loss == "squared":
        inner = solve_quadratic(
            p + 2 * z.T @ (c[:, None] * z), q + 2 * z.T @ (c * (moved - y)), g, h
        )
    elif problem.loss == "logistic":
        inner = newton_by_quadratics(p, q, g, h, z, moved, y, c)
    else:
        # Slacks e >= 0 and e >= 1 - y f.
        m = z.shape[1]
        weight = np.diag(2 * c) if problem.loss == "squared_hinge" else np.zeros((n, n))
        linear = np.zeros(n) if problem.loss == "squared_hinge" else c
        total = scipy.linalg.block_diag(p, weight)
        above = np.block(
            [
                [-signs[:, None] * z, -np.eye(n)],
                [np.zeros((n, m)), -np.eye(n)],
                [g, np.zeros((len(g), n))],
            ]
        )
        limit = np.concatenate([signs * moved - 1, np.zeros(n), h])
        inner = solve_quadratic(total, np.append(q, linear), above, limit)[:m]
    found = start + basis @ inner
    coefficients = found[:d] / scale
    intercept = found[d] - centre @ coefficients if problem.intercept else 0.0
    return coefficients, intercept, problem.objective(coefficients, intercept)


def newton_by_quadratics(p, q, g, h, z, moved, y, c):
    """Sequential quadratic programming with the exact Hessian and step halving."""

    def value(v):
        scores = moved + z @ v
        return c @ np.logaddexp(0, -(2 * y - 1) * scores) + v @ p @ v / 2 + q @ v

    v = solve_quadratic(p + np.eye(len(q)), q, g, h)
    for _ in range(50):
        share = 0.5 * (1 + np.tanh((moved + z @ v) / 2))
        slope = z.T @ (c * (share - y)) + p @ v + q
        hessian = z.T @ ((c * share * (1 - share))[:, None] * z) + p
        move = solve_quadratic(hessian, slope - hessian @ v, g, h) - v
        step = 1.0
        while step > 1e-8 and value(v + step * move) > value(v):
            step /= 2
        if step <= 1e-8:
            break
        v = v + step * move
        if np.abs(move).max() < 1e-14:
            break
    return v


def dual_bound(problem, coefficients, intercept, multipliers):
    """A lower bound of the optimum, by weak duality; for the smooth losses.

    Any `a` with sum 0 (if there is an intercept) bounds the optimum from below by
    `-sum c loss*(a / c) - |X'a + U'mu|^2 / (2 ridge) - sum psi*(mu)`.
    """
    c, y = problem.mass, problem.labels
    scores = problem.features @ coefficients + intercept
    signs = 2 * y - 1
    slopes = {
        "logistic": lambda: 0.5 * (1 + np.tanh(scores / 2)) - y,
        "squared_hinge": lambda: -2 * signs * np.maximum(0, 1 - signs * scores),
        "squared": lambda: 2 * (scores - y),
    }[problem.loss]()
    a = c * slopes
    if problem.intercept:
        up, down = a[a > 0].sum(), -a[a < 0].sum()
        a = np.where(a > 0, a * min(1, down / up), a * min(1, up / down))
    v = a / np.where(c > 0, c, 1)
    b = np.clip(-signs * v, 0, 1)
    conjugate = {
        "logistic": lambda: (
            scipy.special.xlogy(b, b) + scipy.special.xlogy(1 - b, 1 - b)
        ),
        "squared_hinge": lambda: signs * v + v**2 / 4,
        "squared": lambda: v * y + v**2 / 4,
    }[problem.loss]()
    pull = problem.features.T @ a + problem.directions.T @ multipliers
    lower = problem.target - problem.tolerance
    upper = problem.target + problem.tolerance
    if problem.lam > 0:
        at = np.clip(multipliers / (2 * problem.lam), lower, upper)
    else:
        at = np.where(multipliers > 0, upper, lower)
    at = np.where(multipliers == 0, np.clip(0, lower, upper), at)
    price = multipliers @ at - problem.lam * at @ at
    return -c @ conjugate - pull @ pull / (2 * problem.ridge) - price


def problems(
    name, features, labels, directions, settings, *, mass=None, intercept=True
):
    mass = np.ones(len(labels)) if mass is None else np.asarray(mass, float)
    for i in range(len(settings["ridge"])):
        yield Problem(
            name,
            np.asarray(features, float),
            np.asarray(labels, float),
            np.asarray(directions, float),
            float(settings["ridge"][i]),
            np.asarray(settings["tolerance"][i], float),
            np.asarray(settings["target"][i], float),
            float(settings["lam"][i]),
            mass / mass.sum(),
            intercept,
        )
