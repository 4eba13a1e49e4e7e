import functools
import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from dlx import feed, losses, metrics, sharding, train
from dlx.core import Plan, Task
from dlx.layers.convolution import Conv, max_pool
from dlx.layers.depthwise import DepthwiseConv
from dlx.layers.normalization import BatchNorm
from dlx.layers.regularization import dropout
from dlx.models import MODELS, gpt
from dlx.nn import from_linen
from dlx.sharding import P

MESHES = [(1, 1), (8, 1), (4, 2), (2, 4), (1, 8)]
WORDS, TIME, BATCH, WIDTH = 64, 8, 16, 32
SMALL = 128  # elements from which on the tests divide an array


def test_a_mesh_takes_the_devices_that_are_left_and_its_axes_are_auto():
    mesh = sharding.mesh({"model": 2})
    assert dict(mesh.shape) == {"data": 4, "model": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}  # Linen's convolutions need them


@pytest.mark.parametrize(
    "shape, message",
    [({"dta": 2}, "unknown mesh axes"), ({"data": 3}, "does not fit 8"), ({"model": 0}, "not fit")],
)
def test_a_mesh_that_cannot_be_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        sharding.mesh(shape)


def test_a_mesh_is_read_from_a_command_line():
    assert sharding.parsed("data=4,model=2") == {"data": 4, "model": 2}
    assert sharding.parsed("model=8") == {"model": 8} and sharding.parsed("") == {}
    for wrong in ("4x2", "data=", "data=4;model=2", "rows=2"):
        with pytest.raises(ValueError, match="is no mesh|unknown mesh axes"):
            sharding.parsed(wrong)


@pytest.mark.parametrize("size, hint", [(12, "8 or 16"), (3, "8"), (0, "8")])
def test_a_batch_that_cannot_be_divided_names_sizes_that_can(size, hint):
    with pytest.raises(ValueError, match=f"multiple of 8, for example {hint}$"):
        sharding.check_batch(size, sharding.mesh())
    sharding.check_batch(16, sharding.mesh())


def test_a_placed_batch_is_split_over_data(line):
    with jax.set_mesh(sharding.mesh({"model": 2})):
        placed = feed.place(line[0].batch(0))
    assert placed["x"].sharding.shard_shape(placed["x"].shape) == (4, 3)
    batch = line[0].batch(0)
    assert feed.place(batch) is batch  # on one device the step itself takes it


def test_one_process_reads_every_row():
    assert feed.rows(12) == slice(0, 12)


def specs(shapes, mesh, **options):
    """The PartitionSpec of every leaf, by path."""
    leaves = jax.tree.leaves_with_path(sharding.layout(shapes, mesh, **options))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {name: leaf.sharding.spec for name, (_, leaf) in zip(names, leaves, strict=True)}


def shapes_of(name, **settings):
    """The shapes of a model's parameters, and of what Adam keeps of them."""
    tokens = jnp.zeros((1, 4), jnp.int32)
    inputs = {"transformer": (tokens, tokens > 0, tokens), "vit_s16": (jnp.zeros((1, 16, 16, 3)),)}
    init = MODELS[name](**settings).init
    params = jax.eval_shape(init, jax.random.key(0), *inputs.get(name, (tokens,))).params
    return {"params": params, "opt_state": jax.eval_shape(optax.adam(1e-3).init, params)}


