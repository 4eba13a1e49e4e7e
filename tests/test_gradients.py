"""Every loss, every layer and a small model of every family against finite differences, in float64.

What is float32 by design (softmax, statistics, losses) is float64 here: `doubled` puts it in its place where
the code says so, and the same code is checked to nine digits and not to three.
"""

import ast
import contextlib
import functools
import sys
import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import losses
from dlx.core import Variables
from dlx.layers import (
    activation,
    attention,
    convolution,
    dense,
    depthwise,
    embedding,
    normalization,
    recurrent,
    regularization,
    reversible,
    winograd,
)
from dlx.models import MODELS, efficientnet, inception, rbm, resnet, vgg
from dlx.train import ONCE

ROOT = Path(__file__).parent.parent
STEP = 1e-6  # of central differences, relative to numbers of size 1
LAYERS = sorted(ROOT.glob("dlx/layers/*.py"))
KEY = jax.random.key(3)


class Double(types.ModuleType):
    """`jax.numpy`, but its float32 is float64."""

    def __getattr__(self, name):
        return jnp.float64 if name == "float32" else getattr(jnp, name)


def widened(call, arguments, options, context):
    """Calls a method of a Linen module, whose compute dtype is float64 where it was float32."""
    if getattr(context.module, "dtype", None) == "float32":
        object.__setattr__(context.module, "dtype", "float64")
    return call(*arguments, **options)


@contextlib.contextmanager
def doubled():
    """Lets losses, layers and models compute in float64 within."""
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True), nn.intercept_methods(widened):
        for name, module in list(sys.modules.items()):
            if name.startswith(("dlx.layers.", "dlx.models", "dlx.losses")) and hasattr(module, "jnp"):
                patch.setattr(module, "jnp", Double("jnp"))
        yield


def agree(function, *arguments):
    """Asserts that the gradient by each floating-point leaf of the arguments is that of central differences.

    Along one random direction for each leaf, of the sum of all outputs times random numbers.
    """
    rng = np.random.default_rng(0)
    leaves, structure = jax.tree.flatten(arguments)
    leaves = [
        jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.asarray(leaf)
        for leaf in leaves
    ]
    real = [index for index, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert real, "there is nothing to differentiate by"

    def total(chosen):
        whole = list(leaves)
        for index, leaf in zip(real, chosen, strict=True):
            whole[index] = leaf
        outputs = [
            out
            for out in jax.tree.leaves(function(*jax.tree.unflatten(structure, whole)))
            if jnp.issubdtype(out.dtype, jnp.floating)
        ]
        assert all(out.dtype == jnp.float64 for out in outputs), [out.dtype for out in outputs]
        weights = np.random.default_rng(1)
        return sum((out * weights.normal(size=out.shape)).sum() for out in outputs)

    place = [leaves[index] for index in real]
    both = jax.jit(jax.value_and_grad(total)).lower(place).compile(ONCE)
    found = both(place)[1]
    for number, leaf in enumerate(place):
        way = rng.normal(size=leaf.shape)
        ends = [
            both([*place[:number], leaf + sign * STEP * way, *place[number + 1 :]])[0] for sign in (1, -1)
        ]
        numeric, exact = (ends[0] - ends[1]) / (2 * STEP), (found[number] * way).sum()
        assert np.isfinite(exact)
        assert abs(numeric - exact) <= 1e-6 * max(abs(exact), 1), f"leaf {number}: {exact}, not {numeric}"


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def module(layer, *inputs, **settings):
    """Returns a Linen module's function of its parameters and of inputs, and these."""
    variables = jax.eval_shape(functools.partial(layer.init, **settings), KEY, *inputs)
    params, state = drawn(variables.pop("params")), drawn(variables, least=0.5)

    def apply(params, *inputs):
        rngs = {"dropout": KEY}
        return layer.apply({"params": params, **state}, *inputs, rngs=rngs, mutable=list(state), **settings)[
            0
        ]

    return apply, params, *inputs


def drawn(shapes, least=None):
    """Returns random arrays of these shapes, positive ones where they have a least value."""
    leaves, structure = jax.tree.flatten(shapes)
    arrays = [0.4 * normal(*leaf.shape, seed=seed) for seed, leaf in enumerate(leaves)]
    arrays = [array if least is None else abs(array) + least for array in arrays]
    return jax.tree.unflatten(structure, arrays)


def heads(groups=2, time=5):
    return (
        normal(2, time, 4, 3, seed=1),
        normal(2, time, groups, 3, seed=2),
        normal(2, time, groups, 3, seed=3),
    )


def cached(query, key, value):
    empty = attention.KeyValue(normal(2, 2, 8, 3, seed=4), normal(2, 2, 8, 3, seed=5))
    return attention.attend_cached(query, key, value, empty, jnp.array([0, 2]))


def cell(step, gates):
    def run(inputs, products, *carry):
        return step(inputs, products, carry)

    return run, normal(2, 3 * gates), normal(2, 3 * gates, seed=1)


def recurred(name, gates, reverse):
    cell = recurrent.CELLS[name]

    def run(inputs, kernel, bias, carry):
        mask = jnp.asarray(MASK[:2].T)
        return recurrent.recur(cell.step, reverse, inputs, kernel, bias, carry[: cell.carried], mask)

    return run, normal(4, 2, 3 * gates), normal(3, 3 * gates), normal(3 * gates), CARRY


def summed(times, constants, carry, x):
    carry = jnp.tanh(times("kernel", carry) + x)
    return carry, carry**2


IMAGE = normal(2, 6, 6, 3)
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
SEGMENTS = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 2]])
CARRY = (normal(2, 3, seed=7), normal(2, 3, seed=8))
LABELS = np.array([0, 3, 1])

