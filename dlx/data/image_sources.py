"""Sources of images that are kept encoded and decoded when read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from dlx.data.builders import BUILDERS
from dlx.data.builders.catalogue import arrays, data_dir
from dlx.data.splits import Skipping, Source, check, held_out

ENDINGS = (".jpeg", ".jpg", ".png")
IMAGENET_STATISTICS = (  # of the training images, for each channel; those that torchvision's weights expect
    255 * np.array([0.485, 0.456, 0.406], np.float32),
    255 * np.array([0.229, 0.224, 0.225], np.float32),
)


class Encoded:
    """Labelled images, kept encoded as JPEG or PNG and decoded to `size` when read."""

    def __init__(
        self,
        data: UInt8[np.ndarray, "bytes"],
        spans: Int[np.ndarray, "n 2"],
        labels: Int32[np.ndarray, "n"],
        names: Sequence[str],
        size: int | tuple[int, int] | None = None,
        channels: int | None = None,
    ):
        """Takes images on end, where each begins and ends, their labels, and names for error messages."""
        self.data, self.spans, self.labels, self.names = data, spans, labels, names
        self.size, self.channels = size, channels  # as `dlx.data.image.decode` takes them

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.spans)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Returns {"image": uint8 [h, w, c], "label": int32}, or raises a ValueError that names the image."""
        from dlx.data.image import decode  # here, because sets in memory need no Pillow

        begin, end = self.spans[index]
        data, name = self.data[begin:end].tobytes(), self.names[index]
        image = decode(data, self.size, channels=self.channels, name=name)
        return {"image": image, "label": self.labels[index]}


