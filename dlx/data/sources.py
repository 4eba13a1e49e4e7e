"""Where data comes from: a source is its splits and the names of its classes.

A function of `SOURCES` returns a `Source`. Sets of the catalogue are prepared on first use: their raw files
are downloaded, or taken from `manual_dir`, or from the folder that the variable DLX_DATA_DIR names. What is
held out never depends on the seed of a run.
"""

import gzip
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from dlx.data.anomaly_sources import ANOMALY_SOURCES
from dlx.data.builders import BUILDERS
from dlx.data.builders.catalogue import Prepared, arrays, data_dir, prepare
from dlx.data.splits import Arrays, Source, check, held_out
from dlx.data.table_sources import TABLE_SOURCES
from dlx.data.text_sources import TEXT_SOURCES

__all__ = [
    "SOURCES",
    "Encoded",
    "Files",
    "Prepared",
    "Source",
    "check",
    "data_dir",
    "digits",
    "fashion_mnist",
    "imagenet",
    "mnist",
    "pneumonia_mnist",
    "prepare",
    "sign_language_digits",
    "synthetic_images",
]


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


def digits(*, validation: float | int = 0.1) -> Source:
    """Handwritten digits of 8 x 8 pixels in 0..16, embedded in scikit-learn (Alpaydin and Kaynak 1998).

    1,797 examples, {"image": uint8 [n, 8, 8, 1], "label": int32 [n]}; a fifth of each class is the test
    split, and the fraction `validation` of the rest is held out from training. Needs no network.
    """
    table = _digits_table()
    split = {"image": table[:, :64].reshape(-1, 8, 8, 1), "label": table[:, 64].astype(np.int32)}
    test = held_out(split["label"], 0.2)
    return _source("digits", _rows(split, ~test), _rows(split, test), validation, BUILDERS["mnist"].classes)


def mnist(*, validation: float | int = 0.1, manual_dir: str | Path | None = None) -> Source:
    """MNIST: handwritten digits (LeCun, Bottou, Bengio and Haffner 1998), with its official test split.

    {"image": uint8 [n, 28, 28, 1], "label": int32 [n]}; 60,000 examples less the fraction `validation` of
    each class to train on, 10,000 to test on.
    """
    splits = arrays("mnist", manual_dir)
    return _source("mnist", splits["train"], splits["test"], validation, BUILDERS["mnist"].classes)


def fashion_mnist(*, validation: float | int = 0.1, manual_dir: str | Path | None = None) -> Source:
    """Fashion-MNIST: articles of clothing (Xiao, Rasul and Vollgraf 2017), with its official test split.

    Shapes and sizes are those of `mnist`.
    """
    splits = arrays("fashion_mnist", manual_dir)
    classes = BUILDERS["fashion_mnist"].classes
    return _source("fashion_mnist", splits["train"], splits["test"], validation, classes)


def sign_language_digits(
    *,
    validation: float | int = 0.1,
    size: int = 100,
    gray: bool = False,
    manual_dir: str | Path | None = None,
) -> Source:
    """Hands that show the digits 0 to 9 (Mavi 2020): 2,062 colour JPEGs, decoded when read.

    An example is {"image": uint8 [size, size, 3], "label": int32}, of one channel if `gray`. The test split
    is a fifth of each class, always the same. A student appears in about ten images, so test hands may be
    known from training.
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
    return Source(dict(parts), classes)


def pneumonia_mnist(*, manual_dir: str | Path | None = None) -> Source:
    """PneumoniaMNIST: chest X-rays of children (Kermany et al. 2018; Yang et al. 2023), official splits.

    {"image": uint8 [n, 28, 28, 1], "label": int32 [n]}, 4,708 examples to train on, 524 to validate, 624 to
    test on. Validation is a part of the source's training images, test is a collection of its own, of which
    62 % have pneumonia and not 74 %: a model is far better on the one than on the other.
    """
    classes = BUILDERS["pneumonia_mnist"].classes
    splits = arrays("pneumonia_mnist", manual_dir)
    checked = {name: check(part, classes, f"pneumonia_mnist {name}") for name, part in splits.items()}
    return Source(checked, classes)


def imagenet(
    *, validation: float | int = 0.0078, size: int = 256, manual_dir: str | Path | None = None
) -> Source:
    """ImageNet's 1000 classes of photographs (Russakovsky et al. 2015), unpacked by you; nothing is copied.

    An example is {"image": uint8 [size, size, 3], "label": int32}: the middle square of the image, resized.
    `<manual_dir>/imagenet/` (None: the variable DLX_DATA_DIR) holds `train/<class>/*.JPEG` and
    `val/<class>/*.JPEG`, with a folder for each of the WordNet ids that name the classes. The official
    validation images, whose labels are public, are the test split; the fraction `validation` of the training
    images (some 10,000) is held out to validate on. Any other set of images in such folders is read too.
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
    return Source(dict(splits), classes, IMAGENET_STATISTICS)


