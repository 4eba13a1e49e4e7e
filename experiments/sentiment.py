"""Sentiment: is a sentence positive or negative.

Sentence polarity is measured by ten folds (Kim 2014). With `config.source.fold` -1 the seed of a run chooses
its fold, seed % 10: seeds 0 ... 9 are the ten folds, and their mean is the published kind of number, its
deviation that over folds. A fold's test sentences teach neither the vocabulary nor the model, and choose
nothing.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlx import feed, figures, losses, metrics
from dlx.configuration import ConfigError, build
from dlx.core import Model, Task
from dlx.data import pipeline, text
from dlx.data import tokenizer as tokenizers
from dlx.data.sources import SOURCES
from dlx.data.splits import Source
from dlx.data.tokenizer import Tokenizer
from dlx.evaluate import collected
from dlx.models import MODELS
from dlx.train import ONCE

FOLDS = 10
LINE = 140  # characters in a line of a figure


class Corpus(NamedTuple):
    """The source, and the tokenizer of its "train" split or of an earlier run."""

    source: Source
    tokenizer: Tokenizer


def make_task(config) -> Task:
    """Cross entropy on labels; accuracy, F1 of the positive class and area under the ROC curve held out."""
    model, splits = classifier(config), data(config).source.splits
    rows = feed.rows(config.batch)
    train = pipeline.batches(arrays(config, "train"), config.batch, config.seed, rows=rows)

    def init(key):
        example = jnp.zeros((1, config.length), jnp.int32)
        return model.init(key, example, example == 0)

    def loss(variables, batch, key):
        logits, state = model.apply(variables, *inputs(batch), key=key)
        each = losses.softmax_cross_entropy(logits, batch["label"])
        report = {"loss": metrics.mean(each), "accuracy": metrics.accuracy(logits, batch["label"])}
        return each.mean(), (state, report)

    def evaluator(split):
        return collected(passes(config, split), predictor(model), report)

    return Task(init, loss, train, {split: evaluator(split) for split in splits if split != "train"})


def inputs(batch) -> tuple:
    """Returns what the model takes of a batch."""
    return batch["tokens"], batch["tokens_mask"]


def data(config) -> Corpus:
    """Returns the source and its tokenizer; kept, since a run asks for them more than once."""
    source = config.source.to_dict()
    if source.get("fold") == -1:
        source["fold"] = config.seed % FOLDS
    return load(json.dumps([source, config.tokenizer.to_dict()], sort_keys=True))


@functools.lru_cache(maxsize=1)
def load(spec: str) -> Corpus:
    """Reads the source and makes the tokenizer, whose specs are given in JSON."""
    place, how = json.loads(spec)
    source = build(SOURCES, place)
    texts = [example["text"] for example in source.splits["train"]]
    return Corpus(source, build(tokenizers.TOKENIZERS | {"file": existing}, how, texts=texts))


def existing(texts, *, path: str) -> Tokenizer:
    """Returns the tokenizer that an earlier run saved; `texts` teach it nothing."""
    if not Path(path).exists():
        raise ConfigError(
            f"config.tokenizer.path: there is no {path}; it comes with the run that this one builds on: "
            "train that first, as the docstring of the config says, or say where it lies"
        )
    return tokenizers.load(path)


def files(config) -> dict[str, str]:
    """Returns the files that are saved with a run."""
    return {"tokenizer.json": data(config).tokenizer.json}


def encoded(config, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the ids of texts, cut to what the model reads; BERT's stand between [CLS] and [SEP]."""
    tokenizer = data(config).tokenizer
    ids = tokenizer.encode_batch(texts)
    if not is_bert(config):
        return [each[: config.length] for each in ids]
    begin, end = (np.array([tokenizer.special[name]], np.int32) for name in ("cls", "sep"))
    return [np.concatenate([begin, each[: config.length - 2], end]) for each in ids]


