"""Starting a run from the weights of another: what comes along, what stays, and what is refused."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import same

from dlx import checkpoint, configuration, models, optimizers, pretrained, sharding, train
from dlx.core import Variables
from experiments import runs
from experiments.__main__ import main

ROOT = Path(__file__).parent.parent
FILE = ROOT / "configs/image_classification/fine_tuning.py"
SMOKE = f"{FILE}:smoke"
SHORT = ["--config.plan.steps=6", "--config.plan.eval_every=0", "--config.plan.log_every=6"]


def fitted(config, workdir=None, steps=None):
    """Trains a config on one device, to its last step or to `steps`."""
    run = runs.build(config)
    return train.fit(
        run.task,
        run.optimizer,
        run.plan._replace(steps=steps or run.plan.steps),
        seed=config.seed,
        mesh=sharding.mesh(devices=jax.devices()[:1]),
        workdir=workdir,
        view=optimizers.averaged,
        begin=lambda start, layout, compiled: workdir and runs.claim(workdir, config),
        given=run.given,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run on four classes, and its state."""
    workdir = tmp_path_factory.mktemp("source")
    return workdir, fitted(configuration.load(SMOKE, SHORT), workdir)


def follow(source, *overrides):
    """The config of a run that starts from `source`, on three classes of other images."""
    own = [f"--config.init.from={source}", "--config.source.num_classes=3"]
    config = configuration.load(SMOKE, [*SHORT, *own, *overrides])
    with config.unlocked():
        config.source.seed = 1
    return config


def begun(config):
    """The variables before the first step."""
    run = runs.build(config)
    init = train.make_init(run.task, run.optimizer)
    key = jax.random.split(jax.random.key(config.seed))[0]
    given = run.given(jax.eval_shape(init, key).variables)
    return jax.jit(init)(key, given), jax.jit(init)(key)


def test_everything_comes_along_but_the_head(source):
    workdir, before = source
    state, drawn = begun(follow(workdir))
    old, new = checkpoint.leaves(optimizers.averaged(before)), checkpoint.leaves(state.variables)
    fresh = checkpoint.leaves(drawn.variables)
    assert set(old) == set(new)
    for path in new:
        kept = fresh if path.startswith("params/Dense_0/") else old
        assert np.array_equal(new[path], kept[path]), path
    assert new["params/Dense_0/kernel"].shape[1] == 3
    assert not np.array_equal(fresh["state/standardized/mean"], old["state/standardized/mean"])
    assert not same(
        optimizers.averaged(before).params, before.variables.params
    )  # or either would have passed


def test_the_optimizer_starts_from_the_weights_that_came(source):
    state, _ = begun(follow(source[0]))
    (average,) = [
        node
        for node in jax.tree.leaves(
            state.opt_state, is_leaf=lambda node: isinstance(node, optimizers.Average)
        )
        if isinstance(node, optimizers.Average)
    ]
    assert same(average.params, state.variables.params)


def test_without_a_new_head_the_same_classes_continue_and_other_classes_are_one_error(source):
    workdir, before = source
    state, _ = begun(follow(workdir, "--config.init.new_head=False", "--config.source.num_classes=4"))
    assert same(state.variables, optimizers.averaged(before))
    with pytest.raises(ValueError, match="are not those of this model") as caught:
        begun(follow(workdir, "--config.init.new_head=False"))
    text = str(caught.value)
    assert "params/Dense_0/kernel: is (8, 4), wanted (8, 3)" in text and "params/Dense_0/bias" in text
    assert "Conv_0" not in text and "init.new_head" in text


def test_frozen_weights_stay_to_the_bit_and_their_batch_statistics_follow_the_data(source):
    workdir, _ = source
    config = follow(workdir)
    with config.unlocked():
        config.init.freeze = ["Conv", "BatchNorm"]
        config.optimizer.freeze = "Dense_0/bias"
    start, _ = begun(config)
    end = fitted(config)
    moved = {
        path
        for path, leaf in checkpoint.leaves(end.variables).items()
        if not np.array_equal(leaf, checkpoint.leaves(start.variables)[path])
    }
    statistics = {f"state/batch_stats/BatchNorm_{i}/{name}" for i in (0, 1) for name in ("mean", "var")}
    assert moved == {"params/Dense_0/kernel"} | statistics


def test_a_resumed_run_does_not_read_the_weights_again_and_ends_where_it_would_have(source, tmp_path):
    copy = tmp_path / "source"
    copy.symlink_to(source[0])
    config = follow(copy, "--config.plan.save_every=4")
    whole = fitted(config)
    fitted(config, tmp_path / "run", steps=4)
    copy.unlink()
    assert same(fitted(config, tmp_path / "run"), whole)


