"""What can this device do at most: operations and bytes per second?

- products of square matrices in float32 (and at JAX's default precision where that
  differs: on many accelerators it rounds the factors), and in float64;
- a copy: one pass that reads an array much larger than a cache and writes it in place,
  so that no fresh memory has to be found; bytes read and written count.

The size doubles until a product takes long enough, and the fastest lap counts. Other
benchmarks are shown as shares of these rates, measured on the same device in the same
run.

Run: `python benchmarks/ceilings.py [--smoke]`; a few seconds.
"""

import contextlib
import json
import platform
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from records import finite, parser_for
from timing import cores, machine, seconds

SMALLEST, LARGEST = 512, 16_384


def product(dtype: str, precision: str, *, patience: float) -> dict:
    """The best rate of a matrix product [operations/s], and the size that gave it."""
    program = jax.jit(partial(jnp.matmul, precision=precision))
    best, size = {"rate": 0.0}, SMALLEST
    while size <= LARGEST:
        factor = jax.random.normal(jax.random.key(0), (size, size), dtype)
        lap = seconds(partial(program, factor, factor), repeats=3).fastest
        rate = 2 * size**3 / lap
        if rate > best["rate"]:
            best = {"rate": rate, "unit": "operations/s", "size": size}
        if lap > patience:
            break
        size *= 2
    return best


def copy(*, megabytes: int) -> dict:
    """The rate of reading and writing an array in place [bytes/s]."""
    count = megabytes * 2**18
    program = jax.jit(jnp.negative, donate_argnums=0)
    array = jnp.ones(count, "float32")

    def turn():
        nonlocal array
        array = program(array)
        return array

    lap = seconds(turn, repeats=8).fastest
    return {"rate": 2 * array.nbytes / lap, "unit": "bytes/s", "size": array.nbytes}


def measure(*, smoke: bool) -> dict[str, dict]:
    """All ceilings by name; `records.floor` knows these names."""
    patience = 0.01 if smoke else 0.1
    found = {"float32 product": product("float32", "highest", patience=patience)}
    if jax.default_backend() != "cpu":
        found["float32 product, default precision"] = product(
            "float32", "default", patience=patience
        )
    if jax.default_backend() != "tpu":
        with jax.enable_x64(True):
            found["float64 product"] = product("float64", "highest", patience=patience)
    found["copy"] = copy(megabytes=64 if smoke else 512)
    return found


def processor() -> str:
    """The CPU's name, where Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def describe() -> dict:
    """The device that JAX sees, and the precision it is asked for."""
    device = jax.devices()[0]
    return {
        "device": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
            "cores": cores(),
            "machine": platform.machine(),
            "processor": processor(),
        },
        "precision": {
            "x64": bool(jax.config.jax_enable_x64),
            "matmul": jax.config.jax_default_matmul_precision or "default",
        },
    }


def main():
    given = parser_for(__doc__).parse_args()
    found = measure(smoke=given.smoke)
    if given.json:
        print(json.dumps(finite(describe() | {"ceilings": found}), allow_nan=False))
        return
    print(machine("numpy"))
    for name, ceiling in found.items():
        print(f"  {name:36} {ceiling['rate']:.3g} {ceiling['unit']}")


if __name__ == "__main__":
    main()
