import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from conftest import same

from dlx.core import Variables
from dlx.losses import chunked_cross_entropy, softmax_cross_entropy
from dlx.models import MODELS
from dlx.models.gpt import decoder, gpt, head
from dlx.models.llama import llama
from dlx.pretrained import PretrainedError, from_huggingface, to_huggingface

REASON = "parity needs transformers: pip install torch transformers"
SMALL = {"vocabulary": 31, "context": 16, "depth": 2, "heads": 4, "width": 32}
FAMILIES = {
    "gpt": partial(gpt, **SMALL),
    "llama": partial(llama, **SMALL, groups=2, hidden=48),
}
COUNTS = {  # published
    "gpt": (gpt(**SMALL), 31 * 32 + 16 * 32 + 2 * (12 * 32**2 + 13 * 32) + 2 * 32),
    "gpt2": (MODELS["gpt2"](), 124_439_808),
    "gpt2_medium": (MODELS["gpt2_medium"](), 354_823_168),
    "gpt2_large": (MODELS["gpt2_large"](), 774_030_080),
    "gpt2_xl": (MODELS["gpt2_xl"](), 1_557_611_200),
    "llama": (
        llama(**SMALL, groups=2, hidden=48),
        2 * 31 * 32 + 2 * (2 * 32**2 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32,
    ),
    "tinyllama": (MODELS["tinyllama"](), 1_100_048_384),
    "llama3_2_1b": (MODELS["llama3_2_1b"](), 1_235_814_400),
    "llama3_8b": (MODELS["llama3_8b"](), 8_030_261_248),
    "llama3_70b": (MODELS["llama3_70b"](), 70_553_706_496),
    "llama2_7b": (MODELS["llama2_7b"](), 6_738_415_616),
    "llama2_70b": (MODELS["llama2_70b"](), 68_976_648_192),
}


@pytest.fixture(params=FAMILIES, scope="module")
def built(request):
    model = FAMILIES[request.param]()
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 31)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    apply = jax.jit(model.apply, static_argnames=("hidden",))
    # larger weights than at the start, so that no token is like another
    return model, jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, variables), tokens, apply


@pytest.mark.parametrize("name", COUNTS)
def test_the_number_of_parameters_is_the_known_one(name):
    model, count = COUNTS[name]
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), token)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count


def test_a_decoder_does_not_see_the_future(built):
    _, variables, tokens, apply = built
    before, state = apply(variables, tokens)
    after, _ = apply(variables, tokens.at[:, 5:].set(3))
    assert before.shape == (2, 12, 31) and before.dtype == jnp.float32 and state == {}
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:], atol=1e-2)


def test_a_batch_of_two_is_two_batches_of_one(built):
    _, variables, tokens, apply = built
    apart = jnp.concatenate([apply(variables, tokens[i : i + 1])[0] for i in range(2)])
    np.testing.assert_allclose(apply(variables, tokens)[0], apart, atol=1e-5)


def test_packed_documents_are_as_if_each_were_alone(built):
    _, variables, tokens, apply = built
    packed = jnp.concatenate([tokens[:1, :7], tokens[1:, :5]], axis=1)
    segments = jnp.array([[0] * 7 + [1] * 5])
    positions = jnp.array([[*range(7), *range(5)]])
    logits, _ = apply(variables, packed, segments, positions)
    alone, _ = apply(variables, tokens)
    np.testing.assert_allclose(logits[0, :7], alone[0, :7], atol=1e-5)
    np.testing.assert_allclose(logits[0, 7:], alone[1, :5], atol=1e-5)