def synthetic_images(
    *,
    num_classes: int = 4,
    size: int = 32,
    channels: int = 3,
    count: int = 512,
    noise: float | int = 32.0,
    validation: float | int = 0.1,
    seed: int = 0,
) -> Source:
    """Images that a small model learns in seconds: one smooth pattern per class, and noise. Needs no network.

    {"image": uint8 [n, size, size, channels], "label": int32 [n]}, classes in equal shares; `count` examples
    of which the fraction `validation` is held out from training, and a quarter as many again to test on.
    `noise` is the standard deviation of each pixel, in units of 0..255.
    """
    if num_classes < 1 or size < 1 or channels < 1 or count < num_classes:
        raise ValueError(
            f"num_classes={num_classes}, size={size}, channels={channels} must be at least 1, "
            f"and count={count} at least num_classes"
        )
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, np.pi, size)
    waves = np.cos(np.arange(4)[:, None] * grid)  # [frequency, position]
    weights = rng.normal(size=(num_classes, 4, 4, channels))
    patterns = np.einsum("kuvc,uh,vw->khwc", weights, waves, waves)
    patterns *= 48 / patterns.std(axis=(1, 2, 3), keepdims=True)

    def draw(examples: int) -> Arrays:
        label = (np.arange(examples) % num_classes).astype(np.int32)
        pixels = 128 + patterns[label] + rng.normal(scale=noise, size=(examples, size, size, channels))
        return {"image": np.clip(pixels, 0, 255).astype(np.uint8), "label": label}

    classes = tuple(f"pattern {index}" for index in range(num_classes))
    return _source("synthetic_images", draw(count), draw(max(num_classes, count // 4)), validation, classes)


SOURCES = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "sign_language_digits": sign_language_digits,
    "pneumonia_mnist": pneumonia_mnist,
    "imagenet": imagenet,
    "synthetic_images": synthetic_images,
    **ANOMALY_SOURCES,
    **TABLE_SOURCES,
    **TEXT_SOURCES,
}


def _source(
    name: str, train: Arrays, test: Arrays, validation: float | int, classes: tuple[str, ...]
) -> Source:
    """Holds `validation` of each class out of `train`, and checks every split."""
    held = held_out(train["label"], validation)
    splits = (
        {"train": _rows(train, ~held), "validation": _rows(train, held)} if held.any() else {"train": train}
    )
    splits["test"] = test
    return Source({split: check(part, classes, f"{name} {split}") for split, part in splits.items()}, classes)


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


def _rows(split: Arrays, mask: np.ndarray) -> Arrays:
    """Returns the marked examples of a split in memory."""
    rows = np.flatnonzero(mask)
    return {name: array.take(rows, axis=0) for name, array in split.items()}


def _spans(ends: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n 2"]:
    """Returns where strings that lie on end begin and end."""
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)


def _digits_table() -> UInt8[np.ndarray, "n 65"]:
    """Returns 64 pixels and a label per row, from scikit-learn's file: importing it takes a second."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            with gzip.open(file) as stream:
                return np.loadtxt(stream, delimiter=",").astype(np.uint8)
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.column_stack([data.data, data.target]).astype(np.uint8)
