"""BERT: sizes, masks, heads, and agreement with transformers' classes."""

import functools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from conftest import same

from dlx.core import Variables
from dlx.layers.activation import gelu
from dlx.layers.regularization import dropout
from dlx.models import MODELS
from dlx.models.bert import SIZES, bert, bert_base, carry
from dlx.pretrained import PretrainedError, from_huggingface, to_huggingface

SMALL = {
    "vocabulary": 50,
    "width": 24,
    "depth": 2,
    "heads": 3,
    "hidden": 40,
    "context": 12,
    "num_classes": 5,
}
PUBLISHED = {  # with the pooler
    "tiny": 4_385_920,
    "mini": 11_170_560,
    "small": 28_763_648,
    "medium": 41_373_184,
    "base": 109_482_240,
    "large": 335_141_888,
}
CLASSES = {
    "encoder": "BertModel",
    "masked_lm": "BertForMaskedLM",
    "pretraining": "BertForPreTraining",
    "classifier": "BertForSequenceClassification",
    "tagger": "BertForTokenClassification",
}


@pytest.fixture(scope="module")
def texts():
    """Three texts of two segments, the last two padded: (tokens, mask, types)."""
    tokens = jax.random.randint(jax.random.key(1), (3, 10), 1, 50)
    lengths = jnp.array([10, 7, 4])[:, None]
    mask = jnp.arange(10) < lengths
    return tokens, mask, (jnp.arange(10) >= lengths // 2).astype(jnp.int32)


@functools.cache
def made(head, **settings):
    """Returns a small model's jitted apply, and its variables."""
    model, tokens = bert(head, **SMALL | settings), jnp.ones((3, 10), jnp.int32)
    return jax.jit(model.apply), jax.jit(model.init)(jax.random.key(0), tokens)


@pytest.fixture(scope="module")
def transformers():
    parity.needed("torchvision")  # names the operators that transformers, too, expects of torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip(
            "transformers", reason="parity needs it: pip install torch transformers"
        )
        for name in ("BertConfig", *CLASSES.values()):
            getattr(library, name)  # imported on first use
    return library


def size(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes.params))


@pytest.mark.parametrize("name", SIZES)
def test_each_size_has_its_published_number_of_parameters(name, key):
    init = MODELS[f"bert_{name}"]().init
    assert size(jax.eval_shape(init, key, jnp.ones((1, 4), jnp.int32))) == PUBLISHED[name]


def test_each_head_has_the_parameters_of_transformers_class(transformers, key):
    torch = parity.needed("torch")
    for head, name in CLASSES.items():
        with torch.device("meta"):
            theirs = sum(
                p.numel() for p in getattr(transformers, name)(transformers.BertConfig()).parameters()
            )
        ours = jax.eval_shape(bert_base(head).init, key, jnp.ones((1, 4), jnp.int32))
        assert size(ours) == theirs, head


def reference(transformers, head):
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=12,
        num_labels=5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return parity.perturbed(lambda: getattr(transformers, CLASSES[head])(config)).eval()


@pytest.mark.parametrize("head", CLASSES)
def test_outputs_and_gradients_are_those_of_transformers(transformers, texts, head):
    torch = parity.needed("torch")
    module = reference(transformers, head)
    weights = parity.arrays(module)
    model, variables = bert(head, **SMALL), from_huggingface("bert", weights)
    assert same(to_huggingface("bert", variables), {name: weights[name] for name in sorted(weights)})

    tokens, mask, types = (torch.from_numpy(np.array(x)).long() for x in texts)
    theirs = tuple(module(tokens, attention_mask=mask, token_type_ids=types).values())
    cotangents = [
        np.random.default_rng(i).normal(size=y.shape).astype(np.float32) for i, y in enumerate(theirs)
    ]
    sum((y * torch.from_numpy(c)).sum() for y, c in zip(theirs, cotangents, strict=True)).backward()

    @partial(jax.jit, static_argnums=0)
    def ours(number, params):
        outputs, _ = model.apply(Variables(params, {}), *texts)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum(jnp.sum(y * c) for y, c in zip(outputs, cotangents, strict=True)), outputs

    (_, outputs), gradients = jax.value_and_grad(partial(ours, 0), has_aux=True)(variables.params)
    parity.outputs_close(outputs, theirs, 1e-4)
    gradients = to_huggingface("bert", Variables(gradients, {}))
    for name, parameter in module.named_parameters():
        if name.endswith("key.bias"):  # one number more for all that a query sees: the gradient is 0
            np.testing.assert_allclose(gradients[name], 0, atol=1e-5)
        else:
            parity.close(gradients[name], parameter.grad.numpy(), 1e-4, f"gradient of {name}")


