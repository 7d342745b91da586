"""Random Fourier features over many keys: no bias, and the stated error."""

import functools

import jax
import numpy as np
import pytest

from fairjax import kernels
from fairjax.kernels import features_for
from tests.kernels.test_features import FORMULAS, KEY, D, H, approximated, draw


@pytest.mark.parametrize(
    ("kernel", "width"),
    [(kernels.gaussian, 1), *((kernel, D) for kernel in FORMULAS)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_fourier_is_unbiased_and_its_error_is_that_of_theory(kernel, width, rng, x64):
    x, n_keys = draw(rng, width=width), 200
    bound = functools.partial(kernel, bandwidth=H)
    exact = FORMULAS[kernel](x, x, H)
    doubled = FORMULAS[kernel](2 * x, 2 * x, H)
    peak, rms = exact[0, 0], {}
    for n_features in (64, 256):
        found = jax.vmap(
            lambda key, n=n_features: approximated(
                features_for(bound, x, n_features=n, key=key), x
            )
        )(jax.random.split(KEY, n_keys))
        variance = (peak**2 + peak * doubled - 2 * exact**2) / n_features
        sigma = np.sqrt(np.maximum(variance, 0))
        errors = found - exact[None]
        assert (abs(errors.mean(axis=0)) <= 5 * sigma / n_keys**0.5 + 1e-9).all()
        assert (abs(errors) <= 6 * sigma[None] + 1e-9).all()
        rms[n_features] = np.sqrt(np.mean(errors**2))
        # Orthogonal frequencies and spread scales lower it; one column has neither.
        limit = 1.05 if width == 1 else 0.95
        assert rms[n_features] < limit * np.sqrt(np.mean(variance))
    assert 1.7 < rms[64] / rms[256] < 2.6
