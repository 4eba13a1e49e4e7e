"""What each teaching experiment must show: on a small form, and on the recorded result of the full one."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration, optimizers, sharding, train
from dlx.core import Plan
from experiments import descent, runs, teaching
from experiments.sweeping import points

ROOT = Path(__file__).parent.parent
CONFIGS = sorted([*ROOT.glob("configs/teaching/*.py"), *ROOT.glob("configs/descent/*.py")])


def initialization(found):
    """Weights too small or too large do not train, and the layers show why before any training."""
    accuracy = found("accuracy")
    assert min(accuracy["xavier"], accuracy["he"]) > max(accuracy["small"], accuracy["large"]) + 0.3
    grown, back = found("initial_activation_ratio"), found("initial_gradient_ratio")
    assert grown["small"] < 1e-6 and back["small"] < 1e-6  # both fade
    assert back["large"] > 100  # gradients explode on the way back, and units saturate
    assert 0.2 < grown["xavier"] < 1 and 0.1 < back["xavier"] < 10


def activations(found):
    """Ten sigmoids pass no gradient on; without a function between them layers are one; others learn."""
    accuracy, back = found("accuracy"), found("initial_gradient_ratio")
    assert back["sigmoid"] < 1e-4 and all(ratio > 0.05 for name, ratio in back.items() if name != "sigmoid")
    others = [value for name, value in accuracy.items() if name not in ("sigmoid", "none")]
    assert accuracy["sigmoid"] < 0.3 < 0.7 < min(others)


def optimizers_compared(found):
    """Momentum 0.9 is ten times the rate; adaptive methods learn at small rates and break at large ones."""
    loss = found("loss")
    assert loss["momentum", 0.01] == pytest.approx(loss["sgd", 0.1], rel=0.25)
    assert loss["nesterov", 0.01] == pytest.approx(loss["momentum", 0.01], rel=0.1)
    assert loss["adam", 0.001] < 0.25 * loss["sgd", 0.001]
    assert loss["adam", 0.3] > 4 * loss["adam", 0.001]
    assert loss["sgd", 0.3] < 0.25 * loss["sgd", 0.001]


def inputs(found):
    """Standardised pixels learn most at a small rate, and those not centred least at a large one."""
    loss = found("loss")
    assert loss["standardised", 0.02] < 0.8 * loss["0 to 1", 0.02]
    assert loss["centred", 0.5] < 0.8 * loss["0 to 1", 0.5]
    assert loss["standardised", 0.5] < 0.8 * loss["0 to 1", 0.5]


def normalization(found):
    """Normalised layers pass signals of any scale on, and train where others do not."""
    accuracy, grown = found("accuracy"), found("initial_activation_ratio")
    assert max(accuracy["none", "small"], accuracy["none", "large"]) < accuracy["none", "xavier"] - 0.3
    for norm, start in itertools.product(("batch", "layer"), ("small", "large")):
        assert accuracy[norm, start] > accuracy["none", start] + 0.3, (norm, start)
        assert 0.8 < grown[norm, start] < 1.2


def batch_size(found):
    """At the same rate a larger batch learns less; at a rate larger by as much, about the same."""
    loss = found("loss")
    assert loss[16, 0.1] < 0.6 * loss[64, 0.1] and loss[64, 0.1] < 0.6 * loss[256, 0.1]
    for small, large, rate in ((16, 64, 0.1), (64, 256, 0.1), (64, 256, 0.4)):
        assert loss[large, rate * 4] == pytest.approx(loss[small, rate], rel=0.35), (small, large, rate)


def regularization(found):
    """Dropout and weight decay, each by itself, make fewer mistakes on images not seen."""
    accuracy = found("accuracy")
    assert accuracy[0.0, 0.5] > accuracy[0.0, 0.0] and accuracy[0.01, 0.0] > accuracy[0.0, 0.0]


def quadratic(found):
    """Momentum gets further than descent, and Nesterov's further than that."""
    loss = found("loss")
    assert loss["Nesterov"] < 0.1 * loss["momentum"] < 0.01 * loss["descent"] * 10