def test_weights_load_under_the_names_of_the_first_files():
    """Those of 2018 call a normalisation's parameters gamma and beta, and hold the positions' numbers."""
    _, variables = made("pretraining")
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = {}
    for name, array in to_huggingface("bert", variables).items():
        for now, then in names.items():
            name = name.replace(now, then)
        weights[name] = array
    weights["bert.embeddings.position_ids"] = np.arange(12)[None]
    del weights["cls.predictions.decoder.bias"], weights["cls.predictions.decoder.weight"]
    assert same(from_huggingface("bert", weights), variables)


def test_weights_that_do_not_fit_are_listed():
    weights = to_huggingface("bert", made("masked_lm")[1])
    wrong = dict(weights)
    del wrong["bert.encoder.layer.1.attention.self.key.bias"]
    wrong["bert.encoder.layer.0.output.dense.weight"] = np.zeros((3, 4))
    wrong["lstm.weight"] = np.zeros(2)
    with pytest.raises(PretrainedError) as error:
        from_huggingface("bert", wrong)
    for line in (
        "missing: bert.encoder.layer.1.attention.self.key.bias",
        "misshaped: bert.encoder.layer.0.output.dense.weight is (3, 4) instead of (24, 40)",
        "left over: lstm.weight (2,)",
    ):
        assert line in str(error.value)
    with pytest.raises(PretrainedError, match="one matrix for both"):
        from_huggingface("bert", weights | {"cls.predictions.decoder.weight": np.zeros((50, 24))})
    with pytest.raises(PretrainedError, match="there are those of.* bert"):
        from_huggingface("elmo", weights)
    with pytest.raises(PretrainedError, match="missing: bert.embeddings.word_embeddings.weight"):
        from_huggingface("bert", {})


def test_padding_changes_nothing(texts):
    tokens, mask, types = texts
    apply, variables = made("tagger")
    tags, _ = apply(variables, *texts)
    other, _ = apply(variables, jnp.where(mask, tokens, 7), mask, jnp.where(mask, types, 1))
    alone, _ = apply(variables, tokens[1:2, :7], mask[1:2, :7], types[1:2, :7])
    np.testing.assert_allclose(jnp.where(mask[..., None], tags - other, 0), 0, atol=1e-6)
    np.testing.assert_allclose(tags[1:2, :7], alone, atol=1e-6)
    assert not np.allclose(tags[1, 7:], other[1, 7:])
    nothing, _ = apply(variables, tokens, jnp.zeros_like(mask), types)
    assert jnp.all(jnp.isfinite(nothing))


def test_words_segments_and_places_all_count_and_no_direction_is_blind(texts):
    tokens, mask, types = texts
    apply, variables = made("tagger")
    variables = jax.tree.map(lambda x: 5 * x, variables)
    tags, _ = apply(variables, *texts)
    for other in (
        (tokens.at[0, 9].set(tokens[0, 9] % 49 + 1), mask, types),
        (tokens, mask, types.at[0, 9].set(0)),
        (tokens[:, jnp.array([1, 0, 2, 3, 4, 5, 6, 7, 8, 9])], mask, types),
    ):
        changed, _ = apply(variables, *other)
        assert not np.allclose(changed[0, 4], tags[0, 4], atol=1e-4)
    plain, _ = apply(variables, tokens)
    np.testing.assert_allclose(plain, apply(variables, tokens, mask | True, types * 0)[0], atol=1e-5)


