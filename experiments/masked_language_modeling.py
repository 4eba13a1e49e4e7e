"""Masked language modeling: the words that are hidden in a text (Devlin et al. 2019).

A document is a sentence, or the turns of a dialogue. Its sentences, each with [SEP] after it, lie packed in
rows of one length that begin with [CLS]; attention sees the whole row (the FULL-SENTENCES of Liu et al.
2019). The masks of a training batch are drawn anew at every step; those of held-out text never change.
"""

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlx import feed, figures, losses, metrics
from dlx.configuration import ConfigError, build
from dlx.core import Model, Task
from dlx.data import pipeline, text, text_pretraining
from dlx.data.sources import SOURCES
from dlx.data.tokenizer import TOKENIZERS, Tokenizer
from dlx.evaluate import collected, mean_over
from dlx.models import MODELS

FRACTION = 0.15  # of the tokens are to be told from the rest
EVERY = 4  # the vocabulary is learned from every so many training documents
MASK = "[MASK]"


class Corpus(NamedTuple):
    """The documents of each split, a tuple of sentences each, and the tokenizer learned from "train"."""

    splits: dict[str, list[tuple[str, ...]]]
    tokenizer: Tokenizer


def make_task(config) -> Task:
    """Cross entropy of the hidden tokens; held-out loss, accuracy and perplexity are of those too."""
    model, corpus = network(config), data(config)

    @functools.cache
    def train():  # packed when the first batch is wanted: who only evaluates needs none
        rows = feed.rows(config.batch)
        batch = pipeline.batches(packed(config, "train"), config.batch, config.seed, rows=rows)
        masked = masking(config, config.seed)
        return lambda step: masked(step, batch(step))

    def init(key):
        return model.init(key, jnp.zeros((1, config.length), jnp.int32))

    def score(variables, batch, key=None):
        logits, state = predict(model, variables, batch, key)
        each = losses.softmax_cross_entropy(logits, batch["masked_targets"])
        weights = batch["masked_weights"]
        right = metrics.accuracy(logits, batch["masked_targets"], weights)
        return {"loss": metrics.mean(each, weights), "masked_accuracy": right}, state

    def loss(variables, batch, key):
        found, state = score(variables, batch, key)
        return found["loss"].total / jnp.maximum(found["loss"].weight, 1), (state, found)

    def evaluator(split):
        return mean_over(passes(config, split), lambda *inputs: score(*inputs)[0], report)

    held_out = {split: evaluator(split) for split in corpus.splits if split != "train"}
    return Task(init, loss, lambda step: train()(step), held_out)


def predict(model: Model, variables, batch, key=None):
    """Returns logits [b, m, vocabulary] of the hidden tokens, and the model's state."""
    inputs = batch["tokens"], batch["tokens_mask"], None, batch["masked_positions"]
    return model.apply(variables, *inputs, key=key)


def report(sums) -> dict[str, float]:
    """Returns the means, and the perplexity of a hidden token."""
    found = metrics.summarize(sums)
    return found | {"perplexity": float(np.exp(found["loss"]))}


def data(config) -> Corpus:
    """Returns the documents and their tokenizer; kept, since a run asks for them more than once."""
    return load(json.dumps([config.sources, config.tokenizer.to_dict()], sort_keys=True))


@functools.lru_cache(maxsize=1)
def load(spec: str) -> Corpus:
    """Reads the sources and learns the tokenizer that a spec names, in JSON."""
    names, tokenizer = json.loads(spec)
    if not names:
        raise ConfigError("config.sources is empty; name at least one source of text")
    splits: dict[str, dict] = {}
    for name in names:
        for split, examples in build(SOURCES, {"name": name}).splits.items():
            found = splits.setdefault(split, {})  # of equal documents only one is kept
            found.update(dict.fromkeys(map(sentences, examples)))
    known = splits["train"]
    kept = {s: [d for d in found if s == "train" or d not in known] for s, found in splits.items()}
    texts = list(itertools.chain.from_iterable(kept["train"][::EVERY]))
    return Corpus(kept, build(TOKENIZERS, tokenizer, texts=texts))


