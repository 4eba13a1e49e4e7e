"""PneumoniaMNIST: chest X-rays of children, 28 x 28 grey pixels; 4,708 to train on, 524 and 624 held out.

Copies of the file are about that hold the same images in another order. So a file counts as the right one
by its bytes or by its images, and the examples are written in an order that depends on the images alone.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from dlx.data.builders import BUILDERS, archive, files, mnist

SIZES = {"train": 4_708, "validation": 524, "test": 624}
STEMS = {"train": "train", "validation": "val", "test": "test"}  # what the file calls them
BYTES = 785 * sum(SIZES.values()) + 6 * 128  # pixels and labels, and the heads of six arrays
PATTERN = r"((?:train|val|test)_(?:images|labels)\.npy)"
DIGEST = "ec4caea2195f5df1871d702ad6c96b7cbe4a01e39e53b5771d9d9d1499e8a453"  # of archive.digest, see verify

CITATION = """\
@article{yang2023medmnist,
  title={MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification},
  author={Jiancheng Yang and Rui Shi and Donglai Wei and Zequan Liu and Lin Zhao and Bilian Ke and
    Hanspeter Pfister and Bingbing Ni},
  journal={Scientific Data},
  volume={10},
  number={41},
  year={2023}
}
@article{kermany2018identifying,
  title={Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning},
  author={Daniel S. Kermany and others},
  journal={Cell},
  volume={172},
  number={5},
  pages={1122--1131},
  year={2018}
}"""


def examples(path: Path) -> dict[str, UInt8[np.ndarray, "_ 785"]]:
    """Returns {split: 784 pixels and the label of each example}, sorted by the digests of these rows.

    Raises a ValueError if the file is not an npz file of such arrays; nothing in it is unpickled.
    """
    members = archive.read(path, PATTERN, BYTES)
    tables = {}
    for split, count in SIZES.items():
        parts = []
        for name, width in ((f"{STEMS[split]}_images.npy", 784), (f"{STEMS[split]}_labels.npy", 1)):
            if name not in members:
                raise ValueError(f"{path} does not hold {name}")
            array = archive.array(members[name], f"{name} of {path}")
            if array.dtype != np.uint8 or array.size != count * width:
                raise ValueError(
                    f"{path} holds {name} of {array.dtype} and shape {array.shape}; "
                    f"it should be uint8, {count:,} times {width} values"
                )
            parts.append(array.reshape(count, width))
        table = np.concatenate(parts, axis=1)
        order = sorted(range(count), key=lambda row: hashlib.sha256(table[row].tobytes()).digest())
        tables[split] = table[order]
    return tables


def verify(path: Path) -> None:
    """Raises a ValueError unless the file is the official one, or holds its images in some order."""
    try:
        OFFICIAL.verify(path)
    except ValueError:
        tables = {split: table.tobytes() for split, table in examples(path.resolve()).items()}
        actual = archive.digest(tables)
        if actual != DIGEST:
            raise ValueError(
                f"{path} is not the registered file, {OFFICIAL.about}, nor does it hold the same images: "
                f"expected content digest {DIGEST}; found {actual}. "
                "Replace it, or remove it so that it is downloaded"
            ) from None


(OFFICIAL,) = files.registered("https://zenodo.org/records/10519652/files/pneumoniamnist.npz")
RAW = (OFFICIAL._replace(about=f"{OFFICIAL.about}, or npz with content digest {DIGEST}", verify=verify),)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the examples of the npz file in the order of their digests."""

    name = BUILDERS["pneumonia_mnist"].name
    VERSION = tfds.core.Version(BUILDERS["pneumonia_mnist"].version)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {RAW[0].name}, from {RAW[0].url}, into the folder."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="PneumoniaMNIST of MedMNIST v2: chest X-rays of children, normal or with pneumonia.",
            features=mnist.features(BUILDERS["pneumonia_mnist"].classes),
            homepage="https://medmnist.com",
            citation=CITATION,
            license="CC BY 4.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        tables = examples((Path(dl_manager.manual_dir) / RAW[0].name).resolve())
        return {split: _records(table) for split, table in tables.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("the splits carry their generators")


def _records(table: UInt8[np.ndarray, "n 785"]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (index, example)."""
    for index, row in enumerate(table):
        yield index, {"image": row[:784].reshape(28, 28, 1), "label": int(row[784])}
