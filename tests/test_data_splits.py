"""What a split must be, and what is held out of it."""

import numpy as np
import pytest

from dlx.data.splits import _scatter, check, drawn, few, held_out, length

CLASSES = ("cat", "dog", "fish")


def make(**changes):
    return {"image": np.zeros((5, 2, 2, 1), np.float32), "label": np.int32([0, 1, 2, 0, 1])} | changes


def examples(split):
    count = len(split["label"])
    return [{name: array[index] for name, array in split.items()} for index in range(count)]


def test_a_good_split_passes():
    split = make()
    assert check(split, CLASSES) is split and length(split) == 5
    checked = check(examples(split), CLASSES)
    assert length(checked) == 5 and checked[4]["label"] == 1


def broken_image(value):
    image = np.zeros((5, 2, 2, 1), np.float32)
    image[3, 1, 0, 0] = value
    return image


FAULTS = {
    "a label too large": (make(label=np.int32([0, 1, 2, 3, 1])), r"holds 3 in example 3; allowed are 0\.\.2"),
    "a negative label": (
        make(label=np.int32([0, 1, 2, -1, 1])),
        r"holds -1 in example 3; allowed are 0\.\.2",
    ),
    "a fractional label": (
        make(label=np.float32([0, 1, 2, 0, 1])),
        "of type float32; labels must be integers",
    ),
    "not a number": (make(image=broken_image(np.nan)), "holds nan in example 3"),
    "infinity": (make(image=broken_image(-np.inf)), "holds -inf in example 3"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_at_once_for_arrays_and_on_reading_for_examples(fault):
    split, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        check(split, CLASSES, "toy train")
    checked = check(examples(split), CLASSES, "toy train")
    with pytest.raises(ValueError, match=f"toy train.*{message.split(' in example')[0]}"):
        [checked[index] for index in range(5)]


def test_empty_and_uneven_splits_are_refused():
    for empty in ({}, {"label": np.zeros(0, np.int32)}, []):
        with pytest.raises(ValueError, match=r"toy test is empty|toy test holds no arrays"):
            check(empty, CLASSES, "toy test")
    with pytest.raises(ValueError, match=r"different lengths.*'label': 4"):
        check(make(label=np.zeros(4, np.int32)), CLASSES)


def test_nan_is_found_beyond_the_first_chunk():
    values = np.zeros((10_000, 2))
    values[9_876, 1] = np.nan
    with pytest.raises(ValueError, match="example 9876"):
        check({"x": values})


@pytest.mark.parametrize("fraction", [0, 0.1, 0.2, 0.5])
def test_each_class_gives_its_share(fraction):
    labels = np.repeat(np.arange(7), [3, 10, 11, 50, 99, 100, 1])
    mask = held_out(labels, fraction)
    assert mask.sum() == round(fraction * len(labels))
    shares = np.bincount(labels[mask], minlength=7)
    assert (np.abs(shares - fraction * np.bincount(labels)) < 1).all()


def test_positions_are_scattered_by_the_published_generator():
    """The first numbers of SplitMix64 from seed 0."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert _scatter(np.arange(3, dtype=np.uint64)).tolist() == expected


def test_what_is_held_out_never_changes_and_is_no_block():
    mask = held_out(np.zeros(20, int), 0.3)
    assert np.flatnonzero(mask).tolist() == [2, 4, 5, 6, 8, 18]
    assert np.array_equal(mask, held_out(np.zeros(20, int), 0.3))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="outside 0 <= fraction < 1"):
        held_out(np.zeros(4, int), fraction)


uneven = np.repeat(np.arange(3), [10, 30, 60])[np.random.default_rng(0).permutation(100)]


def test_of_each_class_so_many_examples_are_drawn_and_the_fewer_are_among_the_more():
    for seed in range(5):
        some, more = drawn(uneven, 4, seed), drawn(uneven, 10, seed)
        assert np.bincount(uneven[some]).tolist() == [4, 4, 4]
        assert np.bincount(uneven[more]).tolist() == [10, 10, 10]
        assert (more | ~some).all()


def test_the_draw_is_a_function_of_the_seed_and_even():
    assert np.array_equal(drawn(uneven, 4, 1), drawn(uneven, 4, 1))
    assert np.flatnonzero(drawn(np.zeros(20, int), 5, 0)).tolist() == [2, 6, 12, 15, 18]
    total = sum(drawn(uneven, 5, seed).astype(int) for seed in range(400))
    shares = [total[uneven == label] / 400 for label in range(3)]
    for share, size in zip(shares, (10, 30, 60), strict=True):  # 4 standard deviations of a fair draw
        assert np.abs(share - 5 / size).max() < 4 * np.sqrt(5 / size * (1 - 5 / size) / 400) + 1e-9


def test_few_examples_are_the_same_from_arrays_and_from_examples():
    split = {"image": np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), "label": uneven.astype(np.int32)}
    found, read = few(split, 7, 3), few(examples(split), 7, 3)
    assert np.flatnonzero(drawn(uneven, 7, 3)).tolist() == found["image"].ravel().tolist()
    assert np.array_equal(found["label"], uneven[found["image"].ravel()])
    for name in split:
        assert np.array_equal(found[name], read[name]) and found[name].dtype == read[name].dtype


def test_more_examples_than_a_class_has_are_refused():
    with pytest.raises(ValueError, match="11 examples of each class were asked for; class 0 has 10"):
        drawn(uneven, 11, 0)
    with pytest.raises(ValueError, match="0 examples of each class"):
        few({"label": uneven}, 0, 0)