class Files:
    """Labelled images in a folder for each class, decoded to a square of `size` pixels when read."""

    def __init__(self, folder: Path, names: Sequence[str], labels: Int32[np.ndarray, "n"], size: int):
        """Takes the names of the files under `folder`, and their labels."""
        self.folder, self.names, self.labels, self.size = folder, names, labels, size

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.names)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Returns {"image": uint8 [size, size, 3], "label": int32}, or an error that names the file."""
        from dlx.data.image import decode

        path = self.folder / self.names[index]
        image = decode(path.read_bytes(), self.size, channels=3, crop=True, name=str(path))
        return {"image": image, "label": self.labels[index]}


def sign_language_digits(
    *,
    validation: float | int = 0.1,
    size: int = 100,
    gray: bool = False,
    skip_corrupt: bool = False,
    manual_dir: str | Path | None = None,
) -> Source:
    """Hands that show the digits 0 to 9 (Mavi 2020): 2,062 colour JPEGs, decoded when read.

    An example is {"image": uint8 [size, size, 3], "label": int32}, of one channel if `gray`. The test split
    is a fifth of each class, always the same. A student appears in about ten images, so test hands may be
    known from training. A damaged image is an error that names it, or skipped and counted if `skip_corrupt`.
    """
    classes = BUILDERS["sign_language_digits"].classes
    splits = arrays("sign_language_digits", manual_dir)

    def encoded(split: str, mask: np.ndarray) -> Encoded:
        stored = splits[split]
        spans = [_spans(stored[f"{key}_ends"])[mask] for key in ("image", "name")]
        text = stored["name"].tobytes().decode()
        names = [f"sign_language_digits {text[begin:end]}" for begin, end in spans[1].tolist()]
        return Encoded(stored["image"], spans[0], stored["label"][mask], names, size, 1 if gray else None)

    held = held_out(splits["train"]["label"], validation)
    parts = {"train": encoded("train", ~held)}
    if held.any():
        parts["validation"] = encoded("train", held)
    parts["test"] = encoded("test", np.ones(len(splits["test"]["label"]), bool))
    for split, part in parts.items():  # all labels at once, now; the images one by one, when read
        check({"label": part.labels}, classes, f"sign_language_digits {split}")
    return Source(_tolerant(parts, "sign_language_digits", skip_corrupt), classes)


def imagenet(
    *,
    validation: float | int = 0.0078,
    size: int = 256,
    skip_corrupt: bool = False,
    manual_dir: str | Path | None = None,
) -> Source:
    """ImageNet's 1000 classes of photographs (Russakovsky et al. 2015), unpacked by you; nothing is copied.

    An example is {"image": uint8 [size, size, 3], "label": int32}: the middle square of the image, resized.
    `<manual_dir>/imagenet/` (None: the variable DLX_DATA_DIR) holds `train/<class>/*.JPEG` and
    `val/<class>/*.JPEG`, with a folder for each of the WordNet ids that name the classes. The official
    validation images, whose labels are public, are the test split; the fraction `validation` of the training
    images (some 10,000) is held out to validate on. Any other set of images in such folders is read too. A
    damaged file is an error that names it, or skipped and counted if `skip_corrupt`.
    """
    place = manual_dir or os.environ.get("DLX_DATA_DIR")
    folder = Path(place).expanduser() / "imagenet" if place else None
    if folder is None or not all((folder / split).is_dir() for split in ("train", "val")):
        raise FileNotFoundError(
            f"imagenet is not at {folder or 'any folder, for DLX_DATA_DIR names none'}; download "
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org (it asks for an "
            "account), unpack them to <folder>/imagenet/train/<class>/*.JPEG and "
            "<folder>/imagenet/val/<class>/*.JPEG, as torchvision.datasets.ImageFolder reads them, and set "
            "DLX_DATA_DIR to <folder>"
        )
    classes = tuple(sorted(entry.name for entry in os.scandir(folder / "train") if entry.is_dir()))
    names, labels = _listed(folder / "train", classes)
    held = held_out(labels, validation)
    parts = {"train": ~held, "validation": held} if held.any() else {"train": ~held}
    splits = {
        split: Files(folder / "train", [names[i] for i in np.flatnonzero(mask)], labels[mask], size)
        for split, mask in parts.items()
    }
    splits["test"] = Files(folder / "val", *_listed(folder / "val", classes), size)
    return Source(_tolerant(splits, "imagenet", skip_corrupt), classes, IMAGENET_STATISTICS)


def tfds_images(
    *,
    dataset: str,
    splits: Mapping[str, str] | None = None,
    size: int = 256,
    skip_corrupt: bool = False,
) -> Source:
    """Labelled images that TFDS has prepared as array_record files, such as "imagenet2012", read by record.

    `dataset` is a folder under `data_dir()`: NAME/VERSION, NAME/CONFIG/VERSION, or NAME alone for its newest
    version. `splits` says what part of it each split of the source is, in TFDS's words; by default the last
    hundredth of its "train" is held out to validate on and its "validation" is the test split. An example is
    {"image": uint8 [size, size, 3], "label": int32}: the middle square of the image, resized. Records that
    are damaged raise `Corrupt`, which names them, or are skipped and counted if `skip_corrupt`.
    """
    from dlx.data.builders.records import Records, opened

    splits = splits or {"train": "train[:99%]", "validation": "train[99%:]", "test": "validation"}
    folder = _newest(data_dir() / dataset)
    made = opened(folder)
    classes = tuple(made.info.features["label"].names)
    parts = {split: Records(folder, part, size) for split, part in splits.items()}
    checked = {split: check(part, classes, f"{dataset} {split}") for split, part in parts.items()}
    return Source(_tolerant(checked, dataset, skip_corrupt), classes, IMAGENET_STATISTICS)


def _newest(folder: Path) -> Path:
    """Returns the folder itself, or that of the newest version below it, which TFDS has prepared."""
    found = [info.parent for info in folder.rglob("dataset_info.json")]
    if not found:
        raise FileNotFoundError(
            f"TFDS has prepared no data set at {folder}: there is no dataset_info.json; name the data set as "
            "NAME/VERSION under the folder that TFDS_DATA_DIR or --data_dir names"
        )
    return max(found, key=lambda path: [int(word) for word in path.name.split(".") if word.isdecimal()])


def _tolerant(splits: Mapping[str, Any], name: str, skip_corrupt: bool) -> dict[str, Any]:
    """Returns the splits as they are or, where corrupt examples are to be skipped, so wrapped."""
    return {k: Skipping(split, f"{name} {k}") if skip_corrupt else split for k, split in splits.items()}


def _listed(folder: Path, classes: Sequence[str]) -> tuple[list[str], Int32[np.ndarray, "n"]]:
    """Returns the images `<class>/<file>` of a folder, sorted, and their labels."""
    names: list[str] = []
    labels: list[int] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir():
            continue
        if entry.name not in classes:
            raise ValueError(f"{entry.path} is none of the {len(classes)} classes that have training images")
        found = sorted(file.name for file in os.scandir(entry.path) if file.name.lower().endswith(ENDINGS))
        names += [f"{entry.name}/{file}" for file in found]
        labels += [classes.index(entry.name)] * len(found)
    if not names:
        raise ValueError(f"{folder} has no images {', '.join(ENDINGS)} in folders named after classes")
    return names, np.array(labels, np.int32)


def _spans(ends: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n 2"]:
    """Returns where strings that lie on end begin and end."""
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
