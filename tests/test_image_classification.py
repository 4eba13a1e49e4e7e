"""The experiment of image classification: what augmentation does to a batch, what is reported of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from dlx import configuration, losses, optimizers, sharding, train
from dlx.configuration import ConfigError
from experiments import image_classification as experiment
from experiments import runs

STRONG = {
    "flip": True,
    "shift": 2.0,
    "rotate": 20.0,
    "scale": 0.2,
    "shear": 0.2,
    "crop": 2,
    "resized_crop": 8,
    "rand_augment": [2, 15.0],
    "jitter": 0.5,
    "erasing": 1.0,
    "mixup": 1.0,
    "cutmix": 1.0,
}


def pictures(count=16, side=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 1), dtype=np.uint8)
    return jnp.asarray(images), jnp.arange(count) % 3


def augment(strengths, key, images, labels):
    on = experiment.strengths(ConfigDict({"augment": strengths}))
    return experiment.augment(on, key, images, labels, 3)


def test_every_name_is_known_and_a_typo_is_not():
    assert set(STRONG) == set(experiment.AUGMENT)
    with pytest.raises(ConfigError, match="unknown name 'cut_mix'; did you mean 'cutmix'"):
        experiment.strengths(ConfigDict({"augment": {"cut_mix": 1.0}}))


def test_what_is_off_is_not_there(key):
    """Absent or at strength 0: the very arrays come back."""
    images, labels = pictures()
    off = {name: [] if name == "rand_augment" else type(value)(0) for name, value in STRONG.items()}
    for strengths in ({}, off):
        found = augment(strengths, key, images, labels)
        assert found[0] is images and found[1] is labels


@pytest.mark.parametrize("name", STRONG)
def test_each_alone_changes_images_by_the_key_alone(key, name):
    images, labels = pictures()
    strengths = {name: STRONG[name]}
    change = jax.jit(functools.partial(augment, strengths))
    first, again = (change(key, images, labels) for _ in range(2))
    other, _ = change(jax.random.key(1), images, labels)
    assert first[0].shape == images.shape and not np.array_equal(first[0], images)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other)
    if name in experiment.MIXES:
        assert first[1].shape == (16, 3)
        np.testing.assert_allclose(first[1].sum(axis=-1), 1, rtol=1e-6)
    else:
        assert np.array_equal(first[1], labels)


@pytest.mark.parametrize("names", [("mixup",), ("cutmix",), ("mixup", "cutmix")])
def test_labels_are_mixed_as_the_pixels_are(key, names):
    """An image of class k holds 100 k everywhere: its mean tells the shares of the classes in a mixture."""
    labels = jnp.arange(32) % 3
    images = jnp.broadcast_to(100.0 * labels[:, None, None, None], (32, 16, 16, 1))
    mix = jax.jit(functools.partial(augment, dict.fromkeys(names, 1.0)))
    seen = set()
    for step in range(8):
        mixed, targets = mix(jax.random.fold_in(key, step), images, labels)
        expected = targets @ jnp.array([0.0, 100.0, 200.0])
        np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), expected, rtol=1e-4, atol=1e-3)
        seen.add("cutmix" if np.isin(mixed, [0.0, 100.0, 200.0]).all() else "mixup")
    assert seen == set(names)


def test_evaluation_sees_the_centre_of_what_training_crops():
    images, _ = pictures(side=9)
    config = ConfigDict({"augment": {"resized_crop": 5}})
    assert np.array_equal(experiment.view(config, images), images[:, 2:7, 2:7])
    assert experiment.view(ConfigDict({"augment": {}}), images) is images


def test_a_report_of_two_classes_has_sensitivity_and_specificity():
    rng = np.random.default_rng(3)
    label = np.repeat(np.int32([0, 1]), [40, 60])
    logits = np.float32(rng.normal(size=(100, 2)) + np.eye(2)[label])
    found = experiment.report({"logits": logits, "label": label})
    guess = logits[:, 1] > logits[:, 0]
    assert found["sensitivity"] == pytest.approx(guess[label == 1].mean())
    assert found["specificity"] == pytest.approx((~guess)[label == 0].mean())
    assert found["roc_auc"] == pytest.approx(roc_auc_score(label, logits[:, 1] - logits[:, 0]))
    assert found["accuracy"] == pytest.approx((guess == label).mean())
    three = experiment.report({"logits": np.pad(logits, ((0, 0), (0, 1))), "label": label})
    assert not {"roc_auc", "sensitivity", "specificity"} & set(three)


def test_support_vectors_of_the_training_images_stand_beside_the_report():
    config = configuration.load("configs/image_classification/digits.py:smoke")
    task = experiment.make_task(config)
    found = task.evaluators["test"](task.init(jax.random.key(0)))
    train, test = (experiment.data(config).splits[name] for name in ("train", "test"))
    own = SVC().fit(train["image"].reshape(len(train["image"]), -1), train["label"])
    expected = own.score(test["image"].reshape(len(test["image"]), -1), test["label"])
    assert found["accuracy_support_vectors"] == pytest.approx(expected) and 0.97 < expected < 1
    with pytest.raises(ConfigError, match="images in memory: leave it out"):
        experiment.support_vectors({"train": [], "test": test})
    with config.unlocked():
        del config.peer
    assert set(found) - set(
        experiment.make_task(config).evaluators["test"](task.init(jax.random.key(0)))
    ) == {"accuracy_support_vectors"}


def test_auxiliary_logits_count_in_training(monkeypatch):
    """A model with two outputs when there is a key, as Inception-v3: the loss is the sum of both."""
    config = ConfigDict(
        {
            "source": {"name": "synthetic_images", "num_classes": 3, "size": 6, "count": 30},
            "model": {"name": "mlp", "hidden": [4]},
            "augment": {},
            "batch": 8,
            "seed": 0,
            "label_smoothing": 0.1,
        }
    )
    plain = experiment.classifier(config)

    def apply(variables, images, key=None):
        logits, state = plain.apply(variables, images, key=key)
        return (logits if key is None else (logits, 2 * logits)), state

    monkeypatch.setattr(experiment, "classifier", lambda config: plain._replace(apply=apply))
    task = experiment.make_task(config)
    variables, batch = task.init(jax.random.key(0)), task.batch(0)
    loss, _ = task.loss(variables, batch, jax.random.key(1))
    logits, _ = plain.apply(variables, batch["image"])
    parts = [losses.softmax_cross_entropy(x, batch["label"], 0.1).mean() for x in (logits, 2 * logits)]
    assert loss == pytest.approx(float(parts[0] + 0.4 * parts[1]), rel=1e-5)
    assert 0 <= task.evaluators["validation"](variables)["accuracy"] <= 1


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "inception_v3", "efficientnet_b0", "vit_b16"])
def test_a_full_imagenet_config_fits_its_model(name):
    """Shapes alone: from stored images through augmentation to a loss, auxiliary logits and all."""
    config = configuration.load(f"configs/image_classification/imagenet_{name}.py")
    with config.unlocked():
        size, config.batch = config.source.size, 2
        config.source = {"name": "synthetic_images", "num_classes": 5, "size": size, "count": 6}
    task = experiment.make_task(config)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    loss, _ = jax.eval_shape(task.loss, variables, task.batch(0), jax.random.key(1))
    assert loss.shape == () and loss.dtype == jnp.float32


def accuracy(config, dtype, seed):
    """The accuracy on test images of a short run."""
    config = ConfigDict(config.to_dict())
    config.model.dtype, config.seed = dtype, seed
    run, found = runs.build(config), {}
    train.fit(
        run.task._replace(evaluators={"test": run.task.evaluators["test"]}),
        run.optimizer,
        run.plan,
        seed=seed,
        mesh=sharding.mesh(devices=jax.devices()[:1]),
        write=lambda step, name, values: found.update({name: values["accuracy"]}),
        view=optimizers.averaged,
    )
    return found["test"]


@pytest.mark.parametrize("name", ["digits", "fashion_mnist_cnn"])
def test_bfloat16_learns_as_well_as_float32(name):
    """Over three seeds each, the means differ by less than three standard errors of their difference.

    One example in a hundred is added to that: the spread of few seeds is itself uncertain, and may be 0.
    """
    scale = "smoke" if name == "fashion_mnist_cnn" else "full"
    config = configuration.load(f"configs/image_classification/{name}.py:{scale}")
    with config.unlocked():
        config.plan = {"steps": 60, "log_every": 60, "eval_every": 1000, "save_every": 1000}
        config.schedule = {"name": "cosine", "peak": 5e-3, "warmup": 5}
    single, half = (
        np.array([accuracy(config, dtype, seed) for seed in range(3)]) for dtype in ("float32", "bfloat16")
    )
    error = np.sqrt((single.var(ddof=1) + half.var(ddof=1)) / 3)
    assert single.mean() > 0.8
    assert abs(single.mean() - half.mean()) < 3 * error + 0.01, (single, half)