def test_a_missing_run_is_answered_with_the_command_that_makes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    missing = f"--config.init.from={tmp_path / 'gone'}"
    assert main(["train", f"--config={SMOKE}", missing, f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    command = (
        "python -m experiments train --config=configs/image_classification/fine_tuning.py:pretrain "
        f"--workdir={tmp_path / 'gone'}"
    )
    assert command in error and not (tmp_path / "run").exists()
    text = re.sub(r"\s*\\\n\s*", " ", FILE.read_text())  # the docstring says the same command
    assert command.replace(str(tmp_path / "gone"), "runs/fine_tuning/fashion_mnist") in text


def test_foreign_folders_other_architectures_and_wrong_fields_are_one_error_each(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=f"there is no run at {tmp_path}"):
        begun(follow(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{tmp_path} has no checkpoint yet"):
        begun(follow(tmp_path))
    with pytest.raises(ValueError, match="are not those of this model") as caught:
        begun(follow(source[0], "--config.model.widths=(4,8,8)"))
    assert "missing: params/Conv_2/kernel (3, 3, 8, 8)" in str(caught.value)
    assert "missing: state/batch_stats/BatchNorm_2/mean (8,)" in str(caught.value)
    with pytest.raises(ValueError, match=r"neither torchvision nor timm has 'convnet'"):
        begun(follow("weights.safetensors"))
    config = follow(source[0])
    with config.unlocked():
        config.init.new_heads = True
    with pytest.raises(ValueError, match="unknown name 'new_heads'; did you mean 'new_head'"):
        runs.optimizer(config)


def test_a_file_of_torchvision_starts_a_run_which_keeps_its_own_scaling(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="reads the file of weights")
    full = models.MODELS["resnet18"](num_classes=7)
    shapes = jax.eval_shape(full.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    file = tmp_path / "resnet18.safetensors"
    safetensors.save_file(pretrained.to_torchvision("resnet18", weights), file)
    config = follow(file)
    with config.unlocked():
        config.model = {"name": "resnet18"}
    scaled = Variables(
        shapes.params, shapes.state | {"standardized": {"mean": np.zeros(3), "std": np.ones(3)}}
    )
    given = runs.initial(config, scaled)
    expected = checkpoint.leaves(weights)
    assert set(given) == {path for path in expected if "/head/" not in path} - {"state/standardized/mean"}
    assert all(np.array_equal(given[path], expected[path]) for path in given)
    with config.unlocked():
        config.init.library = "timms"
    with pytest.raises(ValueError, match="did you mean 'timm'"):
        runs.initial(config, scaled)
    with config.unlocked():
        config.init["from"], config.init.library = str(tmp_path / "none.pth"), "timm"
    with pytest.raises(ValueError, match=r"there is no file of weights .*none.pth"):
        runs.initial(config, scaled)


@pytest.mark.parametrize("name", ["mlp", "lenet", "convnet", "vgg16", "resnet18", "inception_v3", "vit_b32"])
def test_the_head_is_what_depends_on_the_number_of_classes(name):
    """The rule by names against its meaning: the parameters whose shape another number of classes changes."""

    def shapes(classes):
        side = {"inception_v3": 299, "vgg16": 224, "vit_b32": 64}.get(name, 32)
        model, images = models.MODELS[name](num_classes=classes), np.zeros((1, side, side, 3), np.float32)
        return checkpoint.leaves(jax.eval_shape(model.init, jax.random.key(0), images)._asdict())

    few, more = shapes(5), shapes(6)
    changed = {path for path in few if few[path].shape != more[path].shape}
    assert runs.head(few) == changed != set()


def test_a_run_knows_what_it_started_from(source, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = follow(source[0])
    fitted(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["init"]["from"] == str(source[0])


def test_a_classifier_starts_from_the_encoder_of_a_masked_language_model():
    sizes = {"vocabulary": 20, "width": 8, "depth": 1, "heads": 2, "context": 6}
    tokens = np.zeros((1, 6), np.int32)

    def leaves(head):
        model = models.MODELS["bert"](head=head, **sizes)
        return set(checkpoint.leaves(jax.eval_shape(model.init, jax.random.key(0), tokens)._asdict()))

    before, after = leaves("masked_lm"), leaves("classifier")
    assert before - runs.head(before) == after - runs.head(after) != set()
    assert all(path.startswith("params/encoder/") for path in after - runs.head(after))
