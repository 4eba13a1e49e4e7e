"""Sources: shapes, sizes and published totals; the real ones through preparation from raw files."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dlx.data import image, pipeline, sources
from dlx.data.builders import catalogue

RAW_FILES = os.environ.get("DLX_DATA_DIR")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory for the module, with raw files at hand."""
    if not RAW_FILES:
        pytest.skip("DLX_DATA_DIR names no folder of raw files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield sources.data_dir()


def counts(split):
    return np.bincount(split["label"], minlength=10).tolist()


def test_digits_need_nothing():
    """Sizes per class from the description of the set in scikit-learn."""
    source = sources.digits()
    assert source.classes == tuple("0123456789")
    assert {name: len(split["label"]) for name, split in source.splits.items()} == {
        "train": 1294,
        "validation": 144,
        "test": 359,
    }
    for split in source.splits.values():
        assert split["image"].dtype == np.uint8 and split["image"].shape[1:] == (8, 8, 1)
        assert split["label"].dtype == np.int32 and split["image"].max() == 16
    total = np.sum([counts(split) for split in source.splits.values()], axis=0)
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_are_those_of_scikit_learn_each_in_one_split():
    from sklearn.datasets import load_digits

    data = load_digits()
    expected = sorted((*row, label) for row, label in zip(data.data.tolist(), data.target, strict=True))
    found = [
        (*row, label)
        for split in sources.digits().splits.values()
        for row, label in zip(split["image"].reshape(-1, 64).tolist(), split["label"].tolist(), strict=True)
    ]
    assert sorted(found) == expected


def test_validation_is_taken_from_training_alone():
    none, some = sources.digits(validation=0), sources.digits(validation=0.25)
    assert set(none.splits) == {"train", "test"}
    for name in ("image", "label"):
        assert np.array_equal(none.splits["test"][name], some.splits["test"][name])
    parts = [len(some.splits[name]["label"]) for name in ("train", "validation")]
    assert sum(parts) == len(none.splits["train"]["label"]) and parts[1] == round(0.25 * sum(parts))


def test_synthetic_images_are_learnable_and_a_function_of_the_seed():
    source = sources.synthetic_images(num_classes=5, size=12, channels=1, count=200)
    train, test = source.splits["train"], source.splits["test"]
    assert train["image"].shape == (180, 12, 12, 1) and train["image"].dtype == np.uint8
    assert len(source.splits["validation"]["label"]) == 20 and len(source.classes) == 5
    means = np.stack([train["image"][train["label"] == k].mean(axis=0) for k in range(5)])
    distances = ((test["image"][:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == test["label"]).mean() > 0.95
    again = sources.synthetic_images(num_classes=5, size=12, channels=1, count=200)
    other = sources.synthetic_images(num_classes=5, size=12, channels=1, count=200, seed=1)
    assert np.array_equal(again.splits["train"]["image"], train["image"])
    assert not np.array_equal(other.splits["train"]["image"], train["image"])
    with pytest.raises(ValueError, match="num_classes=0"):
        sources.synthetic_images(num_classes=0)


def test_encoded_images_are_decoded_one_by_one():
    def png(grey):
        stream = io.BytesIO()
        Image.new("L", (5, 4), grey).save(stream, "PNG")
        return stream.getvalue()

    files = [png(grey) for grey in (10, 20, 30)]
    ends = np.cumsum([len(file) for file in files])
    spans = np.stack([ends - [len(file) for file in files], ends], axis=1)
    data = np.frombuffer(b"".join(files), np.uint8)
    split = sources.Encoded(data, spans, np.int32([1, 2, 3]), ["a", "b", "c"], size=8)
    assert len(split) == 3
    for index, example in enumerate([split[0], split[1], split[2]]):
        assert example["image"].shape == (8, 8, 1) and (example["image"] == 10 * (index + 1)).all()
        assert example["label"] == index + 1
    mean, deviation = image.statistics(split)
    assert np.allclose([mean[0], deviation[0]], [20, np.sqrt(200 / 3)])


def test_a_corrupt_image_is_named():
    data = np.frombuffer(b"no image", np.uint8)
    split = sources.Encoded(data, np.array([[0, 8]]), np.int32([0]), ["cat 7"])
    with pytest.raises(ValueError, match="cat 7 is no intact JPEG or PNG"):
        split[0]


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_has_its_published_totals(prepared):
    source = sources.mnist(validation=0)
    assert counts(source.splits["train"]) == MNIST_TRAIN and counts(source.splits["test"]) == MNIST_TEST
    for split in source.splits.values():
        assert split["image"].dtype == np.uint8 and split["image"].shape[1:] == (28, 28, 1)
    mean, deviation = image.statistics(source.splits["train"])
    assert abs(mean[0] / 255 - 0.1307) < 5e-5 and abs(deviation[0] / 255 - 0.3081) < 5e-5
    assert source.splits["train"]["label"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_mnist_holds_out_a_tenth_of_training(prepared):
    splits = sources.mnist().splits
    assert [len(splits[name]["label"]) for name in ("train", "validation", "test")] == [54_000, 6_000, 10_000]
    total = np.add(counts(splits["train"]), counts(splits["validation"]))
    assert total.tolist() == MNIST_TRAIN and counts(splits["test"]) == MNIST_TEST


def test_fashion_mnist_has_its_published_totals(prepared):
    source = sources.fashion_mnist(validation=0)
    assert counts(source.splits["train"]) == [6000] * 10 and counts(source.splits["test"]) == [1000] * 10
    assert source.classes[0] == "T-shirt/top" and source.classes[9] == "Ankle boot"
    mean, deviation = image.statistics(source.splits["train"])
    assert abs(mean[0] / 255 - 0.2860) < 5e-5 and abs(deviation[0] / 255 - 0.3530) < 5e-5


def test_sign_language_digits_are_decoded_when_read(prepared):
    source = sources.sign_language_digits(size=64)
    sizes = {name: len(split) for name, split in source.splits.items()}
    assert sizes == {"train": 1485, "validation": 165, "test": 412}
    labels = np.concatenate([split.labels for split in source.splits.values()])
    assert np.bincount(labels).tolist() == [205, 206, 206, 206, 207, 207, 207, 206, 208, 204]
    grey = sources.sign_language_digits(size=28, gray=True).splits["test"][5]["image"]
    assert grey.shape == (28, 28, 1) and grey.dtype == np.uint8 and grey.std() > 10
    names = [name for split in source.splits.values() for name in split.names]
    assert len(set(names)) == 2062
    assert all(int(name.split()[1][0]) == label for name, label in zip(names, labels, strict=True))
    batch = pipeline.batches(source.splits["train"], 32, 0)(0)
    assert batch["image"].shape == (32, 64, 64, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    large = next(index for index, name in enumerate(names) if name.endswith("IMG_5874.JPG"))
    for split in source.splits.values():
        if large < len(split):
            assert split[large]["image"].shape == (64, 64, 3)
            break
        large -= len(split)


def test_preparing_twice_says_so(prepared):
    sources.sign_language_digits()
    again = catalogue.prepare("sign_language_digits")
    assert not again.new and again.sizes == {"train": 1650, "test": 412} and again.path.is_dir()


def test_damaged_arrays_are_made_again(prepared):
    before = sources.sign_language_digits().splits["train"][3]
    path = prepared / "dlx_sign_language_digits" / "arrays-1.0.0" / "train.image.npy"
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(data)
    after = sources.sign_language_digits().splits["train"][3]
    assert np.array_equal(before["image"], after["image"])
    assert path.read_bytes() != bytes(data)


LATER = """
import sys
from dlx.data import sources
source = sources.sign_language_digits()
heavy = {"tensorflow", "tensorflow_datasets", "jax", "grain", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_later_start_needs_no_tfds_and_nothing_ever_tensorflow(prepared):
    sources.sign_language_digits()
    subprocess.run([sys.executable, "-W", "error", "-c", LATER], check=True)
    assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules


def test_pneumonia_mnist_has_its_published_totals(prepared):
    """Sizes from MedMNIST's own table; the splits are the official ones."""
    source = sources.pneumonia_mnist()
    assert source.classes == ("normal", "pneumonia")
    found = {name: np.bincount(split["label"]).tolist() for name, split in source.splits.items()}
    assert found == {"train": [1214, 3494], "validation": [135, 389], "test": [234, 390]}
    for split in source.splits.values():
        assert split["image"].dtype == np.uint8 and split["image"].shape[1:] == (28, 28, 1)
        assert split["label"].dtype == np.int32


@pytest.fixture
def photographs(tmp_path):
    """ImageNet with two classes: grey, wide, and one PNG by the name of a JPEG, as the real set has them."""
    for split, count in {"train": 4, "val": 2}.items():
        for label, name in enumerate(("n01440764", "n01443537")):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                mode = "L" if number == 1 else "RGB"
                picture = Image.new(
                    mode, (60, 40), 100 * label + number if mode == "L" else (100 * label,) * 3
                )
                picture.save(folder / f"{name}_{number}.JPEG", "PNG" if number == 0 else "JPEG")
            (folder / "notes.txt").write_text("no image")
    return tmp_path


def test_imagenet_is_read_from_folders(photographs):
    source = sources.imagenet(validation=0.25, size=16, manual_dir=photographs)
    assert source.classes == ("n01440764", "n01443537") and source.statistics is not None
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 4,
    }
    names = [name for key in ("train", "validation") for name in source.splits[key].names]
    assert len(set(names)) == 8
    for split in source.splits.values():
        for index in range(len(split)):
            example = split[index]
            assert example["image"].shape == (16, 16, 3) and example["image"].dtype == np.uint8
            assert abs(int(example["image"].mean()) - 100 * example["label"]) <= 2
            assert split.names[index].startswith(source.classes[example["label"]])
    batch = pipeline.batches(source.splits["train"], 4, 0)(0)
    assert batch["image"].shape == (4, 16, 16, 3) and batch["label"].shape == (4,)


def test_faults_of_an_imagenet_folder_are_named(photographs, tmp_path, monkeypatch):
    monkeypatch.delenv("DLX_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match="DLX_DATA_DIR names none.*ILSVRC2012_img_train.tar"):
        sources.imagenet()
    with pytest.raises(FileNotFoundError, match=f"not at {tmp_path}/elsewhere/imagenet"):
        sources.imagenet(manual_dir=tmp_path / "elsewhere")
    val = photographs / "imagenet" / "val"
    (val / "n01443537" / "n01443537_1.JPEG").write_bytes(b"\xff\xd8 cut off")
    with pytest.raises(ValueError, match="n01443537_1.JPEG is no intact JPEG"):
        sources.imagenet(manual_dir=photographs).splits["test"][3]
    (val / "n09999999").mkdir()
    with pytest.raises(ValueError, match="n09999999 is none of the 2 classes"):
        sources.imagenet(manual_dir=photographs)
    for folder in (val / "n01440764", val / "n01443537"):
        for file in folder.glob("*.JPEG"):
            file.unlink()
    (val / "n09999999").rmdir()
    with pytest.raises(ValueError, match="val has no images"):
        sources.imagenet(manual_dir=photographs)
