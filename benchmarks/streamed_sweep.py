"""Can a frontier be swept on more rows than fit into memory?

Adult replicated to N rows (32,561 training rows again and again) in a Parquet file, 64
configurations of the logistic loss, demographic parity by sex:

- `datasets.from_parquet` learns the encoding in one pass;
- `orthogonality.directions_stream` takes one, `solvers.fit_linear_stream` some more;
- `metrics.audit_stream` takes one for the model in the middle.

Passes are counted where the file is read. A pass lasts until the next one starts, the
last until the models are there; the first, which only looks at the values, has no
lap. Memory is what resident memory rose by during
everything after the file was written; the table itself would need 4 bytes for each of
its 107 columns and N rows.

Answer (2 cores, otherwise idle; jax 0.12.0.1, pyarrow 26.0.1, Python 3.13; ridge is
1 / 32,561, and all configurations converged at a largest relative gap of 1e-6):

    rows          passes   a pass, s   all, s   audit, s   memory, MB   table, MB
    100,000       42       0.073       3.31     0.146      349          42.8
    1,000,000     42       0.800       35.4     0.912      520          428
    10,000,000    42       8.22        361      9.05       560          4,280

These passes were timed in the thread that reads, where a lap ended when the last chunk
was handed on, and the look at the values was one of them.

Memory is compilers and the chunks that are read ahead, of which 100,000 rows have two:
it does not grow with the file. Before, 500,000 and 4,000,000 rows took 1,216 and 1,417
MB, now 498 and 552: chunks have memory of their own (the heap kept what one thread made
and another let go), coordinates are made block by block, and Arrow reads page by page
instead of ahead, by which it held the bytes of the whole file.

A pass is a first-order step for all configurations. A ridge of 1 / rows makes harder
problems of more rows: at 10 million, where it is 1e-7, the 200 passes allowed (1,470 s)
left 51 of 64 configurations open, at gaps up to 8e-4, and said so.

    python benchmarks/streamed_sweep.py --rows 10_000_000
    python benchmarks/streamed_sweep.py --smoke    # toy problem, 4 configurations
"""

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from records import Record, parser_for, tell
from timing import Laps, machine, peak_memory, summary

from fairjax import datasets, metrics, orthogonality, solvers, streams
from fairjax.datasets import ParquetStream, sources

COLUMNS = """
    age workclass fnlwgt education education-num marital-status occupation relationship
    race sex capital-gain capital-loss hours-per-week native-country income
"""


class Counted:
    """A stream that notes when each pass over it starts."""

    lasting = True  # As those of Parquet files are: nothing needs to be copied.

    def __init__(self, stream: Iterable[streams.Chunk]) -> None:
        self.stream, self.starts = stream, []

    def __iter__(self):
        self.starts.append(time.perf_counter())
        yield from self.stream


def records(*, rows: int, points: int, chunk: int, table: pa.Table) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.parquet")
        write(path, table, rows)
        start = time.perf_counter()
        with peak_memory() as memory:
            stream = datasets.from_parquet(
                path, target="income", sensitive="sex", positive=">50K", chunk=chunk
            )
            learned = time.perf_counter() - start
            # The same problem, however often its rows are there.
            fit, laps = swept(stream, points, ridge=1 / table.num_rows)
        width = len(stream.feature_names)
        passes = summary(laps)
        yield record(
            f"{points} configurations, a pass",
            rows,
            passes,
            memory=memory[0],
            error=float(fit.gap.max()),
            error_is="largest relative duality gap",
            # Scores and slopes of all configurations.
            operations=4.0 * rows * width * points,
            notes={
                "passes": len(laps) + 1,
                "all passes but the first [s]": sum(laps),
                "encoding learned [s]": learned,
                "converged": float(fit.converged.mean()),
                "file [MB]": path.stat().st_size / 1e6,
                "table in memory [MB]": 4e-6 * rows * width,
            },
        )
        model = (fit.coefficients[points // 2], fit.intercept[points // 2])
        laps = []
        for _ in range(2):
            start = time.perf_counter()
            audit = metrics.audit_stream(
                streams.scored(stream, *model), n_groups=stream.n_groups
            )
            laps.append(time.perf_counter() - start)
        yield record(
            "audit",
            rows,
            summary(laps),
            notes={
                "accuracy": float(audit.accuracy),
                "demographic parity": float(audit.demographic_parity),
                "KS": float(audit.ks),
            },
        )


def record(case: str, rows: int, laps: Laps, **rest) -> Record:
    return Record("streamed_sweep", case, rows, "rows", "fairjax", *laps, **rest)


def swept(
    stream: ParquetStream, points: int, ridge: float
) -> tuple[solvers.LinearFit, list[float]]:
    """The models, and the seconds of each pass after the look at the values."""
    counted = Counted(stream)
    along = orthogonality.directions_stream(counted, n_groups=stream.n_groups)
    counted.starts.clear()
    fit = solvers.fit_linear_stream(
        counted,
        ridge=ridge,
        directions=along,
        tolerance=0.0,
        target=np.linspace(-2.5, 2.5, points),
    )
    jax.block_until_ready(fit)
    return fit, np.diff([*counted.starts[1:], time.perf_counter()]).tolist()


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--chunk", type=int, default=65_536)
    given = parser.parse_args()
    found = records(
        rows=5_000 if given.smoke else given.rows,
        points=4 if given.smoke else 64,
        chunk=2_048 if given.smoke else given.chunk,
        table=pa.Table.from_pandas(toy() if given.smoke else adult()),
    )
    tell(machine("pyarrow"), found, as_json=given.json)


def write(path: Path, table: pa.Table, rows: int) -> None:
    """The rows of a table again and again, as many as asked for."""
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in range(0, rows, table.num_rows):
            writer.write_table(table.slice(0, rows - start))


def adult() -> pd.DataFrame:
    """The training rows as they are published, without the sampling weight."""
    path = sources.find("adult.data", None)
    frame = pd.read_csv(path, header=None, names=COLUMNS.split(), skipinitialspace=True)
    return frame.drop(columns="fnlwgt")


def toy() -> pd.DataFrame:
    train = datasets.toy().train
    frame = pd.DataFrame(train.features, columns=["x1", "x2"])
    income = np.where(train.labels == 1, ">50K", "<=50K")
    return frame.assign(sex=np.array(["a", "b"])[train.groups], income=income)


if __name__ == "__main__":
    main()
