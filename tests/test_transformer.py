"""The encoder-decoder: agreement with torch.nn.Transformer, masks, sizes, and decoding step by step."""

import functools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from conftest import same

from dlx import decoding
from dlx.core import Variables
from dlx.models import MODELS
from dlx.models.transformer import decoder, sinusoids, transformer

SMALL = {
    "source_vocabulary": 30,
    "target_vocabulary": 30,
    "width": 24,
    "depth": 2,
    "heads": 3,
    "hidden": 40,
    "dropout": 0.0,
}
KINDS = [{"norm": "post"}, {"norm": "pre"}, {"norm": "pre", "shared": False, "target_vocabulary": 17}]


@pytest.fixture(scope="module")
def sentences():
    """Three padded sources and what the decoder sees: (source, source_mask, target)."""
    first, second = jax.random.split(jax.random.key(1))
    source, target = jax.random.randint(first, (3, 9), 0, 30), jax.random.randint(second, (3, 7), 0, 17)
    return source, jnp.arange(9) < jnp.array([9, 6, 2])[:, None], target


@functools.cache
def made(**settings):
    """Returns a small model's jitted apply, and variables with nothing left at 0 or 1."""
    model, tokens = transformer(**SMALL | settings), jnp.ones((3, 9), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens > 0, tokens).params
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    leaves = [leaf + np.float32(0.1 * rng.normal(size=leaf.shape)) for leaf in leaves]
    return jax.jit(model.apply), Variables(jax.tree.unflatten(tree, leaves), {})


def size(**sizes):
    tokens, mask = jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    name = sizes.pop("name", "transformer")
    shapes = jax.eval_shape(MODELS[name](**sizes).init, jax.random.key(0), tokens, mask, tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes.params))


def test_the_sizes_of_the_paper_have_their_number_of_parameters():
    words = {"source_vocabulary": 37_000, "target_vocabulary": 37_000}
    assert size(name="transformer_base", **words) == 44_138_496 + 37_000 * 512  # "65" million
    assert size(name="transformer_big", **words) == 176_357_376 + 37_000 * 1024  # "213" million
    w, h, v, k = 24, 40, 30, 17
    blocks = 2 * (12 * w**2 + 4 * w * h + 24 * w + 2 * h)
    assert size(**SMALL) == blocks + v * w
    assert size(**SMALL | KINDS[2]) == blocks + 4 * w + (v + 2 * k) * w


def torch_weights(params, depth=2):
    """Returns the state dict of torch.nn.Transformer for our parameters."""
    names = {"norm_1": "norm1", "dense_1": "linear1", "dense_2": "linear2"}
    weights = {}

    def put(name, part):
        kernel = part["kernel"].T if "kernel" in part else part["scale"]
        weights[f"{name}.weight"], weights[f"{name}.bias"] = kernel, part["bias"]

    def attend(name, part):
        parts = [part[x] for x in ("query", "key", "value")]
        weights[f"{name}.in_proj_weight"] = jnp.concatenate([x["kernel"].T for x in parts])
        weights[f"{name}.in_proj_bias"] = jnp.concatenate([x["bias"] for x in parts])
        put(f"{name}.out_proj", part["out"])

    for side in ("encoder", "decoder"):
        for layer in range(depth):
            block, there = params[f"{side}_{layer}"], f"{side}.layers.{layer}"
            attend(f"{there}.self_attn", block["attention"])
            for ours, theirs in names.items():
                put(f"{there}.{theirs}", block[ours])
            if side == "decoder":
                attend(f"{there}.multihead_attn", block["cross"])
                put(f"{there}.norm2", block["norm_cross"])
            put(f"{there}.norm{3 if side == 'decoder' else 2}", block["norm_2"])
        if f"{side}_norm" in params:
            put(f"{side}.norm", params[f"{side}_norm"])
    return weights


