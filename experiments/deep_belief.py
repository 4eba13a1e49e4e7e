"""Deep belief networks on images: machines layer by layer, then a classifier or an autoencoder of the stack.

`config.learn` says what a run learns: "layer_0", "layer_1" and so on, the Boltzmann machine of a layer on
what the fixed layers below make of the images; "classifier", all layers by backpropagation from the labels;
"autoencoder", all layers from the images alone. `config.stages` puts them in order.
"""

import functools
import json
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
from dlx.evaluate import collected, mean_over
from dlx.models import MODELS, dbn, rbm

MEMORY = 0.95  # what a step keeps of the running average of how often hidden units are on
DREAMS = (1, 10, 100, 1000)  # steps of the Markov chain after which samples are drawn
SHOWN = 14  # images in a row of a figure


def make_task(config) -> Task:
    """What `config.learn` says, from the training images; measured on validation and test images."""
    splits = data(config).splits
    learners = {"classifier": classifier, "autoencoder": autoencoder}
    learners |= {dbn.name(layer): functools.partial(machine, layer) for layer in range(depth(config))}
    loss, score, more = lookup(learners, config.learn)(config)
    train = pipeline.batches(splits["train"], config.batch, config.seed, rows=feed.rows(config.batch))

    def masked(variables, batch):
        return {name: metrics.mean(each, batch["mask"]) for name, each in score(variables, batch).items()}

    evaluators = {split: mean_over(passes(config, split), masked) for split in splits if split != "train"}
    measure = evaluators["test"]
    evaluators["test"] = lambda variables: dict(measure(variables)) | more(variables)
    return Task(functools.partial(initial, config), loss, train, evaluators)


def initial(config, key) -> Variables:
    """Draws the network; the scaling of the images joins its state and moves from stage to stage with it.

    Binary visible units are at first on as often as in the images (section 8 of the guide).
    """
    scaling, (mean, _) = scale(config), statistics(config)
    params, state = network(config).init(key, jnp.zeros((1, len(mean))))
    if config.model.units == "binary":
        often = np.clip(mean / scaling["std"], 0.01, 0.99)
        params["layer_0"]["visible"] = jnp.log(often / (1 - often))
    return Variables(params, state | {"standardized": jax.tree.map(jnp.asarray, scaling)})


def machine(layer: int, config):
    """Returns the loss of the machine of a layer, what is measured of an image, and of a network."""
    name, kind = dbn.name(layer), dbn.kind(layer, config.model.units)
    learning = config.divergence

    def seen(variables, batch):
        return dbn.encode(variables.params, pixels(variables, batch["image"]), layer)

    def mistake(params, visible):
        return distance(rbm.visible_field(params, rbm.hidden_mean(params, visible)), visible, kind)

    def loss(variables, batch, key):
        params, own = variables.params[name], variables.state[name]
        visible = jax.lax.stop_gradient(seen(variables, batch))
        gap, sample = rbm.contrastive_divergence(
            params, visible, key, learning.steps, kind, chain=own.get("chain")
        )
        on = jax.lax.stop_gradient(rbm.hidden_mean(params, visible).mean(axis=0))
        average = MEMORY * own["activation"] + (1 - MEMORY) * on
        sparse = rbm.sparsity(params, visible, average, learning.sparsity_target)
        own = {"activation": average} | ({"chain": sample} if "chain" in own else {})
        report = {
            "loss": metrics.mean(mistake(params, visible)),
            "free_energy": metrics.mean(rbm.free_energy(params, visible, kind)),
            "activation": metrics.mean(on),
        }
        return gap + learning.sparsity_cost * sparse, (dict(variables.state) | {name: own}, report)

    def score(variables, batch):
        visible = seen(variables, batch)
        energy = rbm.free_energy(variables.params[name], visible, kind)
        return {"loss": mistake(variables.params[name], visible), "free_energy": energy}

    def more(variables):
        return likelihood(config, variables) if layer == 0 and config.temperatures else {}

    return loss, score, more


def likelihood(config, variables) -> dict[str, float]:
    """Returns the mean log-likelihood of test images under the lowest machine, in nats, by estimate of log Z.

    Binary units see each image once with pixels drawn, on with the probability of their intensity.
    """
    units, params = config.model.units, variables.params["layer_0"]
    visible = np.asarray(pixels(variables, data(config).splits["test"]["image"]))
    base = jnp.zeros_like(params["visible"])
    if units == "binary":
        visible = (np.random.default_rng(0).random(visible.shape) < visible).astype(np.float32)
        base = initial(config, jax.random.key(0)).params["layer_0"]["visible"]
    estimate = functools.partial(rbm.log_partition, temperatures=config.temperatures, units=units)
    log_z, error = jax.jit(estimate)(params, jax.random.key(0), base=base)
    energy = jax.jit(functools.partial(rbm.free_energy, units=units))(params, visible)
    return {"log_likelihood": float(-energy.mean() - log_z), "log_partition_error": float(error)}


