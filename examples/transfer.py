"""Does fairness transfer to tasks never seen? The School data, schools as tasks.

Of the 139 schools, those with at least ten students of either gender take part: in the
others there is nothing to compare. The gender is one of the features. A shared encoder
is trained on two thirds of these schools, with no penalty, with MMD and with Sinkhorn
between the genders on the representation, at a grid of strengths. Then it is frozen,
and each school gets a ridge head of its own: the schools seen in training, and the
others, with as many students to learn from. Next to it: ridge regression in each school
alone, and the same on features projected to be fair (P1).

For each: root mean squared error on the test students, unfairness of the predictions
(Kolmogorov-Smirnov distance between the genders, and the gap of their means), and what
probes find out about the gender from the representation (AUC of the better probe; 0.5
is chance). Mean and standard deviation over seeds, which choose schools, students and
the start of the encoder.

With `--data adult` and `--data compas` the tasks are three things to predict of the
same persons, each left out in turn; groups are sexes and races. There the error is the
share of wrong decisions, and the gap that of their rates.

    pip install "fairjax[data,plot]"
    python examples/transfer.py [--data school|adult|compas] [--seeds N] [--smoke]

School (10 seeds, mean and standard deviation; 2 cores, jax 0.12.0.1, 7 minutes):

                                      error             KS      mean gap       leakage
    ridge alone       seen     10.07 (0.12)  0.203 (0.025)   2.54 (0.37)   1.00 (0.00)
                      unseen    9.89 (0.20)  0.233 (0.034)   2.61 (0.35)   1.00 (0.00)
    ridge, projected  seen     10.14 (0.13)  0.083 (0.023)   0.63 (0.34)   0.68 (0.12)
                      unseen    9.93 (0.17)  0.100 (0.020)   0.62 (0.20)   0.74 (0.16)
    no penalty        seen      9.87 (0.13)  0.218 (0.025)   2.91 (0.41)   1.00 (0.00)
                      unseen    9.65 (0.17)  0.236 (0.023)   2.95 (0.40)   1.00 (0.00)
    MMD 0.3           seen      9.89 (0.13)  0.160 (0.026)   1.75 (0.40)   0.83 (0.06)
                      unseen    9.64 (0.16)  0.160 (0.029)   1.73 (0.29)   0.85 (0.05)
    MMD 1             seen      9.92 (0.13)  0.124 (0.023)   1.21 (0.35)   0.62 (0.07)
                      unseen    9.67 (0.16)  0.135 (0.031)   1.20 (0.28)   0.66 (0.07)
    MMD 3             seen      9.93 (0.12)  0.106 (0.021)   0.89 (0.34)   0.62 (0.11)
                      unseen    9.68 (0.16)  0.123 (0.031)   0.90 (0.27)   0.66 (0.08)
    MMD 10            seen      9.96 (0.11)  0.092 (0.016)   0.73 (0.33)   0.62 (0.11)
                      unseen    9.71 (0.17)  0.109 (0.025)   0.74 (0.28)   0.66 (0.10)
    Sinkhorn 0.3      seen      9.87 (0.11)  0.130 (0.025)   1.22 (0.37)   0.91 (0.05)
                      unseen    9.64 (0.13)  0.143 (0.021)   1.18 (0.26)   0.91 (0.05)
    Sinkhorn 1        seen      9.91 (0.10)  0.110 (0.025)   0.90 (0.36)   0.87 (0.07)
                      unseen    9.69 (0.14)  0.122 (0.021)   0.87 (0.28)   0.87 (0.10)
    Sinkhorn 3        seen      9.98 (0.08)  0.095 (0.024)   0.70 (0.34)   0.87 (0.08)
                      unseen    9.76 (0.15)  0.108 (0.019)   0.67 (0.28)   0.86 (0.10)
    Sinkhorn 10       seen     10.15 (0.11)  0.082 (0.023)   0.57 (0.27)   0.86 (0.09)
                      unseen    9.96 (0.15)  0.105 (0.038)   0.51 (0.25)   0.86 (0.10)

It does transfer: with MMD at strength 3 the KS distance falls by 0.112 in the schools
seen and by 0.113 in the others, for 0.06 and 0.04 points of error. Projected ridge in
each school alone is fairer yet, at an error about 0.2 points higher. Two limits: a
finite test part shows a distance above 0 even for fair scores, and the gender can still
be told from the representation better than by chance, after Sinkhorn much better.

Adult (3 seeds):

                                       error             KS      gap of rates   leakage
    ridge alone              0.213 (0.000)  0.377 (0.000)  0.112 (0.000)  1.00 (0.00)
    ridge, projected         0.223 (0.000)  0.125 (0.000)  0.020 (0.000)  1.00 (0.00)
    no penalty       seen    0.207 (0.001)  0.350 (0.004)  0.113 (0.003)  1.00 (0.00)
                     unseen  0.210 (0.001)  0.362 (0.015)  0.131 (0.008)
    MMD 1            seen    0.216 (0.000)  0.109 (0.004)  0.039 (0.002)  0.63 (0.06)
                     unseen  0.225 (0.001)  0.085 (0.003)  0.035 (0.001)
    MMD 10           seen    0.221 (0.001)  0.097 (0.015)  0.023 (0.007)  0.60 (0.04)
                     unseen  0.227 (0.001)  0.073 (0.004)  0.022 (0.002)
    Sinkhorn 1       seen    0.218 (0.001)  0.115 (0.008)  0.036 (0.011)  0.81 (0.08)
                     unseen  0.232 (0.003)  0.107 (0.044)  0.040 (0.016)
    Sinkhorn 10      seen    0.223 (0.002)  0.118 (0.003)  0.024 (0.007)  0.76 (0.08)
                     unseen  0.235 (0.002)  0.104 (0.034)  0.031 (0.006)

It transfers here too, fully in unfairness, but at a price in error: 1.5 points on a
target never seen, against 0.9 on seen ones, where projected ridge pays 1.0.

COMPAS (5 seeds):

                                       error             KS      gap of rates   leakage
    ridge alone              0.232 (0.005)  0.389 (0.035)  0.225 (0.020)  1.00 (0.00)
    ridge, projected         0.245 (0.005)  0.072 (0.018)  0.024 (0.006)  0.99 (0.02)
    no penalty       seen    0.227 (0.004)  0.351 (0.024)  0.219 (0.013)  1.00 (0.00)
                     unseen  0.227 (0.003)  0.360 (0.032)  0.226 (0.013)
    MMD 1            seen    0.235 (0.004)  0.112 (0.024)  0.058 (0.018)  0.68 (0.05)
                     unseen  0.237 (0.002)  0.107 (0.026)  0.046 (0.015)
    MMD 10           seen    0.239 (0.003)  0.082 (0.017)  0.035 (0.019)  0.61 (0.02)
                     unseen  0.239 (0.004)  0.081 (0.016)  0.036 (0.021)
    Sinkhorn 1       seen    0.235 (0.005)  0.101 (0.022)  0.051 (0.021)  0.94 (0.04)
                     unseen  0.237 (0.005)  0.100 (0.026)  0.047 (0.020)
    Sinkhorn 10      seen    0.241 (0.004)  0.074 (0.017)  0.027 (0.017)  0.89 (0.05)
                     unseen  0.242 (0.004)  0.070 (0.015)  0.026 (0.016)

Here too: unseen targets become as fair as seen ones, for 1.0 against 0.8 points of
error (MMD 1).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from fairjax import (
    datasets,
    divergences,
    erm,
    kernels,
    metrics,
    modules,
    notions,
    orthogonality,
    penalties,
    probes,
    sweeps,
)
from fairjax.training import fit

WIDTHS, BATCH = [32], 512
PROBED = 600  # test samples; one number for all, so that probes compile once
DIVERGENCES = {
    "MMD": partial(
        divergences.mmd_squared, kernel=partial(kernels.gaussian_sum, bandwidth=2.0)
    ),
    "Sinkhorn": partial(divergences.sinkhorn_info, epsilon=0.5),
}
LOOKS = {"MMD": ("#0072B2", "o", "-"), "Sinkhorn": ("#D55E00", "s", "--")}


class Setting(NamedTuple):
    """One of the three experiments."""

    load: Callable[[int], datasets.Dataset]
    regression: bool
    strengths: tuple[float, ...]
    ridge: float  # of the heads, per sample
    epochs: int
    seeds: int
    columns: tuple[str, ...]
    units: tuple[str, ...]
    title: str


def mixed_schools(seed):
    """The data of the schools with students of both genders, renumbered."""
    data = datasets.school(seed=seed, sensitive_in_features=True)
    counts = [np.bincount(data.tasks[data.groups == g], minlength=139) for g in (0, 1)]
    mixed = np.minimum(*counts) >= 10
    rows, places = mixed[data.tasks], np.cumsum(mixed) - 1
    arrays = ("features", "labels", "groups", "is_train", "tasks")
    data = data._replace(**{name: getattr(data, name)[rows] for name in arrays})
    names = tuple(np.array(data.task_names)[mixed].tolist())
    return data._replace(tasks=places[data.tasks].astype(np.int32), task_names=names)


def adult_targets(seed):
    """Three things to predict of the same persons; the split is the official one."""
    return datasets.adult(target=["income", "hours-per-week", "occupation"])


def compas_targets(seed):
    return datasets.compas(
        target=["two_year_recid", "is_violent_recid", "score_text"], seed=seed
    )


CLASSES = (("error", "KS", "gap of rates", "leakage"), ("share", "", "share", "AUC"))
SETTINGS = {
    "school": Setting(
        mixed_schools, True, (0.0, 0.3, 1.0, 3.0, 10.0), 0.1, 60, 10,
        ("error", "KS", "mean gap", "leakage"), ("points", "", "points", "AUC"),
        "School: a fair representation on schools seen and never seen",
    ),
    "adult": Setting(
        adult_targets, False, (0.0, 0.3, 1.0, 3.0, 10.0), 1e-4, 5, 3, *CLASSES,
        "Adult: a fair representation on targets seen and never seen",
    ),
    "compas": Setting(
        compas_targets, False, (0.0, 0.3, 1.0, 3.0, 10.0), 1e-3, 15, 5, *CLASSES,
        "COMPAS: a fair representation on targets seen and never seen",
    ),
}  # fmt: skip


@partial(jax.jit, static_argnames="n_tasks")
def heads_and_scores(z, labels, tasks, train, ridge, *, n_tasks):
    """Ridge regression in every task on its training rows: scores of all rows."""
    z = jnp.concatenate([z, jnp.ones((len(z), 1), z.dtype)], axis=1)
    rows = jnp.where(train, 1.0, 0.0)

    def head(task):
        mass = rows * (tasks == task)
        gram = jnp.einsum("n,ni,nj->ij", mass, z, z, precision="highest")
        size = jnp.maximum(mass.sum(), 1)
        weight = ridge * size * jnp.eye(z.shape[1]).at[-1, -1].set(1e-6)
        right = jnp.einsum("n,ni,n->i", mass, z, labels, precision="highest")
        return jnp.linalg.solve(gram + weight, right)

    coefficients = jax.lax.map(head, jnp.arange(n_tasks))
    return (z * coefficients[tasks]).sum(axis=1)


def measure(z, scores, data, rows, key):
    """The four columns, on some test rows."""
    labels, groups = jnp.asarray(data.labels)[rows], jnp.asarray(data.groups)[rows]
    cond = notions.demographic_parity(groups, n_groups=2)
    own = scores[rows]
    if data.is_regression:
        error, outcomes = jnp.sqrt(jnp.mean(jnp.square(own - labels))), own
    else:
        outcomes = jnp.where(own > 0.5, 1.0, 0.0)
        error = jnp.mean(outcomes != labels)
    means = metrics.group_means(outcomes, cond)
    some = jax.random.permutation(key, len(rows))[:PROBED]
    found = probes.leakage(
        z[rows][some], groups[some], n_groups=2, key=key, n_folds=3, draws=1
    )
    return [
        float(error),
        float(metrics.ks_distance(own, cond)),
        float(abs(means[0, 1] - means[0, 0])),
        float(jnp.maximum(found.linear.auc, found.kernel.auc)),
    ]


def representations(data, seen, seed, divergence, setting):
    """The encoder's output for all samples, for every strength."""
    train = data.is_train & seen[data.tasks]
    places = np.cumsum(seen) - 1
    labels = data.labels[train]
    if data.is_regression:
        labels = (labels - labels.mean()) / labels.std()
    batch = erm.Batch(
        jnp.asarray(data.features[train]),
        jnp.asarray(labels),
        jnp.asarray(data.groups[train]),
        tasks=jnp.asarray(places[data.tasks[train]]),
    )
    apply, init, build = modules.functional(
        lambda rngs: modules.SharedRepresentation(
            data.features.shape[1], WIDTHS, n_tasks=int(seen.sum()),
            activation=jnp.tanh, rngs=rngs,
        )
    )  # fmt: skip
    objective = erm.objective(
        loss=erm.squared if data.is_regression else erm.logistic,
        notion=notions.demographic_parity,
        n_groups=2,
        n_tasks=int(seen.sum()),
        on_representation=partial(
            penalties.divergence_gap_info, divergence=divergence, batch_size=1
        ),
    )
    found = fit(
        apply,
        init,
        batch,
        objective=objective,
        optimizer=optax.adam(3e-3),
        epochs=setting.epochs,
        lam=np.asarray(setting.strengths, np.float32),
        seed=seed,
        batch_size=BATCH,
        by_label=False,
    )
    cut = 1 - float(found.history.converged.mean())
    if cut or not found.finite.all():
        print(f"seed {seed}: in {cut:.1%} of the steps a divergence was cut short")
    features = jnp.asarray(data.features)
    return jax.lax.map(lambda p: build(p).encoder(features), found.params)


