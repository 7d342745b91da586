import jax
import numpy as np
import pytest

# Accidental promotion and broadcasting are where silent errors hide.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    """Double precision for one test, where the claim needs it."""
    with jax.enable_x64(True):
        yield
