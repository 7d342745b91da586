"""Fair machine learning as pure JAX functions; start from the README.

Modules are loaded when they are first used: a training loop with one penalty does not
wait for data sets, solvers and pictures.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import barycenters as barycenters
    from . import bounds as bounds
    from . import datasets as datasets
    from . import divergences as divergences
    from . import erm as erm
    from . import frontiers as frontiers
    from . import kernels as kernels
    from . import metrics as metrics
    from . import notions as notions
    from . import orthogonality as orthogonality
    from . import penalties as penalties
    from . import plots as plots
    from . import probes as probes
    from . import sharding as sharding
    from . import solvers as solvers
    from . import streams as streams
    from . import sweeps as sweeps
    from . import training as training

__all__ = [
    "barycenters",
    "bounds",
    "datasets",
    "divergences",
    "erm",
    "frontiers",
    "kernels",
    "metrics",
    "notions",
    "orthogonality",
    "penalties",
    "plots",
    "probes",
    "sharding",
    "solvers",
    "streams",
    "sweeps",
    "training",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
