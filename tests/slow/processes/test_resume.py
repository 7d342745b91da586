"""A sweep that was killed goes on from its checkpoint."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

SCRIPT = """
    import os, signal, sys
    import jax, jax.numpy as jnp, numpy as np
    from fairjax import sweeps

    folder, kill_at, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    log = open(folder + ".log", "a")

    def count(x):
        log.write("x"); log.flush()
        if kill_at and os.path.getsize(folder + ".log") >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    def fn(x):
        y = jax.pure_callback(count, jax.ShapeDtypeStruct((), x.dtype), x)
        return jnp.sin(y) * jnp.arange(3.0), jnp.exp(y)

    points = jnp.linspace(0, 1, 11)
    result = sweeps.run(fn, points, strategy=sweeps.mapped, chunk=2, checkpoint=folder)
    np.savez(out, *[np.asarray(x) for x in result.values])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_sweep_resumes_where_it_was(tmp_path):
    def start(folder, kill_at, out):
        arguments = [str(tmp_path / folder), str(kill_at), str(tmp_path / out)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments]
        return subprocess.run(command, env=environment, timeout=120).returncode

    assert start("whole", 0, "whole.npz") == 0
    # 12 evaluations, padding included; the 8th is the last one of the fourth chunk.
    assert start("part", 8, "part.npz") == -signal.SIGKILL
    saved = sorted(f.name for f in (tmp_path / "part").glob("chunk-*"))
    assert saved == [f"chunk-0000{i}.npz" for i in range(3)]
    assert start("part", 0, "part.npz") == 0
    assert (tmp_path / "whole.log").stat().st_size == 12
    assert (tmp_path / "part.log").stat().st_size == 8 + 6
    with (
        np.load(tmp_path / "whole.npz") as whole,
        np.load(tmp_path / "part.npz") as part,
    ):
        for name in whole.files:
            assert whole[name].tobytes() == part[name].tobytes()
