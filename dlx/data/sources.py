"""Where data comes from: a source is its splits and the names of its classes.

A function of `SOURCES` returns a `Source`. Sets of the catalogue are prepared on first use: their raw files
are downloaded, or taken from `manual_dir`, or from the folder that the variable DLX_DATA_DIR names. What is
held out never depends on the seed of a run.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dlx.data.anomaly_sources import ANOMALY_SOURCES
from dlx.data.builders import BUILDERS
from dlx.data.builders.catalogue import Prepared, arrays, data_dir, prepare
from dlx.data.image_sources import Encoded, Files, imagenet, sign_language_digits, tfds_images
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
    "tfds_images",
]


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
    "tfds_images": tfds_images,
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


def _rows(split: Arrays, mask: np.ndarray) -> Arrays:
    """Returns the marked examples of a split in memory."""
    rows = np.flatnonzero(mask)
    return {name: array.take(rows, axis=0) for name, array in split.items()}


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
