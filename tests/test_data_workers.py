"""What is decoded: any number of workers gives the same batches, and what is corrupt is named or skipped."""

import io
import os
import types
import warnings

import numpy as np
import pytest
from absl import flags
from PIL import Image

from dlx.data import image, pipeline, sources, splits
from dlx.data.builders import catalogue
from dlx.data.splits import Corrupt, Skipping


def encoded(value):
    """A JPEG of noise around a shade."""
    noise = np.random.default_rng(value).integers(0, 40, size=(40, 60, 3))
    stream = io.BytesIO()
    Image.fromarray((noise + 6 * value).astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def photographs(tmp_path):
    """ImageNet with two classes of ten training images, of which two are damaged in different ways."""
    for part, count in {"train": 10, "val": 3}.items():
        for label, name in enumerate(("n01", "n02")):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.JPEG").write_bytes(encoded(10 * label + number))
    damaged = [tmp_path / "imagenet" / "train" / name for name in ("n01/9.JPEG", "n02/4.JPEG")]
    damaged[0].write_bytes(damaged[0].read_bytes()[:300])
    damaged[1].write_bytes(b"no picture")
    return tmp_path


def imagenet(folder, **options):
    return sources.imagenet(validation=0, size=16, manual_dir=folder, **options)


def same(first, second):
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes()
        for name in first
    )


def read(folder, workers, steps=range(7), threads=None):
    """The batches of some steps, or those of a pass, and what was skipped on the way."""
    split = imagenet(folder, skip_corrupt=True).splits["train"]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if steps is None:
            found = list(pipeline.passes(split, 8, workers=workers, threads=threads)())
        else:
            batch = pipeline.batches(split, 6, seed=3, workers=workers, threads=threads)
            found = [batch(step) for step in steps]
    assert len(warned) == len(split.skipped) and all("JPEG" in str(one.message) for one in warned)
    return found, split.skipped


def agree(first, second):
    return len(first) == len(second) and all(same(*pair) for pair in zip(first, second, strict=True))


def test_the_number_of_workers_changes_no_batch(photographs):
    flags.FLAGS.unparse_flags()  # as in a program without absl, where Grain's workers would not start
    expected, skipped = read(photographs, workers=0, threads=1)
    assert set(skipped) == {9, 14}
    for workers in (0, 1, 2, 3):
        found, missed = read(photographs, workers)
        assert agree(found, expected) and missed == skipped, workers
        assert all(type(array) is np.ndarray and array.flags.writeable for array in found[0].values())
    later, _ = read(photographs, 1, steps=(5, 6))  # as after a resume
    assert agree(later, expected[5:])
    passes = [read(photographs, workers, steps=None) for workers in (0, 1)]
    assert agree(passes[0][0], passes[1][0]) and passes[0][1] == passes[1][1] == skipped


def test_a_corrupt_example_is_named_with_its_position_by_a_worker_too(photographs):
    split = imagenet(photographs).splits["train"]
    for workers in (0, 1):
        batch = pipeline.batches(split, 4, seed=0, workers=workers)
        good, broken, row = None, None, None
        for step in range(5):
            try:
                good = batch(step)
            except Corrupt as error:
                broken, row = step, str(error)
        assert good is not None and broken is not None
        assert "imagenet/train/n0" in row and ".JPEG is no intact JPEG or PNG" in row
        index = int(row.split("example ")[1].split(" of the split")[0])
        place = int(row.split("row ")[1].split(" of batch")[0])
        assert index in (9, 14) and f"of batch {broken}" in row
        order = np.random.default_rng((0, 0)).permutation(20)
        assert order[4 * broken + place] == index


def test_the_environment_says_how_many_workers_there_are(photographs, monkeypatch):
    asked = []
    nothing = types.SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(pipeline, "_iterator", lambda *arguments: asked.append(arguments[-2:]) or nothing)
    monkeypatch.setattr(pipeline, "_cores", lambda: 6)
    split = imagenet(photographs).splits["test"]
    for text, expected in (("", (6, 0)), ("0", (6, 0)), ("2", (3, 2)), ("50", (1, 50))):
        monkeypatch.setenv("DLX_DATA_WORKERS", text)
        with pytest.raises(TypeError):  # nothing is no iterator
            pipeline.batches(split, 2, 0)(0)
        assert asked[-1] == expected
    monkeypatch.setenv("DLX_DATA_WORKERS", "many")
    with pytest.raises(ValueError, match="DLX_DATA_WORKERS='many' is no number of processes"):
        pipeline.batches(split, 2, 0)


class Numbers:
    """Examples that are their own index; some of them corrupt."""

    def __init__(self, count, corrupt=()):
        self.count, self.corrupt = count, set(corrupt)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.corrupt:
            raise Corrupt(f"number {index} is damaged")
        return {"label": np.int32(index % 2), "image": np.full((2, 2, 1), index, np.uint8)}


def numbers(batch):
    return batch["image"][:, 0, 0, 0].tolist()


def test_a_skipped_example_gives_its_place_to_the_next_intact_one_and_moves_no_other():
    images = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 2, 2, 1))
    whole = pipeline.batches({"image": images}, 5, seed=1)
    split = Skipping(Numbers(20, (3, 4, 19)), "numbers")
    batch = pipeline.batches(split, 5, seed=1)
    with pytest.warns(RuntimeWarning):
        for step in range(8):
            instead = {3: 5, 4: 5, 19: 0}
            assert numbers(batch(step)) == [instead.get(n, n) for n in numbers(whole(step))]
    assert set(split.skipped) == {3, 4, 19}  # counted once, though two epochs met them


