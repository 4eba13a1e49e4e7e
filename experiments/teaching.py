"""What makes a deep network learn: one perceptron, of which each config changes one thing.

The network is written out, so that its layers can be looked at. Of a hidden layer the "activation" is what it
gives and the "gradient" the derivative of the loss by what its activation function is given; both are told as
standard deviations over units and images, in training mode.
"""

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlx import feed, figures, losses, metrics
from dlx.configuration import build, lookup
from dlx.core import Model, Task, Variables
from dlx.data import pipeline
from dlx.data.sources import SOURCES
from dlx.data.splits import few
from dlx.evaluate import mean_over
from dlx.layers import activation
from dlx.layers.regularization import dropout
from dlx.nn import standardized
from dlx.train import ONCE

ACTIVATIONS: dict[str, Callable] = {
    "identity": lambda x: x,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": activation.gelu,
    "silu": jax.nn.silu,
}
DEVIATIONS: dict[str, Callable[[int, int], float]] = {  # of a weight, from the units before and after it
    "small": lambda before, after: 0.01,
    "large": lambda before, after: 1.0,
    "xavier": lambda before, after: math.sqrt(2 / (before + after)),  # Glorot and Bengio 2010
    "he": lambda before, after: math.sqrt(2 / before),  # He et al. 2015
}
NORMS = ("none", "batch", "layer")
INPUTS = ("scaled", "centred", "standardised")
LOOKED_AT = 256  # images that the statistics of the layers are of


def make_task(config) -> Task:
    """Cross entropy on labels; of the test images the statistics of the layers too."""
    model, splits = network(config), data(config).splits
    train = pipeline.batches(splits["train"], config.batch, config.seed, rows=feed.rows(config.batch))

    def init(key):
        return model.init(key, flat(train(0)["image"][:1]))

    def loss(variables, batch, key):
        (logits, _), state = model.apply(variables, flat(batch["image"]), key=key)
        each = losses.softmax_cross_entropy(logits, batch["label"])
        report = {"loss": metrics.mean(each), "accuracy": metrics.accuracy(logits, batch["label"])}
        return each.mean(), (state, report)

    def score(variables, batch):
        (logits, _), _ = model.apply(variables, flat(batch["image"]))
        each = losses.softmax_cross_entropy(logits, batch["label"])
        return {
            "loss": metrics.mean(each, batch["mask"]),
            "accuracy": metrics.accuracy(logits, batch["label"], batch["mask"]),
        }

    look = looker(config)
    first = functools.cache(lambda: ratios(look(initial(config)), "initial_"))

    def evaluator(split):
        passes = pipeline.passes(splits[split], config.batch, rows=feed.rows(config.batch))
        scores = mean_over(passes, score)
        return lambda variables: {**scores(variables), **ratios(look(variables)), **first()}

    return Task(init, loss, train, {split: evaluator(split) for split in ("validation", "test")})


@functools.lru_cache(maxsize=1)
def load(spec: tuple, per_class: int, seed: int):
    """Returns the source of a spec, of the training images `per_class` of each class, or all if that is 0."""
    source = build(SOURCES, dict(spec))
    if not per_class:
        return source
    return source._replace(splits=source.splits | {"train": few(source.splits["train"], per_class, seed)})


def data(config):
    """Returns the source; kept, since a run asks for it more than once."""
    spec = config.source.to_dict()
    per_class = spec.pop("per_class")
    return load(tuple(sorted(spec.items())), per_class, config.seed if per_class else 0)


def flat(images):
    """Returns images [b, h, w, c] as vectors."""
    return images.reshape(len(images), -1)


def network(config) -> Model:
    """Returns the network, behind what `config.inputs` does to every pixel, learned from training images.

    "scaled" divides by the largest, "centred" takes off the mean of each pixel first, and "standardised"
    divides by its standard deviation instead.
    """
    lookup(dict.fromkeys(INPUTS), config.inputs)
    pixels = flat(data(config).splits["train"]["image"]).astype(np.float64)
    mean, deviation = pixels.mean(0), pixels.std(0)
    centre = np.zeros_like(mean) if config.inputs == "scaled" else mean
    scale = np.where(deviation > 0, deviation, 1) if config.inputs == "standardised" else pixels.max()
    body = perceptron(len(data(config).classes), **config.model)
    return standardized(body, centre, np.broadcast_to(scale, mean.shape))


def perceptron(
    classes: int,
    depth: int,
    width: int,
    activation: str,
    initialization: str,
    norm: str = "none",
    dropout_rate: float | int = 0.0,
) -> Model:
    """Builds `depth` hidden layers; `apply(variables, x [b, n], taps)` returns logits and what layers give.

    `taps`, arrays [b, width] for each hidden layer, are added to what its activation function is given: the
    gradient by them is what reaches the layer. Weights are normal, of the deviation of `initialization`,
    biases 0. `norm` "batch" or "layer" stands before each activation function.
    """
    act, deviation = lookup(ACTIVATIONS, activation), lookup(DEVIATIONS, initialization)
    lookup(dict.fromkeys(NORMS), norm)

    def init(key, x):
        sizes = [x.shape[1], *[width] * depth, classes]
        params, state = {}, {}
        for layer, (before, after) in enumerate(itertools.pairwise(sizes), 1):
            weights = deviation(before, after) * jax.random.normal(
                jax.random.fold_in(key, layer), (before, after)
            )
            params[f"layer_{layer}"] = {"weights": weights, "bias": jnp.zeros(after)}
            if layer <= depth and norm != "none":
                params[f"layer_{layer}"] |= {"scale": jnp.ones(after)}
            if layer <= depth and norm == "batch":
                state[f"layer_{layer}"] = {"mean": jnp.zeros(after), "variance": jnp.ones(after)}
        return Variables(params, state)

    def normalized(x, averages, training: bool):
        """Returns x of mean 0 and variance 1 over units or, with running averages, over the batch."""
        if norm == "layer":
            return (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-5), None
        if training:
            now = {"mean": x.mean(0), "variance": x.var(0)}
            mean, variance = now["mean"], now["variance"]
            averages = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, averages, now)
        else:
            mean, variance = averages["mean"], averages["variance"]
        return (x - mean) / jnp.sqrt(variance + 1e-5), averages

    def apply(variables, x, taps=None, key=None):
        state, hidden = {}, []
        for layer in range(1, depth + 1):
            name = f"layer_{layer}"
            of = variables.params[name]
            x = x @ of["weights"]
            if norm != "none":
                x, averages = normalized(x, variables.state.get(name), key is not None)
                x = x * of["scale"]
                state |= {name: averages} if norm == "batch" else {}
            x = x + of["bias"] + (0 if taps is None else taps[layer - 1])
            x = act(x)
            hidden.append(x)
            x = dropout(x, dropout_rate, None if key is None else jax.random.fold_in(key, layer))
        of = variables.params[f"layer_{depth + 1}"]
        return (x @ of["weights"] + of["bias"], hidden), state

    return Model(init, apply)