def rosenbrock(found):
    """Momentum and Adam come to the end of the valley, and the others to no more than near it."""
    loss = found("loss")
    ends = {"momentum", "Nesterov", "Adam"}
    assert max(loss[name] for name in ends) < 1e-3
    assert min(value for name, value in loss.items() if name not in ends) > 1e-2


CLAIMS = {  # what must be shown, and the points of the sweep that a small form of it needs
    "initialization": (initialization, None),
    "activations": (activations, ["none", "sigmoid", "tanh", "ReLU"]),
    "optimizers": (
        optimizers_compared,
        [("momentum", 0.01), ("nesterov", 0.01), ("adam", 0.3), ("adam", 0.001)]
        + [("sgd", rate) for rate in (0.001, 0.1, 0.3)],
    ),
    "inputs": (
        inputs,
        [(name, rate) for name in ("0 to 1", "standardised") for rate in (0.02, 0.5)] + [("centred", 0.5)],
    ),
    "normalization": (
        normalization,
        [*itertools.product(("none", "batch", "layer"), ("small", "large")), ("none", "xavier")],
    ),
    "batch_size": (batch_size, [(16, 0.1), (64, 0.1), (64, 0.4), (256, 0.1), (256, 0.4), (256, 1.6)]),
    "regularization": (regularization, [(0.0, 0.0), (0.0, 0.5), (0.01, 0.0)]),
    "quadratic": (quadratic, ["descent", "momentum", "Nesterov"]),
    "rosenbrock": (rosenbrock, None),
}


def configs(file):
    """Returns {name of a point: its config} of the sweep of a config."""
    config = configuration.load(str(file))
    found = {}
    for point in points.grid(config, str(file)):
        one = runs.single(config)
        with one.unlocked():
            one.update_from_flattened_dict(point.settings)
        names = [name for name in (point.by, point.x) if name is not None]
        found[tuple(names) if len(names) > 1 else names[0]] = one
    return found


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_it_shows_what_it_must(file):
    claim, points = CLAIMS[file.stem]
    wanted = {name: one for name, one in configs(file).items() if points is None or name in points}
    seeds = (
        range(3) if file.stem == "regularization" else range(1)
    )  # what ten images teach is a matter of luck
    rows = {name: [measured(config, seed) for seed in seeds] for name, config in wanted.items()}
    claim(
        lambda metric: {name: sum(row[metric] for row in found) / len(found) for name, found in rows.items()}
    )


def measured(config, seed):
    """Returns what a run of a config measures at its end."""
    with config.unlocked():
        config.seed = seed
    run = runs.build(config)
    mesh = sharding.mesh(devices=jax.devices()[:1])
    plan = Plan(run.plan.steps, steps_per_call=100)
    state = train.fit(run.task._replace(evaluators={}), run.optimizer, plan, seed=seed, mesh=mesh)
    return run.task.evaluators["test"](optimizers.averaged(state))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_recorded_result_shows_it_too(file):
    recorded = ROOT / "experiments/results" / file.parent.name / f"{file.stem}.json"
    if not recorded.exists():
        pytest.skip(f"{file.stem} is not measured yet: python -m experiments sweep {file.stem}")
    result = json.loads(recorded.read_text())

    def found(metric):
        means = {}
        for row in result["rows"]:
            names = [name for name in (row["by"], row["x"]) if name is not None]
            spread = row if metric == result["metric"] else row["others"][metric]
            means[tuple(names) if len(names) > 1 else names[0]] = spread["mean"]
        return means

    CLAIMS[file.stem][0](found)


@pytest.fixture
def small():
    config = configuration.load(str(ROOT / "configs/teaching/initialization.py:smoke"))
    with config.unlocked():
        config.model.depth, config.model.width = 3, 8
    return config


