"""What BERT learns from: sentences with hidden tokens, and pairs of sentences (Devlin et al. 2019)."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from dlx.data.pipeline import Batch
from dlx.data.splits import Arrays
from dlx.data.text import Rows, pad
from dlx.data.tokenizer import Tokenizer


def masking(
    size: int,
    seed: int,
    tokenizer: Tokenizer,
    count: int,
    *,
    present: str = "tokens_mask",
    fraction: float = 0.15,
    rows: Rows = slice(None),
) -> Callable[[int, Batch], Batch]:
    """Returns `masked(step, batch)`, which hides tokens to be told from the rest (Devlin et al. 2019).

    In each row of "tokens" [r, t] round(fraction * n) of its n ordinary tokens are chosen, at least 1 and at
    most `count`: 80 % become "mask", 10 % any ordinary token, 10 % stay. Ordinary are those that are neither
    special nor padding, where the array named `present` ("tokens_mask" of `pad`, "segments" of `pack`) is 0.
    The batch comes back with "tokens" so changed, with "masked_positions" and "masked_targets" int32
    [r, count], and with "masked_weights" float32 [r, count]: 1 for what was chosen, 0 for the rest and in the
    rows that "mask" marks as padding.

    A pure function of (seed, step) and the batch, the rows `rows` of a global batch of `size`; for training
    `lambda step: masked(step, batch(step))`, for evaluation the number of the batch is the step.
    """
    if "mask" not in tokenizer.special:
        known = ", ".join(tokenizer.special) or "none"
        raise ValueError(f"the tokenizer has no special token 'mask'; it has {known}")
    special = np.array(list(tokenizer.special.values()))
    ordinary = np.setdiff1d(np.arange(tokenizer.size, dtype=np.int32), special)

    def masked(step: int, batch: Batch) -> Batch:
        tokens = batch["tokens"]
        rng = np.random.default_rng((seed, step))
        order = rng.random((size, tokens.shape[1]))[rows]
        fate = rng.random((size, count))[rows]
        drawn = ordinary[rng.integers(len(ordinary), size=(size, count))[rows]]

        allowed = (batch[present] != 0) & ~np.isin(tokens, special)
        number = allowed.sum(axis=1)
        chosen = np.minimum(np.maximum(np.rint(fraction * number), 1), np.minimum(number, count))
        weights = np.arange(count) < chosen[:, None]
        positions = np.argsort(np.where(allowed, order, 2), axis=1)[:, :count]
        positions = np.pad(positions, ((0, 0), (0, count - positions.shape[1])))
        positions = np.where(weights, positions, 0).astype(np.int32)
        targets = np.take_along_axis(tokens, positions, axis=1)
        hidden = np.where(fate < 0.8, tokenizer.special["mask"], np.where(fate < 0.9, drawn, targets))

        changed = tokens.copy()
        row, column = np.nonzero(weights)
        changed[row, positions[row, column]] = hidden[row, column]
        real = weights * batch["mask"][:, None] if "mask" in batch else weights
        return batch | {
            "tokens": changed,
            "masked_positions": positions,
            "masked_targets": np.where(weights, targets, 0).astype(np.int32),
            "masked_weights": real.astype(np.float32),
        }

    return masked


def sentence_pairs(
    documents: Sequence[Sequence[Int32[np.ndarray, "_"]]], length: int, tokenizer: Tokenizer, seed: int
) -> Arrays:
    """Returns pairs of sentences for next-sentence prediction (Devlin et al. 2019), drawn from `seed`.

    A document is its sentences in order. Each sentence that has a next one gives a row [CLS] A [SEP] B [SEP],
    where B is the next one (label 0) or, with probability 1/2, any sentence of another document (label 1); of
    a pair that is too long the longer sentence loses its end. {"tokens" int32, "tokens_mask" bool, "types"
    int32 (0 to the first [SEP], then 1)} [n, length] and "label" int32 [n].
    """
    sentences = [sentence for document in documents for sentence in document]
    sizes = np.array([len(document) for document in documents], int)
    ends = np.cumsum(sizes)
    first = np.setdiff1d(np.arange(len(sentences)), ends - 1)
    document = np.searchsorted(ends, first, side="right")
    if length < 5 or not len(first) or sizes.max() == len(sentences):
        raise ValueError(
            f"{len(documents)} documents of {len(sentences)} sentences give no pairs of length {length}; it "
            "takes two documents, one of them of two sentences, and room for 3 special tokens and one of each"
        )
    rng = np.random.default_rng(seed)
    label = (rng.random(len(first)) < 0.5).astype(np.int32)
    other = rng.integers(len(sentences) - sizes[document])
    other += np.where(other >= (ends - sizes)[document], sizes[document], 0)
    second = np.where(label, other, first + 1)

    cls, sep = (np.array([tokenizer.special[name]], np.int32) for name in ("cls", "sep"))
    examples, room = [], length - 3
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        left, right = sentences[a], sentences[b]
        right = right[: max(room // 2, room - len(left))]
        left = left[: room - len(right)]
        types = np.repeat(np.arange(2, dtype=np.int32), [len(left) + 2, len(right) + 1])
        examples.append({"tokens": np.concatenate([cls, left, sep, right, sep]), "types": types})
    padded = pad(examples, length)
    del padded["types_mask"]
    return padded | {"label": label}