def splits(data, seed):
    """Which tasks are seen: two thirds of many; of a few, all but each one in turn."""
    n_tasks = len(data.task_names)
    if n_tasks > 10:
        return [np.random.default_rng(seed).permutation(n_tasks) < n_tasks * 2 // 3]
    return [np.arange(n_tasks) != left for left in range(n_tasks)]


def test_rows(data, chosen):
    """Of many small tasks all together, of a few large ones each by itself."""
    test = ~data.is_train & chosen[data.tasks]
    if len(data.task_names) > 10:
        return [np.flatnonzero(test)]
    return [np.flatnonzero(test & (data.tasks == t)) for t in np.flatnonzero(chosen)]


def one_seed(seed, setting):
    """Names of the methods, and their numbers on seen and on unseen tasks."""
    data = setting.load(seed)
    tables = []
    for seen in splits(data, seed):
        names, numbers = one_split(data, seen, seed, setting)
        tables.append(numbers)
    return names, np.mean(tables, axis=0)


def one_split(data, seen, seed, setting):
    features, labels = jnp.asarray(data.features), jnp.asarray(data.labels, float)
    tasks, is_train = jnp.asarray(data.tasks), jnp.asarray(data.is_train)
    known = jnp.asarray(data.is_train & seen[data.tasks])
    cond = notions.demographic_parity(
        jnp.asarray(data.groups), n_groups=2, weights=known
    )
    fair = orthogonality.project_features(
        features, orthogonality.directions(features, cond)
    )
    found = [("ridge alone", 0.0, features), ("ridge, projected", 0.0, fair)]
    for name, divergence in DIVERGENCES.items():
        hidden = representations(data, seen, seed, divergence, setting)
        found += [
            (name, strength, z)
            for strength, z in zip(setting.strengths, hidden, strict=True)
        ]
    numbers = []
    for _, _, z in found:
        scores = heads_and_scores(
            z, labels, tasks, is_train, setting.ridge, n_tasks=len(data.task_names)
        )
        numbers.append(
            [
                np.mean(
                    [
                        measure(z, scores, data, rows, jax.random.key(seed))
                        for rows in test_rows(data, chosen)
                    ],
                    axis=0,
                )
                for chosen in (seen, ~seen)
            ]
        )
    return [row[:2] for row in found], np.array(numbers)


def draw(names, values, setting, path):
    columns, units = setting.columns, setting.units
    marks = sorted(setting.strengths)
    least = marks[1] / 3  # where the logarithmic axis shows 0
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for axis, column, unit, k in zip(axes.flat, columns, units, range(4), strict=True):
        for name, (color, marker, line) in LOOKS.items():
            rows = [i for i, (n, _) in enumerate(names) if n == name]
            strengths = [max(names[i][1], least) for i in rows]
            for part, filled in ((0, True), (1, False)):
                means = values[:, rows, part, k].mean(axis=0)
                axis.errorbar(
                    strengths,
                    means,
                    values[:, rows, part, k].std(axis=0),
                    color=color,
                    marker=marker,
                    linestyle=line if filled else ":",
                    markerfacecolor=color if filled else "white",
                    capsize=2,
                    label=f"{name}, {'seen' if filled else 'unseen'} tasks",
                )
        for i, (name, _) in enumerate(names):
            if name.startswith("ridge"):
                axis.axhline(
                    values[:, i, 1, k].mean(),
                    color="0.5",
                    linestyle="-" if name == "ridge alone" else "-.",
                    linewidth=1,
                    label=f"{name}, unseen tasks",
                )
        axis.set_xscale("log")
        axis.set_xticks([max(m, least) for m in marks], [f"{m:g}" for m in marks])
        axis.minorticks_off()
        axis.set_ylabel(f"{column} [{unit}]" if unit else column)
    for axis in axes[1]:
        axis.set_xlabel("strength (log scale, 0 at its left end)")
    entries = axes[0, 0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(setting.title)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=SETTINGS, default="school")
    parser.add_argument("--seeds", type=int, help="10, for COMPAS 5, for Adult 3")
    parser.add_argument("--epochs", type=int, help="of the encoder")
    parser.add_argument("--out", type=Path, default=Path("fairjax-out"))
    parser.add_argument("--smoke", action="store_true", help="one seed, one epoch")
    given = parser.parse_args()
    setting = SETTINGS[given.data]
    if given.smoke:
        few = setting.strengths[:: len(setting.strengths) - 1]
        setting = setting._replace(epochs=1, seeds=1, strengths=few)
    setting = setting._replace(
        epochs=given.epochs or setting.epochs, seeds=given.seeds or setting.seeds
    )
    tables = []
    with sweeps.progress_bar("seeds") as progress:
        for seed in range(setting.seeds):
            names, numbers = one_seed(seed, setting)
            tables.append(numbers)
            progress(seed + 1, setting.seeds)
    values = np.array(tables)
    digits = 2 if setting.regression else 3
    print(f"{'':26}" + "".join(f"{column:>18}" for column in setting.columns))
    for i, (name, strength) in enumerate(names):
        for part, where in enumerate(("seen", "unseen")):
            own = values[:, i, part]
            mean, spread = own.mean(axis=0), own.std(axis=0)
            cells = "".join(
                f"{m:10.{digits}f} ({s:.3f})" for m, s in zip(mean, spread, strict=True)
            )
            print(f"{name:17}{strength:5.1f} {where:7}{cells}")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"transfer_{given.data}.png"
    draw(names, values, setting, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
