"""Sign language digits: hands that show 0 to 9, 2,062 colour JPEGs of 100 x 100 pixels (three are larger).

The set has no official split: a fifth of each class, always the same images, is held out for testing. Its
images come in archives of various formats, so they are known by their content and not by the bytes of a
container.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlx.data.builders import BUILDERS, archive, files
from dlx.data.splits import held_out

COMMIT = "4b09433ef9d5"
COUNT, BYTES = 2_062, 24_241_777
DIGEST = "30d0ee3c8599928f6f98281a33826ca56fa9382069785bea8716221a344b606f"  # of archive.digest
PATTERN = r"Dataset/([0-9]/[^/]+\.JPG)"

CITATION = """\
@article{mavi2020new,
  title={A New Dataset and Proposed Convolutional Neural Network Architecture for Classification of
    American Sign Language Digits},
  author={Arda Mavi},
  journal={arXiv preprint arXiv:2011.08927},
  year={2020}
}"""


def images(path: Path) -> dict[str, bytes]:
    """Returns {"<digit>/<file>": JPEG bytes} of a container that holds exactly the images of the set."""
    members = archive.read(path.resolve(), PATTERN, BYTES)
    actual = archive.digest(members)
    if actual != DIGEST:
        raise ValueError(
            f"{path} does not hold the registered images: expected {COUNT:,} files Dataset/<digit>/*.JPG "
            f"with content digest {DIGEST}; found {len(members):,} with {actual}. "
            "Replace it, or remove it so that it is downloaded"
        )
    return members


RAW = (
    files.Raw(
        name="sign_language_digits.tar.gz",
        url=f"https://github.com/ardamavi/Sign-Language-Digits-Dataset/archive/{COMMIT}.tar.gz",
        about=f"tar, zip or folder of {COUNT:,} images Dataset/<digit>/*.JPG, content digest {DIGEST}",
        verify=lambda path: (images(path), None)[1],
        aliases=(
            "sign_language_digits.tar*",
            "sign_language_digits.zip",
            "Sign-Language-Digits-Dataset*",
            "Dataset",
        ),
    ),
)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the JPEGs as they are, sorted by digit and file name."""

    name = BUILDERS["sign_language_digits"].name
    VERSION = tfds.core.Version(BUILDERS["sign_language_digits"].version)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {RAW[0].name}, from {RAW[0].url}, into the folder."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Hands that show 0 to 9, by students of the Ankara Ayranci Anadolu High School.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=list(BUILDERS["sign_language_digits"].classes)),
                    "name": tfds.features.Text(),
                }
            ),
            homepage="https://github.com/ardamavi/Sign-Language-Digits-Dataset",
            citation=CITATION,
            license="Apache-2.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        members = images(Path(dl_manager.manual_dir) / RAW[0].name)
        names = list(members)
        test = held_out(np.array([int(name[0]) for name in names]), 0.2)
        return {
            split: _examples(
                {name: members[name] for name, chosen in zip(names, mask, strict=True) if chosen}
            )
            for split, mask in {"train": ~test, "test": test}.items()
        }

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("the splits carry their generators")


def _examples(members: dict[str, bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (index, example)."""
    for index, (name, data) in enumerate(members.items()):
        yield index, {"image": data, "label": int(name[0]), "name": name}
