import os

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

# Accidental promotion and broadcasting are where silent errors hide.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Two devices, so that sharded programs are more than a formality.
jax.config.update("jax_num_cpu_devices", 2)

# The same 200 examples per property each time; the nightly ones are drawn anew.
hypothesis.settings.register_profile(
    "ci", max_examples=200, derandomize=True, database=None, deadline=None
)
hypothesis.settings.register_profile(
    "nightly", max_examples=10_000, database=None, deadline=None
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config):
    """Keeps compiled programs: many tests, workers and later runs share them."""
    if hasattr(config, "cache"):  # Absent under `-p no:cacheprovider`.
        directory = config.cache.mkdir("jax-programs")
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="module", autouse=True)
def programs_of_this_file():
    """Lets go of compiled programs after each file; thousands of them fill gigabytes.

    Those that others need come back from the directory above.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    """Double precision for one test, where the claim needs it."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized():
    """Where running takes longer than compiling, whatever the environment says."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    wanted = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    jax.config.update("jax_disable_most_optimizations", wanted == "1")


@pytest.fixture
def untyped():
    """As users run it: without the shape checks that would raise first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
