"""Images of a data set that TFDS has prepared, read record by record."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlx.data.image import decode
from dlx.data.splits import Corrupt


def opened(folder: Path) -> Any:
    """Returns the builder of a prepared data set; raises a ValueError for one without images and labels."""
    made = tfds.builder_from_directory(folder)
    found = made.info.features
    features = dict(found.items()) if isinstance(found, tfds.features.FeaturesDict) else {}
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    for name, kind in kinds.items():
        if not isinstance(features.get(name), kind):
            raise ValueError(
                f"{folder} has no feature {name!r} that is a {kind.__name__}; its features are {found}"
            )
    return made


class Records:
    """Labelled images in array_record files, decoded to a square of `size` pixels when read."""

    def __init__(self, folder: Path, split: str, size: int):
        """Takes the folder of a prepared data set, and the split in the words of TFDS, as "train[:99%]"."""
        self.folder, self.split, self.size = folder, split, size
        self.source = opened(folder).as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self.source)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Returns {"image": uint8 [size, size, 3], "label": int32}, or raises `Corrupt` with the record."""
        name = f"record {index} of {self.split} in {self.folder}"
        try:
            example = self.source[int(index)]
        except (OSError, IndexError):
            raise
        except Exception as error:  # of array_record and protobuf, which have no family of errors
            raise Corrupt(f"{name} is damaged: {error}") from error
        image = decode(example["image"], self.size, channels=3, crop=True, name=f"the image of {name}")
        return {"image": image, "label": np.int32(example["label"])}
