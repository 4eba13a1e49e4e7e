"""Fashion-MNIST: articles of clothing in the format of MNIST; 60,000 to train on and 10,000 to test on."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from dlx.data.builders import BUILDERS, files, mnist

RAW = files.registered("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/")

DESCRIPTION = (
    "Fashion-MNIST: article images of Zalando, 60,000 for training and 10,000 for testing. Each is a 28 x 28 "
    "grey image with a label from 10 classes."
)
CITATION = """\
@article{xiao2017fashion,
  title={Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author={Han Xiao and Kashif Rasul and Roland Vollgraf},
  journal={CoRR},
  volume={abs/1708.07747},
  year={2017},
  url={http://arxiv.org/abs/1708.07747}
}"""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the four IDX files as records, in their order."""

    name = BUILDERS["fashion_mnist"].name
    VERSION = tfds.core.Version(BUILDERS["fashion_mnist"].version)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            features=mnist.features(BUILDERS["fashion_mnist"].classes),
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            citation=CITATION,
            license="MIT (Zalando SE)",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return mnist.splits(dl_manager, RAW)

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("the splits carry their generators")
