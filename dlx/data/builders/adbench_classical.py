"""ADBench's classical sets: 23 tables of numbers in which some rows are labelled as anomalies.

Each is an archive of numpy with "X" [n, d] and "y" [n], 1 for an anomaly; pickled objects are refused. A set
is a split, whose rows are float32 and in the order of the file.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlx.data.builders import BUILDERS, archive, files
from dlx.data.builders.anomaly_sets import CLASSICAL, SIZES

LIMIT = 2**29  # bytes of numbers that one set may unpack to
RAW = files.registered("https://raw.githubusercontent.com/Minqi824/ADBench/")


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes rows of numbers as records."""

    name = BUILDERS["adbench_classical"].name
    VERSION = tfds.core.Version(BUILDERS["adbench_classical"].version)
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the 23 files, 2_annthyroid.npz and so on, into the folder."

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "x": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            "label": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            description="Tables from medicine, astronautics, images and more, with labelled anomalies.",
            homepage="https://github.com/Minqi824/ADBench",
            license="BSD-2-Clause (ADBench)",
            citation="""\
@inproceedings{han2022adbench,
  title={ADBench: Anomaly Detection Benchmark},
  author={Songqiao Han and Xiyang Hu and Hailiang Huang and Minqi Jiang and Yue Zhao},
  booktitle={NeurIPS},
  year={2022}
}""",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
        folder = Path(dl_manager.manual_dir)
        found = {name: read(folder / f"{file}.npz") for name, file in CLASSICAL.items()}
        sizes = {name: (len(label), int(label.sum())) for name, (_, label) in found.items()}
        if sizes != SIZES:
            wrong = [name for name in SIZES if sizes[name] != SIZES[name]]
            raise ValueError(f"{folder}: {wrong} have other rows and anomalies than is known of them")
        return {name: enumerate(examples(*arrays)) for name, arrays in found.items()}

    def _generate_examples(self) -> Iterable:
        raise NotImplementedError("the splits carry their examples")


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers float32 [n, d] and labels int64 [n]; a ValueError names a file that holds no such."""
    members = archive.read(path, r"([Xy]\.npy)", LIMIT)
    if len(members) < 2:
        raise ValueError(f"{path} holds no arrays X and y; it holds {list(members)}")
    x, label = (archive.array(members[f"{name}.npy"], f"{name} of {path}") for name in ("X", "y"))
    if x.ndim != 2 or label.reshape(-1).shape != x.shape[:1] or x.dtype.kind not in "fiu":
        raise ValueError(f"{path}: X is {x.dtype} {x.shape} and y is {label.shape}; expected [n, d] and [n]")
    if not np.isfinite(x).all() or not np.isin(label, (0, 1)).all():
        raise ValueError(f"{path}: X must be finite, and y 0 or 1")
    return x.astype(np.float32), label.reshape(-1).astype(np.int64)


def examples(x: np.ndarray, label: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yields rows and their labels."""
    for row, own in zip(x, label, strict=True):
        yield {"x": row, "label": own}
