"""MNIST: handwritten digits, 28 x 28 grey pixels; 60,000 to train on and 10,000 to test on."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlx.data.builders import BUILDERS, files, idx

RAW = files.registered("https://storage.googleapis.com/cvdf-datasets/mnist/")

DESCRIPTION = "The MNIST database of handwritten digits."
LICENSE = "CC BY-SA 3.0 (Yann LeCun and Corinna Cortes)"
CITATION = """\
@article{lecun2010mnist,
  title={MNIST handwritten digit database},
  author={LeCun, Yann and Cortes, Corinna and Burges, CJ},
  journal={ATT Labs [Online]. Available: http://yann.lecun.com/exdb/mnist},
  volume={2},
  year={2010}
}"""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the four IDX files as records, in their order."""

    name = BUILDERS["mnist"].name
    VERSION = tfds.core.Version(BUILDERS["mnist"].version)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            features=features(BUILDERS["mnist"].classes),
            homepage="http://yann.lecun.com/exdb/mnist/",
            citation=CITATION,
            license=LICENSE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return splits(dl_manager, RAW)

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("the splits carry their generators")


def features(classes: tuple[str, ...]) -> tfds.features.FeaturesDict:
    """Returns the features of a set in the format of MNIST."""
    image = tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8, encoding="zlib")
    return tfds.features.FeaturesDict(
        {"image": image, "label": tfds.features.ClassLabel(names=list(classes))}
    )


def splits(dl_manager: Any, raws: tuple[files.Raw, ...]) -> dict[str, Iterator]:
    """Returns the examples of both splits of a set in the format of MNIST."""
    paths = dl_manager.download({raw.name: raw.url for raw in raws})
    return {
        split: examples(paths[f"{stem}-images-idx3-ubyte.gz"], paths[f"{stem}-labels-idx1-ubyte.gz"])
        for split, stem in {"train": "train", "test": "t10k"}.items()
    }


def examples(images: Any, labels: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (index, example) from a file of images and one of labels."""
    pixels, numbers = idx.read(str(images), 3), idx.read(str(labels), 1)
    if len(pixels) != len(numbers):
        raise ValueError(f"{images} has {len(pixels):,} images but {labels} {len(numbers):,} labels")
    for index, (image, label) in enumerate(zip(pixels, numbers.tolist(), strict=True)):
        yield index, {"image": image[:, :, None], "label": label}