def is_bert(config) -> bool:
    """Tells whether the model is a BERT."""
    return config.model.name.startswith("bert")


def arrays(config, split: str) -> dict[str, np.ndarray]:
    """Returns a split in memory: "tokens" int32 and "tokens_mask" bool [n, length], "label" int32 [n]."""
    examples = data(config).source.splits[split]
    ids = encoded(config, [example["text"] for example in examples])
    labelled = [{"tokens": t, "label": e["label"]} for t, e in zip(ids, examples, strict=True)]
    return text.pad(labelled, config.length)


def passes(config, split: str) -> Callable[[], Iterator[dict]]:
    """Returns `() -> batches`: one pass over a split, in order, padded and masked."""
    return pipeline.passes(arrays(config, split), config.batch, rows=feed.rows(config.batch))


def classifier(config) -> Model:
    """Returns the model, for the vocabulary and the classes of the data."""
    source, tokenizer = data(config)
    sizes = {"num_classes": len(source.classes), "vocabulary": tokenizer.size}
    return build(
        MODELS,
        config.model,
        **sizes | ({"head": "classifier", "context": config.length} if is_bert(config) else {}),
    )


def predictor(model: Model) -> Callable:
    """Returns `(variables, batch) ->` logits and labels."""

    def predict(variables, batch):
        logits, _ = model.apply(variables, *inputs(batch))
        return {"logits": logits, "label": batch["label"]}

    return predict


def report(found) -> dict[str, float]:
    """Returns the metrics of collected "logits" [n, 2] and "label" [n], 1 for positive."""
    sums, counts = jax.device_get(jax.jit(tally, compiler_options=ONCE)(found["logits"], found["label"]))
    f1 = metrics.per_class(metrics.f1(counts))
    return metrics.summarize(sums) | {"f1": float(f1[1]), "f1_macro": float(f1.mean())}


def tally(logits, label):
    """Returns the sums that the report is made of, and the confusion matrix."""
    sums = {
        "loss": metrics.mean(losses.softmax_cross_entropy(logits, label)),
        "accuracy": metrics.accuracy(logits, label),
        "roc_auc": metrics.roc_auc(logits[:, 1] - logits[:, 0], label),
    }
    return sums, metrics.confusion(logits.argmax(-1), label, 2)


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    source, tokenizer = data(config)
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in source.splits.items())
    fold = f", fold {config.seed % FOLDS}" if config.source.get("fold") == -1 else ""
    return {"data": f"{config.source.name}{fold}: {sizes} sentences; {tokenizer.size:,} word pieces"}


def reply(config, variables) -> Callable[[list[str]], Iterator[str]]:
    """Returns the verdict on the last turn, with its probability."""
    weigh, (source, tokenizer) = weigher(config, variables), data(config)

    def answer(turns: list[str]) -> Iterator[str]:
        ids = tokenizer.encode(turns[-1])
        if not len(ids):
            raise ConfigError("the sentence is empty; write at least one word")
        margin, _, _ = weigh(turns[-1])
        chance = 1 / (1 + np.exp(-abs(margin)))
        yield f"{source.classes[int(margin > 0)]} {chance:.0%}"
        if (ids == tokenizer.special.get("unk")).all():
            yield " (none of its words is known)"
        elif len(ids) > (read := config.length - 2 * is_bert(config)):
            yield f" (of its first {read} tokens)"

    return answer


