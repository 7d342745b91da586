"""Datasets: one typed value, from a toy problem, public tables or a CSV file.

Parquet files that do not fit into memory become a stream instead: `from_parquet`.

Every loader goes the same way: find the file, read a table, name what the labels mean
and who belongs to which group, split, encode. In classification label 1 is always the
favourable outcome; `communities`, `student`, `law_school` and `school` have real
numbers to predict. `school` has many tasks, `adult` and `compas` several on request.
Scaling and one-hot encoding learn from the training part only, so nothing of the test
part reaches the training features.

Public files come from the folder `data_dir`; when that is left out, from the folder
named by the environment variable `FAIRJAX_DATA_DIR`, or else from a download into the
user's cache. Each must have its known SHA-256. All but `toy` need `fairjax[data]`.
"""

from collections.abc import Callable

from .adult import adult as adult
from .columns import Frame as Frame
from .communities import communities as communities
from .compas import compas as compas
from .csv import from_csv as from_csv
from .dataset import Dataset as Dataset
from .dataset import Samples as Samples
from .dataset import subsample as subsample
from .german import german as german
from .law_school import law_school as law_school
from .parquet import ParquetStream as ParquetStream
from .parquet import from_parquet as from_parquet
from .school import school as school
from .student import student as student
from .toy import toy as toy

LOADERS: dict[str, Callable[..., Dataset]] = {
    "toy": toy,
    "adult": adult,
    "compas": compas,
    "german": german,
    "communities": communities,
    "law_school": law_school,
    "student": student,
    "school": school,
}