def test_decoding_with_a_cache_is_that_without_token_for_token(built):
    """Prompts of 5 and 3 tokens in one padded batch, jitted, on to the last place there is room for."""
    model, variables, tokens, apply = built
    expected = np.asarray(apply(variables, tokens)[0])
    start, step = decoder(model)
    lengths = np.array([5, 3])
    cache, logits = jax.jit(start, static_argnums=3)(variables, tokens[:, :5], jnp.asarray(lengths), 9)
    step = jax.jit(step)
    for place in range(4):
        for row in range(2):
            np.testing.assert_allclose(logits[row], expected[row, lengths[row] + place - 1], atol=1e-5)
        cache, logits = step(variables, cache, tokens[np.arange(2), lengths + place])
    assert cache.filled.tolist() == [9, 7]
    cache, logits = step(variables, cache, tokens[:, 0])
    assert np.isnan(logits[0]).all() and np.isfinite(logits[1]).all()
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(cache))  # beams are picked along the first axis


def test_several_tokens_at_a_time_go_into_a_cache(built):
    model, variables, tokens, apply = built
    (first, cache), _ = jax.jit(partial(model.apply, cache=12))(variables, tokens[:, :8])
    (second, cache), _ = apply(variables, tokens[:, 8:], cache=cache)
    together = jnp.concatenate([first, second], axis=1)
    np.testing.assert_allclose(together, apply(variables, tokens)[0], atol=1e-5)


def test_hidden_states_lead_to_the_logits_and_the_chunked_loss(built):
    _, variables, tokens, apply = built
    logits, _ = apply(variables, tokens)
    states, _ = apply(variables, tokens, hidden=True)
    np.testing.assert_allclose(states @ head(variables).T, logits, atol=1e-5)
    got = chunked_cross_entropy(states, head(variables), tokens, chunk=7)
    np.testing.assert_allclose(got, softmax_cross_entropy(logits, tokens), atol=1e-5)


def test_every_parameter_gets_a_gradient(built):
    model, variables, tokens, _ = built

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(model.apply(Variables(params, {}), tokens)[0][..., 3] ** 2)

    leaves = jax.tree.leaves_with_path(gradient(variables.params))
    assert not [jax.tree_util.keystr(path) for path, leaf in leaves if not jnp.any(leaf != 0)]


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_draws_from_the_key_and_bfloat16_stays_inside(family, key):
    model = FAMILIES[family](dropout=0.5, dtype="bfloat16")
    tokens = jnp.arange(12)[None]
    variables = jax.jit(model.init)(key, tokens)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    apply = jax.jit(model.apply)
    one, two = (apply(variables, tokens, key=jax.random.key(seed))[0] for seed in (1, 2))
    exact, _ = jax.jit(FAMILIES[family]().apply)(variables, tokens)
    rounded, _ = apply(variables, tokens)
    assert one.dtype == jnp.float32 and not same(one, two) and same(rounded, apply(variables, tokens)[0])
    np.testing.assert_allclose(rounded, exact, atol=0.05)


def test_what_does_not_fit_is_named(built):
    model, variables, tokens, _ = built
    long = jnp.zeros((1, 17), jnp.int32)
    with pytest.raises(ValueError, match="17 tokens are more than the context of 16"):
        model.apply(variables, long)
    with pytest.raises(ValueError, match="20 tokens are more than the context of 16"):
        model.apply(variables, tokens, cache=20)
    with pytest.raises(ValueError, match="12 tokens do not fit into a cache with room for 8"):
        model.apply(variables, tokens, cache=8)
    with pytest.raises(ValueError, match="segments are for packed rows"):
        model.apply(variables, tokens, jnp.zeros_like(tokens), cache=12)