def weigher(config, variables) -> Callable[[str], tuple[float, list[str], np.ndarray]]:
    """Returns `text -> (margin, pieces, weights)`: what speaks for "positive", and how much of it each piece.

    The margin is the difference of the logits; the weight of a piece is what the margin loses when the model
    does not see it (Li et al. 2016, "Understanding neural networks through representation erasure").
    """
    model, tokenizer = classifier(config), data(config).tokenizer

    @jax.jit
    def margins(variables, tokens, masks):
        logits, _ = model.apply(variables, jnp.broadcast_to(tokens, masks.shape), masks)
        return logits[:, 1] - logits[:, 0]

    def weigh(sentence: str):
        [ids] = encoded(config, [sentence])
        batch = text.pad([{"tokens": ids}], config.length)
        without = np.vstack([np.zeros(config.length, bool), np.eye(config.length, dtype=bool)])
        whole, *rest = np.asarray(margins(variables, batch["tokens"], batch["tokens_mask"] & ~without))
        places = range(1, len(ids) - 1) if is_bert(config) else range(len(ids))
        pieces = [tokenizer.decode(ids[place : place + 1]) for place in places]
        return float(whole), pieces, np.array([whole - rest[place] for place in places])

    return weigh


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws the confusion matrix of the test sentences and the worst mistakes, with what decided them."""
    source = data(config).source
    predict = predictor(classifier(config))
    found = collected(passes(config, "test"), predict, lambda values: values)(variables)
    label, guess = found["label"], found["logits"].argmax(-1)
    belief = np.asarray(jax.nn.softmax(found["logits"]))
    counts = np.asarray(metrics.confusion(guess, label, 2).total).astype(int)
    summary = f"{config.source.name}: {(guess == label).mean():.2%} of {len(label):,} test sentences right"
    order = np.argsort(belief[np.arange(len(label)), label], kind="stable")  # least believed truth first
    half = len(order) // 2
    chosen = [*order[:8], *order[half : half + 2], *order[-2:]]
    weigh, rows = weigher(config, variables), []
    for index in chosen:
        _, pieces, weights = weigh(source.splits["test"][int(index)]["text"])
        head = f"{source.classes[guess[index]]} {belief[index, guess[index]]:.0%}"
        head += "" if guess[index] == label[index] else f", is {source.classes[label[index]]}"
        rows.append((head, guess[index] != label[index], pieces, weights))
    return [
        figures.confusion_matrix(counts, source.classes, summary, folder / "confusion.png"),
        sheet(rows, f"{summary}: the worst mistakes, two open cases, the two surest", folder / "words.png"),
    ]


def sheet(rows, title: str, file: Path) -> Path:
    """Draws sentences, (head, wrong, pieces, weights) each: blue speaks for "positive", red against."""
    laid = [layout(pieces) for _, _, pieces, _ in rows]
    heights = [2.6 + max((row for row, _ in places), default=0) for places in laid]
    figure, axis = figures.canvas(figsize=(12, 0.2 * sum(heights) + 0.5))
    axis.set(xlim=(0, LINE), ylim=(sum(heights), 0))
    axis.set_title(title)
    axis.axis("off")
    letter = 12 * 72 / LINE / 0.602  # the size in points of a monospaced letter that fills its cell
    top = 0.5
    for (head, wrong, pieces, weights), places, height in zip(rows, laid, heights, strict=True):
        axis.text(0, top, head, color="tab:red" if wrong else "black", weight="bold", va="center")
        largest = max(np.abs(weights).max(initial=0), 1e-9)
        for piece, (row, place), weight in zip(pieces, places, weights, strict=True):
            word, y = piece.removeprefix("##"), top + 1 + row
            colour = (0.2, 0.4, 1.0) if weight > 0 else (1.0, 0.2, 0.2)
            shade = 0.7 * abs(weight) / largest
            axis.fill_between(
                [place, place + len(word)], y - 0.45, y + 0.45, color=colour, alpha=shade, linewidth=0
            )
            axis.text(place, y, word, fontsize=0.96 * letter, family="monospace", va="center")
        top += height
    return figures.save(figure, file)


def layout(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Returns (row, column) of each piece in lines of LINE letters; "##" marks pieces inside a word."""
    places, row, column = [], 0, 0
    for piece in pieces:
        inner = piece.startswith("##")
        size = len(piece.removeprefix("##"))
        column += column > 0 and not inner
        if column + size > LINE:
            row, column = row + 1, 0
        places.append((row, column))
        column += size
    return places
