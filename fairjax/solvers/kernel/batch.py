"""A batch of kernel machines, bandwidth by bandwidth, with warm starts.

Configurations of one bandwidth share the table of the kernel, and are solved in an
order in which each solution helps to find the next one.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...arrays import checks
from .inputs import Inputs, Kernel
from .problem import Problem, Solution, inverse_lengths, unit_directions

_ROWS = 1024  # samples that are predicted together

# Of a problem and what the last one left behind, or None: a solution, and what it
# leaves to the next one.
Method = Callable[[Problem, Any], tuple[Solution, Any]]


class KernelFit(NamedTuple):
    """Kernel machines with their certificates, as float64 arrays of the host.

    `*m` is the batch, or nothing.

    Attributes:
        coefficients: a score is `sum_i coefficients_i k(x, x_i) + intercept`.
        intercept: never penalised.
        dual: the alphas: `c * weight` times minus the slope of the loss in the margin,
            or in the score where labels are real.
        multipliers: price of each bound on a gap, `-d optimum / d tolerance` up to
            sign.
        objective: of the primal problem.
        gap: relative duality gap: the optimum is at least `objective * (1 - gap)`.
        violation: by how much the worst bound is exceeded [score].
        iterations: pairs of alphas moved, or steps of Newton's method.
        converged: whether gap and violation meet the precision asked for. A point that
            is not converged is still the best one found.
        bandwidth: of each point's kernel; NaN where the kernel was bound.
    """

    coefficients: Float[np.ndarray, "*m n"]
    intercept: Float[np.ndarray, "*m"]
    dual: Float[np.ndarray, "*m n"]
    multipliers: Float[np.ndarray, "*m k"]
    objective: Float[np.ndarray, "*m"]
    gap: Float[np.ndarray, "*m"]
    violation: Float[np.ndarray, "*m"]
    iterations: Int[np.ndarray, "*m"]
    converged: Bool[np.ndarray, "*m"]
    bandwidth: Float[np.ndarray, "*m"]


def solve_batch(
    inputs: Inputs,
    kernel: Kernel,
    method: Method,
    *,
    precision: float,
    tolerances_share_c: bool = False,
) -> KernelFit:
    """All configurations, bandwidth by bandwidth.

    Args:
        inputs: samples and configurations.
        kernel: of their tables.
        method: solves a configuration.
        precision: largest relative gap.
        tolerances_share_c: whether what is left behind serves all tolerances of one c,
            as a factor does; else it serves any larger c.
    """
    m, n, k = len(inputs.c), len(inputs.targets), len(inputs.rows)
    fit = KernelFit(
        coefficients=np.empty((m, n)),
        intercept=np.empty(m),
        dual=np.empty((m, n)),
        multipliers=np.empty((m, k)),
        objective=np.empty(m),
        gap=np.empty(m),
        violation=np.empty(m),
        iterations=np.empty(m, np.int64),
        converged=np.empty(m, bool),
        bandwidth=inputs.bandwidth,
    )
    with jax.enable_x64(True):
        for bandwidth, members in by_bandwidth(inputs.bandwidth):
            shared, lengths = _shared_problem(inputs, kernel, bandwidth)
            units = np.asarray(inverse_lengths(lengths))
            chosen = np.flatnonzero(members)
            c, tolerances = inputs.c[chosen], inputs.tolerance[chosen].T
            keys = (*tolerances, c) if tolerances_share_c else (c, *tolerances)
            last_c, carry = np.nan, None
            for i in chosen[np.lexsort(keys)].tolist():
                c = inputs.c[i]
                # As c grows, the last solution stays feasible.
                usable = c == last_c if tolerances_share_c else c >= last_c
                tolerance = np.where(units > 0, inputs.tolerance[i] * units, np.inf)
                problem = shared._replace(
                    upper_bound=jnp.asarray(c * inputs.mass),
                    tolerance=jnp.asarray(tolerance),
                )
                found, carry = method(problem, carry if usable else None)
                last_c, found = c, jax.device_get(found)
                fit.dual[i] = found.dual.alpha
                fit.multipliers[i] = found.dual.mu * units
                gaps = np.abs(found.dual.gaps) * np.asarray(lengths)
                excess = np.maximum(gaps - inputs.tolerance[i], 0)
                fit.violation[i] = excess.max(initial=0)
                for name in ("intercept", "objective", "gap", "iterations"):
                    getattr(fit, name)[i] = getattr(found, name)
                fit.converged[i] = found.error <= precision
                fit.coefficients[i] = inputs.labels * fit.dual[i]
                fit.coefficients[i] -= fit.multipliers[i] @ inputs.rows
    return jax.tree.map(lambda a: a[0] if inputs.single else a, fit)


def predict_batch(
    fit: KernelFit,
    train: Float[np.ndarray, "n d"],
    features: Float[np.ndarray, "r d"],
    kernel: Kernel,
) -> Float[np.ndarray, "m r"]:
    """Scores of each machine, a table of 1,024 rows at a time."""
    coefficients = np.atleast_2d(fit.coefficients)
    intercepts = np.atleast_1d(fit.intercept)[:, None]
    scores = np.empty((len(coefficients), len(features)))
    with jax.enable_x64(True):
        for bandwidth, members in by_bandwidth(np.atleast_1d(fit.bandwidth)):
            for start in range(0, len(features), _ROWS):
                rows = slice(start, start + _ROWS)
                table = kernel_table(kernel, bandwidth, features[rows], train)
                products = (np.asarray(table) @ coefficients[members].T).T
                scores[members, rows] = products + intercepts[members]
    return scores


def by_bandwidth(
    bandwidth: Float[np.ndarray, " m"],
) -> Iterator[tuple[float, Bool[np.ndarray, " m"]]]:
    """Each bandwidth with the mask of its configurations."""
    for value in np.unique(bandwidth):
        yield value, np.isnan(bandwidth) if np.isnan(value) else bandwidth == value


def kernel_table(
    kernel: Kernel,
    bandwidth: float,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
) -> Float[Array, "n m"]:
    """The kernel in float64, its bandwidth NaN where it is bound already."""
    keywords = {} if np.isnan(bandwidth) else {"bandwidth": bandwidth}
    return kernel(jnp.asarray(x), jnp.asarray(y), **keywords)


def _shared_problem(
    inputs: Inputs, kernel: Kernel, bandwidth: float
) -> tuple[Problem, Float[Array, " k"]]:
    """The problem of a bandwidth without c and tolerance, and lengths of directions."""
    table = kernel_table(kernel, bandwidth, inputs.samples, inputs.samples)
    checks.check_finite(table, name="kernel(features, features)")
    cross, gram, lengths = unit_directions(table, jnp.asarray(inputs.rows))
    shared = (inputs.labels, inputs.targets, inputs.mass)
    labels, targets, mass = map(jnp.asarray, shared)
    return Problem(table, cross, gram, labels, targets, mass, lengths), lengths