def test_heads_that_do_not_fit_are_named(key):
    for build, message in (
        (partial(gpt, width=30, heads=4), "width of 30 does not split into 4 heads"),
        (partial(llama, width=12, heads=4), "width of 12 does not split into 4 heads of even width"),
        (partial(llama, width=32, heads=4, groups=3), "4 heads do not share 3"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(build().init, key, jnp.zeros((1, 2), jnp.int32))


@pytest.fixture(scope="module")
def theirs():
    """Tiny models of transformers: name -> (module, our model)."""
    parity.needed("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers", reason=REASON)
        config = transformers.GPT2Config(
            vocab_size=31, n_positions=16, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0
        )
        config.attn_pdrop = 0
        plain = {
            "vocab_size": 31,
            "max_position_embeddings": 16,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "rms_norm_eps": 1e-5,
        }
        scaling = {
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 30,
        }
        stretch = {"factor": 4.0, "low": 1.0, "high": 4.0, "context": 30}
        long = transformers.LlamaConfig(**plain, rope_parameters=scaling, tie_word_embeddings=True)
        build = {
            "gpt2": (lambda: transformers.GPT2LMHeadModel(config), gpt(**SMALL)),
            "llama": (
                lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**plain)),
                FAMILIES["llama"](),
            ),
            "llama stretched": (
                lambda: transformers.LlamaForCausalLM(long),
                FAMILIES["llama"](base=100.0, stretch=stretch, tied=True),
            ),
        }
        return {name: (parity.perturbed(make), ours) for name, (make, ours) in build.items()}


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama stretched"])
def test_the_network_is_that_of_transformers(name, theirs):
    torch = parity.needed("torch")
    (module, model), family = theirs[name], name.split()[0]
    weights = parity.arrays(module)
    variables = from_huggingface(family, weights)
    assert same(to_huggingface(family, variables), weights)

    tokens = np.random.default_rng(0).integers(0, 31, (2, 12))
    logits = module.eval()(torch.from_numpy(tokens)).logits
    ours, _ = jax.jit(model.apply)(variables, jnp.int32(tokens))
    parity.close(ours, logits.detach().numpy(), 1e-4, "logits")

    direction = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    module.zero_grad()
    (logits * torch.from_numpy(direction)).sum().backward()

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(model.apply(Variables(params, {}), jnp.int32(tokens))[0] * direction)

    found = to_huggingface(family, Variables(gradient(variables.params), {}))
    for entry, parameter in module.named_parameters():
        parity.close(found[entry], parameter.grad.numpy(), 1e-4, f"gradient of {entry}")


def test_greedy_continuation_is_that_of_transformers(theirs):
    torch = parity.needed("torch")
    module, model = theirs["gpt2"]
    variables = from_huggingface("gpt2", parity.arrays(module))
    tokens = np.random.default_rng(0).integers(0, 31, (2, 5))
    start, step = decoder(model)
    step = jax.jit(step)
    cache, logits = start(variables, jnp.asarray(tokens), jnp.array([5, 5]), 12)
    expected = tokens
    with torch.no_grad():
        for _ in range(7):
            following = module(torch.from_numpy(expected)).logits[:, -1].argmax(-1).numpy()
            assert logits.argmax(-1).tolist() == following.tolist()
            cache, logits = step(variables, cache, logits.argmax(-1))
            expected = np.concatenate([expected, following[:, None]], axis=1)


def test_weights_without_the_head_and_of_the_first_files_load(theirs):
    """On the Hub names do not begin with "transformer.", no head, and a causal mask in each layer."""
    weights = parity.arrays(theirs["gpt2"][0])
    first = {name.removeprefix("transformer."): a for name, a in weights.items() if name != "lm_head.weight"}
    first |= {f"h.{layer}.attn.bias": np.ones((1, 1, 16, 16)) for layer in range(2)}
    assert same(from_huggingface("gpt2", first), from_huggingface("gpt2", weights))
    untied = weights | {"lm_head.weight": weights["lm_head.weight"] + 1}
    variables = from_huggingface("gpt2", untied)
    np.testing.assert_array_equal(head(variables), untied["lm_head.weight"])
    assert same(to_huggingface("gpt2", variables), untied)


def test_one_error_lists_what_does_not_fit(theirs):
    for family, lost, bent in (
        ("gpt2", "transformer.h.1.ln_2.bias", "transformer.h.0.mlp.c_fc.weight"),
        ("llama", "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.o_proj.weight"),
    ):
        weights = parity.arrays(theirs[family][0])
        del weights[lost]
        weights |= {bent: np.zeros((2, 3), np.float32), "extra": np.zeros(1)}
        with pytest.raises(PretrainedError) as raised:
            from_huggingface(family, weights)
        text = str(raised.value)
        assert f"missing: {lost}" in text and f"misshaped: {bent}" in text and "left over: extra" in text