def classifier(config):
    """Returns the cross entropy of labels, what is measured of an image, and the error of `config.peer`."""
    model = network(config)

    def score(variables, batch):
        logits, _ = model.apply(variables, pixels(variables, batch["image"]))
        wrong = logits.argmax(-1) != batch["label"]
        return {"loss": losses.softmax_cross_entropy(logits, batch["label"]), "error": wrong}

    def more(variables):
        if "peer" not in config:
            return {}
        splits = data(config).splits
        guess = build({"support_vectors": support_vectors}, config.peer, splits=splits)
        return {f"error_{config.peer.name}": float((guess != splits["test"]["label"]).mean())}

    return mean_of(score), score, more


def support_vectors(splits):
    """Returns the labels that scikit-learn's support vectors, with its defaults, give to the test images."""
    from sklearn.svm import SVC

    train, test = splits["train"], splits["test"]
    images, asked = (part["image"].reshape(len(part["image"]), -1) for part in (train, test))
    return SVC().fit(images, train["label"]).predict(asked)


def autoencoder(config):
    """Returns the loss of images that went up and down, and the squared error: of an image, and of PCA."""

    def score(variables, batch):
        visible = pixels(variables, batch["image"])
        field = dbn.decode_field(
            variables.params, dbn.encode(variables.params, visible, depth(config)), depth(config)
        )
        again = jax.nn.sigmoid(field) if config.model.units == "binary" else field
        return {
            "loss": distance(field, visible, config.model.units),
            "squared_error": jnp.square(again - visible).sum(axis=-1),
        }

    def more(variables):
        visible = np.asarray(pixels(variables, data(config).splits["test"]["image"]))
        return {
            "squared_error_pca": float(
                np.square(principal(config, variables, visible) - visible).sum(1).mean()
            )
        }

    return mean_of(score), score, more


def mean_of(score):
    """Returns the loss of a task whose examples each have `score(variables, batch)["loss"]`."""

    def loss(variables, batch, key):
        report = {name: metrics.mean(each) for name, each in score(variables, batch).items()}
        return report["loss"].total / report["loss"].weight, (variables.state, report)

    return loss


def distance(field, visible, units: str):
    """Returns how far units [b, v] are from what they feel: cross entropy, in nats, or half the square."""
    if units == "binary":
        return losses.binary_cross_entropy(field, visible)
    return losses.mean_squared_error(field, visible) / 2


def principal(config, variables, visible):
    """Returns images [n, v] as they come back from as many principal components as the top has units."""
    train = np.asarray(pixels(variables, data(config).splits["train"]["image"]))
    mean = train.mean(axis=0)
    _, vectors = np.linalg.eigh((train - mean).T @ (train - mean))
    kept = vectors[:, -config.model.hidden[-1] :]
    return mean + (visible - mean) @ kept @ kept.T


def pixels(variables, images):
    """Returns images [b, ...] flat and scaled, [b, v] in float32."""
    scaling = variables.state["standardized"]
    return (images.reshape(len(images), -1).astype(np.float32) - scaling["mean"]) / scaling["std"]


def network(config) -> Model:
    """Returns the stack of machines with the layer of classes on top."""
    return build(MODELS, config.model, num_classes=len(data(config).classes))


def depth(config) -> int:
    """Returns the number of layers."""
    return len(config.model.hidden)


def scale(config) -> dict:
    """Returns what the training images are scaled by: to 0 ... 1, or each pixel to mean 0 and variance 1."""
    if config.model.units == "binary":
        return {"mean": np.float32(0), "std": np.float32(data(config).splits["train"]["image"].max())}
    mean, deviation = statistics(config)
    return {"mean": mean, "std": np.where(deviation > 0, deviation, 1)}


def statistics(config):
    """Returns mean and standard deviation of each pixel of the training images, [v] each."""
    return _statistics(*_loaded(config))


def data(config):
    """Returns the source; kept, since a run asks for it more than once.

    Beside what the source takes, `config.source.per_class` may be the number of training examples to keep of
    each class, drawn by the seed of the run; 0 keeps all.
    """
    return _load(*_loaded(config))


def _loaded(config) -> tuple[str, int, int]:
    """Returns what makes the data: the source in JSON, how many of each class, drawn with which seed."""
    spec = config.source.to_dict()
    per_class = spec.pop("per_class", 0)
    return json.dumps(spec, sort_keys=True), per_class, config.seed if per_class else 0


@functools.lru_cache(maxsize=1)
def _load(spec: str, per_class: int, seed: int):
    source = build(SOURCES, json.loads(spec))
    if not per_class:
        return source
    return source._replace(splits=source.splits | {"train": few(source.splits["train"], per_class, seed)})


@functools.lru_cache(maxsize=1)
def _statistics(spec: str, per_class: int, seed: int):
    images = _load(spec, per_class, seed).splits["train"]["image"]
    flat = images.reshape(len(images), -1)
    return flat.mean(axis=0).astype(np.float32), flat.std(axis=0).astype(np.float32)


