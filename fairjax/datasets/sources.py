"""Public files: where each one is pinned, and how it is found.

A file comes from the folder `data_dir`; when that is left out, from the folder named by
the environment variable `FAIRJAX_DATA_DIR`, or else from a download into the user's
cache. Its SHA-256 must be the known one, wherever it comes from.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from . import tables

Location = str | os.PathLike[str]


class File(NamedTuple):
    """Where a file is published, and its digest there."""

    url: str
    sha256: str


_RAW = "https://raw.githubusercontent.com"
FILES = {
    "adult.data": File(
        f"{_RAW}/jmikko/fair_ERM/b501848d5beb4df24c1fe98366d6c5609d0ca932"
        "/datasets/adult/adult.data",
        "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    ),
    "adult.test": File(
        f"{_RAW}/jmikko/fair_ERM/b501848d5beb4df24c1fe98366d6c5609d0ca932"
        "/datasets/adult/adult.test",
        "26854bfda83653b56af5431fd07c9b43b6a2ddea70e5a0a8b6a0445c83d78e34",
    ),
    "compas-scores-two-years.csv": File(
        f"{_RAW}/propublica/compas-analysis/bafff5da3f2e45eca6c2d5055faad269defd135a"
        "/compas-scores-two-years.csv",
        "c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
    ),
    "german.data": File(
        f"{_RAW}/RAO-EPFL/Metrizing-Fairness/0c96cd89003ed8e1d6ea5823c557d914c36c8cb8"
        "/offline_experiments/src/data/classification/german/german.data",
        "af2607959c93df2416fadd6a7e73bb21f7e7c640d810b00ac0c81c6e83dcc2bd",
    ),
    "communities.data": File(
        f"{_RAW}/RAO-EPFL/Metrizing-Fairness/0c96cd89003ed8e1d6ea5823c557d914c36c8cb8"
        "/offline_experiments/src/data/communities.data",
        "09e0b5c07eae24c1efab19b2edee05e160e7f5743b6f31e31eec3d73624da2ea",
    ),
    "communities.names": File(
        f"{_RAW}/RAO-EPFL/Metrizing-Fairness/0c96cd89003ed8e1d6ea5823c557d914c36c8cb8"
        "/offline_experiments/src/data/communities.names",
        "f71e9049d2a8efe566e41be59cae27c84282a8d9d5c4bce4861490227f42c429",
    ),
    "student-mat.csv": File(
        f"{_RAW}/RAO-EPFL/Metrizing-Fairness/0c96cd89003ed8e1d6ea5823c557d914c36c8cb8"
        "/offline_experiments/src/data/student/student-mat.csv",
        "36f9658aaf1ab1a5017a7d7f13b755036ba0f3bda8e2791756d4167b0d12511d",
    ),
    "student-por.csv": File(
        f"{_RAW}/RAO-EPFL/Metrizing-Fairness/0c96cd89003ed8e1d6ea5823c557d914c36c8cb8"
        "/offline_experiments/src/data/student/student-por.csv",
        "8d5824cbc8e40b61233c981999a9d2a2c3bd76d94ec59e14c50e63b34ff6a06e",
    ),
    "school.mat": File(
        f"{_RAW}/jiayuzhou/MALSAR/fb9751594983df020ddc4f7e4a40520ee7c37989"
        "/data/school.mat",
        "57fb3238fdd03a9aa17276e2ce18d9bbb5d128c3261e794fe6233b58b6909068",
    ),
    "law_school_clean.csv": File(
        f"{_RAW}/tailequy/fairness_dataset/abb5a18b822ba56a221c5311082e192e85000b95"
        "/experiments/data/law_school_clean.csv",
        "23c1b173f3480beb7afc4957b107a9917dfc4a8dc9d87ea6034ec35222152452",
    ),
}


def find(name: str, data_dir: Location | None) -> Path:
    """The path of a pinned file: local, or downloaded; its SHA-256 holds either way."""
    url, sha256 = FILES[name]
    folder = os.environ.get("FAIRJAX_DATA_DIR") if data_dir is None else data_dir
    if folder is not None and (path := Path(folder, name)).is_file():
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{str(path)!r} is not the file that fairjax knows: its SHA-256 is "
                f"{found}, expected {sha256}. Replace it by {url}, or remove it, or "
                f"read your own version with `from_csv`."
            )
        return path
    if data_dir is not None:
        raise ValueError(
            f"`data_dir` = {str(data_dir)!r} is not a folder with {name!r}. Put {url} "
            f"there, or leave out `data_dir` to download it."
        )
    pooch = tables.extra("pooch")
    try:
        return Path(
            pooch.retrieve(
                url, f"sha256:{sha256}", fname=name, path=pooch.os_cache("fairjax")
            )
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot download {url}: {error}. Put the file into a folder and name that "
            f"in `data_dir` or in the environment variable FAIRJAX_DATA_DIR."
        ) from error
