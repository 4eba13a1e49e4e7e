"""Laws of `batches` and `passes`, for arrays in memory and for examples that are decoded."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from dlx.data.pipeline import batches, passes


class Sequence:
    """The same examples as `arrays`, one by one."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays["label"])

    def __getitem__(self, index):
        return {name: array[index] for name, array in self.arrays.items()}


def make(count):
    image = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3, 1)
    return {"image": image, "label": np.arange(count, dtype=np.int32)}


@pytest.fixture(params=["in memory", "by example"])
def kind(request):
    return (lambda arrays: arrays) if request.param == "in memory" else Sequence


def equal(first, second):
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name])
        for name in first
    )


def test_a_batch_depends_on_its_step_alone(kind):
    batch = batches(kind(make(23)), 5, seed=1)
    in_order = [batch(step) for step in range(12)]
    for step in (11, 3, 3, 4, 5, 0, 7, 0):
        assert equal(batch(step), in_order[step])
    again = batches(kind(make(23)), 5, seed=1)
    assert equal(again(9), in_order[9])


def test_another_seed_gives_another_order(kind):
    split = kind(make(23))
    assert not equal(batches(split, 5, seed=1)(0), batches(split, 5, seed=2)(0))


@pytest.mark.parametrize("size", [1, 4, 10, 23, 50])
def test_each_epoch_is_a_permutation_and_epochs_join_without_a_seam(kind, size):
    count, epochs = 10, 6
    batch = batches(kind(make(count)), size, seed=3)
    stream = np.concatenate([batch(step)["label"] for step in range(-(-count * epochs // size))])
    rounds = stream[: count * epochs].reshape(epochs, count)
    assert (np.sort(rounds) == np.arange(count)).all()
    assert len({tuple(order) for order in rounds.tolist()}) == epochs


def test_arrays_stay_together(kind):
    data = make(23)
    batch = batches(kind(data), 7, seed=0)(2)
    assert np.array_equal(batch["image"], data["image"][batch["label"]])
    assert set(batch) == set(data)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_rows_of_all_processes_are_the_global_batch(kind, processes):
    data, share = kind(make(13)), 8 // processes
    whole, parts = (
        batches(data, 8, seed=5),
        [batches(data, 8, seed=5, rows=slice(p * share, (p + 1) * share)) for p in range(processes)],
    )
    for step in range(5):
        joined = {name: np.concatenate([part(step)[name] for part in parts]) for name in ("image", "label")}
        assert equal(joined, whole(step))


def test_both_kinds_give_the_same_order():
    data = make(23)
    first, second = batches(data, 5, seed=1), batches(Sequence(data), 5, seed=1)
    assert all(equal(first(step), second(step)) for step in range(12))


@pytest.mark.parametrize(("count", "size"), [(12, 4), (13, 4), (3, 8), (1, 1)])
def test_a_pass_covers_every_example_once(kind, count, size):
    data = make(count)
    examples = passes(kind(data), size)
    for _ in range(2):
        seen = list(examples())
        assert {batch["image"].shape for batch in seen} == {(size, 2, 3, 1)}
        labels, mask = (np.concatenate([batch[name] for batch in seen]) for name in ("label", "mask"))
        assert mask.dtype == np.float32 and set(mask) <= {0, 1}
        assert labels[mask == 1].tolist() == list(range(count))


def test_all_processes_have_the_same_number_of_batches(kind):
    data, found = kind(make(9)), []
    for process in range(4):
        parts = list(passes(data, 8, rows=slice(2 * process, 2 * process + 2))())
        assert len(parts) == 2
        found += [batch["label"][batch["mask"] == 1] for batch in parts]
    assert sorted(np.concatenate(found)) == list(range(9))


def test_a_transform_sees_single_examples():
    def double(example):
        return {"image": example["image"] * 2.0}

    data = make(9)
    assert batches(Sequence(data), 4, seed=0, transform=double)(0)["image"].dtype == np.float64
    (batch,) = passes(Sequence(data), 9, transform=double)()
    assert np.array_equal(batch["image"], data["image"] * 2.0)
    for loader in (batches, passes):
        with pytest.raises(ValueError, match="in memory"):
            loader(data, 4, **({"seed": 0} if loader is batches else {}), transform=double)


def test_a_batch_is_a_copy():
    data = make(9)
    batches(data, 9, seed=0)(0)["image"][:] = 0
    next(passes(data, 9)())["image"][:] = 0
    assert np.array_equal(data["image"], make(9)["image"])


def test_a_failing_example_is_reported_and_leaves_the_rest_intact():
    data = make(8)
    whole = batches(data, 2, seed=0)
    broken = whole(2)["label"][0]

    class Broken(Sequence):
        def __getitem__(self, index):
            if index == broken:
                raise ValueError("this example is broken")
            return super().__getitem__(index)

    batch = batches(Broken(data), 2, seed=0)
    for step in (0, 1, 2, 2, 3):
        if step == 2:
            with pytest.raises(ValueError, match="this example is broken"):
                batch(step)
        else:
            assert equal(batch(step), whole(step))


def test_examples_of_different_shapes_or_types_are_named():
    class Ragged(Sequence):
        def __getitem__(self, index):
            return {"image": np.zeros((index + 1, 2))}

    class Mixed(Sequence):
        def __getitem__(self, index):
            return {"x": index if index % 2 else index + 0.5}

    with pytest.raises(ValueError, match=r"'image' of example \d is float64 of shape \(\d, 2\), others"):
        batches(Ragged(make(4)), 4, seed=0)(0)
    with pytest.raises(ValueError, match=r"'x' of example \d is (int|float)64 of shape \(\), others"):
        batches(Mixed(make(4)), 4, seed=0)(0)


@pytest.mark.parametrize("split", [{}, {"label": np.zeros(0, np.int32)}, Sequence(make(0))])
def test_an_empty_split_is_refused(split):
    with pytest.raises(ValueError, match="empty"):
        batches(split, 4, 0)
    with pytest.raises(ValueError, match="empty"):
        passes(split, 4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="at least 1"):
        batches(make(4), 0, 0)
    with pytest.raises(ValueError, match="'mask'"):
        passes({"mask": np.ones(4)}, 2)


def test_threads_may_share_a_loader():
    data = make(64)
    whole, batch = batches(data, 4, seed=0), batches(Sequence(data), 4, seed=0)
    wrong = []

    def work(start):
        for step in range(start, start + 20):
            if not equal(batch(step), whole(step)):
                wrong.append(step)

    workers = [threading.Thread(target=work, args=(start,)) for start in (0, 7)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


SCRIPT = """
import sys
import numpy as np
import dlx.data.pipeline, dlx.data.sources
heavy = {"jax", "grain", "tensorflow", "tensorflow_datasets", "sklearn", "PIL", "tqdm"} & set(sys.modules)
assert not heavy, heavy
class Split:
    def __len__(self): return 1000
    def __getitem__(self, index): return {"label": np.int32(index)}
batch = dlx.data.pipeline.batches(Split(), 8, 0)
batch(0), batch(1), batch(5)
examples = dlx.data.pipeline.passes(Split(), 8)()
next(examples)
assert "tensorflow" not in sys.modules
print("done")
"""


def test_the_modules_import_little_and_the_interpreter_ends_in_silence():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, timeout=60
    )
    assert (run.stdout, run.stderr, run.returncode) == ("done\n", "", 0)