def passes(config, split: str):
    """Returns `() -> batches`: one pass over a split, in order, padded and masked."""
    return pipeline.passes(data(config).splits[split], config.batch, rows=feed.rows(config.batch))


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    splits = data(config).splits
    sizes = ", ".join(f"{name} {pipeline.length(split):,}" for name, split in splits.items())
    return {"data": f"{config.source.name}: {sizes}", "learns": config.learn}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws what was learned: filters, reconstructions and samples of a machine, else results."""
    if config.learn == "classifier":
        return mistakes(config, variables, folder)
    visible = jnp.asarray(pixels(variables, data(config).splits["test"]["image"][:SHOWN]))
    if config.learn == "autoencoder":
        top = depth(config)
        again = dbn.decode(
            variables.params, dbn.encode(variables.params, visible, top), top, config.model.units
        )
        pca = principal(config, variables, visible)
        rows = {"test images": visible, "autoencoder": again, "PCA": pca}
        title = f"through {config.model.hidden[-1]} numbers and back"
        return [strips(config, variables, rows, title, folder / "reconstructions.png")]
    layer = [dbn.name(layer) for layer in range(depth(config))].index(config.learn)
    return [
        filters(config, variables, layer, folder / "filters.png"),
        reconstructions(config, variables, layer, visible, folder / "reconstructions.png"),
        samples(config, variables, layer, visible, folder / "samples.png"),
    ]


def filters(config, variables, layer: int, file: Path) -> Path:
    """Draws the weights of hidden units of a layer, the largest first, carried down to the pixels."""
    params = variables.params
    down = functools.reduce(jnp.matmul, [params[dbn.name(below)]["kernel"] for below in range(layer + 1)])
    norms = np.square(np.asarray(down)).sum(axis=0)
    rows, columns = 7, 2 * SHOWN
    kept = np.asarray(down).T[np.argsort(-norms)[: rows * columns]]
    kept = kept / np.abs(kept).max(axis=1, keepdims=True)
    rows = -(-len(kept) // columns)
    blank = np.zeros((rows * columns - len(kept), kept.shape[1]), kept.dtype)
    pictures = np.concatenate([kept, blank]).reshape(rows, columns, *shape(config))
    title = f"filters of {dbn.name(layer)}: the {len(kept)} largest of {len(norms)} hidden units"
    return figures.mosaic((pictures + 1) / 2, [""] * rows, title, file)


def reconstructions(config, variables, layer: int, visible, file: Path) -> Path:
    """Draws test images, and what comes back from each height of the stack, mean field both ways."""
    rows = {"test images": visible}
    for height in range(1, layer + 2):
        hidden = dbn.encode(variables.params, visible, height)
        rows[f"from {dbn.name(height - 1)}"] = dbn.decode(
            variables.params, hidden, height, config.model.units
        )
    return strips(config, variables, rows, "reconstructions of test images", file)


def samples(config, variables, layer: int, visible, file: Path) -> Path:
    """Draws where the Markov chain of a machine is after 1, 10, 100 and 1000 steps from test images."""
    rows = {"test images": visible}
    for steps in DREAMS:
        walk = functools.partial(dbn.chain, layers=layer + 1, steps=steps, units=config.model.units)
        rows["1 step" if steps == 1 else f"{steps:,} steps"] = jax.jit(walk)(
            variables.params, visible, jax.random.key(0)
        )
    return strips(config, variables, rows, f"samples from the chain in {dbn.name(layer)}", file)


def strips(config, variables, rows: dict, title: str, file: Path) -> Path:
    """Draws rows of images [n, v], scaled as the network has them, under their names."""
    scaling = jax.device_get(variables.state["standardized"])
    high = float(data(config).splits["train"]["image"].max())
    back = [
        np.clip(np.asarray(row) * scaling["std"] + scaling["mean"], 0, high) / high for row in rows.values()
    ]
    pictures = np.stack(back).reshape(len(rows), -1, *shape(config))
    return figures.mosaic(pictures, list(rows), f"{config.source.name}: {title}", file)


def shape(config) -> tuple[int, ...]:
    """Returns the shape of an image, [h, w, c]."""
    return data(config).splits["train"]["image"].shape[1:]


def mistakes(config, variables, folder: Path) -> list[Path]:
    """Draws the confusion matrix of the test images, and those that the classifier has wrong."""
    source, model = data(config), network(config)

    def predict(variables, batch):
        logits, _ = model.apply(variables, pixels(variables, batch["image"]))
        return {"belief": jax.nn.softmax(logits), "label": batch["label"]}

    found = collected(passes(config, "test"), predict, lambda values: values)(variables)
    guess, label = found["belief"].argmax(-1), found["label"]
    wrong = np.flatnonzero(guess != label)[:32]
    summary = f"{config.source.name}: {(guess != label).mean():.2%} of {len(label):,} test images wrong"
    counts = np.asarray(metrics.confusion(guess, label, len(source.classes)).total).astype(int)
    pictures = [figures.confusion_matrix(counts, source.classes, summary, folder / "confusion.png")]
    if len(wrong):
        captions = [f"{source.classes[guess[i]]}, true {source.classes[label[i]]}" for i in wrong]
        images = source.splits["test"]["image"][wrong]
        red = np.ones(len(wrong), bool)
        pictures.append(figures.sheet(images, captions, red, summary, folder / "mistakes.png"))
    return pictures
