"""Deep belief networks: what the stages of a run learn, that they resume exactly, and what they draw."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import same
from sklearn.svm import SVC

from dlx import checkpoint, configuration, report, sharding, train
from dlx.configuration import ConfigError
from dlx.models import rbm
from experiments import deep_belief, runs
from experiments.__main__ import main
from experiments.commands import reproduce

ROOT = Path(__file__).parent.parent
FILE = "configs/deep_belief/digits.py"
SMOKE = f"--config={FILE}:smoke"


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(*overrides):
    return configuration.load(f"{FILE}:smoke", overrides)


def fit(config, steps, given=lambda shapes: {}):
    """Trains one stage, without a workdir; returns its state and what it wrote of the training."""
    run, written = runs.build(config), []
    state = train.fit(
        run.task._replace(evaluators={}),
        run.optimizer,
        runs.Plan(steps, log_every=1),
        mesh=sharding.mesh(devices=jax.devices()[:1]),
        write=lambda step, name, values: written.append(values),
        given=given,
    )
    return state, written


def test_a_stage_is_the_config_with_its_own_values():
    config = load()
    (first, one), (second, two), (last, three) = runs.stages(config)
    assert [first, second, last] == ["layer_0", "layer_1", "classifier"]
    assert [c.learn for c in (one, two, three)] == [first, second, last]
    assert one.optimizer.to_dict() == config.stages[0]["optimizer"] and three.optimizer == config.optimizer
    assert [c.init.stage for c in (one, two, three)] == ["", "layer_0", "layer_1"]
    assert all("stages" not in c for c in (one, two, three)) and one.is_locked
    assert one.plan.steps == 60 and one.plan.log_every == config.plan.log_every
    assert runs.stages(one) == [("", one)]


def staged(*stages):
    config = load()
    with config.unlocked():
        config.stages = list(stages)
    return config


def test_a_stage_may_start_from_an_earlier_one_from_a_run_or_from_nothing():
    config = staged(
        {"name": "a"},
        {"name": "b"},
        {"name": "c", "init.stage": "a"},
        {"name": "d", "init.from": "runs/x"},
        {"name": "e", "init.stage": ""},
    )
    found = [(c.init.stage, c.init["from"]) for _, c in runs.stages(config)]
    assert found == [("", ""), ("a", ""), ("a", ""), ("", "runs/x"), ("", "")]


@pytest.mark.parametrize(
    "stages, message",
    [
        ([], "config.stages is empty"),
        ([{"learn": "layer_0"}], "'' cannot be the name of a stage"),
        ([{"name": "../a"}], "'../a' cannot be the name"),
        ([{"name": "checkpoints"}], "'checkpoints' cannot be the name"),
        ([{"name": "a"}, {"name": "a"}], "'a' cannot be the name of a stage.*other than those before it"),
        ([{"name": "a", "lern": "layer_0"}], "'lern'; did you mean 'learn'"),
        ([{"name": "a", "plan.step": 3}], "'step'; did you mean 'steps'"),
        ([{"name": "a", "batch.size": 3}], "config.batch is 64 and has no 'size'"),
        ([{"name": "a"}, {"name": "b", "init.stage": "c"}], "'c'; there are a"),
    ],
    ids=str,
)
def test_stages_that_make_no_sense_are_named(stages, message):
    with pytest.raises(ConfigError, match=message):
        runs.stages(staged(*stages))


def test_an_unknown_thing_to_learn_is_named():
    with pytest.raises(ConfigError, match="'layer_2'; did you mean 'layer_"):
        runs.build(load("--config.learn=layer_2"))


def test_a_machine_learns_and_leaves_all_else_alone():
    _, config = runs.stages(load())[1]
    before, _ = fit(config, 1)
    after, written = fit(config, 60)
    old, new = before.variables.params, after.variables.params
    assert same(old["layer_0"], new["layer_0"]) and same(old["head"], new["head"])
    assert all(not same(old["layer_1"][name], new["layer_1"][name]) for name in new["layer_1"])
    losses = [values["loss"] for values in written]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.parametrize("units", rbm.UNITS)
def test_the_lowest_machine_learns_by_persistent_chains_too(units):
    config = load("--config.model.chains=16", f"--config.model.units={units}")
    (_, config), *_ = runs.stages(config)
    with config.unlocked():
        config.schedule.peak = 0.05 if units == "binary" else 0.005
    before, _ = fit(config, 1)
    after, written = fit(config, 60)
    assert not same(before.variables.state["layer_0"]["chain"], after.variables.state["layer_0"]["chain"])
    assert same(before.variables.state["layer_1"], after.variables.state["layer_1"])
    losses = [values["loss"] for values in written]
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])


def test_a_sparsity_target_is_approached():
    on = {}
    for cost in (0.0, 0.1):
        _, config = runs.stages(load(f"--config.divergence.sparsity_cost={cost}"))[0]
        with config.unlocked():
            config.divergence.sparsity_target, config.plan.steps = 0.1, 300
        _, written = fit(config, 300)
        on[cost] = np.mean([values["activation"] for values in written[-20:]])
    assert abs(on[0.1] - 0.1) < 0.15 < 0.3 < abs(on[0.0] - 0.1)


def test_what_pixels_are_scaled_by_comes_from_training_images_alone(monkeypatch):
    before = {units: deep_belief.scale(load(f"--config.model.units={units}")) for units in rbm.UNITS}
    source = deep_belief.data(load())
    poisoned = source.splits | {name: source.splits[name] | {"image": source.splits[name]["image"] + 200}
                                for name in ("validation", "test")}  # fmt: skip
    monkeypatch.setattr(deep_belief, "_load", lambda *_: source._replace(splits=poisoned))
    deep_belief._statistics.cache_clear()
    after = {units: deep_belief.scale(load(f"--config.model.units={units}")) for units in rbm.UNITS}
    deep_belief._statistics.cache_clear()
    assert same(before, after)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three stages that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert main(["train", SMOKE, f"--workdir={workdir}"]) == 0
    return workdir


def test_each_stage_is_an_ordinary_run_that_starts_from_the_one_before(whole, capsys):
    assert [part.name for part in runs.parts(whole)] == ["layer_0", "layer_1", "classifier"]
    first, second, last = (runs.restore(part)[3] for part in runs.parts(whole))
    assert same(first.params["layer_0"], second.params["layer_0"])
    assert not same(first.params["layer_1"], second.params["layer_1"])
    assert not same(second.params["layer_0"], last.params["layer_0"])  # backpropagation moves all
    assert main(["evaluate", f"--workdir={whole}", "--json"]) == 0
    at_the_end = json.loads(capsys.readouterr().out)
    assert main(["evaluate", f"--workdir={whole / 'classifier'}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == at_the_end and "error" in at_the_end["test"]
    assert main(["evaluate", f"--workdir={whole / 'layer_0'}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["log_likelihood"] < 0


def test_the_network_of_a_stage_begins_as_what_the_stage_before_ended_as(whole):
    name, config = runs.stages(load())[2]
    run = runs.build(config, whole / name)
    shapes = jax.eval_shape(run.task.init, jax.random.key(0))
    given, before = run.given(shapes), runs.restore(whole / "layer_1")[3]
    held = checkpoint.leaves(before._asdict())
    assert given.keys() == held.keys() and all(same(given[path], held[path]) for path in held)
    x = deep_belief.pixels(before, deep_belief.data(config).splits["test"]["image"][:5])
    assert x.min() >= 0 and x.max() == 1


def manifests(workdir):
    """Returns the checksums of the last checkpoints of all stages."""
    files = [part / "checkpoints" / "60" / "manifest" / "metadata" for part in runs.parts(workdir)]
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize("calls", [1, 40, 80, 150])
def test_a_run_stopped_in_any_stage_ends_bit_for_bit_where_it_would_have_ended(
    calls, whole, tmp_path, monkeypatch
):
    """The power fails after so many steps; those after the last checkpoint are lost."""
    count = 0
    make_task = deep_belief.make_task

    def failing(config):
        task = make_task(config)

        def batch(step):
            nonlocal count
            count += 1
            if count > calls:
                raise KeyboardInterrupt
            return task.batch(step)

        return task._replace(batch=batch)

    with monkeypatch.context() as patch:
        patch.setattr(deep_belief, "make_task", failing)
        assert main(["train", SMOKE, f"--workdir={tmp_path}"]) == 130
    begun = [part for part in runs.parts(tmp_path) if part.exists()]
    times = {part: (part / "metrics.jsonl").stat().st_mtime_ns for part in begun[:-1]}
    assert main(["train", SMOKE, f"--workdir={tmp_path}"]) == 0
    assert manifests(tmp_path) == manifests(whole)
    assert all((part / "metrics.jsonl").stat().st_mtime_ns == times[part] for part in times)  # left alone


def test_another_config_or_a_run_without_stages_is_refused(whole, capsys):
    assert main(["train", SMOKE, f"--workdir={whole}", "--config.batch=32"]) == 2
    assert "config.batch: 64 -> 32" in capsys.readouterr().err
    assert main(["train", "--config=configs/image_classification/digits.py:smoke", f"--workdir={whole}"]) == 2
    assert "is the run of another config" in capsys.readouterr().err


def test_reproduce_reports_the_last_stage_and_the_time_of_all(whole):
    result = reproduce.summarize(load(), [whole])
    assert result["metric"] == "error" and 0 <= result["mean"] <= 1 and result["verdict"] == "baseline"
    parts = [reproduce.seconds(report.read(part)) for part in runs.parts(whole)]
    assert result["train_seconds"] == [round(sum(parts), 1)] and len(parts) == 3


def test_an_init_from_a_staged_run_takes_its_last_stage(whole):
    config = load(f"--config.init.from={whole}", "--config.init.new_head=True")
    given = runs.initial(config, jax.eval_shape(runs.build(config).task.init, jax.random.key(0)))
    last = checkpoint.leaves(runs.restore(whole / "classifier")[3]._asdict())
    assert same(given["params/layer_1/kernel"], last["params/layer_1/kernel"])
    assert not [path for path in given if "head" in path] and "state/standardized/std" in given


def test_demo_draws_every_stage(whole, capsys):
    assert main(["demo", f"--workdir={whole}"]) == 0
    drawn = sorted(str(file.relative_to(whole)) for file in whole.rglob("*.png"))
    machine = ["curves", "filters", "reconstructions", "samples"]
    wanted = [f"layer_{n}/figures/{name}.png" for n in (0, 1) for name in machine]
    assert drawn == sorted(
        wanted + [f"classifier/figures/{n}.png" for n in ("confusion", "curves", "mistakes")]
    )


def test_an_autoencoder_learns_and_stands_beside_principal_components(tmp_path):
    config = load("--config.learn=autoencoder", "--config.schedule.peak=0.01")
    _, written = fit(config, 60)
    assert written[-1]["squared_error"] < written[0]["squared_error"]
    run = runs.build(config)
    variables = run.task.init(jax.random.key(0))
    found = run.task.evaluators["test"](variables)
    assert 0 < found["squared_error_pca"] < found["squared_error"]
    assert deep_belief.demo(config, variables, tmp_path)[0].read_bytes().startswith(b"\x89PNG")


def test_a_classifier_stands_beside_support_vectors_of_the_same_images():
    config = load()
    task = runs.build(config).task
    found = task.evaluators["test"](task.init(jax.random.key(0)))
    train, test = (deep_belief.data(config).splits[name] for name in ("train", "test"))
    own = SVC().fit(train["image"].reshape(len(train["image"]), -1), train["label"])
    right = own.score(test["image"].reshape(len(test["image"]), -1), test["label"])
    assert found["error_support_vectors"] == pytest.approx(1 - right) and 0 < 1 - right < 0.03
