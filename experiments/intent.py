"""Intents: what a user wants of an assistant, or that it is nothing the assistant does.

As in the "oos-train" setting of Larson et al. (2019), what is out of scope is one more class, with its few
training questions, and what the model answers is its likeliest class: there is no threshold to choose.
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
from dlx.data.sources import SOURCES
from dlx.data.splits import Source
from dlx.data.tokenizer import TOKENIZERS, Tokenizer
from dlx.evaluate import collected
from dlx.models import MODELS
from dlx.train import ONCE

OUTSIDE = "oos"  # the class of what no intent covers


class Corpus(NamedTuple):
    """The source, and the tokenizer learned from its "train" split."""

    source: Source
    tokenizer: Tokenizer


def make_task(config) -> Task:
    """Cross entropy on intents and "oos" alike; accuracy in scope and recall out of scope held out."""
    model, splits = classifier(config), data(config).source.splits
    rows = feed.rows(config.batch)
    train = pipeline.batches(arrays(config, "train"), config.batch, config.seed, rows=rows)

    def init(key):
        example = jnp.zeros((1, config.length), jnp.int32)
        return model.init(key, example, example == 0)

    def loss(variables, batch, key):
        logits, state = model.apply(variables, *inputs(batch), key=key)
        each = losses.softmax_cross_entropy(logits, batch["label"], label_smoothing=config.label_smoothing)
        report = {"loss": metrics.mean(each), "accuracy": metrics.accuracy(logits, batch["label"])}
        return each.mean(), (state, report)

    def evaluator(split):
        return collected(passes(config, split), predictor(model), functools.partial(report, outside(config)))

    return Task(init, loss, train, {split: evaluator(split) for split in splits if split != "train"})


def inputs(batch) -> tuple:
    """Returns what the model takes of a batch."""
    return batch["tokens"], batch["tokens_mask"]


def data(config) -> Corpus:
    """Returns the source and its tokenizer; kept, since a run asks for them more than once."""
    return load(json.dumps([config.source.to_dict(), config.tokenizer.to_dict()], sort_keys=True))


@functools.lru_cache(maxsize=1)
def load(spec: str) -> Corpus:
    """Reads the source and learns the tokenizer, whose specs are given in JSON."""
    place, how = json.loads(spec)
    source = build(SOURCES, place)
    texts = [example["text"] for example in source.splits["train"]]
    return Corpus(source, build(TOKENIZERS, how, texts=texts))


def files(config) -> dict[str, str]:
    """Returns the files that are saved with a run."""
    return {"tokenizer.json": data(config).tokenizer.json}


def outside(config) -> int:
    """Returns the number of the class out of scope; -1 where there is none."""
    classes = data(config).source.classes
    return classes.index(OUTSIDE) if OUTSIDE in classes else -1


def encoded(config, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the ids of texts, cut to what the model reads."""
    return [ids[: config.length] for ids in data(config).tokenizer.encode_batch(texts)]


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
    """Returns the model, for the vocabulary and the intents of the data."""
    source, tokenizer = data(config)
    return build(MODELS, config.model, num_classes=len(source.classes), vocabulary=tokenizer.size)


def predictor(model: Model) -> Callable:
    """Returns `(variables, batch) ->` logits and labels."""

    def predict(variables, batch):
        logits, _ = model.apply(variables, *inputs(batch))
        return {"logits": logits, "label": batch["label"]}

    return predict


def report(outside: int, found) -> dict[str, float]:
    """Returns the metrics of collected "logits" [n, k] and "label" [n].

    The class `outside` is what no intent covers.
    Of the questions in scope, "in_scope_accuracy" is the share whose intent is told; of those out of scope,
    "oos_recall" is the share told as such, and "oos_precision" is how often that is right where it is said.
    "oos_roc_auc" is the chance that a question out of scope has a smaller largest probability of an intent
    than one in scope.
    """
    tallied = jax.jit(functools.partial(tally, outside), compiler_options=ONCE)
    return metrics.summarize(jax.device_get(tallied(found["logits"], found["label"])))


def tally(outside: int, logits, label):
    """Returns the sums that the report is made of."""
    guess, out = logits.argmax(-1), label == outside
    right = guess == label
    return {
        "loss": metrics.mean(losses.softmax_cross_entropy(logits, label)),
        "accuracy": metrics.mean(right),
        "in_scope_accuracy": metrics.mean(right, ~out),
        "oos_recall": metrics.mean(right, out),
        "oos_precision": metrics.mean(right, guess == outside),
        "oos_roc_auc": metrics.roc_auc(-confidence(outside, logits), out.astype(int)),
    }


def confidence(outside: int, logits):
    """Returns the largest probability [n] that logits [n, k] give to any intent in scope."""
    inside = np.arange(logits.shape[-1]) != outside
    return jax.nn.softmax(logits)[:, inside].max(-1)


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    source, tokenizer = data(config)
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in source.splits.items())
    intents = f"{len(source.classes)} classes; {tokenizer.size:,} word pieces"
    return {"data": f"{config.source.name}: {sizes} questions of {intents}"}


