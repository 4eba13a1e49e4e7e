"""Autoencoders of images: plain, denoising and variational; what comes back, and what they dream.

Pixels are scaled to 0 ... 1. With `config.likelihood` "bernoulli" decoders give logits, and the loss is cross
entropy in nats, an image; with "gaussian" they give pixels, and the loss is half the squared error, an image.
A variational autoencoder adds the divergence of its code, and "elbo" is the lower bound on the log-likelihood
of binary images, in nats: each pixel is on with the probability of its intensity, drawn anew at each step of
training, and once and for all for evaluation. "squared_error" is the reconstruction's, summed over pixels,
of the image as it is, from the mean of the code. "restoration_error" is that of what a denoising autoencoder
makes of noisy images, whose noise is drawn once and for all too. Beside each stands, under "<metric>_<peer>",
what needs no network and learned from the same images: "pca", as many principal components as there are
numbers in a code; "linear", the best linear map from noisy images to clean ones (Wiener 1949); "pixels",
the likelihood of images whose pixels know nothing of each other.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlx import feed, figures, losses, metrics
from dlx.configuration import build, lookup
from dlx.core import Model, Task
from dlx.data import pipeline
from dlx.data.sources import SOURCES
from dlx.evaluate import collected, mean_over
from dlx.models import MODELS, autoencoder

SHOWN = 14  # images in a row of a figure
DRAWN = 5  # rows of samples
MIXED = 6  # rows of a walk from image to image
LIKELIHOODS = {
    "bernoulli": lambda decoded, x: losses.binary_cross_entropy(decoded, x) * decoded[0].size,
    "gaussian": lambda decoded, x: losses.mean_squared_error(decoded, x) * decoded[0].size / 2,
}


def make_task(config) -> Task:
    """The negative likelihood of images given their codes, and the divergence of variational codes."""
    model, splits, high = network(config), data(config).splits, brightest(config)
    train = pipeline.batches(
        {"image": splits["train"]["image"]}, config.batch, config.seed, rows=feed.rows(config.batch)
    )

    def init(key):
        return model.init(key, jnp.zeros((1, *shape(config))))

    def loss(variables, batch, key):
        drawn, own = jax.random.split(key)
        x = pixels(batch["image"], high)
        if variational(config):
            x = jax.random.bernoulli(drawn, x).astype(jnp.float32)
        found, state = model.apply(variables, x, key=own)
        each = cost(config, x, found)
        return each.mean(), (state, {"loss": metrics.mean(each)})

    def evaluator(split):
        report = functools.partial(summary, functools.cache(functools.partial(peers, config, split)))
        return mean_over(passes(config, split), functools.partial(score, config, model), report)

    return Task(init, loss, train, {split: evaluator(split) for split in splits if split != "train"})


def score(config, model: Model, variables, batch):
    """Returns the sums of a batch: a bound or the loss, and the squared errors of what comes back.

    Variational codes are drawn with one key for all batches.
    """
    x = pixels(batch["image"], brightest(config))

    def distance(found):
        return jnp.square(shown(config, found["reconstruction"]) - x).sum(axis=(1, 2, 3))

    found, _ = model.apply(variables, x)
    report = {"squared_error": distance(found), "loss": cost(config, x, found)}
    if noise(config):
        report = {"restoration_error": distance(model.apply(variables, batch["noisy"])[0])} | report
    if variational(config):
        found, _ = model.apply(variables, batch["binary"], key=jax.random.key(0))
        report["loss"] = cost(config, batch["binary"], found)
        report = {"elbo": -report["loss"], "kl": divergence(found)} | report
    return {name: metrics.mean(each, batch["mask"]) for name, each in report.items()}


def summary(others: Callable, sums) -> dict[str, float]:
    """Returns the metrics of a split, first the one that the model is about, and then `others()`."""
    found = metrics.summarize(sums)
    first = next(name for name in ("elbo", "restoration_error", "squared_error") if name in found)
    return {first: found[first]} | found | others()


def peers(config, split: str) -> dict[str, float]:
    """Returns "<metric>_<peer>" on a split: what is reached without a network, from the training images."""
    train, x = (flat(data(config).splits[name]["image"]) / brightest(config) for name in ("train", split))
    mean = train.mean(axis=0)
    variances, axes = np.linalg.eigh((train - mean).T @ (train - mean) / len(train))

    def error(centred):
        return float(np.square(np.clip(mean + centred, 0, 1) - x).sum(axis=1).mean())

    if noise(config):
        shares = variances / (variances + noise(config) ** 2)
        return {
            "restoration_error_linear": error((flat(noisy(config, split)) - mean) @ axes * shares @ axes.T)
        }
    kept = axes[:, -config.model.code :]
    found = {"squared_error_pca": error((x - mean) @ kept @ kept.T)}
    if variational(config):
        on, ones = (train.sum(axis=0) + 0.5) / (len(train) + 1), flat(binary(config, split))
        found["elbo_pixels"] = float((ones * np.log(on) + (1 - ones) * np.log(1 - on)).sum(axis=1).mean())
    return found


def cost(config, x, found):
    """Returns the loss of each image [b], in nats."""
    own = lookup(LIKELIHOODS, config.likelihood)(found["reconstruction"], x)
    return own + divergence(found) if variational(config) else own


def divergence(found):
    """Returns the divergence of variational codes from their prior [b], in nats."""
    return losses.gaussian_kl(found["mean"], found["log_variance"])


def shown(config, decoded):
    """Returns decoded images as pixels."""
    return jax.nn.sigmoid(decoded) if config.likelihood == "bernoulli" else jnp.clip(decoded, 0, 1)


def variational(config) -> bool:
    """Tells whether codes are distributions."""
    return config.model.name == "variational_autoencoder"


def noise(config) -> float:
    """Returns the deviation of the noise that is to be taken away, 0 where there is none."""
    return config.model.get("noise", 0.0)


def network(config) -> Model:
    """Returns the model."""
    return build(MODELS, config.model)


def pixels(images, high: float):
    """Returns images in 0 ... 1."""
    return jnp.asarray(images, jnp.float32) / high


def flat(images: np.ndarray) -> np.ndarray:
    """Returns images [n, h, w, c] as rows [n, d] in float32."""
    return images.reshape(len(images), -1).astype(np.float32)


def brightest(config) -> float:
    """Returns the largest value of a pixel in the training images."""
    return float(data(config).splits["train"]["image"].max())


def data(config):
    """Returns the source; kept, since a run asks for it more than once."""
    return _load(json.dumps(config.source.to_dict(), sort_keys=True))


@functools.lru_cache(maxsize=1)
def _load(spec: str):
    return build(SOURCES, json.loads(spec))


def passes(config, split: str) -> Callable:
    """Returns `() -> batches`: one pass over a split, in order, with the images that are binary or noisy."""
    arrays = data(config).splits[split]
    rows = {"image": arrays["image"], "label": arrays["label"]}
    if variational(config):
        rows["binary"] = binary(config, split)
    if noise(config):
        rows["noisy"] = noisy(config, split)
    return pipeline.passes(rows, config.batch, rows=feed.rows(config.batch))


def binary(config, split: str) -> np.ndarray:
    """Returns the binary images [n, h, w, c] of a split, float32."""
    images = data(config).splits[split]["image"]
    dice = np.random.default_rng(0).random(images.shape, np.float32)
    return (dice < images / np.float32(brightest(config))).astype(np.float32)


def noisy(config, split: str) -> np.ndarray:
    """Returns the images [n, h, w, c] of a split with noise, float32, not cut off at 0 and 1."""
    images = data(config).splits[split]["image"]
    drawn = np.random.default_rng(0).standard_normal(images.shape, np.float32)
    return images / np.float32(brightest(config)) + np.float32(noise(config)) * drawn


def shape(config) -> tuple[int, ...]:
    """Returns the shape of an image, [h, w, c]."""
    return data(config).splits["train"]["image"].shape[1:]


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    splits = data(config).splits
    sizes = ", ".join(f"{name} {pipeline.length(split):,}" for name, split in splits.items())
    return {"data": f"{config.source.name}: {sizes}"}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws reconstructions and the codes of test images; of a variational autoencoder samples and walks."""
    pictures = [
        reconstructions(config, variables, folder / "reconstructions.png"),
        embedding(config, variables, folder / "embedding.png"),
    ]
    if variational(config):
        pictures += [
            samples(config, variables, folder / "samples.png"),
            walks(config, variables, folder / "walks.png"),
        ]
    return pictures


