"""Image classification: one label for each image."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlx import feed, figures, losses, metrics, saliency
from dlx.configuration import ConfigError, build, lookup
from dlx.core import Model, Task
from dlx.data import image, pipeline
from dlx.data.sources import SOURCES
from dlx.data.splits import Skipping, few
from dlx.evaluate import collected, mean_over
from dlx.layers import augmentation, randaugment
from dlx.models import MODELS
from dlx.nn import standardized
from dlx.train import ONCE

AFFINE = ("shift", "rotate", "scale", "shear")
MIXES = {"mixup": augmentation.mixup, "cutmix": augmentation.cutmix}
AUGMENT = ("flip", *AFFINE, "crop", "resized_crop", "rand_augment", "jitter", "erasing", *MIXES)
AUXILIARY = 0.4  # what the auxiliary classifier of Inception-v3 counts, as in torchvision's recipe


def make_task(config) -> Task:
    """Cross entropy on labels; accuracy on validation images, every classification metric on test images."""
    on, model = strengths(config), classifier(config)
    splits, classes = data(config).splits, len(data(config).classes)
    train = pipeline.batches(splits["train"], config.batch, config.seed, rows=feed.rows(config.batch))

    def init(key):
        return model.init(key, view(config, jnp.zeros((1, *train(0)["image"].shape[1:]))))

    def loss(variables, batch, key):
        augment_key, key = jax.random.split(key)
        images, target = augment(on, augment_key, batch["image"], batch["label"], classes)
        outputs, state = model.apply(variables, images, key=key)
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)

        def entropy(logits):
            return losses.softmax_cross_entropy(logits, target, label_smoothing=config.label_smoothing)

        each = entropy(logits) + sum(AUXILIARY * entropy(early) for early in auxiliary)
        label = target if target.ndim == 1 else target.argmax(-1)
        report = {"loss": metrics.mean(each), "accuracy": metrics.accuracy(logits, label)}
        return each.mean(), (state, report)

    def score(variables, batch):
        logits, _ = model.apply(variables, view(config, batch["image"]))
        each = losses.softmax_cross_entropy(logits, batch["label"])
        return {
            "loss": metrics.mean(each, batch["mask"]),
            "accuracy": metrics.accuracy(logits, batch["label"], batch["mask"]),
        }

    evaluators = {
        "test": collected(passes(config, "test"), predictor(config), functools.partial(compared, config))
    }
    if "validation" in splits:
        evaluators["validation"] = mean_over(passes(config, "validation"), score)
    return Task(init, loss, train, evaluators)


def data(config):
    """Returns the source; kept, since a run asks for it more than once.

    Beside what the source takes, `config.source.per_class` may be the number of training examples to keep of
    each class, drawn by the seed of the run; 0 keeps all.
    """
    spec = config.source.to_dict()
    per_class = spec.pop("per_class", 0)
    return load(json.dumps(spec, sort_keys=True), per_class, config.seed if per_class else 0)


@functools.lru_cache(maxsize=1)
def load(spec: str, per_class: int = 0, seed: int = 0):
    """Returns the source that a spec names, in JSON, with `per_class` training examples of each class."""
    source = build(SOURCES, json.loads(spec))
    if not per_class:
        return source
    return source._replace(splits=source.splits | {"train": few(source.splits["train"], per_class, seed)})


def passes(config, split: str):
    """Returns `() -> batches`: one pass over a split, in order, padded and masked."""
    return pipeline.passes(data(config).splits[split], config.batch, rows=feed.rows(config.batch))


def classifier(config) -> Model:
    """Returns the model, behind the scaling learned from the training images."""
    return standardized(
        build(MODELS, config.model, num_classes=len(data(config).classes)), *statistics(config)
    )


def statistics(config):
    """Returns mean and standard deviation of each channel of the training images."""
    return data(config).statistics or image.statistics(data(config).splits["train"])


def strengths(config) -> dict:
    """Returns what of `config.augment` is on; raises ConfigError for a name that `AUGMENT` lacks."""
    for name in config.augment:
        lookup(dict.fromkeys(AUGMENT), name)
    return {name: strength for name, strength in config.augment.items() if strength}


def augment(on, key, images, labels, classes: int):
    """Returns images changed by `on` and their labels [b], or [b, classes] where images were mixed.

    In this order: `resized_crop`, to so many pixels a side; `crop`, after so many pixels of padding; `flip`;
    `shift`, `rotate`, `scale` and `shear`; `rand_augment`, [operations, magnitude]; `jitter`; `erasing`, with
    that probability; `mixup` and `cutmix`, with that alpha, one of the two for each batch if both are on.
    """
    steps = ("flip", "affine", "crop", "resized_crop", "rand_augment", "jitter", "erasing", "mix", "which")
    keys = dict(zip(steps, jax.random.split(key, len(steps)), strict=True))
    if side := on.get("resized_crop"):
        images = augmentation.random_resized_crop(keys["resized_crop"], images, (side, side))
    if pad := on.get("crop"):
        images = augmentation.random_crop(keys["crop"], images, pad)
    if "flip" in on:
        images = augmentation.random_flip(keys["flip"], images)
    if affine := {name: on[name] for name in AFFINE if name in on}:
        images = augmentation.random_affine(keys["affine"], images, **affine)
    if "rand_augment" in on:
        images = randaugment.rand_augment(keys["rand_augment"], images, *on["rand_augment"])
    if "jitter" in on:
        images = randaugment.color_jitter(keys["jitter"], images, *3 * (on["jitter"],))
    if "erasing" in on:
        images = augmentation.random_erasing(keys["erasing"], images, on["erasing"])
    if mixes := [functools.partial(mix, alpha=on[name]) for name, mix in MIXES.items() if name in on]:
        which = jax.random.randint(keys["which"], (), 0, len(mixes))
        images, targets = images.astype(jnp.float32), jax.nn.one_hot(labels, classes)
        return jax.lax.switch(which, mixes, keys["mix"], images, targets)
    return images, labels


def view(config, images):
    """Returns what evaluation sees of images: their centre, if training crops and resizes."""
    if not (side := config.augment.get("resized_crop")):
        return images
    top, left = ((extent - side) // 2 for extent in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def predictor(config):
    """Returns `(variables, batch) ->` logits and labels."""
    model = classifier(config)

    def predict(variables, batch):
        logits, _ = model.apply(variables, view(config, batch["image"]))
        return {"logits": logits, "label": batch["label"]}

    return predict


def report(found) -> dict[str, float]:
    """Returns the classification metrics of collected "logits" [n, k] and "label" [n].

    Of two classes 1 is the positive one: "sensitivity" is its recall, "specificity" that of class 0, both
    where the larger probability decides, and "roc_auc" is the area under the ROC curve.
    """
    once = jax.jit(tally, compiler_options=ONCE)
    sums, counts, bins = jax.device_get(once(found["logits"], found["label"]))
    error = metrics.calibration_error(bins)
    found = metrics.summarize(sums) | metrics.classification_report(counts) | {"calibration_error": error}
    if len(counts.total) == 2:
        specificity, sensitivity = metrics.per_class(metrics.recall(counts)).tolist()
        found |= {"sensitivity": sensitivity, "specificity": specificity}
    return found


def compared(config, found) -> dict[str, float]:
    """Returns the report, and behind it the accuracy of `config.peer`, if there is one."""
    if "peer" not in config:
        return report(found)
    guess = build({"support_vectors": support_vectors}, config.peer, splits=data(config).splits)
    return report(found) | {f"accuracy_{config.peer.name}": float((guess == found["label"]).mean())}


def support_vectors(splits):
    """Returns the labels that scikit-learn's support vectors, with its defaults, give to the test images.

    They see pixels as numbers. Learning takes a time that grows with the square of the training images: less
    than a second for scikit-learn's digits. Raises ConfigError for images that are not in memory.
    """
    from sklearn.svm import SVC

    train, test = splits["train"], splits["test"]
    if not isinstance(train, dict):
        raise ConfigError("config.peer is for images in memory: leave it out where they are streamed")
    images, asked = (part["image"].reshape(len(part["image"]), -1) for part in (train, test))
    return SVC().fit(images, train["label"]).predict(asked)


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
    if classes == 2:
        sums["roc_auc"] = metrics.roc_auc(logits[:, 1] - logits[:, 0], label)
    counts = metrics.confusion(logits.argmax(-1), label, classes)
    return sums, counts, metrics.calibration(probabilities, label)


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    source = data(config)
    sizes = ", ".join(f"{name} {pipeline.length(split):,}" for name, split in source.splits.items())
    return {"data": f"{config.source.name}: {sizes} examples of {len(source.classes)} classes"}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws the confusion matrix of the test images, predictions, the worst first, and what decided them."""
    classes, split = data(config).classes, data(config).splits["test"]
    found = collected(passes(config, "test"), predictor(config), lambda values: values)(variables)
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
    images = np.asarray(view(config, jnp.asarray(np.stack([picture(split, i) for i in chosen]))))
    heat = evidence(config, variables, images, guess[chosen])
    some = np.r_[0 : min(8, len(mistakes)), len(mistakes) : len(chosen)][:16]
    why = f"{config.source.name}: the pixels that each decision depends on most"
    return [
        figures.confusion_matrix(counts, classes, summary, folder / "confusion.png"),
        figures.sheet(images, captions, wrong[chosen], summary, folder / "predictions.png"),
        figures.heat(
            images[some],
            heat[some],
            [captions[i] for i in some],
            wrong[chosen][some],
            why,
            folder / "saliency.png",
        ),
    ]


def picture(split, index: int):
    """Returns the image of one example of a split of either kind, counting those that a pass did not skip."""
    if isinstance(split, dict):
        return split["image"][index]
    kept = (
        sorted(set(range(len(split))) - set(split.skipped))
        if isinstance(split, Skipping)
        else range(len(split))
    )
    return split[kept[index]]["image"]


def evidence(config, variables, images, classes):
    """Returns how much each pixel [n, h, w] matters to the logit of the given class, averaged over noise."""
    model, (_, deviation) = classifier(config), statistics(config)

    @jax.jit
    def weights(variables, images, classes):
        def logits(images):
            return model.apply(variables, images)[0]

        key = jax.random.key(0)
        change = saliency.smooth_gradient(logits, key, images, classes, noise=jnp.asarray(deviation) / 2)
        return jnp.abs(change * deviation).sum(axis=-1)

    return np.asarray(weights(variables, images, classes))