def test_batch_normalisation_uses_running_averages_in_inference_alone(small):
    with small.unlocked():
        small.model.norm = "batch"
    model = teaching.perceptron(10, **small.model)
    x = jax.random.normal(jax.random.key(0), (32, 5))
    variables = model.init(jax.random.key(1), x)
    (_, hidden), state = model.apply(variables, x, key=jax.random.key(2))
    given = jnp.arctanh(hidden[0])
    np.testing.assert_allclose(given.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(given.std(0), 1, rtol=1e-2)
    before = x @ variables.params["layer_1"]["weights"]
    np.testing.assert_allclose(state["layer_1"]["mean"], 0.1 * before.mean(0), rtol=1e-4, atol=1e-6)
    one, _ = model.apply(variables, x[:1])
    np.testing.assert_allclose(one[0][0], model.apply(variables, x)[0][0][0], rtol=1e-5)
    assert model.apply(variables, x)[1] is not None


def test_gradients_of_the_layers_are_those_of_backpropagation(small):
    """By hand: of the last layer the error times its weights, before it that times tanh' and weights."""
    config = small
    variables = teaching.initial(config)
    hidden, gradients = teaching.looker(config)(variables)
    train_split = teaching.data(config).splits["train"]
    images = teaching.flat(train_split["image"][: teaching.LOOKED_AT])
    labels = train_split["label"][: teaching.LOOKED_AT]
    model = teaching.network(config)
    (logits, _), _ = model.apply(variables, images, key=jax.random.key(0))
    error = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 10)) / len(images)
    params = variables.params
    third = (error @ params["layer_4"]["weights"].T) * (1 - hidden[2] ** 2)
    second = (third @ params["layer_3"]["weights"].T) * (1 - hidden[1] ** 2)
    np.testing.assert_allclose(gradients[2], third, atol=1e-7)
    np.testing.assert_allclose(gradients[1], second, atol=1e-7)


def test_what_no_config_takes_is_named(small):
    for field, wrong in (("activation", "tanhh"), ("initialization", "xaver"), ("norm", "bath")):
        with pytest.raises(ValueError, match=f"unknown name '{wrong}'; did you mean"):
            teaching.perceptron(10, **{**small.model, field: wrong})
    with small.unlocked():
        small.inputs = "centered"
    with pytest.raises(ValueError, match="'centered'; did you mean 'centred'"):
        teaching.make_task(small)


def test_the_gradient_descends_a_quadratic_by_the_known_factor():
    config = configuration.load(str(ROOT / "configs/descent/quadratic.py"))
    with config.unlocked():
        config.model.angle, config.schedule.peak, config.plan.steps = 0.0, 2 / 101, 20
    places = descent.path(config)
    assert len(places) == 21
    np.testing.assert_allclose(abs(places[20]), abs(places[0]) * (99 / 101) ** 20, rtol=1e-3)


@pytest.mark.parametrize("name", descent.SURFACES)
def test_the_minimum_of_a_surface_is_its_minimum(name):
    height, minimum = descent.SURFACES[name]()
    place = jnp.array(minimum)
    assert height(place) == 0 and not jax.grad(height)(place).any()
    around = jax.random.normal(jax.random.key(0), (50, 2))
    assert (jax.vmap(height)(place + around) > 0).all()


def test_every_picture_is_drawn(small, tmp_path):
    variables = teaching.initial(small)
    rows = [
        {"by": name, "x": None, "settings": {"model.initialization": name}, "curve": [[1, 0.1], [2, 0.5]]}
        for name in ("small", "xavier")
    ]
    result = {"rows": rows, "metric": "accuracy", "set": "validation", "labels": {"by": "first weights"}}
    slope = configuration.load(str(ROOT / "configs/descent/quadratic.py:smoke"))
    ways = [{"by": "sgd", "x": None, "settings": {"optimizer.name": "sgd"}}]
    files = [
        *teaching.demo(small, variables, tmp_path),
        *teaching.compare(small, result, tmp_path / "a.json"),
        *descent.compare(slope, {"rows": ways}, tmp_path / "b.json"),
        *descent.demo(slope, None, tmp_path),
    ]
    assert [file.name for file in files] == ["layers.png", "a_layers.png", "b_paths.png", "path.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert teaching.compare(small, {"rows": [{"x": 1}]}, tmp_path) == []