def test_each_skipped_example_is_warned_of_once_and_counted():
    split = Skipping(Numbers(8, (1, 6)), "numbers")
    with pytest.warns(RuntimeWarning) as warned:
        for _ in range(2):
            list(pipeline.passes(split, 4)())
    texts = [str(one.message) for one in warned]
    assert texts == [
        "numbers: number 1 is damaged; skipped, 1 of 8 examples so far",
        "numbers: number 6 is damaged; skipped, 2 of 8 examples so far",
    ]


def test_a_pass_masks_what_it_skips():
    split = Skipping(Numbers(10, (0, 7)), "numbers")  # the first one is also what pads
    with pytest.warns(RuntimeWarning):
        seen = list(pipeline.passes(split, 4)())
    kept = [
        number for batch in seen for number, real in zip(numbers(batch), batch["mask"], strict=True) if real
    ]
    assert kept == [1, 2, 3, 4, 5, 6, 8, 9] and {batch["image"].shape for batch in seen} == {(4, 2, 2, 1)}


def test_what_reads_a_whole_split_leaves_out_what_is_skipped():
    split = Skipping(Numbers(10, (0, 7)), "numbers")
    with pytest.warns(RuntimeWarning):
        mean, _ = image.statistics(split)
    assert mean[0] == pytest.approx(np.mean([1, 2, 3, 4, 5, 6, 8, 9]))
    drawn, whole = splits.few(split, 3, seed=1), splits.few(Numbers(10), 5, seed=1)
    assert not {0, 7} & set(numbers(drawn)) and drawn["label"].tolist().count(0) == 3
    assert set(numbers(drawn)) <= set(numbers(whole))
    for reader in (image.statistics, lambda s: splits.few(s, 1, 0)):
        with pytest.raises(Corrupt, match="number 0 is damaged"):
            reader(Numbers(10, (0, 7)))


def test_a_split_of_nothing_but_corrupt_examples_is_refused():
    with pytest.raises(Corrupt, match="all of its 3 examples are corrupt, such as: number . is damaged"):
        pipeline.batches(Skipping(Numbers(3, range(3)), "numbers"), 2, 0)(0)


def test_other_errors_are_never_skipped(photographs):
    """A missing file or a shape that differs is no corrupt example, but a fault of the set or the disk."""
    split = imagenet(photographs, skip_corrupt=True).splits["test"]
    os.remove(photographs / "imagenet" / "val" / "n01" / "1.JPEG")
    with pytest.raises(FileNotFoundError, match=r"n01/1\.JPEG"):
        list(pipeline.passes(split, 2)())


@pytest.fixture
def records(tmp_path, monkeypatch):
    """A set of images that TFDS has prepared; returns its folder."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Builder(tfds.core.GeneratorBasedBuilder):
        name = "shades"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(12), "validation": self._generate_examples(4)}

        def _generate_examples(self, count):
            for number in range(count):
                yield number, {"image": Image.open(io.BytesIO(encoded(number))), "label": number % 2}

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tfds.disable_progress_bar()
    Builder(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return tmp_path / "shades" / "1.0.0"


def test_images_that_tfds_prepared_are_read_by_record_and_a_damaged_one_is_named_or_skipped(records):
    parts = {"train": "train[:75%]", "validation": "train[75%:]", "test": "validation"}
    source = sources.tfds_images(dataset="shades", splits=parts, size=16)
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 9,
        "validation": 3,
        "test": 4,
    }
    assert source.classes == ("a", "b") and source.splits["train"][3]["image"].shape == (16, 16, 3)
    assert [int(source.splits["validation"][n]["label"]) for n in range(3)] == [1, 0, 1]

    (file,) = records.glob("*train*array_record*")
    data = bytearray(file.read_bytes())
    damaged = data.find(encoded_of(source, 4)[100:140]) + 20
    data[damaged] ^= 4
    file.write_bytes(data)
    fresh = sources.tfds_images(dataset="shades/1.0.0", splits=parts, size=16).splits["train"]
    with pytest.raises(Corrupt, match=r"record \d of train\[:75%\] in .*shades/1.0.0 is damaged: "):
        for index in range(9):
            fresh[index]
    tolerant = sources.tfds_images(dataset="shades", splits=parts, size=16, skip_corrupt=True)
    with pytest.warns(RuntimeWarning, match="shades train: record"):
        seen = np.concatenate([b["mask"] for b in pipeline.passes(tolerant.splits["train"], 4)()])
    assert seen.sum() == 9 - len(tolerant.splits["train"].skipped) and tolerant.splits["train"].skipped


def encoded_of(source, index):
    """The bytes of an image as they are in its record."""
    return source.splits["train"].split.source[index]["image"]


def test_a_set_that_tfds_has_not_prepared_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="TFDS has prepared no data set at .*/shades"):
        sources.tfds_images(dataset="shades")


def test_a_damaged_record_of_the_catalogue_is_named(monkeypatch, tmp_path):
    class Stored:
        def __getitem__(self, index):
            if index == 7:
                raise RuntimeError("hash mismatch")
            return {"label": index}

        def __getitems__(self, indices):
            return [self[index] for index in indices]

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(catalogue._records(Stored(), 0, 5, "train of it")) == 5
    with pytest.raises(
        Corrupt, match=f"record 7 of train of it is damaged: hash mismatch; remove .*{tmp_path}"
    ):
        catalogue._records(Stored(), 5, 10, "train of it")