LOSSES = {  # name -> the checks of it: (function, arguments)
    "softmax_cross_entropy": lambda: [
        (lambda x: losses.softmax_cross_entropy(x, LABELS), normal(3, 4)),
        (lambda x: losses.softmax_cross_entropy(x, LABELS, 0.2), normal(3, 4)),
        (losses.softmax_cross_entropy, normal(3, 4), abs(normal(3, 4, seed=1))),
    ],
    "chunked_cross_entropy": lambda: [
        (lambda x, w: losses.chunked_cross_entropy(x, w, LABELS, 0.1, chunk=2), normal(3, 5), normal(4, 5))
    ],
    "binary_cross_entropy": lambda: [(losses.binary_cross_entropy, normal(3, 4), abs(normal(3, 4, seed=1)))],
    "mean_squared_error": lambda: [(losses.mean_squared_error, normal(3, 4), normal(3, 4, seed=1))],
    "gaussian_kl": lambda: [(losses.gaussian_kl, normal(3, 4), normal(3, 4, seed=1))],
    "quantile_loss": lambda: [
        (lambda x, y: losses.quantile_loss(x, y, [0.1, 0.5, 0.9]), normal(4, 3), normal(4, seed=1))
    ],
}
CHECKS = {  # module.name of a layer -> the checks of it
    "activation.gelu": lambda: [(activation.gelu, 2 * normal(7))],
    "activation.chance": lambda: [(activation.chance, normal(7))],
    "attention.attend": lambda: [
        (attention.attend, *heads()),
        (lambda *x: attention.attend(*x, causal=True, window=2), *heads()),
        (lambda *x: attention.attend(*x, segments=jnp.asarray(SEGMENTS)), *heads()),
        (lambda *x: attention.attend(*x, lengths=jnp.array([5, 2])), *heads(groups=4)),
    ],
    "attention.attend_cached": lambda: [(cached, *heads())],
    "attention.blocked": lambda: [
        (lambda *x: attention.blocked(*x, causal=True, span=2), *heads()),
        (lambda *x: attention.blocked(*x, causal=True, chunk=2), *heads()),
    ],
    "attention.SelfAttention": lambda: [module(attention.SelfAttention(heads=2), normal(2, 4, 6))],
    "convolution.Conv": lambda: [module(convolution.Conv(4, (3, 3), strides), IMAGE) for strides in (1, 2)],
    "convolution.convolve": lambda: [
        (convolution.convolve, IMAGE, normal(3, 3, 3, 4)),
        (convolution.convolve, IMAGE, normal(1, 1, 3, 4)),
        (lambda *x: convolution.convolve(*x, stride=2, padding=3), IMAGE, normal(7, 7, 3, 2)),
    ],
    "convolution.windowed": lambda: [
        (lambda *x: convolution.windowed(*x, 2, [(1, 1), (0, 1)]), IMAGE, normal(3, 3, 3, 4))
    ],
    "convolution.multiplied": lambda: [
        (lambda *x: convolution.multiplied(*x, 2, [(1, 1), (0, 1)]), IMAGE, normal(3, 3, 3, 4))
    ],
    "convolution.by_products": lambda: [
        (lambda *x: convolution.by_products(*x, 2, ((1, 1), (0, 1))), IMAGE, normal(3, 2, 3, 4))
    ],
    "convolution.side_by_side": lambda: [
        (lambda *x: convolution.side_by_side(*x, 2, ((1, 1), (0, 1))), IMAGE, normal(3, 2, 3, 4))
    ],
    "convolution.in_inner_tiles": lambda: [(convolution.in_inner_tiles, IMAGE, normal(3, 3, 3, 4))],
    "convolution.max_pool": lambda: [
        (lambda x: convolution.max_pool(x, 3, 2, padding=1), IMAGE),
        (convolution.max_pool, IMAGE),
    ],
    "convolution.avg_pool": lambda: [(lambda x: convolution.avg_pool(x, 3, 1, padding=1), IMAGE)],
    "convolution.adaptive_avg_pool": lambda: [(lambda x: convolution.adaptive_avg_pool(x, 4), IMAGE)],
    "convolution.in_tiles": lambda: [(convolution.in_tiles, IMAGE, normal(3, 3, 3, 4))],
    "dense.by_rows": lambda: [
        (lambda *x: dense.by_rows(*x, (((2,), (0,)), ((), ()))), normal(2, 3, 4), normal(4, 5))
    ],
    "dense.product": lambda: [(dense.product, normal(9, 6), normal(6, 4))],
    "dense.scores": lambda: [(dense.scores, normal(2, 3, 4), normal(5, 4))],
    "depthwise.DepthwiseConv": lambda: [module(depthwise.DepthwiseConv(3), IMAGE)],
    "depthwise.depthwise": lambda: [
        (
            lambda *x, stride=stride: depthwise.depthwise(*x, stride),
            normal(2, side, side, 3),
            normal(3, 3, 1, 3),
        )
        for stride, side in ((1, 5), (2, 6))
    ],
    "embedding.rotary": lambda: [
        (lambda x: embedding.rotary(x, jnp.arange(5)[None], stretch=embedding.Stretch()), normal(2, 5, 2, 4))
    ],
    "normalization.BatchNorm": lambda: [
        module(normalization.BatchNorm(still), IMAGE) for still in (False, True)
    ],
    "normalization.normalized": lambda: [
        (lambda *x: normalization.normalized(*x, 1e-5)[0], IMAGE, normal(3), normal(3, seed=1))
    ],
    "normalization.RMSNorm": lambda: [module(normalization.RMSNorm(dtype="float64"), normal(4, 5))],
    "recurrent.lstm_step": lambda: [(*cell(recurrent.lstm_step, 4), *CARRY)],
    "recurrent.gru_step": lambda: [(*cell(recurrent.gru_step, 3), CARRY[0])],
    "recurrent.multiply": lambda: [(recurrent.multiply, normal(2, 4, 3), normal(3, 5))],
    "recurrent.recur": lambda: [recurred("lstm", 4, True), recurred("gru", 3, False)],
    "recurrent.scan": lambda: [
        (
            lambda kernel, carry, xs: recurrent.scan(summed, {"kernel": kernel}, None, carry, xs),
            *(normal(3, 3), normal(2, 3), normal(4, 2, 3)),
        )
    ],
    "recurrent.Recurrent": lambda: [
        module(
            recurrent.Recurrent("gru", 3, depth=2, bidirectional=True, dropout=0.4),
            normal(3, 4, 2),
            MASK,
            train=True,
        )
    ],
    "regularization.dropout": lambda: [(lambda x: regularization.dropout(x, 0.4, KEY), normal(3, 5))],
    "regularization.stochastic_depth": lambda: [
        (lambda x: regularization.stochastic_depth(x, 0.4, KEY), normal(6, 5))
    ],
    "reversible.normalize": lambda: [(reversible.normalize, normal(2, 5, 3))],
    "reversible.restore": lambda: [
        (
            lambda x, mean, std: reversible.restore(x, reversible.Scale(mean, std)),
            *(normal(2, 4, 3, 2), normal(2, 1, 3), normal(2, 1, 3)),
        )
    ],
    "winograd.convolve": lambda: [
        (lambda *x, basis=basis: winograd.convolve(*x, basis), IMAGE, normal(3, 3, 3, 4))
        for basis in (winograd.TWO, winograd.FOUR)
    ],
}
EXEMPT = {  # module, or module.name: why there is nothing to check
    "augmentation": "changes the images before the first parameter, and nothing is learned behind it",
    "randaugment": "changes the images before the first parameter, and nothing is learned behind it",
    "activation.gelu_jvp": "the gradient of gelu",
    "attention.KeyValue": "a tuple",
    "attention.Projections": "parameters, checked with SelfAttention",
    "attention.fused": "JAX's own, whose softmax is float32; checked against blocked in test_attention",
    "attention.average": "what blocked is made of",
    "convolution.outputs": "sizes",
    "convolution.narrow": "says which form a convolution takes",
    "convolution.spread": "is windowed or side_by_side",
    "convolution.places": "a part of by_products",
    "convolution.windows": "a part of multiplied",
    "convolution.products_forward": "a part of by_products",
    "convolution.products_backward": "the gradient of by_products",
    "convolution.tiles_forward": "a part of in_tiles",
    "convolution.tiles_backward": "the gradient of in_tiles",
    "convolution.tiled": "in_tiles without its gradient",
    "depthwise.forward": "a part of depthwise",
    "depthwise.backward": "the gradient of depthwise",
    "depthwise.grouped": "the form of other devices, checked against that of a CPU in test_depthwise",
    "depthwise.weighted_shifts": "a part of depthwise",
    "depthwise.image_gradient": "a part of the gradient of depthwise",
    "depthwise.kernel_gradient": "a part of the gradient of depthwise",
    "depthwise.weighted": "a part of depthwise",
    "depthwise.shifts": "a part of depthwise",
    "depthwise.surrounded": "a part of depthwise",
    "embedding.Stretch": "a tuple",
    "embedding.frequencies": "constants",
    "embedding.places": "integers",
    "normalization.forward": "a part of normalized",
    "normalization.backward": "the gradient of normalized",
    "placement": "says where arrays lie, and computes nothing",
    "recurrent.Cell": "a tuple",
    "recurrent.following": "a part of recur",
    "recurrent.forward": "a part of recur",
    "recurrent.backward": "the gradient of recur",
    "recurrent.outer": "a part of recur and scan",
    "recurrent.Gates": "parameters, checked with Recurrent",
    "recurrent.uniform": "an initializer",
    "recurrent.remember": "an initializer",
    "recurrent.zeros": "constants",
    "reversible.Scale": "a tuple",
    "winograd.Basis": "a tuple",
    "winograd.strips": "integers",
    "winograd.changed": "a part of convolve",
    "winograd.linear": "a part of convolve",
    "winograd.squared": "constants",
    "winograd.padded": "a part of convolve",
    "winograd.kernel_gradient": "the gradient of convolution.in_tiles",
}