def reply(config, variables) -> Callable[[list[str]], Iterator[str]]:
    """Returns the intent of the last turn and its probability; words unknown all are out of scope."""
    model, (source, tokenizer) = classifier(config), data(config)
    apply = jax.jit(lambda *values: jax.nn.softmax(model.apply(*values)[0]))

    def answer(turns: list[str]) -> Iterator[str]:
        ids = tokenizer.encode(turns[-1])
        if not len(ids):
            raise ConfigError("the question is empty; write at least one word")
        if (ids == tokenizer.special.get("unk")).all():
            yield "out of scope (none of its words is known)"
            return
        batch = text.pad([{"tokens": ids[: config.length]}], config.length)
        chances = np.asarray(apply(variables, *inputs(batch)))[0]
        best = int(chances.argmax())
        name = "out of scope" if best == outside(config) else source.classes[best]
        yield f"{name} {chances[best]:.0%}"
        if len(ids) > config.length:
            yield f" (of its first {config.length} tokens)"

    return answer


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws how sure the model is in and out of scope, the hardest intents, and the surest mistakes."""
    source, out = data(config).source, outside(config)
    predict = predictor(classifier(config))
    found = collected(passes(config, "test"), predict, lambda values: values)(variables)
    said = report(out, found)
    title = f"{config.source.name}: {said['in_scope_accuracy']:.1%} of the intents told"
    title += f", {said['oos_recall']:.1%} of what is out of scope" if out >= 0 else ""
    label, guess = found["label"], found["logits"].argmax(-1)
    sure = np.asarray(confidence(out, found["logits"]))
    return [
        histogram(
            sure, label == out, f"{title}\n(area under the ROC curve {said['oos_roc_auc']:.3f})", folder
        ),
        hardest(label, guess, source.classes, title, folder / "hardest.png"),
        mistakes(source, found["logits"], label, title, folder / "mistakes.png"),
    ]


def histogram(sure, out, title: str, folder: Path) -> Path:
    """Draws the largest probability of an intent, of questions in scope and out of it."""
    figure, axis = figures.canvas(figsize=(7, 4))
    for name, those, colour in (("in scope", ~out, "tab:blue"), ("out of scope", out, "tab:red")):
        if those.any():
            weights = np.full(those.sum(), 1 / those.sum())
            axis.hist(
                sure[those], np.linspace(0, 1, 26), weights=weights, color=colour, alpha=0.6, label=name
            )
    axis.set(xlabel="largest probability of an intent", ylabel="share of the questions", title=title)
    axis.legend(frameon=False)
    return figures.save(figure, folder / "scope.png")


def hardest(label, guess, classes: Sequence[str], title: str, file: Path, count: int = 25) -> Path:
    """Draws the recall of the intents that are told worst, with what they are most often taken for."""
    counts = metrics.confusion(guess, label, len(classes))
    recall, pairs = metrics.per_class(metrics.recall(counts)), np.array(counts.total)
    np.fill_diagonal(pairs, 0)
    occurs = np.flatnonzero(np.bincount(label, minlength=len(classes)))
    worst = occurs[np.argsort(recall[occurs], kind="stable")][:count][::-1]
    figure, axis = figures.canvas(figsize=(9, 0.27 * len(worst) + 1.2))
    bars = axis.barh([classes[index] for index in worst], recall[worst], color="tab:blue")
    taken = [
        f"{recall[i]:.0%}" + (f", else {classes[pairs[i].argmax()]}" if pairs[i].any() else "") for i in worst
    ]
    axis.bar_label(bars, taken, padding=3, fontsize=8)
    axis.set(xlim=(0, 1.45), xlabel="share told (recall)", title=title)
    axis.set_xticks(np.linspace(0, 1, 6))
    return figures.save(figure, file)


def mistakes(source: Source, logits, label, title: str, file: Path, count: int = 24) -> Path:
    """Draws a table of the wrong answers that were given with the highest probability."""
    chances, guess = np.asarray(jax.nn.softmax(logits)), logits.argmax(-1)
    belief = np.where(guess == label, 0, chances.max(-1))
    rows = [
        [
            source.splits["test"][int(i)]["text"],
            source.classes[label[i]],
            f"{source.classes[guess[i]]} {b:.0%}",
        ]
        for i in np.argsort(-belief, kind="stable")[:count]
        if (b := belief[i])
    ]
    figure, axis = figures.canvas(figsize=(14, 0.27 * len(rows) + 1))
    axis.axis("off")
    axis.set_title(title)
    if rows:
        header = ["question", "is", "taken for"]
        table = axis.table(
            rows, colLabels=header, colWidths=[0.6, 0.18, 0.22], cellLoc="left", bbox=[0, 0, 1, 1]
        )
        table.auto_set_font_size(False)
        table.set_fontsize(8)
    return figures.save(figure, file)
