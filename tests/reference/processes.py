"""Programs in processes of their own, alone or joined by `jax.distributed`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
START = """
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    "localhost:{port}", 2, {own}, initialization_timeout=120,
    heartbeat_timeout_seconds=10)
"""


def call(*programs):
    """Runs programs side by side; all must end well."""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for program in programs
    ]
    try:
        for job in jobs:
            text, _ = job.communicate(timeout=300)
            assert job.returncode == 0, text
    finally:
        for job in jobs:
            job.kill()
            job.communicate()
