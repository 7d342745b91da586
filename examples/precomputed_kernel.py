"""Any kernel method made fair: scikit-learn's support vector machine, for one.

`orthogonality.project_kernel` takes the difference of the groups' means out of a table
of kernel values. Whoever learns from that table learns under P1's constraint: on the
training part, the positives of both groups have the same mean score. The table of the
test rows is projected too. `solvers.fit_svm(tolerance=0)` solves the same problem
without a projected table, and must agree.

    pip install "fairjax[data]" scikit-learn
    python examples/precomputed_kernel.py
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.svm import SVC

from fairjax import datasets, kernels, metrics, notions, orthogonality, solvers

BANDWIDTH, C = 3.0, 1.0


def report(name, known, new, train, test):
    """Accuracy and DEO on the test part, and the gap that the constraint is about."""
    learnt, unseen = (
        notions.equal_opportunity(part.groups, part.labels, n_groups=2)
        for part in (train, test)
    )
    accuracy = metrics.accuracy(new > 0, test.labels)
    deo, gap = metrics.max_gap(new > 0, unseen), metrics.max_gap(known, learnt)
    print(f"{name:30}{float(accuracy):10.3f}{float(deo):8.3f}{float(gap):24.0e}")


def by_scikit_learn(table, rows, labels):
    """Scores of the training and the test rows."""
    model = SVC(C=C, kernel="precomputed", tol=1e-8).fit(table, labels)
    return model.decision_function(table), model.decision_function(rows)


def main():
    # A projected table is positive semidefinite up to rounding: take float64.
    jax.config.update("jax_enable_x64", True)
    data = datasets.toy()
    train, test = (jax.tree.map(jnp.asarray, part) for part in (data.train, data.test))
    known, new = train.features.astype(float), test.features.astype(float)
    cond = notions.equal_opportunity(train.groups, train.labels, n_groups=2)
    kernel = partial(kernels.gaussian, bandwidth=BANDWIDTH)
    table, rows = kernel(known, known), kernel(new, known)
    fair = orthogonality.project_kernel(table, cond)
    fair_rows = orthogonality.project_kernel(table, cond, rows=rows)

    plain = by_scikit_learn(table, rows, data.train.labels)
    projected = by_scikit_learn(fair, fair_rows, data.train.labels)
    fit = solvers.fit_svm(
        known, train.labels, kernel=kernel, c=C, cond=cond, tolerance=0.0
    )
    own = [solvers.predict(fit, known, part, kernel=kernel) for part in (known, new)]

    print(f"{'':30}{'accuracy':>10}{'DEO':>8}{'training gap of means':>24}")
    report("SVC", *plain, train, test)
    report("SVC on the projected kernel", *projected, train, test)
    report("fairjax, fit_svm", *own, train, test)
    difference = np.abs(projected[1] - own[1]).max()
    print(f"Scores of the last two differ by {difference:.0e} at most.")


if __name__ == "__main__":
    main()