def sentences(example: Mapping) -> tuple[str, ...]:
    """Returns the sentences of an example: its turns, its English side, or its text."""
    return example.get("turns") or (example.get("target") or example["text"],)


def files(config) -> dict[str, str]:
    """Returns the files that are saved with a run."""
    return {"tokenizer.json": data(config).tokenizer.json}


def packed(config, split: str) -> dict[str, np.ndarray]:
    """Returns the documents of a split in rows: "tokens" int32 and "tokens_mask" bool [n, length]."""
    tokenizer, documents = data(config).tokenizer, data(config).splits[split]
    encoded = tokenizer.encode_batch(list(itertools.chain.from_iterable(documents)))
    end = np.array([tokenizer.special["sep"]], np.int32)
    ids = iter(encoded)
    order = np.random.default_rng(0).permutation(len(documents))  # or rows were of sentences that are alike
    joined = [np.concatenate([x for _ in d for x in (next(ids), end)]) for d in documents]
    rows = text.pack([{"tokens": joined[index]} for index in order], config.length - 1)
    first = ((0, 0), (1, 0))
    return {
        "tokens": np.pad(rows["tokens"], first, constant_values=tokenizer.special["cls"]),
        "tokens_mask": np.pad(rows["segments"] > 0, first, constant_values=True),
    }


def masking(config, seed: int) -> Callable:
    """Returns `(step, batch) -> batch` with tokens hidden, by draws from (seed, step)."""
    count, rows = max(1, round(FRACTION * config.length)), feed.rows(config.batch)
    return text_pretraining.masking(
        config.batch, seed, data(config).tokenizer, count, fraction=FRACTION, rows=rows
    )


def passes(config, split: str) -> Callable[[], Iterator[dict]]:
    """Returns `() -> batches`: one pass over a split with the same tokens hidden every time."""
    rows = feed.rows(config.batch)
    examples = functools.cache(lambda: pipeline.passes(packed(config, split), config.batch, rows=rows))
    masked = masking(config, 0)
    return lambda: (masked(step, batch) for step, batch in enumerate(examples()()))


def network(config) -> Model:
    """Returns the model with the head that tells hidden tokens."""
    sizes = {"vocabulary": data(config).tokenizer.size, "context": config.length}
    return build(MODELS, config.model, head="masked_lm", **sizes)


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    splits = ", ".join(f"{name} {len(documents):,}" for name, documents in data(config).splits.items())
    size = data(config).tokenizer.size
    return {"data": f"{', '.join(config.sources)}: {splits} documents; {size:,} word pieces"}


def reply(config, variables) -> Callable[[list[str]], Iterator[str]]:
    """Returns what fills every [MASK] of the last turn: the text filled, then the likeliest for each."""
    fill = filler(config, variables)

    def answer(turns: list[str]) -> Iterator[str]:
        found = fill(turns[-1])
        parts = turns[-1].split(MASK)
        yield parts[0]
        for (best, *_), part in zip(found, parts[1:], strict=True):
            yield best[0] + part
        for place in found:
            yield "\n  " + ", ".join(f"{word} {chance:.0%}" for word, chance in place)

    return answer


