"""Image classification: one label for each image."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlx import feed, figures, losses, metrics
from dlx.configuration import build
from dlx.core import Model, Task
from dlx.data import image, pipeline
from dlx.data.sources import SOURCES
from dlx.evaluate import collected, mean_over
from dlx.layers import augmentation
from dlx.models import MODELS
from dlx.nn import standardized
from dlx.train import ONCE


def make_task(config) -> Task:
    """Cross entropy on labels; accuracy on validation images, every classification metric on test images."""
    model = classifier(config)
    splits = data(config).splits
    train = pipeline.batches(splits["train"], config.batch, config.seed, rows=feed.rows(config.batch))

    def init(key):
        return model.init(key, jnp.zeros((1, *train(0)["image"].shape[1:])))

    def loss(variables, batch, key):
        augment_key, key = jax.random.split(key)
        logits, state = model.apply(variables, augment(config.augment, augment_key, batch["image"]), key=key)
        each = losses.softmax_cross_entropy(logits, batch["label"], label_smoothing=config.label_smoothing)
        report = {"loss": metrics.mean(each), "accuracy": metrics.accuracy(logits, batch["label"])}
        return each.mean(), (state, report)

    def score(variables, batch):
        logits, _ = model.apply(variables, batch["image"])
        each = losses.softmax_cross_entropy(logits, batch["label"])
        return {
            "loss": metrics.mean(each, batch["mask"]),
            "accuracy": metrics.accuracy(logits, batch["label"], batch["mask"]),
        }

    evaluators = {"test": collected(passes(config, "test"), predictor(model), report)}
    if "validation" in splits:
        evaluators["validation"] = mean_over(passes(config, "validation"), score)
    return Task(init, loss, train, evaluators)


def data(config):
    """Returns the source; kept, since a run asks for it more than once."""
    return load(json.dumps(config.source.to_dict(), sort_keys=True))


@functools.lru_cache(maxsize=1)
def load(spec: str):
    """Returns the source that a spec names, in JSON."""
    return build(SOURCES, json.loads(spec))


def passes(config, split: str):
    """Returns `() -> batches`: one pass over a split, in order, padded and masked."""
    return pipeline.passes(data(config).splits[split], config.batch, rows=feed.rows(config.batch))


def classifier(config) -> Model:
    """Returns the model, behind the scaling learned from the training images."""
    source = data(config)
    mean, std = image.statistics(source.splits["train"])
    return standardized(build(MODELS, config.model, num_classes=len(source.classes)), mean, std)


def augment(strengths, key, images):
    """Flips and moves each image by its own draw, as far as the config's `augment` says."""
    flip_key, affine_key = jax.random.split(key)
    affine = {name: strengths[name] for name in ("shift", "rotate", "scale", "shear")}
    if strengths.flip:
        images = augmentation.random_flip(flip_key, images)
    return augmentation.random_affine(affine_key, images, **affine) if any(affine.values()) else images


def predictor(model: Model, *kept: str):
    """Returns `(variables, batch) ->` logits and labels, with the `kept` fields of the batch."""

    def predict(variables, batch):
        logits, _ = model.apply(variables, batch["image"])
        return {"logits": logits, "label": batch["label"]} | {name: batch[name] for name in kept}

    return predict


def report(found) -> dict[str, float]:
    """Returns the classification metrics of collected "logits" [n, k] and "label" [n]."""
    once = jax.jit(tally, compiler_options=ONCE)
    sums, counts, bins = jax.device_get(once(found["logits"], found["label"]))
    error = metrics.calibration_error(bins)
    return metrics.summarize(sums) | metrics.classification_report(counts) | {"calibration_error": error}


def tally(logits, label):
    """Returns the sums that the report is made of: scalar metrics, the confusion matrix, calibration bins."""
    classes = logits.shape[-1]
    probabilities = jax.nn.softmax(logits)
    sums = {
        "loss": metrics.mean(losses.softmax_cross_entropy(logits, label)),
        "accuracy": metrics.accuracy(logits, label),
        "top_5_accuracy": metrics.top_k_accuracy(logits, label, min(5, classes)),
        "roc_auc_macro": metrics.roc_auc(probabilities, label),
        "average_precision_macro": metrics.average_precision(probabilities, label),
    }
    counts = metrics.confusion(logits.argmax(-1), label, classes)
    return sums, counts, metrics.calibration(probabilities, label)


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    source = data(config)
    sizes = ", ".join(f"{name} {pipeline.length(split):,}" for name, split in source.splits.items())
    return {"data": f"{config.source.name}: {sizes} examples of {len(source.classes)} classes"}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws the confusion matrix of the test images and a sheet of predictions, the worst mistakes first."""
    classes = data(config).classes
    predict = predictor(classifier(config), "image")
    found = collected(passes(config, "test"), predict, lambda values: values)(variables)
    label, guess = found["label"], found["logits"].argmax(-1)
    belief = np.asarray(jax.nn.softmax(found["logits"]))
    counts = np.asarray(metrics.confusion(guess, label, len(classes)).total).astype(int)
    wrong = guess != label
    summary = f"{config.source.name}: {1 - wrong.mean():.2%} of {len(label):,} test images right"

    order = np.argsort(belief[np.arange(len(label)), label], kind="stable")  # least believed truth first
    mistakes = order[wrong[order]][:16]
    right = np.flatnonzero(~wrong)  # of these, some from everywhere
    spread = np.linspace(0, len(right) - 1, min(32 - len(mistakes), len(right))).astype(int)
    chosen = np.concatenate([mistakes, right[spread]])
    captions = [
        f"{classes[guess[i]]} {belief[i, guess[i]]:.0%}" + (f"\ntrue {classes[label[i]]}" if wrong[i] else "")
        for i in chosen
    ]
    return [
        figures.confusion_matrix(counts, classes, summary, folder / "confusion.png"),
        figures.sheet(found["image"][chosen], captions, wrong[chosen], summary, folder / "predictions.png"),
    ]
