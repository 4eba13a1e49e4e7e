import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.core import Variables
from dlx.layers import recurrent
from dlx.models import MODELS, seq2seq

SIZES = {"source_vocabulary": 11, "target_vocabulary": 13, "width": 6, "depth": 2}
KINDS = [("gru", "additive"), ("lstm", "general")]
SOURCE = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 5)), jnp.int32)
TARGET = jnp.asarray(np.random.default_rng(1).integers(0, 13, (3, 4)), jnp.int32)
MASK = jnp.arange(5) < jnp.array([3, 5, 1])[:, None]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind), scope="module")
def made(request):
    """Returns sizes, the jitted apply and variables large enough for attention to matter."""
    cell, attention = request.param
    sizes = SIZES | {"cell": cell, "attention": attention}
    model = MODELS["seq2seq"](**sizes)
    variables = jax.jit(model.init)(jax.random.key(0), SOURCE, MASK, TARGET)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: jnp.float32(x + 0.4 * rng.normal(size=x.shape)), variables.params)
    return sizes, jax.jit(lambda *inputs: model.apply(*inputs)[0]), Variables(params, {})


def test_it_is_the_equations_of_the_papers(made):
    sizes, apply, variables = made
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables.params)
    for row in range(3):
        source, target = SOURCE[row, : MASK[row].sum()], TARGET[row]
        np.testing.assert_allclose(
            apply(variables, SOURCE, MASK, TARGET)[row],
            by_hand(params, source, target, sizes["cell"], sizes["attention"]),
            atol=2e-5,
        )


