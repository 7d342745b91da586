"""How much more do two processes get done than one, each with a core of its own?

Weak scaling: one process with the rows (or grid points) of one, against two processes
joined by `jax.distributed` (gloo) with as many each, so twice the work in all. Every
process is pinned to one core, and XLA's threads with it. Where nothing is lost, both
take the same time and the ratio `2 * (seconds of one) / (seconds of two)` is 2. What
the two cores lose to each other, whoever uses them, is measured by two processes apart:
each with the task of one, at the same time, knowing nothing of the other.

- sweep: `sweeps.run(..., mesh=mesh)`, small networks, a grid point each;
- linear: `solvers.fit_linear(..., mesh=mesh)`, 64 configurations;
- mmd: `divergences.mmd_squared(..., mesh=mesh)` with its gradient in the samples. Its
  work grows with the square of the rows, so rows per process are divided by sqrt(2).

Answer (2 cores of a virtual machine, otherwise idle; jax 0.12.0.1, Python 3.13; medians
of 9 calls, of the slower process; the first of four runs of the script, and the work
done together in all four):

             one, s   apart, s   together, s   work done, one process = 1
                                               apart   together
    sweep    0.720    0.737      0.762         1.95    1.89  1.95  1.89  1.90
    linear   0.888    0.961      0.983         1.85    1.81  1.91  1.72  1.74
    mmd      0.710    0.756      0.800         1.88    1.78  1.74  1.83  1.67

The aim was 1.6, and all four runs meet it. On another day, when one process alone took
up to a third longer, two runs had 1.61 and 1.52 for the linear solver and 1.49 and 1.71
for MMD. The linear solver loses half of what it loses to memory, which both cores
share; the rest is latency: on CPUs JAX reduces by gloo, whose thread spins on a lock
while the thread that holds it waits for the one core that both have, a tick of the
scheduler: an all-reduce of 1,000 numbers takes 3 to 4 ms where both are pinned to one
core, 0.3 ms where not. So small problems gain nothing: the linear solver on 40,000 rows
each, 8 steps of 5 ms and metrics, got 1.07.

Run on a machine with two idle cores; needs `os.sched_setaffinity` (Linux).

    python benchmarks/weak_scaling.py            # a few minutes
    python benchmarks/weak_scaling.py --smoke    # small, no conclusion to be drawn
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from functools import partial

from records import Record, parser_for, tell

NAMES = ("sweep", "linear", "mmd")
# Processes, and over how many of them one task is spread.
WAYS = {"fairjax": (1, 1), "fairjax, apart": (2, 1), "fairjax, together": (2, 2)}


def records(*, smoke, repeats):
    """Seconds of one process, of two apart and of two together, with their ratios."""
    cores = sorted(os.sched_getaffinity(0))
    options = {"smoke": smoke, "repeats": repeats}
    ways = dict(WAYS)
    if smoke:
        del ways["fairjax, apart"]  # Twice what one process does.
    found = {way: measured(*way, cores, options) for way in ways.values()}
    for name in NAMES:
        alone = found[1, 1][name][1]
        for words, (processes, parts) in ways.items():
            laps = found[processes, parts][name]
            yield Record(
                "weak_scaling",
                name,
                processes,
                "processes",
                words,
                *laps,
                host=True,
                notes={"work per second, one process = 1": processes * alone / laps[1]},
            )


def main():
    parser = parser_for(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    # How a process of the measurement is told its place.
    parser.add_argument("--place", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.place is not None:
        work(**given.place)
        return
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed, and a system that pins processes to them.")
    found = records(smoke=given.smoke, repeats=1 if given.smoke else given.repeats)
    from timing import machine

    tell(machine(), found, as_json=given.json)


def measured(processes, parts, cores, options):
    """Laps by name, of the slowest of so many processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    jobs = []
    for own in range(processes):
        place = options | {
            "own": own, "count": parts, "core": cores[own], "port": port
        }  # fmt: skip
        command = [sys.executable, __file__, "--place", json.dumps(place)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        jobs.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env=environment
            )
        )
    try:
        texts = [job.communicate()[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    if any(job.returncode for job in jobs):
        raise SystemExit("a process of the measurement failed: see above.")
    found = [json.loads(text.splitlines()[-1]) for text in texts]
    return {name: max((f[name] for f in found), key=lambda s: s[1]) for name in NAMES}


def work(*, own, count, core, port, smoke, repeats):
    """What one process does; prints its seconds as JSON."""
    # Before XLA starts its threads, as many as there are cores.
    os.sched_setaffinity(0, {core})
    import jax

    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", count, own)
    from timing import seconds, summary

    mesh = jax.make_mesh((count,), ("rows",))
    found = {}
    for name in NAMES:
        fn = globals()[name](mesh, own, count, smoke)
        if name == "sweep":
            found[name] = summary([fn() for _ in range(repeats + 1)])
        else:
            found[name] = seconds(fn, repeats=repeats)
    print(json.dumps(found))


def rows_of(own, n, d):
    """Rows of this process, with labels and groups."""
    import numpy as np

    rng = np.random.default_rng(own)
    x = rng.normal(size=(n, d)).astype(np.float32)
    groups = rng.integers(2, size=n).astype(np.int32)
    labels = (x[:, 0] + groups + rng.normal(size=n) > 0.5).astype(np.int32)
    return x, labels, groups


def sweep(mesh, own, count, smoke):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.tree_util import Partial

    from fairjax import erm, notions, penalties, sweeps

    n, width, steps, points = (256, 16, 5, 2) if smoke else (4_096, 64, 100, 16)
    x, labels, groups = (jnp.asarray(a) for a in rows_of(0, n, 16))
    optimizer = optax.adam(1e-2)

    def fit(x, labels, groups, lam):
        cond = notions.demographic_parity(groups, n_groups=2)

        def loss(params):
            scores = jnp.tanh(x @ params["in"]) @ params["out"]
            risk = erm.empirical_risk(scores, labels, loss=erm.logistic)
            return risk + lam * penalties.mean_gap(scores, cond)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        first, second = jax.random.split(jax.random.key(0))
        params = {
            "in": jax.random.normal(first, (16, width)) / 4,
            "out": jax.random.normal(second, (width,)) / width,
        }
        start = (params, optimizer.init(params))
        (params, _), _ = jax.lax.scan(step, start, length=steps)
        return loss(params)

    lam = np.linspace(0, 1, points * count).astype(np.float32)
    bound = Partial(fit, x, labels, groups)

    def run():
        """Seconds after the first chunk: `sweeps.run` compiles in each call."""
        laps = []
        sweeps.run(
            bound,
            lam,
            mesh=mesh,
            chunk=count,
            progress=lambda done, total: laps.append(time.perf_counter()),
        )
        return laps[-1] - laps[0]

    return run


def linear(mesh, own, count, smoke):
    import numpy as np

    from fairjax import notions, orthogonality, sharding, solvers

    n, d = (500, 8) if smoke else (200_000, 64)
    # The same rows in all processes: as many steps, however many processes.
    (x, labels, groups), mask = sharding.shard_rows(rows_of(0, n, d), mesh=mesh)
    cond = notions.demographic_parity(groups, n_groups=2, weights=mask)
    along = orthogonality.directions(x, cond)
    tolerance = np.linspace(0, 0.5, 64).astype(np.float32)
    return lambda: solvers.fit_linear(
        x,
        labels,
        ridge=1e-3,
        directions=along,
        tolerance=tolerance,
        weights=mask,
        mesh=mesh,
    )


def mmd(mesh, own, count, smoke):
    import jax

    from fairjax import divergences, kernels, notions, sharding

    n = int((400 if smoke else 24_000) / count**0.5)
    (x, _, groups), mask = sharding.shard_rows(rows_of(own, n, 16), mesh=mesh)
    cond = notions.demographic_parity(groups, n_groups=2, weights=mask)
    kernel = partial(kernels.gaussian, bandwidth=4.0)

    def gap(x, cond):
        first, second = cond.weights[0]
        return divergences.mmd_squared(
            x, x, x_weights=first, y_weights=second, kernel=kernel, mesh=mesh
        )

    program = jax.jit(jax.value_and_grad(gap))
    return lambda: program(x, cond)


if __name__ == "__main__":
    main()