TRANSFORMERS = {
    "gpt": {"vocabulary": WORDS, "context": 8, "depth": 2, "heads": 4, "width": 16},
    "llama": {"vocabulary": WORDS, "context": 8, "depth": 2, "heads": 4, "width": 16, "hidden": 32},
    "bert": {"vocabulary": WORDS, "context": 8, "depth": 2, "heads": 4, "width": 16},
    "transformer": {
        "source_vocabulary": WORDS,
        "target_vocabulary": WORDS,
        "depth": 2,
        "heads": 4,
        "width": 16,
        "hidden": 32,
    },
    "vit_s16": {"num_classes": 8, "width": 16, "depth": 2, "heads": 4, "hidden": 32},
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_matrix_of_a_transformer_s_blocks_is_divided_and_so_is_what_adam_keeps_of_it(name):
    found = specs(shapes_of(name, **TRANSFORMERS[name]), sharding.mesh({"model": 4}))
    blocks = [path for path in found if re.search(r"(block|encoder|decoder)_\d", path) and "kernel" in path]
    assert len(blocks) >= 3 * 2 * 4
    assert all("model" in found[path] for path in blocks)
    for path in blocks:
        down = re.search(r"(out|down|dense_2|qkv)/kernel$", path)
        assert found[path] == (P("model") if down else P(None, "model")), path
    tables = [path for path in found if re.search("(tokens|head|words)/embedding", path)]
    assert all(found[path] == P("model") for path in tables) and (tables or name == "vit_s16")
    for path in found:  # whose other axes and other leaves stay whole
        assert "data" not in found[path]
        if "norm" in path or path.endswith("count"):
            assert found[path] == P()


def test_only_axes_that_the_devices_divide_are_divided():
    shapes = {"block_0": {"query": {"kernel": jax.ShapeDtypeStruct((6, 10), "float32")}}}
    assert specs(shapes, sharding.mesh({"model": 4}))["block_0/query/kernel"] == P()
    assert specs(shapes, sharding.mesh({"model": 2}))["block_0/query/kernel"] == P(None, "model")


def test_large_arrays_are_divided_over_data_along_their_longest_axis_that_is_left():
    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, "float32")

    shapes = {"a": leaf(8, 24), "b": leaf(7, 8), "c": leaf(7, 7), "d": leaf(8), "e": leaf(), "f": leaf(0, 8)}
    shapes |= {"block_0": {"down": {"kernel": leaf(64, 8)}, "dense_1": {"kernel": leaf(8, 64)}}}
    mesh = sharding.mesh({"data": 4, "model": 2})
    found = specs(shapes, mesh, fsdp=9)
    assert [found[name] for name in "abcdef"] == [P(None, "data"), P(None, "data"), P(), P(), P(), P()]
    assert found["block_0/down/kernel"] == P("model", "data")
    assert found["block_0/dense_1/kernel"] == P("data", "model")
    assert specs(shapes, mesh)["a"] == P()


def tokens_of(step):
    rows = np.random.default_rng((3, step)).integers(0, WORDS, (BATCH, TIME + 1)).astype(np.int32)
    return {"x": rows[:, :-1], "y": rows[:, 1:]}


def images_of(step):
    rng = np.random.default_rng((3, step))
    return {"x": rng.normal(size=(BATCH, 8, 8, 4)).astype(np.float32), "y": rng.integers(0, 8, BATCH)}


def decoder(name, **settings):
    sizes = {"vocabulary": WORDS, "context": TIME, "depth": 1, "heads": 8, "width": WIDTH, "dropout": 0.1}
    model = MODELS[name](**sizes | settings)

    def loss(variables, batch, key):
        states, state = model.apply(variables, batch["x"], hidden=True, key=key)
        each = losses.chunked_cross_entropy(states, gpt.head(variables), batch["y"], chunk=64)
        return each.mean(), (state, {"loss": metrics.mean(each)})

    return Task(lambda key: model.init(key, jnp.zeros((1, 1), jnp.int32)), loss, tokens_of)


class Network(nn.Module):
    """The layers that have forms of their own on a CPU, or look at the whole batch."""

    @nn.compact
    def __call__(self, x, *, train):
        x = Conv(64, (3, 3), use_bias=False)(x)
        x = max_pool(nn.relu(BatchNorm(not train)(x)))
        x = nn.relu(BatchNorm(not train)(DepthwiseConv(3)(x)))
        return nn.Dense(8)(nn.Dropout(0.1, deterministic=not train)(x.mean((1, 2))))


def classifier(model):
    def loss(variables, batch, key):
        logits, state = model.apply(variables, batch["x"], key=key)
        each = losses.softmax_cross_entropy(logits, batch["y"])
        return each.mean(), (state, {"loss": metrics.mean(each)})

    return Task(lambda key: model.init(key, jnp.zeros((1, 8, 8, 4))), loss, images_of)


TASKS = {
    "mlp": lambda: classifier(MODELS["mlp"](num_classes=8, hidden=(32, 32))),
    "cnn": lambda: classifier(from_linen(Network())),
    "gpt": lambda: decoder("gpt"),
    "llama": lambda: decoder("llama", hidden=64),
}
ADAM = optax.adamw(3e-3)


@functools.cache
def initial(name):
    return jax.device_get(jax.jit(train.make_init(TASKS[name](), ADAM))(jax.random.key(0)))


def built(name, shape, fsdp):
    """The state on a mesh, and the compiled step."""
    task, devices = TASKS[name](), jax.devices()[: math.prod(shape)]
    mesh = sharding.mesh(dict(zip(sharding.AXES, shape, strict=True)), devices)

    with jax.set_mesh(mesh):
        layout = sharding.layout(initial(name), mesh, fsdp=fsdp)
        placement = jax.tree.map(lambda leaf: leaf.sharding, layout)
        state = jax.device_put(initial(name), placement)
        step = train.make_step(sharding.gathering(task.loss, placement.variables), ADAM)
        call = jax.jit(step, donate_argnums=0, out_shardings=(placement, None))
        lowered = call.lower(layout, feed.place(task.batch(0)), jax.random.key(1))
        return state, lowered.compile(train.ONCE), mesh


