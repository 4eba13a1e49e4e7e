"""The sequence rows of `benchmark models`: their peers compute what dlx computes and learn what it learns."""

import importlib
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from dlx.models.gpt import gpt
from experiments.speed import sides
from experiments.speed.models import ROWS

SIZES = {"batch": 2, "time": 7, "vocabulary": 11, "depth": 2, "width": 8}
TINY = {
    "gpt": SIZES | {"heads": 2},
    "bert": SIZES | {"heads": 2, "context": 9},
    "lstm": SIZES,
    "gru": SIZES,
    "transformer": SIZES | {"heads": 2, "hidden": 12},
}
RECURRENT = {"input_kernel": "weight_ih", "recurrent_kernel": "weight_hh", "input_bias": "bias_ih"}
PARTS = {"qkv": ("query", "key", "value"), "key_value": ("key", "value")}


@pytest.fixture(scope="module")
def torch():
    return parity.needed("torch")


@pytest.fixture(scope="module")
def speed(torch):
    """The modules that need torch: sequences, decoding and modules."""
    names = ("sequences", "decoding", "modules")
    return SimpleNamespace(
        **{name: importlib.import_module(f"experiments.speed.torch_{name}") for name in names}
    )


def taken(work):
    """Returns what a module takes of the batch of a work."""
    torch = parity.needed("torch")
    inputs = [torch.tensor(work.batch[x]) for x in work.inputs]
    return [x if x.dtype == torch.bool else x.long() for x in inputs]