def tensor(x):
    return parity.needed("torch").from_numpy(np.array(x))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_outputs_and_gradients_are_those_of_torch(sentences, norm):
    torch = parity.needed("torch")
    source, mask, target = sentences
    apply, (params, _) = made(norm=norm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.nn.Transformer(
            24, 3, 2, 2, 40, dropout=0.0, layer_norm_eps=1e-6, batch_first=True, norm_first=norm == "pre"
        )
    if norm == "post":  # torch ends its stacks in one more normalisation, the paper does not
        module.encoder.norm = module.decoder.norm = None
    module.load_state_dict({name: tensor(x) for name, x in torch_weights(params).items()})

    words = tensor(params["target_words"]["embedding"]).requires_grad_()

    def embed(tokens):
        places = sinusoids(jnp.arange(tokens.shape[1]), 24)
        return words[tensor(tokens).long()] * 24**0.5 + tensor(places)

    causal = torch.nn.Transformer.generate_square_subsequent_mask(7)
    hidden = {"src_key_padding_mask": ~tensor(mask), "memory_key_padding_mask": ~tensor(mask)}
    hidden = {name: torch.zeros(m.shape).masked_fill(m, float("-inf")) for name, m in hidden.items()}
    theirs = module(embed(source), embed(target), tgt_mask=causal, **hidden) @ words.T
    cotangent = np.random.default_rng(0).normal(size=theirs.shape).astype(np.float32)
    (theirs * tensor(cotangent)).sum().backward()

    @partial(jax.value_and_grad, has_aux=True)
    def ours(params):
        logits, _ = apply(Variables(params, {}), *sentences)
        return jnp.sum(logits * cotangent), logits

    (_, logits), gradients = jax.jit(ours)(params)
    parity.outputs_close(logits, theirs, 1e-4)
    there = torch_weights(gradients)
    for name, parameter in module.named_parameters():
        parity.close(there[name], parameter.grad.numpy(), 1e-4, f"gradient of {name}")
    parity.close(gradients["target_words"]["embedding"], words.grad.numpy(), 1e-4, "gradient of the words")


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_decoding_step_by_step_equals_teacher_forcing(sentences, kind):
    source, mask, target = sentences
    (apply, variables), (start, step) = made(**kind), decoder(**SMALL | kind)
    logits, _ = apply(variables, *sentences)
    cache = jax.jit(start, static_argnums=3)(variables, source, mask, 7)
    traced = []

    @jax.jit
    def following(cache, token):
        traced.append(token)
        return step(variables, cache, token)

    for time in range(7):
        cache, one = following(cache, target[:, time])
        np.testing.assert_allclose(one, logits[:, time], atol=1e-5)
    assert len(traced) == 1  # what comes out goes in again
    _, beyond = following(cache, target[:, 0])
    assert jnp.isnan(beyond).all()


def test_the_cache_serves_the_searches(sentences, key):
    """Greedy search finds the likeliest token after each prefix; a beam's score is that of its tokens."""
    source, mask, _ = sentences
    (apply, variables), (start, step) = made(norm="post"), decoder(**SMALL)
    go, length = jnp.zeros(3, jnp.int32), 4

    @jax.jit
    def search(variables):
        one = partial(step, variables)
        cache, logits = one(start(variables, source, mask, length), go)
        tokens, _ = decoding.generate(one, cache, logits, decoding.greedy, key, length=length)
        return tokens, decoding.beam_search(
            one, cache, logits, length=length, end=29, beams=3, length_penalty=0.0
        )

    tokens, beams = search(variables)
    seen = jnp.column_stack([go, tokens])
    after, _ = apply(variables, source, mask, seen)
    np.testing.assert_array_equal(after[:, :-1].argmax(-1), tokens)

    for beam in range(3):
        tokens = beams.tokens[:, beam]
        logits, _ = apply(variables, source, mask, jnp.column_stack([go, tokens])[:, :-1])
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
        scores = jnp.sum(scores, axis=1, where=jnp.arange(length) < beams.lengths[:, beam, None])
        np.testing.assert_allclose(scores, beams.scores[:, beam], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_decoder_does_not_see_the_future_and_nobody_sees_padding(sentences, kind):
    source, mask, target = sentences
    apply, variables = made(**kind)
    logits, _ = apply(variables, *sentences)
    later, _ = apply(variables, source, mask, target.at[:, 4:].set(0))
    np.testing.assert_array_equal(logits[:, :4], later[:, :4])
    assert not np.allclose(logits[:, 4:], later[:, 4:], atol=1e-4)
    padded, _ = apply(variables, jnp.where(mask, source, 3), mask, target)
    np.testing.assert_array_equal(logits, padded)
    alone, _ = apply(variables, source[2:, :2], mask[2:, :2], target[2:, :3])
    np.testing.assert_allclose(logits[2:, :3], alone, atol=1e-5)
    turned, _ = apply(variables, source[:, ::-1], mask[:, ::-1] | True, target)
    straight, _ = apply(variables, source, mask | True, target)
    assert not np.allclose(turned, straight, atol=1e-4)
    nothing, _ = apply(variables, source, mask & False, target)
    assert jnp.isfinite(nothing).all()


def test_positions_are_those_of_the_paper():
    places = sinusoids(jnp.arange(3, 60), 10)
    for place, i in ((0, 0), (7, 3), (56, 4)):
        angle = (place + 3) / 10000 ** (2 * i / 10)
        np.testing.assert_allclose(
            places[place, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-5
        )


def test_training_drops_and_inference_does_not(sentences):
    apply, variables = made(dropout=0.3)
    still, _ = apply(variables, *sentences)
    np.testing.assert_allclose(still, made(norm="post")[0](variables, *sentences)[0], atol=1e-6)
    draws = [apply(variables, *sentences, key=jax.random.key(seed))[0] for seed in (0, 0, 1)]
    assert same(draws[0], draws[1]) and not np.allclose(draws[0], draws[2])


def test_bad_sizes_are_named(sentences, key):
    with pytest.raises(ValueError, match="not 30 source and 17 target tokens: set shared to False"):
        transformer(**SMALL | {"target_vocabulary": 17}).init(key, *sentences)
    with pytest.raises(ValueError, match='"post" or "pre", not \'middle\''):
        transformer(**SMALL, norm="middle").init(key, *sentences)
    with pytest.raises(ValueError, match="a width of 24 does not split into 5 heads"):
        transformer(**SMALL | {"heads": 5}).init(key, *sentences)