def tokens(*shape, most=11, seed=0):
    return np.random.default_rng((seed, *shape)).integers(1, most, shape).astype(np.int32)


TINY = {"vocabulary": 11, "context": 6, "depth": 1, "heads": 2, "width": 8}
SERIES = {"targets": 2, "horizon": 3}
FAMILIES = {  # module of dlx/models -> the name of a model, its settings, and its inputs
    "bert": ("bert", TINY | {"head": "masked_lm", "hidden": 12}, (tokens(2, 5),)),
    "convnet": ("convnet", {"num_classes": 3, "widths": (3, 4), "depth": 1, "dropout": 0.3}, (IMAGE,)),
    "dbn": ("dbn", {"num_classes": 3, "hidden": (5, 4)}, (abs(normal(3, 6)),)),
    "ft_transformer": (
        "ft_transformer",
        {"num_classes": 2, "cardinalities": (4,), "width": 4, "depth": 1, "heads": 2},
        (normal(3, 2), tokens(3, 1, most=4)),
    ),
    "gpt": ("gpt", TINY | {"dropout": 0.2}, (tokens(2, 5),)),
    "lenet": ("lenet", {"num_classes": 3, "features": (2, 3, 4)}, (normal(2, 8, 8, 1),)),
    "linear_forecast": ("dlinear", SERIES | {"kernel": 3}, (normal(2, 8, 3),)),
    "llama": ("llama", TINY | {"groups": 1, "hidden": 12}, (tokens(2, 5),)),
    "mlp": ("mlp", {"num_classes": 3, "hidden": (5, 4), "dropout": 0.3}, (normal(3, 6),)),
    "patchtst": (
        "patchtst",
        SERIES | {"patch": 4, "stride": 2, "width": 4, "depth": 1, "heads": 2, "hidden": 8},
        (normal(2, 8, 2),),
    ),
    "recurrent": ("lstm", {"vocabulary": 11, "width": 3, "depth": 2, "dropout": 0.3}, (tokens(2, 4),)),
    "seq2seq": (
        "seq2seq",
        {"source_vocabulary": 11, "target_vocabulary": 11, "width": 3, "depth": 1},
        (tokens(3, 4), MASK, tokens(3, 3)),
    ),
    "sequence_forecast": ("tcn", SERIES | {"width": 4, "depth": 1, "dropout": 0.2}, (normal(2, 8, 3),)),
    "tabular": (
        "tabular_resnet",
        {"num_classes": 2, "cardinalities": (4,), "embedding": 2, "width": 4, "depth": 1, "hidden": 5},
        (normal(5, 2), tokens(5, 1, most=4)),
    ),
    "text_cnn": (
        "text_cnn",
        {"vocabulary": 11, "embedding": 4, "windows": (2, 3), "filters": 3},
        (tokens(2, 6), tokens(2, 6) > 2),
    ),
    "transformer": (
        "transformer",
        {"source_vocabulary": 11, "target_vocabulary": 11, "width": 8, "depth": 1, "heads": 2, "hidden": 12},
        (tokens(3, 4), MASK, tokens(3, 3)),
    ),
    "autoencoder": ("variational_autoencoder", {"hidden": (5,), "code": 2}, (normal(3, 6),)),
    "svdd": ("deep_svdd", {"hidden": (5,), "code": 2}, (normal(3, 6),)),
    "vgg": ("vgg16", {"num_classes": 3, "hidden": 4}, (normal(1, 32, 32, 1),)),
    "vit": (
        "vit_s16",
        {"num_classes": 3, "width": 8, "depth": 1, "heads": 2, "hidden": 12},
        (normal(2, 32, 32, 1),),
    ),
}
DEEP = {  # families without a small model -> a block of theirs, and its input
    "efficientnet": (efficientnet.MBConv(4, 3, 1, 3, 0.3, (0.9, 1e-5), True, "float32"), normal(3, 5, 5, 3)),
    "inception": (inception.ConvNorm(4, (1, 3), train=True), IMAGE),
    "resnet": (resnet.Bottleneck(2, 2, True, "float32"), normal(3, 4, 4, 3)),
}