def by_hand(params, source, target, cell, attention):
    """Returns the logits of one pair of sentences, in numpy and word by word."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def advance(weights, x, carry):
        a = x @ weights["input_kernel"] + weights.get("input_bias", 0)
        b = carry[0] @ weights["recurrent_kernel"] + weights["recurrent_bias"]
        if cell == "lstm":
            i, f, g, o = np.split(a + b, 4)
            c = sigmoid(f) * carry[1] + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(c), c
        (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
        z = sigmoid(az + bz)
        return ((1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * carry[0],)

    nothing = (np.zeros(6),) * (2 if cell == "lstm" else 1)
    xs, carries = params["source_words"]["embedding"][source], []
    for layer in range(2):
        ahead, back, carry = [], [], nothing
        for x in xs:
            carry = advance(params["encoder"][f"layer_{layer}"], x, carry)
            ahead.append(carry[0])
        last, carry = carry, nothing
        for x in xs[::-1]:
            carry = advance(params["encoder"][f"layer_{layer}_reverse"], x, carry)
            back.insert(0, carry[0])
        xs = np.concatenate([ahead, back], axis=1)
        carries.append(
            tuple(
                np.tanh(
                    np.concatenate(pair) @ params[f"bridges_{layer}_{i}"]["kernel"]
                    + params[f"bridges_{layer}_{i}"]["bias"]
                )
                for i, pair in enumerate(zip(last, carry, strict=True))
            )
        )
    keys, attended, logits = xs @ params["keys"]["kernel"], np.zeros(6), []
    for word in target:
        x = np.concatenate([params["target_words"]["embedding"][word], attended])
        for layer in range(2):
            carries[layer] = advance(params[f"layers_{layer}"], x, carries[layer])
            x = carries[layer][0]
        if attention == "additive":
            scores = np.tanh(x @ params["query"] + keys) @ params["energy"]
        else:
            scores = keys @ x
        shares = np.exp(scores) / np.exp(scores).sum()
        attended = np.tanh(np.concatenate([x, shares @ xs]) @ params["combine"])
        logits.append(attended @ params["output"]["kernel"] + params["output"]["bias"])
    return np.stack(logits)


def test_source_padding_and_other_examples_change_nothing(made):
    _, apply, variables = made
    before = apply(variables, SOURCE, MASK, TARGET)
    noisy = jnp.where(MASK, SOURCE, 7).at[1].set(3)
    after = apply(variables, noisy, MASK, TARGET)
    np.testing.assert_array_equal(before[::2], after[::2])
    assert not (before[1] == after[1]).all()
    shifted = apply(variables, jnp.roll(SOURCE, 2, axis=1)[:1], jnp.roll(MASK, 2, axis=1)[:1], TARGET[:1])
    np.testing.assert_allclose(shifted[0], before[0], atol=1e-5)
    bare = apply(variables, SOURCE[:1, :3], MASK[:1, :3], TARGET[:1])
    np.testing.assert_allclose(bare[0], before[0], atol=1e-5)


def test_no_logits_depend_on_later_target_tokens(made):
    _, apply, variables = made
    changed = TARGET.at[:, 2:].set((TARGET[:, 2:] + 1) % 13)
    before, after = apply(variables, SOURCE, MASK, TARGET), apply(variables, SOURCE, MASK, changed)
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert not (before[:, 2:] == after[:, 2:]).any()
    np.testing.assert_allclose(apply(variables, SOURCE, MASK, TARGET[:, :2]), before[:, :2], atol=1e-5)


def test_a_source_of_padding_alone_gives_finite_logits_and_gradients(made):
    _, apply, variables = made
    mask = MASK.at[0].set(False)
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(apply(v, SOURCE, mask, TARGET)))))(variables)
    logits = apply(variables, SOURCE, mask, TARGET)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((gradient, logits)))
    before = apply(variables, SOURCE, MASK, TARGET)
    np.testing.assert_array_equal(logits[1:], before[1:])


def test_writing_step_by_step_is_teacher_forcing(made):
    sizes, apply, variables = made
    start, step = seq2seq.decoder(**sizes)
    cache = jax.jit(start, static_argnums=3)(variables, SOURCE, MASK, 4)
    assert all(len(leaf) == 3 for leaf in jax.tree.leaves(cache))
    expected, step = apply(variables, SOURCE, MASK, TARGET), jax.jit(step)
    for place in range(4):
        cache, logits = step(variables, cache, TARGET[:, place])
        np.testing.assert_allclose(logits, expected[:, place], atol=1e-5)


def test_training_drops_and_reaches_every_weight(made):
    sizes, _, variables = made
    model = MODELS["seq2seq"](**sizes, dropout=0.3)

    @jax.jit
    @jax.grad
    def gradient(params, key):
        logits, _ = model.apply(Variables(params, {}), SOURCE, MASK, TARGET, key=key)
        return jnp.sum(jnp.sin(logits))

    first, second = (gradient(variables.params, jax.random.key(seed)) for seed in (0, 1))
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert bool(jnp.isfinite(one).all()) and bool((one != 0).any()) and bool((one != other).any())


def test_half_precision_stays_near(made):
    sizes, apply, variables = made
    half = MODELS["seq2seq"](**sizes, dtype="bfloat16")
    logits, _ = jax.jit(half.apply)(variables, SOURCE, MASK, TARGET)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, apply(variables, SOURCE, MASK, TARGET), atol=0.25)


def test_the_gradients_of_the_scan_are_those_of_a_plain_one():
    rng = np.random.default_rng(3)
    kernels = {"one": rng.normal(size=(4, 4)), "each": rng.normal(size=(2, 4, 3))}
    kernels = jax.tree.map(jnp.float32, kernels)
    constants = (jnp.float32(rng.normal(size=4)), jnp.array([[True, False, True], [True] * 3]))
    carry, xs = jnp.float32(rng.normal(size=(2, 4))), jnp.float32(rng.normal(size=(5, 2, 4)))

    def step(times, constants, carry, x):
        bias, mask = constants
        carry = jnp.tanh(times("one", carry) + x * bias)
        return carry, jnp.where(mask, times("each", carry + 1), 0)

    def plain(kernels, bias, carry, xs):
        def advance(carry, x):
            carry = jnp.tanh(carry @ kernels["one"] + x * bias)
            return carry, jnp.where(constants[1], jnp.einsum("bd,bdg->bg", carry + 1, kernels["each"]), 0)

        return jax.lax.scan(advance, carry, xs)

    def ours(kernels, bias, carry, xs):
        return recurrent.scan(step, kernels, (bias, constants[1]), carry, xs)

    def loss(form, *arrays):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in form(*arrays))

    arrays = (kernels, constants[0], carry, xs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours(*arrays), plain(*arrays))
    gradients = [jax.jit(jax.grad(lambda *a, f=f: loss(f, *a), (0, 1, 2, 3)))(*arrays) for f in (ours, plain)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *gradients)


@pytest.mark.parametrize(("cell", "attention"), KINDS)
def test_the_number_of_parameters_is_the_formula(cell, attention):
    model = MODELS["seq2seq"](
        source_vocabulary=700, target_vocabulary=900, width=64, depth=2, cell=cell, attention=attention
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), SOURCE, MASK, TARGET)
    w, gates, biases, arrays = 64, *((3, 2, 1) if cell == "gru" else (4, 1, 2))

    def layer(inputs):
        return gates * w * (inputs + w + biases)

    expected = (700 + 900) * w + 2 * (layer(w) + layer(2 * w)) + 2 * arrays * (2 * w + 1) * w
    expected += 2 * w * w + layer(2 * w) + layer(w) + 3 * w * w + (w + 1) * 900
    expected += w * w + w if attention == "additive" else 0
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == expected


def test_unknown_parts_are_named(key):
    with pytest.raises(ValueError, match="additive.*general.*'dot'"):
        MODELS["seq2seq"](attention="dot").init(key, SOURCE, MASK, TARGET)
    with pytest.raises(ValueError, match="gru.*lstm.*'rnn'"):
        MODELS["seq2seq"](cell="rnn").init(key, SOURCE, MASK, TARGET)
