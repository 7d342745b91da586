"""Two tiers, strict dtypes, and compiled programs that tests share.

`pytest` runs the first tier: every folder here but `slow/`, compiled with few
optimisations, since compiling is most of the time. A test that takes more than
`LIMIT` seconds there fails. `pytest --all` runs both tiers, compiled as users have it.
"""

import importlib
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

SLOW = Path(__file__).parent / "slow"
LIMIT = 60.0  # seconds, on a busy machine too; the aim is 10 on an idle one

# Workers compile side by side already: to split programs among threads costs a fifth.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_parallel_codegen_split_count=1"
)
# Its first import lets JAX forget what was compiled; so it comes before any program.
with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    importlib.import_module("ott")

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


def pytest_addoption(parser):
    parser.addoption(
        "--all", action="store_true", help="both tiers: tests/slow/ as well"
    )


def pytest_ignore_collect(collection_path, config):
    """Leaves `slow/` out, unless `--all` or a path below it is given."""
    if collection_path != SLOW or config.getoption("--all"):
        return None
    asked = [(Path.cwd() / str(a).split("::")[0]).resolve() for a in config.args]
    return None if any(path.is_relative_to(SLOW) for path in asked) else True


def pytest_configure(config):
    """Sets the compiler, and a directory of compiled programs that workers share."""
    few = "0" if config.getoption("--all") else "1"
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", few)
    jax.config.update("jax_disable_most_optimizations", _few_optimizations())
    if hasattr(config, "cache"):  # Absent under `-p no:cacheprovider`.
        directory = config.cache.mkdir("jax-programs")
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _few_optimizations():
    return os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"


def _seconds():
    """Time on the clock, and on the processor with that of ended child processes."""
    return np.array([time.monotonic(), sum(os.times()[:4])])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.started = _seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fails a test of the first tier that takes too long.

    The smaller of both times counts: other processes slow the clock, and threads that
    compile side by side add up on the processor.
    """
    report = yield
    taken = min(_seconds() - item.started)
    first = not item.config.getoption("--all") and SLOW not in item.path.parents
    if report.when == "call" and report.passed and first and taken > LIMIT:
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} took {taken:.1f} s; the first tier allows {LIMIT:.0f} s."
        )
    return report


def pytest_sessionfinish(session):
    """Hands the peak memory of a worker to the process that reports it."""
    if hasattr(session.config, "workeroutput"):
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        session.config.workeroutput["peak"] = peak


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if "peak" in getattr(node, "workeroutput", {}):
        peaks = node.config.stash.setdefault(PEAKS, [])
        peaks.append(node.workeroutput["peak"])


PEAKS = pytest.StashKey[list]()


def pytest_terminal_summary(terminalreporter, config):
    peaks = config.stash.get(PEAKS, [])
    if peaks:
        words = ", ".join(f"{peak / 1e9:.2f}" for peak in peaks)
        terminalreporter.write_line(f"peak memory of the workers: {words} GB")


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
    """Where running takes longer than compiling, whatever the tier."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", _few_optimizations())


@pytest.fixture
def untyped():
    """As users run it: without the shape checks that would raise first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