def test_masked_positions_are_gathered_before_the_vocabulary(key, texts):
    positions = jnp.array([[1, 8], [0, 3], [2, 2]])
    for head in ("masked_lm", "pretraining"):
        apply, variables = made(head)
        whole, few = (jax.tree.leaves(apply(variables, *texts, *p)[0])[0] for p in ((), (positions,)))
        assert few.shape == (3, 2, 50)
        np.testing.assert_allclose(few, whole[jnp.arange(3)[:, None], positions], atol=1e-6)
    with pytest.raises(ValueError, match="the head 'tagger' has none"):
        bert("tagger", **SMALL).init(key, *texts, positions)


def test_a_pretrained_encoder_carries_over_to_another_head():
    pretrained, fresh = made("pretraining")[1], made("classifier")[1]
    pretrained = jax.tree.map(lambda x: x + 1, pretrained)
    carried = carry(pretrained, fresh)
    assert same(carried.params["encoder"], pretrained.params["encoder"])
    assert same(carried.params["pooler"], pretrained.params["pooler"])
    assert same(carried.params["classifier"], fresh.params["classifier"])
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    without = carry(made("masked_lm")[1], fresh)
    assert same(without.params["pooler"], fresh.params["pooler"])
    with pytest.raises(ValueError, match="not of the sizes"):
        carry(made("encoder", context=11)[1], fresh)


def test_training_drops_and_inference_does_not(texts):
    apply, variables = made("classifier", dropout=0.0, attention_dropout=0.5)
    still = apply(variables, *texts)[0]
    assert same(still, apply(variables, *texts)[0])
    draws = [apply(variables, *texts, key=jax.random.key(seed))[0] for seed in (0, 0, 1)]
    assert same(draws[0], draws[1]) and not np.allclose(draws[0], draws[2])
    none, _ = made("classifier", dropout=0.0, attention_dropout=0.0)
    np.testing.assert_allclose(none(variables, *texts, key=jax.random.key(0))[0], still, atol=1e-6)


def test_half_precision_computes_in_half_and_keeps_parameters_and_logits_whole(texts):
    half, variables = made("masked_lm", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits, whole = half(variables, *texts)[0], made("masked_lm")[0](variables, *texts)[0]
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, whole, atol=0.02)
    assert not np.array_equal(logits, whole)


def test_bad_sizes_are_named(key, texts):
    with pytest.raises(ValueError, match="13 tokens are longer than the 12 positions"):
        bert(**SMALL).init(key, jnp.ones((1, 13), jnp.int32))
    with pytest.raises(ValueError, match="unknown head 'mlm'; choose one of encoder, masked_lm"):
        bert("mlm", **SMALL)
    with pytest.raises(ValueError, match="a width of 24 does not split into 5 heads"):
        bert(**SMALL | {"heads": 5}).init(key, *texts)


def test_gelu_and_its_derivatives_are_jaxs():
    x = jnp.linspace(-6, 6, 1001)
    exact = partial(jax.nn.gelu, approximate=False)
    for order in (lambda f: f, jax.grad, lambda f: jax.grad(jax.grad(f))):
        np.testing.assert_allclose(jax.vmap(order(gelu))(x), jax.vmap(order(exact))(x), atol=1e-6)


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    x = jnp.ones((100, 40, 33))  # an odd width: pairs of bits do not fill it
    for rate in (0.1, 0.5, 0.9):
        y = dropout(x, rate, jax.random.key(0))
        kept = y != 0
        deviation = (rate * (1 - rate) / x.size) ** 0.5
        assert abs(float(kept.mean()) - (1 - rate)) < 5 * deviation
        np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-3)
        assert np.all(abs(kept.mean((0, 1)) - (1 - rate)) < 5 * (rate * (1 - rate) / 4000) ** 0.5)
        left, right = kept[..., 0:32:2], kept[..., 1:32:2]  # the two halves of one random number
        assert abs(float((left & right).mean()) - (1 - rate) ** 2) < 0.01
    assert same(dropout(x, 0.5), x) and same(dropout(x, 0.0, jax.random.key(0)), x)
    assert not dropout(x, 1.0, jax.random.key(0)).any()
    with pytest.raises(ValueError, match="between 0 and 1, not 1.5"):
        dropout(x, 1.5)
