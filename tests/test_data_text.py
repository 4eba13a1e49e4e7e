"""Batches of text: no token lost or doubled, each a pure function of (seed, step), padding without weight."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlx.data import pipeline, text, text_pretraining
from dlx.data.tokenizer import TOKENIZERS

STREAM = np.arange(100, 203, dtype=np.int32)  # 103 tokens, each its own place


def documents(sizes):
    """Documents of tokens that are all different."""
    ends = np.cumsum([0, *sizes])
    return [np.arange(a, b, dtype=np.int32) + 1 for a, b in itertools.pairwise(ends)]


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name]), name


# Packing


@given(st.lists(st.integers(0, 23), max_size=30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_packing_keeps_every_token_once_and_in_order(sizes, length):
    parts = documents(sizes)
    if not sum(sizes):
        with pytest.raises(ValueError, match="nothing to pack"):
            text.pack([{"tokens": ids} for ids in parts], length)
        return
    packed = text.pack([{"tokens": ids, "double": 2.0 * ids} for ids in parts], length)
    tokens, segments, positions = (packed[name] for name in ("tokens", "segments", "positions"))
    real = segments > 0
    assert sorted(tokens[real].tolist()) == list(range(1, sum(sizes) + 1))
    assert not tokens[~real].any() and not positions[~real].any()
    assert np.array_equal(packed["double"], 2.0 * tokens) and tokens.shape[1] == length

    pieces = []
    for row in range(len(tokens)):
        numbers = segments[row][real[row]]
        assert np.array_equal(np.unique(numbers), np.arange(1, numbers.max() + 1))
        assert (np.diff(numbers) >= 0).all() and real[row, : len(numbers)].all()
        for segment in np.unique(numbers):
            inside = segments[row] == segment
            pieces.append(tokens[row][inside].tolist())
            assert positions[row][inside].tolist() == list(range(inside.sum()))
    expected = [ids[start : start + length].tolist() for ids in parts for start in range(0, len(ids), length)]
    assert sorted(pieces) == sorted(expected)


def test_packing_wastes_little_and_is_deterministic():
    sizes = np.random.default_rng(0).integers(1, 60, size=500).tolist()
    parts = [text.shifted(ids) for ids in documents(sizes)]
    packed = text.pack(parts, 64)
    assert (packed["segments"] > 0).mean() > 0.94
    same(packed, text.pack(parts, 64))
    known = packed["segments"] > 0
    assert np.array_equal(packed["targets"][known], packed["tokens"][known] + 1)
    assert np.array_equal(packed["weights"], known.astype(np.float32))


def test_a_reply_counts_and_its_prompt_does_not():
    ids = np.int32([5, 6, 7, 8, 9])
    document = text.shifted(ids, np.array([0, 0, 1, 1, 0]))
    assert document["tokens"].tolist() == [5, 6, 7, 8] and document["targets"].tolist() == [6, 7, 8, 9]
    assert document["weights"].tolist() == [0, 1, 1, 0] and document["weights"].dtype == np.float32
    packed = text.pack([document, text.shifted(ids)], 10)
    assert packed["weights"].sum() == 6 and packed["targets"][packed["weights"] > 0].min() == 6
    with pytest.raises(ValueError, match="5 tokens but 4 weights"):
        text.shifted(ids, np.ones(4))
    assert text.shifted(ids[:0])["tokens"].shape == (0,)


def test_documents_that_do_not_match_are_named():
    good = {"tokens": np.arange(3), "weights": np.ones(3)}
    with pytest.raises(ValueError, match="document 1 have lengths .*'tokens': 3, 'weights': 2"):
        text.pack([good, good | {"weights": np.ones(2)}], 8)
    with pytest.raises(ValueError, match=r"document 1 has \['tokens'\], others \['tokens', 'weights'\]"):
        text.pack([good, {"tokens": np.arange(2)}], 8)


# Padding and buckets


def pairs(count, seed=0, longest=30):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest + 1, size=(count, 2))
    return [
        {
            "source": rng.integers(1, 99, a).astype(np.int32),
            "target": rng.integers(1, 99, b).astype(np.int32),
            "label": index,
        }
        for index, (a, b) in enumerate(sizes.tolist())
    ]


def unpadded(batch, row):
    return {name: batch[name][row][batch[f"{name}_mask"][row]].tolist() for name in ("source", "target")}


def test_padding_is_masked_and_sequences_come_back():
    examples = pairs(20)
    padded = text.pad(examples, 31)
    assert padded["label"].dtype == np.int32 and padded["source"].dtype == np.int32
    for row, example in enumerate(examples):
        found = unpadded(padded, row)
        assert found == {name: example[name].tolist() for name in found}
        assert not padded["source"][row][~padded["source_mask"][row]].any()
    longest = max(range(20), key=lambda row: len(examples[row]["source"]))
    size = len(examples[longest]["source"])
    with pytest.raises(ValueError, match=rf"'source' of example {longest} has {size} tokens, as have"):
        text.pad(examples, size - 1)
    with pytest.raises(ValueError, match="no examples to pad"):
        text.pad([], 4)
    empty = text.pad([{"tokens": np.int32([])}, {"tokens": np.int32([3])}], 2)
    assert empty["tokens_mask"].tolist() == [[False, False], [True, False]]


def test_buckets_hold_each_example_once_where_it_fits_best():
    examples, lengths = pairs(60), [24, 8, 16, 30, 40]
    filled = text.buckets(examples, lengths)
    assert list(filled) == [8, 16, 24, 30]
    found = {}
    for length, arrays in filled.items():
        for row, index in enumerate(arrays["index"].tolist()):
            found[index] = unpadded(arrays, row)
            longest = max(len(part) for part in found[index].values())
            assert length == min(bound for bound in lengths if bound >= longest)
            assert arrays["label"][row] == index
    assert found == {
        index: {name: example[name].tolist() for name in ("source", "target")}
        for index, example in enumerate(examples)
    }
    with pytest.raises(ValueError, match=r"example \d+ has \d+ tokens, more than the longest bucket of 9"):
        text.buckets(examples, [8, 9])


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_bucket_batches_visit_every_example_equally_often(size):
    filled = text.buckets(pairs(50), [10, 20, 30])
    batch = text.bucket_batches(filled, size, 3)
    steps = 600 // size * 3
    seen = np.zeros(50, int)
    shapes = set()
    for step in range(steps):
        found = batch(step)
        seen += np.bincount(found["index"], minlength=50)
        shapes.add(found["source"].shape)
        assert len(found["index"]) == size
    assert shapes == {(size, 10), (size, 20), (size, 30)}
    epochs = steps * size / 50
    assert abs(seen - epochs).max() <= 2 + max(size / len(part["index"]) for part in filled.values())


def test_bucket_batches_are_pure_and_mixed():
    filled = text.buckets(pairs(50), [10, 20, 30])
    batch, again = text.bucket_batches(filled, 4, 3), text.bucket_batches(filled, 4, 3)
    steps = [31, 2, 17, 2, 1000]
    for step in steps:
        same(batch(step), again(step))
    widths = [batch(step)["source"].shape[1] for step in range(24)]
    assert widths != sorted(widths) and widths[:12] != widths[12:]
    other = text.bucket_batches(filled, 4, 4)
    assert any(not np.array_equal(batch(s)["index"], other(s)["index"]) for s in range(3))
    halves = [text.bucket_batches(filled, 4, 3, rows=rows) for rows in (slice(0, 2), slice(2, 4))]
    for step in range(20):
        whole = batch(step)
        parts = [half(step) for half in halves]
        same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_bucket_passes_count_each_example_once():
    examples = pairs(50)
    filled = text.buckets(examples, [10, 20, 30])
    for _ in range(2):
        seen = []
        for batch in text.bucket_passes(filled, 8)():
            seen += batch["index"][batch["mask"] > 0].tolist()
        assert sorted(seen) == list(range(50))


# Streams


def test_windows_begin_anywhere_and_their_targets_come_after():
    batch = text.windows(STREAM, 8, 16, 5)
    starts = set()
    for step in range(60):
        found = batch(step)
        assert found["tokens"].shape == (16, 8) and found["tokens"].dtype == np.int32
        assert np.array_equal(found["targets"], found["tokens"] + 1)
        assert (np.diff(found["tokens"], axis=1) == 1).all()
        starts |= set(found["tokens"][:, 0].tolist())
    assert starts == set(range(100, 203 - 8))
    same(batch(7), text.windows(STREAM, 8, 16, 5)(7))
    assert not np.array_equal(batch(7)["tokens"], batch(8)["tokens"])
    assert not np.array_equal(batch(7)["tokens"], text.windows(STREAM, 8, 16, 6)(7)["tokens"])
    part = text.windows(STREAM, 8, 16, 5, rows=np.arange(1, 16, 2))(7)
    same(part, {name: array[1::2] for name, array in batch(7).items()})
    assert text.windows(STREAM[:9], 8, 2, 0)(0)["targets"][:, -1].tolist() == [108, 108]


@given(st.integers(2, 103), st.integers(1, 20), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_evaluation_covers_every_token_but_the_first_once(count, length, size):
    stream = STREAM[:count]
    rows = text.chunks(stream, length)
    for examples in (text.weighted_passes(rows, size), text.contiguous_passes(stream, length, size)):
        seen = []
        for batch in examples():
            real = batch["weights"] > 0
            assert batch["tokens"].shape == (size, length) == batch["targets"].shape
            assert set(np.unique(batch["weights"])) <= {0, 1} and batch["weights"].dtype == np.float32
            assert np.array_equal(batch["targets"][real], batch["tokens"][real] + 1)
            seen += batch["targets"][real].tolist()
        assert sorted(seen) == stream[1:].tolist()


def test_a_packed_split_is_evaluated_once_too():
    packed = text.pack([text.shifted(ids) for ids in documents([5, 9, 3, 7, 12])], 8)
    weight = sum(batch["weights"].sum() for batch in text.weighted_passes(packed, 3)())
    assert weight == 36 - 5


def test_contiguous_rows_go_on_where_they_ended():
    length, size, steps = 6, 3, 5  # 103 tokens give 5 batches and 12 targets over
    batch = text.contiguous(STREAM, length, size, 0)
    firsts = set()
    for epoch in range(40):
        found = [batch(epoch * steps + turn) for turn in range(steps)]
        assert [b["reset"].tolist() for b in found] == [[True] * size] + [[False] * size] * (steps - 1)
        joined = np.concatenate([b["tokens"] for b in found], axis=1)
        assert (np.diff(joined, axis=1) == 1).all()
        assert np.array_equal(np.concatenate([b["targets"] for b in found], axis=1), joined + 1)
        assert np.array_equal(joined.ravel(), np.arange(steps * length * size) + joined[0, 0])
        firsts.add(int(joined[0, 0]))
    assert firsts == set(range(100, 113))  # what is left out differs from epoch to epoch
    same(batch(13), text.contiguous(STREAM, length, size, 0)(13))
    part = text.contiguous(STREAM, length, size, 0, rows=slice(1, 3))(13)
    same(part, {name: array[1:3] for name, array in batch(13).items()})


def test_contiguous_evaluation_carries_on_and_shares_rows():
    batches = list(text.contiguous_passes(STREAM, 6, 4)())
    assert [b["reset"].tolist() for b in batches] == [[True] * 4] + [[False] * 4] * (len(batches) - 1)
    for row in range(4):
        tokens = np.concatenate([b["tokens"][row][b["weights"][row] > 0] for b in batches])
        assert (np.diff(tokens) == 1).all()
    for whole, part in zip(batches, text.contiguous_passes(STREAM, 6, 4, rows=slice(2, 4))(), strict=True):
        same(part, {name: array[2:4] for name, array in whole.items()})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda stream: text.windows(stream, 8, 2, 0), "has 0 tokens; it needs at least 9"),
        (lambda stream: text.chunks(stream, 8), "has 0 tokens; it needs at least 2"),
        (lambda stream: text.contiguous(stream, 8, 2, 0), "has 0 tokens; it needs at least 17"),
        (lambda stream: text.contiguous_passes(stream, 8, 2), "has 0 tokens; it needs at least 2"),
    ],
)
def test_a_stream_too_short_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make(STREAM[:0])


# Masking


@pytest.fixture(scope="module")
def letters():
    return TOKENIZERS["characters"](
        ["abcdefghijklmnopqrstuvwxyz"], special=["pad", "unk", "cls", "sep", "mask"]
    )


def rows_of(letters, count, length, seed=0):
    rng = np.random.default_rng(seed)
    examples = [
        np.concatenate([[2], rng.integers(5, letters.size, n), [3]]).astype(np.int32)
        for n in rng.integers(1, length - 1, count).tolist()
    ]
    return text.pad([{"tokens": ids} for ids in examples], length)


def test_masking_hides_fifteen_percent_and_never_special_tokens_or_padding(letters):
    batch = rows_of(letters, 400, 64)
    found = text_pretraining.masking(400, 1, letters, 9)(0, batch)
    tokens, positions = batch["tokens"], found["masked_positions"]
    weights, targets = found["masked_weights"], found["masked_targets"]
    assert positions.shape == weights.shape == targets.shape == (400, 9)
    assert positions.dtype == targets.dtype == np.int32 and weights.dtype == np.float32
    ordinary = (tokens >= 5).sum(axis=1)
    expected = np.minimum(np.maximum(np.rint(0.15 * ordinary), 1), 9)
    assert np.array_equal(weights.sum(axis=1), expected)
    real = weights > 0
    assert np.array_equal(targets[real], np.take_along_axis(tokens, positions, axis=1)[real])
    assert (targets[real] >= 5).all() and not targets[~real].any() and not positions[~real].any()
    hidden = np.zeros(tokens.shape, int)
    np.add.at(hidden, (np.nonzero(real)[0], positions[real]), 1)
    assert hidden.max() == 1  # nothing is chosen twice
    assert np.array_equal(found["tokens"][hidden == 0], tokens[hidden == 0])
    now, was = found["tokens"][hidden == 1], tokens[hidden == 1]
    assert abs((now == letters.special["mask"]).mean() - 0.8) < 0.04
    assert abs((now == was).mean() - 0.1 - 0.1 / 26) < 0.04
    others = now[now != letters.special["mask"]]
    assert others.min() >= 5 and others.max() < letters.size
    assert abs(hidden[:, 1:20][tokens[:, 1:20] >= 5].mean() - 0.15) < 0.03  # nor by place
    assert np.array_equal(batch["tokens"], rows_of(letters, 400, 64)["tokens"])


def test_masks_are_a_pure_function_of_seed_and_step(letters):
    batch = rows_of(letters, 8, 32)
    masked = text_pretraining.masking(8, 1, letters, 5)
    same(masked(3, batch), text_pretraining.masking(8, 1, letters, 5)(3, batch))
    for other in (masked(4, batch), text_pretraining.masking(8, 2, letters, 5)(3, batch)):
        assert not np.array_equal(other["masked_positions"], masked(3, batch)["masked_positions"])
    part = text_pretraining.masking(8, 1, letters, 5, rows=slice(4, 8))
    own = {name: array[4:] for name, array in batch.items()}
    same(part(3, own), {name: array[4:] for name, array in masked(3, batch).items()})


def test_rows_without_a_token_and_padding_rows_have_no_weight(letters):
    batch = rows_of(letters, 3, 16)
    batch["tokens"][1], batch["tokens_mask"][1] = 0, False
    masked = text_pretraining.masking(3, 0, letters, 20)  # more than a row has
    found = masked(0, batch | {"mask": np.float32([1, 1, 0])})
    assert found["masked_weights"].sum(axis=1).tolist()[1:] == [0, 0] and found["masked_weights"][0].any()
    assert found["masked_positions"].shape == (3, 20) and not found["tokens"][1].any()


def test_packed_rows_are_masked_by_their_segments():
    plain = TOKENIZERS["characters"](["abcdef"], special=["mask"])
    packed = text.pack([{"tokens": plain.encode("abcdef"[:n])} for n in (6, 4, 3, 2)], 8)
    packed["tokens"][packed["segments"] == 0] = 3  # padding that looks like a letter
    size = len(packed["tokens"])
    found = text_pretraining.masking(size, 0, plain, 8, present="segments", fraction=1.0)(0, packed)
    assert np.array_equal(found["masked_weights"].sum(axis=1), (packed["segments"] > 0).sum(axis=1))
    assert (found["tokens"][packed["segments"] == 0] == 3).all()


def test_masking_needs_a_token_for_it():
    with pytest.raises(ValueError, match="no special token 'mask'; it has pad"):
        text_pretraining.masking(4, 0, TOKENIZERS["bytes"](special=["pad"]), 5)


# Sentence pairs


def test_half_of_the_sentences_are_followed_by_their_next(letters):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 120).tolist()
    place, story = {}, []
    for index, size in enumerate(sizes):
        sentences = []
        for turn in range(size):
            ids = np.int32([5 + index // 26, 5 + index % 26, 5 + turn, *rng.integers(5, 31, 3)])
            place[tuple(ids[:3].tolist())] = (index, turn)
            sentences.append(ids)
        story.append(sentences)
    rows = text_pretraining.sentence_pairs(story, 16, letters, 0)
    count = sum(size - 1 for size in sizes)
    assert rows["tokens"].shape == (count, 16) and rows["types"].dtype == rows["label"].dtype == np.int32
    assert set(rows) == {"tokens", "tokens_mask", "types", "label"}
    firsts = []
    for row in range(count):
        ids = rows["tokens"][row][rows["tokens_mask"][row]]
        assert ids[0] == 2 and ids[7] == 3 and ids[14] == 3 and len(ids) == 15
        assert rows["types"][row].tolist() == [0] * 8 + [1] * 7 + [0]
        a, b = (place[tuple(ids[start : start + 3].tolist())] for start in (1, 8))
        firsts.append(a)
        if rows["label"][row]:
            assert a[0] != b[0]
        else:
            assert b == (a[0], a[1] + 1)
    assert firsts == [(index, turn) for index, size in enumerate(sizes) for turn in range(size - 1)]
    assert abs(rows["label"].mean() - 0.5) < 0.1
    same(rows, text_pretraining.sentence_pairs(story, 16, letters, 0))
    assert not np.array_equal(rows["label"], text_pretraining.sentence_pairs(story, 16, letters, 1)["label"])


@pytest.mark.parametrize(
    ("left", "right", "kept"),
    [(3, 4, (3, 4)), (9, 2, (5, 2)), (2, 9, (2, 5)), (9, 9, (4, 3)), (4, 9, (4, 3)), (0, 9, (0, 7))],
)
def test_the_longer_sentence_of_a_pair_is_cut(letters, left, right, kept):
    sentences = [np.arange(5, 5 + left, dtype=np.int32), np.arange(15, 15 + right, dtype=np.int32)]
    rows = text_pretraining.sentence_pairs([sentences, [np.int32([5])]], 10, letters, 1)
    row = rows["tokens"][0][rows["tokens_mask"][0]].tolist()
    first, second = row[1 : row.index(3)], row[row.index(3) + 1 : -1]
    expected = np.int32([5]) if rows["label"][0] else sentences[1]
    if not rows["label"][0]:
        assert (len(first), len(second)) == kept and row[-1] == 3
    assert first == sentences[0][: len(first)].tolist() and second == expected[: len(second)].tolist()


def test_pairs_need_two_documents(letters):
    sentence = np.int32([5, 6])
    for documents_ in ([[sentence, sentence]], [[sentence], [sentence]], []):
        with pytest.raises(ValueError, match="give no pairs of length 12; it takes two documents"):
            text_pretraining.sentence_pairs(documents_, 12, letters, 0)


def test_pairs_are_shuffled_batched_and_masked(letters):
    story = [[np.int32([5 + i, 6, 7]), np.int32([8 + i, 9]), np.int32([10 + i])] for i in range(9)]
    rows = text_pretraining.sentence_pairs(story, 12, letters, 0)
    batch = pipeline.batches(rows, 4, 0)
    masked = text_pretraining.masking(4, 0, letters, 2)
    found = masked(5, batch(5))
    assert found["label"].shape == (4,) and (found["masked_weights"].sum(axis=1) == 1).all()
    weight = sum(
        masked(step, batch)["masked_weights"].sum() for step, batch in enumerate(pipeline.passes(rows, 4)())
    )
    assert weight == len(rows["label"]) == 18
