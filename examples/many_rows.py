"""Rows over devices, and rows that do not fit into memory.

The same linear frontier three times: in memory, with its rows laid over the devices of
a mesh, and from a Parquet file that is read chunk by chunk. The file's columns are
standardised as they are read, so its objectives are those of another scale. Run it with

    python examples/many_rows.py

On several processes, join them first, and give each its own rows:

    jax.distributed.initialize(
        coordinator_address="host:9876", num_processes=2, process_id=0)
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from fairjax import (
    datasets,
    erm,
    metrics,
    notions,
    orthogonality,
    sharding,
    solvers,
    streams,
)

RIDGE, TOLERANCES = 1e-4, jnp.linspace(0.0, 2.0, 8)


def in_memory(train: datasets.Samples) -> solvers.LinearFit:
    features, labels, groups = map(jnp.asarray, train)
    cond = notions.equal_opportunity(groups, labels, n_groups=2)
    return solvers.fit_linear(
        features,
        labels,
        ridge=RIDGE,
        directions=orthogonality.directions(features, cond),
        tolerance=TOLERANCES,
    )


def over_devices(train: datasets.Samples) -> solvers.LinearFit:
    """Notions, risks and penalties reduce across devices as they are."""
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    batch, mask = sharding.shard_rows(erm.Batch(*train), mesh=mesh)
    cond = notions.equal_opportunity(
        batch.groups, batch.labels, n_groups=2, weights=mask
    )
    return solvers.fit_linear(
        batch.features,
        batch.labels,
        ridge=RIDGE,
        directions=orthogonality.directions(batch.features, cond),
        tolerance=TOLERANCES,
        weights=mask,
        mesh=mesh,
    )


def from_file(file: Path) -> tuple[solvers.LinearFit, metrics.Audit]:
    """A few chunks are held at a time, however many rows there are."""
    rows = datasets.from_parquet(
        str(file), target="label", sensitive="group", positive="1", chunk=512
    )
    directions = orthogonality.directions_stream(
        rows, notion=notions.equal_opportunity, n_groups=rows.n_groups
    )
    fit = solvers.fit_linear_stream(
        rows, ridge=RIDGE, directions=directions, tolerance=TOLERANCES
    )
    scored = streams.scored(rows, fit.coefficients[0], fit.intercept[0])
    return fit, metrics.audit_stream(scored, n_groups=rows.n_groups)


def main() -> None:
    train = datasets.toy().train
    memory, devices = in_memory(train), over_devices(train)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        columns = {f"x{i}": train.features[:, i] for i in range(2)}
        table = pd.DataFrame(columns | {"label": train.labels, "group": train.groups})
        table.to_parquet(file)
        stream, report = from_file(file)
    for name, fit in {"memory": memory, "devices": devices, "file": stream}.items():
        print(
            f"{name:8s} objectives {np.round(np.asarray(fit.objective[:3]), 5)} "
            f"largest gap to the optimum {float(fit.gap.max()):.1e}"
        )
    print(f"accuracy of the fairest model, counted in chunks: {report.accuracy:.3f}")


if __name__ == "__main__":
    main()