def defined(file):
    """Returns the names of a file's public functions and classes."""
    kinds = ast.FunctionDef | ast.ClassDef
    body = ast.parse(file.read_text()).body
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def test_every_loss_has_a_check():
    missing = set(defined(ROOT / "dlx/losses.py")) - LOSSES.keys()
    assert not missing, f"no gradient of {sorted(missing)} is checked: add them to LOSSES of this file"


@pytest.mark.parametrize("file", LAYERS, ids=lambda file: file.stem)
def test_every_layer_has_a_check_or_a_reason_for_none(file):
    names = [] if file.stem in EXEMPT else [f"{file.stem}.{name}" for name in defined(file)]
    missing = [name for name in names if name not in CHECKS and name not in EXEMPT]
    assert not missing, (
        f"no gradient of {missing} is checked: add them to CHECKS of this file, or to EXEMPT with the reason"
    )


def test_every_family_of_models_has_a_check():
    families = {function.__module__.split(".")[-1] for function in MODELS.values()}
    missing = families - FAMILIES.keys() - DEEP.keys()
    assert not missing, (
        f"no gradient of {sorted(missing)} is checked: add a small model to FAMILIES of this file"
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_loss(name):
    with doubled():
        for function, *arguments in LOSSES[name]():
            agree(function, *arguments)


@pytest.mark.parametrize("name", CHECKS)
def test_the_gradient_of_a_layer(name):
    with doubled():
        for function, *arguments in CHECKS[name]():
            agree(function, *arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_small_model_in_training(family, monkeypatch):
    monkeypatch.setattr(vgg, "WIDTHS", (2,) * 5)  # its widths are no setting
    name, settings, inputs = FAMILIES[family]
    with doubled():
        model = MODELS[name](**settings)
        inputs = [jnp.asarray(values) for values in inputs]
        shapes = jax.eval_shape(model.init, KEY, *inputs)
        state = drawn(shapes.state, least=0.5)
        agree(lambda params: model.apply(Variables(params, state), *inputs, key=KEY)[0], drawn(shapes.params))


@pytest.mark.parametrize("family", DEEP)
def test_the_gradient_of_a_block_of_a_deep_network(family):
    with doubled():
        agree(*module(*DEEP[family]))


@pytest.mark.parametrize("units", ["binary", "gaussian"])
def test_the_gradient_of_a_boltzmann_machine(units):
    """Of its free energy, which contrastive divergence is a difference of, and of its sparsity."""
    with doubled():
        params = drawn(jax.eval_shape(functools.partial(rbm.init, visible=4, hidden=3), KEY))
        agree(lambda params, x: rbm.free_energy(params, x, units), params, normal(5, 4))
        agree(lambda params, x: rbm.sparsity(params, x, jnp.full(3, 0.4), 0.1), params, normal(5, 4))


def test_a_wrong_gradient_is_noticed():
    @jax.custom_vjp
    def nearly(x):
        return jnp.sin(x)

    nearly.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x) * (1 + 1e-5),))
    with doubled(), pytest.raises(AssertionError, match="leaf 0: "):
        agree(nearly, normal(5))