@functools.cache
def program(name, shape, fsdp=None):
    """The losses of four steps on a mesh, the state after them, and the compiled step."""
    state, compiled, mesh = built(name, shape, fsdp)
    found = []
    with jax.set_mesh(mesh):
        for number in range(4):
            state, report = compiled(state, feed.place(TASKS[name]().batch(number)), jax.random.key(1))
            found.append(metrics.summarize({"loss": report["loss"]})["loss"])
    return found, state, compiled


PLACES = [*((shape, None) for shape in MESHES), *((shape, SMALL) for shape in MESHES if shape[0] > 1)]


@pytest.mark.parametrize(
    "name, shape, fsdp",
    [(name, *place) for name in ("mlp", "gpt") for place in PLACES]
    + [("cnn", shape, None) for shape in MESHES]
    + [("cnn", (4, 2), SMALL)],
)
def test_the_losses_are_those_of_one_device(name, shape, fsdp):
    found, state, _ = program(name, shape, fsdp)
    alone, before, _ = program(name, (1, 1))
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    for leaf, one in zip(*map(jax.tree.leaves, (state, before)), strict=True):
        np.testing.assert_allclose(leaf, one, rtol=1e-3, atol=1e-5)  # statistics of the whole batch, too


def sent(name, shape, fsdp=None):
    """What the compiled step sends: {kind: the sizes, in elements, of what a device has in the end}."""
    found = {}
    for message in sharding.collectives(program(name, shape, fsdp)[2].as_text()):
        found.setdefault(message.kind, []).extend(sharding.bytes_of(each) // 4 for each in message.shapes)
    return found


def parts(name, shape, fsdp=None):
    """The sizes of the parameters as they are used, and of those alone that are gathered for it."""
    _, state, _ = program(name, shape, fsdp)
    kept = jax.tree.map(lambda leaf: leaf.sharding, state.variables.params)
    used = jax.tree.map(
        lambda leaf, where: math.prod(where.shard_shape(leaf.shape)),
        state.variables.params,
        sharding.whole(kept),
    )
    divided = jax.tree.map(lambda where: "data" in where.spec, kept)
    sizes = jax.tree.leaves(used)
    return sizes, [size for size, gathered in zip(sizes, jax.tree.leaves(divided), strict=True) if gathered]


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt"])
def test_data_parallel_sums_the_gradients_and_sends_nothing_else(name):
    assert sent(name, (1, 1)) == {}
    found, (sizes, _) = sent(name, (8, 1)), parts(name, (8, 1))
    assert found.keys() == {"all-reduce"}
    assert set(found["all-reduce"]) <= {*sizes, 1} and sum(found["all-reduce"]) >= sum(sizes)
    in_loops = re.findall(r"all-reduce\(.*while/body", program(name, (8, 1))[2].as_text())
    assert not in_loops  # the sums of the loss's chunks are sent once


def test_fsdp_gathers_each_divided_parameter_once_and_sums_the_gradients():
    """On a CPU XLA sums and cuts; elsewhere its passes make a reduce-scatter of the two."""
    found, (sizes, gathered) = sent("gpt", (8, 1), SMALL), parts("gpt", (8, 1), SMALL)
    assert found.keys() - {"reduce-scatter"} == {"all-gather", "all-reduce"} and len(gathered) > 5
    assert sorted(found["all-gather"]) == sorted(gathered)
    assert set(found["all-reduce"]) <= {*sizes, 1}


def test_tensor_parallel_sums_activations():
    activations, chunk = BATCH * TIME * WIDTH, 64  # of the loss
    found = sent("llama", (1, 8))
    assert found.keys() == {"all-reduce"}
    assert found["all-reduce"].count(activations) == 1 + 2 + 5  # words, outputs of both halves, their inputs
    assert set(found["all-reduce"]) == {activations, chunk * WIDTH, chunk, 1}


def test_the_fused_projections_of_a_gpt_move_their_kernel_there_and_back():
    found = sent("gpt", (1, 8))
    assert found.keys() == {"all-reduce", "all-to-all", "all-gather"}
    assert sum(found["all-to-all"]) == 2 * WIDTH * 3 * WIDTH // 8
    assert found["all-gather"] == [3 * WIDTH]  # the gradient of their bias


def test_both_together_send_what_each_does():
    found, (sizes, gathered) = sent("llama", (2, 4), SMALL), parts("llama", (2, 4), SMALL)
    assert found.keys() - {"reduce-scatter"} == {"all-gather", "all-reduce"}
    assert sorted(found["all-gather"]) == sorted(gathered)
    activations, chunk = BATCH * TIME * WIDTH // 2, 32
    assert set(found["all-reduce"]) <= {*sizes, activations, chunk * WIDTH, chunk, 1}
    np.testing.assert_allclose(program("llama", (2, 4), SMALL)[0], program("llama", (1, 8))[0], rtol=1e-5)


def test_nothing_is_replicated_because_the_partitioner_knows_no_better():
    home = Path(__file__).parent
    anew = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # what is found in a cache has no warnings
    done = subprocess.run(
        [sys.executable, "-c", "import conftest, test_sharding; test_sharding.compile_both()"],
        env=os.environ | anew | {"PYTHONPATH": f"{home.parent}{os.pathsep}{home}"},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    ours, worst = done.stderr.split(BETWEEN)
    assert "rematerialization" not in ours
    assert "Involuntary full rematerialization" in worst  # where it is so, it is seen


BETWEEN = "and now the worst"


def compile_both():
    """Compiles a step of GPT, then a program that has to be divided in the worst way."""
    built("gpt", (2, 4), SMALL)
    print(BETWEEN, file=sys.stderr, flush=True)
    rows, columns = (sharding.NamedSharding(sharding.mesh({"model": 4}), P(*axes)) for axes in WORST)
    place = jax.lax.with_sharding_constraint
    jax.jit(lambda x: place(jnp.sin(place(x, rows)), columns)).lower(jnp.ones((16, 16, 8))).compile()


WORST = [(("data", "model"),), (None, "data")]


def peak(name, shape, fsdp=None):
    """The most that a device holds in a step, in bytes, and what it holds between steps."""
    memory = program(name, shape, fsdp)[2].memory_analysis()
    rest = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + rest, memory.argument_size_in_bytes


def test_the_peak_memory_of_a_device_falls_as_the_mesh_grows():
    growing = [peak("mlp", (1, 1)), *(peak("mlp", (count, 1), SMALL) for count in (2, 4, 8))]
    for (more, kept_more), (less, kept_less) in itertools.pairwise(growing):
        assert less < 0.9 * more and kept_less < 0.6 * kept_more
    one, kept_by_one = peak("gpt", (1, 1))
    for shape, fsdp in PLACES[1:]:
        several, kept = peak("gpt", shape, fsdp)
        assert several < 0.8 * one
        assert kept < (kept_by_one if fsdp is None and shape[1] == 1 else 0.6 * kept_by_one)


@pytest.mark.parametrize("shape", MESHES[1:])
def test_dropout_has_the_same_mask_on_every_mesh(shape, key):
    x = jax.random.normal(key, (16, 6, 32))
    mesh = sharding.mesh(dict(zip(sharding.AXES, shape, strict=True)))
    with jax.set_mesh(mesh):
        where = sharding.batch(mesh)
        found = jax.jit(lambda x: dropout(x, 0.5, key), out_shardings=where)(jax.device_put(x, where))
    np.testing.assert_array_equal(found, dropout(x, 0.5, key))


def test_evaluation_has_parameters_as_a_whole_and_training_does_not():
    task, seen, layouts = TASKS["mlp"](), [], []

    def evaluate(variables):
        seen.extend(leaf.sharding.spec for leaf in jax.tree.leaves(variables))
        return {"nothing": 0.0}

    task = task._replace(evaluators={"validation": evaluate})
    state = train.fit(
        task, ADAM, Plan(1), fsdp=SMALL, begin=lambda start, layout, step: layouts.append(layout)
    )
    assert not any("data" in spec for spec in seen) and len(seen) == 6
    kept = [leaf.sharding.spec for leaf in jax.tree.leaves(state)]
    assert kept == [leaf.sharding.spec for leaf in jax.tree.leaves(layouts[0])]
    assert sum("data" in spec for spec in kept) == 3 * 3  # three kernels, and what Adam keeps of them


def test_messages_are_read_from_a_program():
    lines = [
        "  %all-reduce.1 = (f32[8,4]{1,0}, /*index=1*/bf16[3]{0}, pred[]) all-reduce(%a, %b), channel_id=1",
        "  %all-gather-start = f32[16]{0} all-gather-start(%d), channel_id=2",
        "  %add = f32[16]{0} add(%all-gather.1, %all-reduce(1))",
    ]
    first, second = sharding.collectives("\n".join(lines))
    assert first == ("all-reduce", ("f32[8,4]", "bf16[3]", "pred[]")) and first.size == 4 * 32 + 6 + 1
    assert second == ("all-gather", ("f32[16]",)) and second.size == 64