def initial(config) -> Variables:
    """Returns weights as training begins with them, of a draw by the seed of the run."""
    return network(config).init(jax.random.key(config.seed), flat(data(config).splits["train"]["image"][:1]))


def looker(config) -> Callable[[Variables], tuple[np.ndarray, np.ndarray]]:
    """Returns `variables ->` activations and gradients [layers, images, units] of some training images."""
    model, train = network(config), data(config).splits["train"]
    images, label = flat(train["image"][:LOOKED_AT]), train["label"][:LOOKED_AT]
    taps = np.zeros((config.model.depth, len(images), config.model.width), np.float32)

    @functools.partial(jax.jit, compiler_options=ONCE)
    def look(variables, images, label, taps):
        def loss(taps):
            (logits, hidden), _ = model.apply(variables, images, taps, key=jax.random.key(0))
            return losses.softmax_cross_entropy(logits, label).mean(), jnp.stack(hidden)

        gradients, hidden = jax.grad(loss, has_aux=True)(taps)
        return hidden, gradients

    return lambda variables: jax.device_get(look(variables, images, label, taps))


def deviations(found) -> list[np.ndarray]:
    """Returns the standard deviations [layers] of activations and of gradients."""
    return [values.std(axis=(1, 2), dtype=np.float64) for values in found]


def ratios(found, prefix: str = "") -> dict[str, float]:
    """Returns by how much activations grow from the first to the last layer, and gradients the other way."""
    activations, gradients = deviations(found)
    return {
        f"{prefix}activation_ratio": float(activations[-1] / activations[0]),
        f"{prefix}gradient_ratio": float(gradients[0] / gradients[-1]),
    }


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    sizes = ", ".join(f"{name} {len(split['label']):,}" for name, split in data(config).splits.items())
    return {"data": f"{config.source.name}: {sizes} images"}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws how activations and gradients are distributed in every layer, before and after training."""
    look, depth = looker(config), config.model.depth
    found = {"before training": look(initial(config)), "after": look(variables)}
    figure, axes = figures.canvas(4, depth, figsize=(1.5 * depth + 1, 6.4), squeeze=False)
    for row, (kind, when) in enumerate((k, w) for k in (0, 1) for w in found):
        for layer in range(depth):
            axis, values = axes[row, layer], found[when][kind][layer].ravel().astype(np.float64)
            reach = max(min(np.abs(values).max(), 4 * values.std()), 1e-30)
            axis.hist(values / reach, bins=41, range=(-1, 1), color=("tab:blue", "tab:orange")[kind])
            axis.set(yticks=[], xticks=[])
            axis.set_xlabel(f"std {values.std():.1g}", fontsize=8)
            if row == 0:
                axis.set_title(f"layer {layer + 1}", fontsize=9)
        axes[row, 0].set_ylabel(f"{('activations', 'gradients')[kind]}\n{when}", fontsize=9)
    shape = (
        f"{config.model.activation}, {config.model.initialization} initialisation, norm {config.model.norm}"
    )
    figure.suptitle(f"{shape}: each layer within four standard deviations", fontsize=10)
    return [figures.save(figure, folder / "layers.png")]


def compare(config, result, file: Path) -> list[Path]:
    """Draws what the first weights do to every layer, for each line of a sweep along the steps."""
    if any(row["x"] is not None for row in result["rows"]):
        return []
    layers = range(1, config.model.depth + 1)
    figure, axes = figures.canvas(1, 3, figsize=(15, 4.2))
    for number, row in enumerate(result["rows"]):
        one = config.copy_and_resolve_references()
        with one.unlocked():
            one.update_from_flattened_dict(row["settings"])
        style = {"color": f"C{number}", "label": str(row["by"]), "marker": "."}
        for axis, values in zip(axes, deviations(looker(one)(initial(one))), strict=False):
            axis.plot(layers, values, **style)
        axes[2].plot(*zip(*row["curve"], strict=True), **style)
    for axis, kind in zip(axes, ("activations", "gradients"), strict=False):
        axis.set(xlabel="hidden layer", ylabel="standard deviation", yscale="log")
        axis.set_title(f"{kind} before training", fontsize=10)
    axes[2].set(xlabel="step", ylabel=f"{result['metric']} ({result['set']})")
    axes[2].set_title("training", fontsize=10)
    axes[2].legend(title=result["labels"].get("by"), frameon=False)
    for axis in axes:
        axis.grid(alpha=0.3)
    return [figures.save(figure, file.with_name(f"{file.stem}_layers.png"))]