def filler(config, variables, best: int = 5) -> Callable[[str], list[list[tuple[str, float]]]]:
    """Returns `sentence -> ` for each [MASK] in it the `best` words with their probabilities."""
    model, tokenizer = network(config), data(config).tokenizer
    special = np.array(list(tokenizer.special.values()))

    @jax.jit
    def apply(*inputs):
        logits, _ = model.apply(*inputs)
        return jax.nn.softmax(logits.at[..., special].set(-jnp.inf))

    def fill(sentence: str):
        pieces = [tokenizer.encode(part) for part in sentence.split(MASK)]
        if len(pieces) < 2:
            raise ConfigError(
                f"the sentence {sentence!r} hides nothing; write {MASK} for the word to fill in"
            )
        hidden = np.array([tokenizer.special["mask"]], np.int32)
        body = np.concatenate([pieces[0], *(x for piece in pieces[1:] for x in (hidden, piece))])
        if len(body) + 2 > config.length:
            raise ConfigError(
                f"the sentence has {len(body)} tokens; the model reads {config.length - 2}: shorten it"
            )
        tokens = np.full((1, config.length), tokenizer.special["pad"], np.int32)
        ends = [tokenizer.special["cls"]], [tokenizer.special["sep"]]
        tokens[0, : len(body) + 2] = np.concatenate([ends[0], body, ends[1]])
        mask = np.arange(config.length)[None] < len(body) + 2
        places = np.flatnonzero(tokens[0] == hidden)
        chances = np.asarray(apply(variables, tokens, mask))[0, places]
        order = np.argsort(-chances, axis=1)[:, :best]
        return [
            [(tokenizer.decode(row[i : i + 1]), float(chance[row[i]])) for i in range(best)]
            for row, chance in zip(order, chances, strict=True)
        ]

    return fill


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws how often hidden tokens are told, by how often they were seen, and what fills test sentences."""
    return [frequencies(config, variables, folder), fillings(config, variables, folder)]


def frequencies(config, variables, folder: Path) -> Path:
    """Draws the accuracy on hidden tokens of the test documents by their count in the training text."""
    model = network(config)

    def guess(variables, batch):
        logits, _ = predict(model, variables, batch)
        return {
            "guess": logits.argmax(-1),
            "target": batch["masked_targets"],
            "weight": batch["masked_weights"],
        }

    found = collected(passes(config, "test"), guess, lambda values: values)(variables)
    real = found["weight"] > 0
    target, right = found["target"][real], (found["guess"] == found["target"])[real]
    train = packed(config, "train")
    seen = np.bincount(train["tokens"][train["tokens_mask"]], minlength=data(config).tokenizer.size)
    bins = np.floor(np.log10(np.maximum(seen[target], 1))).astype(int)
    names = [f"{10**b:,} up" for b in range(bins.max() + 1)]
    share = [right[bins == b].mean() if (bins == b).any() else 0 for b in range(len(names))]
    figure, axis = figures.canvas(figsize=(7, 4))
    bars = axis.bar(names, share, color="tab:blue")
    axis.bar_label(bars, [f"{100 * s:.0f} %\nof {(bins == b).sum():,}" for b, s in enumerate(share)])
    title = f"{right.mean():.1%} of {len(right):,} hidden tokens of the test text are told"
    axis.set(xlabel="how often the token is in the training text", ylabel="share told", title=title)
    axis.set_ylim(0, 1.15 * max(*share, 0.01))
    return figures.save(figure, folder / "frequency.png")


def fillings(config, variables, folder: Path, count: int = 12) -> Path:
    """Draws a table: test sentences with a word hidden, the word, and what the model would put there."""
    fill, lines = filler(config, variables), []
    documents, rng = data(config).splits["test"], np.random.default_rng(0)
    short = sorted({d[-1] for d in documents if 4 <= len(d[-1].split()) <= 12 and MASK not in d[-1]})
    for sentence in rng.permutation(short)[:count].tolist():
        words = sentence.split()
        place = int(rng.choice([i for i, word in enumerate(words) if word.isalpha()] or [0]))
        hidden = " ".join([*words[:place], MASK, *words[place + 1 :]])
        [guesses] = fill(hidden)
        best = ", ".join(f"{word} {chance:.0%}" for word, chance in guesses[:4])
        lines.append([hidden, words[place], best])
    figure, axis = figures.canvas(figsize=(13, 0.36 * len(lines) + 0.8))
    axis.axis("off")
    header = ["test sentence", "hidden", "likeliest"]
    widths = [0.48, 0.12, 0.4]
    table = axis.table(lines, colLabels=header, colWidths=widths, cellLoc="left", bbox=[0, 0, 1, 1])
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    return figures.save(figure, folder / "fillings.png")
