"""Linear machines on features come close to the exact kernel machine, as stated."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import datasets, erm, kernels, notions, orthogonality, solvers
from fairjax.kernels import features_for, fourier, nystrom
from tests.kernels.test_features import KEY


def problem(name):
    if name == "toy":
        data, n = datasets.toy(n=300), 300
    elif "FAIRJAX_DATA_DIR" in os.environ:
        data, n = datasets.adult(), 600
    else:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    features, labels, groups = (a[:n] for a in data.train)
    return features, labels, groups, data.test.features[:1000]


@pytest.mark.parametrize(
    ("method", "name", "agreement", "distance"),
    [
        (fourier, "adult", (0.9, 0.95, 0.98), (0.6, 0.3, 0.15)),
        (nystrom, "adult", (0.93, 0.97, 0.99), (0.3, 0.12, 0.04)),
        (fourier, "toy", (0.96, 0.98, 0.985), (0.6, 0.3, 0.25)),
        (nystrom, "toy", (0.99, 0.995, 0.998), (0.1, 0.01, 0.003)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_linear_machine_converges_to_the_exact_one(
    method, name, agreement, distance
):
    """Equal opportunity with tolerance 0; scores are compared on test samples."""
    x, y, groups, new = problem(name)
    n, c = len(x), 1.0
    width = kernels.median_heuristic(x, x, key=KEY)
    kernel = functools.partial(kernels.gaussian, bandwidth=float(width))
    cond = notions.equal_opportunity(jnp.asarray(groups), jnp.asarray(y), n_groups=2)
    exact = solvers.fit_svm(x, y, kernel=kernel, c=c, cond=cond)
    assert exact.converged
    expected = solvers.predict(exact, x, new, kernel=kernel)
    sizes = (32, 128, 512) if name == "adult" else (16, 64, 128)
    found = np.empty((3, 2, 3))
    for i, n_features in enumerate(sizes):
        for seed in range(2):
            phi = features_for(
                kernel,
                x,
                n_features=n_features,
                key=jax.random.key(seed),
                method=method,
            )
            # Columns of zeros change no model, and one program serves all sizes.
            empty = ((0, 0), (0, sizes[-1] - n_features))
            features, new_features = (jnp.pad(phi(z), empty) for z in (x, new))
            u = orthogonality.directions(features, cond)
            fit = solvers.fit_linear(
                features,
                jnp.asarray(y),
                loss=erm.hinge,
                ridge=1 / (n * c),
                directions=u,
                tolerance=0.0,
            )
            assert fit.converged
            np.testing.assert_allclose(u @ fit.coefficients, 0, atol=1e-5)
            scores = np.asarray(new_features @ fit.coefficients + fit.intercept)
            found[i, seed] = (
                np.mean((scores > 0) == (expected > 0)),
                np.sqrt(np.mean((scores - expected) ** 2)),
                fit.objective * n * c / exact.objective - 1,
            )
    agreed, apart, excess = found.mean(axis=1).T
    assert (agreed >= agreement).all()
    assert (apart <= distance).all()
    if method is fourier:
        assert abs(excess[-1]) < (0.02 if name == "adult" else 0.05)
    else:
        # It searches a part of the exact machine's space, a growing one for each key.
        assert (found[:, :, 2] > -1e-5).all()
        assert (np.diff(found[:, :, 2], axis=0) < 1e-5).all()
        assert excess[-1] < 0.01
    if name == "adult":
        assert (np.diff(agreed) > 0).all()
        assert (np.diff(apart) < 0).all()
        assert (np.diff(np.abs(excess)) < 0).all()