def tested(config, count: int):
    """Returns some test images as pixels."""
    return pixels(jnp.asarray(data(config).splits["test"]["image"][:count]), brightest(config))


def reconstructions(config, variables, file: Path, noise: float = 0.5) -> Path:
    """Draws test images, and what comes back of them; and of noisy ones, of half the range in deviation."""
    model, x = network(config), tested(config, SHOWN)
    worse = x + noise * jax.random.normal(jax.random.key(0), x.shape)
    rows = {"test images": x, "come back": None, "with noise": jnp.clip(worse, 0, 1), "come back ": None}
    for name, seen in (("come back", x), ("come back ", worse)):
        rows[name] = shown(config, model.apply(variables, seen)[0]["reconstruction"])
    title = (
        f"{config.source.name}: {config.model.name.replace('_', ' ')}, {config.model.code} numbers an image"
    )
    return figures.mosaic(np.stack([np.asarray(row) for row in rows.values()]), list(rows), title, file)


def embedding(config, variables, file: Path) -> Path:
    """Draws the codes of test images, the first two or, of more, their two principal components."""
    model = network(config)

    def predict(variables, batch):
        x = pixels(batch["image"], brightest(config))
        return {"code": model.apply(variables, x)[0]["code"], "label": batch["label"]}

    found = collected(passes(config, "test"), predict, lambda values: values)(variables)
    code, label = found["code"][:5000], found["label"][:5000]
    told, kind = "codes of test images", "number of the code"
    if code.shape[1] > 2:
        centred = code - code.mean(axis=0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        code, kind = centred @ axes[:2].T, f"principal component of {code.shape[1]} numbers"
    figure, axis = figures.canvas(figsize=(7.5, 6))
    classes, size = data(config).classes, 5 if len(code) > 1000 else 16
    for number, name in enumerate(classes):
        own = code[label == number]
        axis.scatter(
            *own[:, :2].T, s=size, color=f"C{number % 10}", label=name, linewidths=0, rasterized=True
        )
    axis.set_title(f"{config.source.name}: {told}", fontsize=10)
    axis.set(xlabel=f"first {kind}", ylabel=f"second {kind}")
    axis.grid(alpha=0.3)
    if len(classes) <= 10:
        figure.legend(loc="outside right center", frameon=False, markerscale=3)
    return figures.save(figure, file)


def decoded(config, variables, codes):
    """Returns the pixels of codes [n, k], as images [n, h, w, c]."""
    found = autoencoder.decode(variables.params, codes, (len(codes), *shape(config)))
    return np.asarray(shown(config, found))


def samples(config, variables, file: Path) -> Path:
    """Draws images of codes from the prior; of two numbers, of a grid of its quantiles."""
    size = config.model.code
    if size == 2:
        from statistics import NormalDist

        ticks = [NormalDist().inv_cdf((i + 0.5) / SHOWN) for i in range(SHOWN)]
        codes, rows = jnp.array([(across, -down) for down in ticks for across in ticks]), SHOWN
        told = "images of all codes, at quantiles of the prior"
    else:
        codes, rows = jax.random.normal(jax.random.key(0), (DRAWN * SHOWN, size)), DRAWN
        told = "images of codes drawn from the prior"
    images = decoded(config, variables, codes).reshape(rows, -1, *shape(config))
    return figures.mosaic(images, [""] * rows, f"{config.source.name}: {told}", file)


def walks(config, variables, file: Path) -> Path:
    """Draws images on the way between the codes of pairs of test images, which stand at both ends."""
    x = tested(config, 2 * MIXED)
    codes = network(config).apply(variables, x)[0]["code"]
    share = jnp.linspace(0, 1, SHOWN - 2)[None, :, None]
    way = (codes[:MIXED, None] * (1 - share) + codes[MIXED:, None] * share).reshape(-1, codes.shape[1])
    between = decoded(config, variables, way).reshape(MIXED, SHOWN - 2, *shape(config))
    rows = np.concatenate([np.asarray(x[:MIXED])[:, None], between, np.asarray(x[MIXED:])[:, None]], axis=1)
    return figures.mosaic(rows, [""] * MIXED, f"{config.source.name}: from image to image, by codes", file)