def carried(params, module) -> None:
    """Puts dlx's parameters into the module, whose layers have the same names."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        names = [key.key for key in path]
        names = [name for name in names if name not in ("encoder", "layers")]
        name = re.sub(r"(block|encoder|decoder)_(\d+)", r"\1.\2", ".".join(names))
        name = re.sub(r"(block\.\d+)\.(qkv|out)\.", r"\1.attention.\2.", name).replace(
            "target_words", "words"
        )
        leaf = np.asarray(leaf)
        if recurrent := re.fullmatch(r"layer_(\d+)\.(\w+)", name):
            layer, kind = recurrent.groups()
            one_bias = "input_bias" not in params["layers"][f"layer_{layer}"]
            ours = RECURRENT | {"recurrent_bias": "bias_ih" if one_bias else "bias_hh"}
            found[f"layers.{ours[kind]}_l{layer}"] = leaf.T
            continue
        name, _, kind = name.rpartition(".")
        kinds = {"kernel": "weight", "scale": "weight", "embedding": "weight", "positions": "positions"}
        name = ".".join(filter(None, [name, kinds.get(kind, "bias")]))
        found[name] = leaf.T if kind == "kernel" else leaf
    weights = {}
    for name, weight in module.named_parameters():
        owner, _, kind = name.rpartition(".")
        layer = owner.rpartition(".")
        if name in found:
            weights[name] = found.pop(name)
        elif layer[2] in PARTS:
            parts = [found.pop(f"{layer[0]}.{part}.{kind}") for part in PARTS[layer[2]]]
            weights[name] = np.concatenate(parts)
        else:
            assert not weight.requires_grad, name
            weights[name] = np.zeros(weight.shape, np.float32)
    assert not found, f"parameters without a place: {sorted(found)}"
    torch = parity.needed("torch")
    module.load_state_dict({name: torch.tensor(leaf) for name, leaf in weights.items()})


@pytest.mark.parametrize("name", TINY)
def test_a_peer_is_the_same_function_on_the_same_batch(speed, torch, name):
    """Without dropout, with parameters of which nothing is left at 0 or 1: logits and loss."""
    work = speed.sequences.WORKS[name](dtype="float32", dropout=0.0, **TINY[name])
    leaves, tree = jax.tree.flatten(jax.jit(work.init)(jax.random.key(0)))
    rng = np.random.default_rng(0)
    leaves = [leaf + np.float32(0.1 * rng.normal(size=leaf.shape)) for leaf in leaves]
    variables, module = jax.tree.unflatten(tree, leaves), work.module()
    carried(variables.params, module)
    batch, key = jax.device_put(work.batch), jax.random.key(0)
    ours = jax.jit(lambda *args: (work.logits(*args), work.each(*args, key)))
    logits, each = ours(variables, batch)
    parity.outputs_close(logits, module(*taken(work)), 1e-4)
    mean = jnp.mean(each, where=batch["labels"] != speed.sequences.IGNORED)
    learner, labels = speed.modules.Learner(module, work.smoothing), torch.tensor(work.batch["labels"])
    np.testing.assert_allclose(mean, learner(taken(work), labels.long()).item(), rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_both_sides_of_a_row_learn_and_have_as_many_parameters(speed, name):
    contest = speed.sequences.contest(name, **TINY[name])
    ours, theirs = contest.ours(), contest.peers["eager"]()
    assert ours.parameters == theirs.parameters and set(ours.runs) == set(theirs.runs)
    assert contest.examples == 2 * 7 and contest.unit == "tokens"
    for side in (ours, theirs):
        assert all(np.isfinite(run(2)) for run in side.runs.values())
    later = [theirs.runs[sides.STEP](1) for _ in range(60)]
    assert np.mean(later[-5:]) < np.mean(later[:5])


def test_a_peer_drops_in_training_alone(speed, torch):
    for name in TINY:
        work = speed.sequences.WORKS[name](dtype="float32", dropout=0.6, **TINY[name])
        module, inputs = work.module(), taken(work)
        assert not torch.equal(module.train()(*inputs), module(*inputs)), name
        assert torch.equal(module.eval()(*inputs), module(*inputs)), name


def test_all_decoders_write_the_same_tokens(speed, torch):
    sizes = {"vocabulary": 11, "context": 12, "depth": 2, "heads": 2, "width": 8}
    model, module = gpt(**sizes), speed.modules.GPT(**sizes, dropout=0.0).eval()
    prompts = np.random.default_rng(0).integers(0, 11, (2, 4))
    variables = jax.jit(model.init)(jax.random.key(1), prompts)
    rng = np.random.default_rng(7)
    variables = jax.tree.map(lambda leaf: leaf + np.float32(2 * rng.normal(size=leaf.shape)), variables)
    carried(variables.params, module)
    ours = np.asarray(jax.jit(speed.decoding.writer(model, 8))(variables, jnp.asarray(prompts)))
    assert all(len(set(row.tolist())) > 1 for row in ours)
    with torch.inference_mode():
        for whole in (False, True):
            found = speed.decoding.written(module, torch.tensor(prompts), 8, whole=whole)
            np.testing.assert_array_equal(found, ours)


def test_the_row_of_decoding_counts_tokens(speed):
    contest = speed.decoding.contest(batch=2, prompt=3, length=4, vocabulary=11, depth=1, heads=2, width=8)
    assert contest.examples == 8 and contest.unit == "tokens"
    ours, theirs = contest.ours(), contest.peers["eager"]()
    assert ours.parameters == theirs.parameters and ours.compile_s > 0 and theirs.compile_s is None
    assert all(0 <= side.runs[speed.decoding.DECODING](2) < 11 for side in (ours, theirs))


def test_generate_of_transformers_gives_as_many_tokens(speed, torch):
    pytest.importorskip("transformers", reason="one of the decoders is that of transformers")
    sizes = {"vocabulary": 11, "context": 12, "depth": 1, "heads": 2, "width": 8, "dropout": 0.0}
    network = speed.decoding.huggingface(**sizes).eval()
    found = speed.decoding.generated(network, torch.zeros(2, 4, dtype=torch.long), 8)
    assert found.shape == (2, 8)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == sum(weight.numel() for weight in speed.modules.GPT(**sizes).parameters())


def test_the_operations_of_gpt2_are_counted_as_by_palm(speed):
    """Six for each parameter but the positions', and 12 * depth * width * context, of each token."""
    settings = {name: value for name, value in ROWS["gpt2_bf16"].settings.items() if name != "name"}
    work = speed.sequences.gpt_work(**settings)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(work.init, jax.random.key(0))))
    assert parameters == 124_439_808 + (50_304 - 50_257) * 768
    assert 6 * work.macs == 6 * (parameters - 1024 * 768) + 12 * 12 * 768 * 1024
