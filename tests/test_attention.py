from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.layers import attention
from dlx.layers.attention import KeyValue, SelfAttention, attend, attend_cached, blocked, fused


def drawn(*shape, seed=0, dtype="float32"):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def inputs(dtype="float32"):
    return (
        drawn(2, 5, 3, 8, seed=1, dtype=dtype),
        drawn(2, 7, 3, 8, seed=2, dtype=dtype),
        drawn(2, 7, 3, 8, seed=3, dtype=dtype),
    )


MASKS = {
    "none": None,
    "padding": jnp.arange(7)[None, None, None] < jnp.array([4, 7])[:, None, None, None],
    "causal": jnp.tril(jnp.ones((5, 7), bool))[None, None],
    "blind": jnp.zeros((2, 1, 1, 7), bool),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_all_forms_give_the_same_values_and_gradients(mask):
    def loss(form, query, key, value):
        return jnp.sum(jnp.sin(form(query, key, value, mask)))

    for form in (blocked, fused):
        np.testing.assert_allclose(form(*inputs(), mask), attend(*inputs(), mask), atol=1e-6)
        gradients = (jax.grad(loss, argnums=(1, 2, 3))(f, *inputs()) for f in (form, attend))
        for one, other in zip(*gradients, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_attention_is_the_formula():
    query, key, value = (np.asarray(x, np.float64)[1, :, 2] for x in inputs())  # one example, one head
    weights = np.exp(query @ key.T / np.sqrt(8))
    expected = weights / weights.sum(axis=1, keepdims=True) @ value
    np.testing.assert_allclose(attend(*inputs())[1, :, 2], expected, atol=1e-6)


def test_a_masked_key_changes_nothing_and_a_blind_query_averages():
    query, key, value = inputs()
    mask = MASKS["padding"]
    before = attend(query, key, value, mask)
    after = attend(query, key.at[0, 4:].set(9.0), value.at[0, 4:].set(9.0), mask)
    np.testing.assert_array_equal(before, after)
    blind = attend(query, key, value, MASKS["blind"])
    np.testing.assert_allclose(blind, jnp.broadcast_to(value.mean(1, keepdims=True), blind.shape), atol=1e-6)


def test_the_softmax_is_float32_under_bfloat16():
    for form in (blocked, fused):
        text = str(jax.make_jaxpr(form)(*inputs("bfloat16")))
        assert "exp" in text and all("f32" in line for line in text.splitlines() if " exp " in line)
        out = form(*inputs("bfloat16"))
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), attend(*inputs()), atol=0.05)


def plain(query, key, value, mask=None, *, causal=False, window=None, segments=None, lengths=None):
    """Attention in float64 with one loop over examples and heads, and every rule a matrix."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, time, heads, width = query.shape
    rows, columns = np.arange(time)[:, None], np.arange(key.shape[1])
    out = np.zeros_like(query)
    for b in range(batch):
        allowed = np.ones((heads, time, key.shape[1]), bool)
        if mask is not None:
            allowed &= np.broadcast_to(mask, (batch, heads, time, key.shape[1]))[b]
        if causal:
            allowed &= columns <= rows
        if window is not None:
            allowed &= np.abs(columns - rows) < window
        if segments is not None:
            allowed &= np.asarray(segments)[b][:, None] == np.asarray(segments)[b]
        if lengths is not None:
            allowed &= columns < lengths[b]
        for h in range(heads):
            group = h * key.shape[2] // heads
            scores = np.where(allowed[h], query[b, :, h] @ key[b, :, group].T / np.sqrt(width), -1e30)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, h] = weights / weights.sum(-1, keepdims=True) @ value[b, :, group]
    return out


TIME = 37
SEGMENTS = jnp.array([[0] * 10 + [1] * 20 + [2] * 7, [5] * 30 + [3] * 7])
RULES = {
    "nothing": {},
    "causal": {"causal": True},
    "window": {"window": 5},
    "causal window": {"causal": True, "window": 5},
    "own place": {"window": 1},
    "segments": {"segments": SEGMENTS},
    "packed": {"causal": True, "segments": SEGMENTS},
    "lengths": {"lengths": jnp.array([11, 37])},
    "causal lengths": {"causal": True, "lengths": jnp.array([1, 30])},
    "mask": {"mask": jax.random.bernoulli(jax.random.key(5), 0.8, (2, 6, TIME, TIME))},
    "all": {
        "mask": jax.random.bernoulli(jax.random.key(5), 0.8, (1, 1, TIME, TIME)) | jnp.eye(TIME, dtype=bool),
        "causal": True,
        "window": 9,
        "segments": SEGMENTS,
        "lengths": jnp.array([37, 37]),
    },
}
SIZES = {"spans": {"span": 16}, "spans and chunks": {"span": 20, "chunk": 8}}


def rows(groups=6, time=TIME, dtype="float32"):
    shapes = ((2, time, 6, 8), (2, time, groups, 8), (2, time, groups, 8))
    return [drawn(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes, 1)]


@pytest.mark.parametrize(
    ("groups", "rule"), [*((2, rule) for rule in RULES), (6, "packed"), (1, "packed")], ids=str
)
def test_attention_follows_the_plain_loop_under_every_rule(rule, groups):
    rule = dict(RULES[rule])
    expected = plain(*rows(groups), **rule)
    data = [rule.pop(name, None) for name in ("mask", "segments", "lengths")]

    @jax.jit
    def forms(inputs, mask, segments, lengths):
        found = {"attend": attend(*inputs, mask, segments=segments, lengths=lengths, **rule)}
        found["fused"] = fused(*inputs, mask, segments, lengths, **rule)
        for name, sizes in SIZES.items():
            found[name] = blocked(*inputs, mask, segments, lengths, **rule, **sizes)
        return found

    for name, got in forms(rows(groups), *data).items():
        np.testing.assert_allclose(got, expected, atol=2e-6, err_msg=name)


def test_spans_and_chunks_have_the_gradients_of_the_whole():
    rest = dict(RULES["all"])
    data = [rest.pop(name, None) for name in ("mask", "segments", "lengths")]

    def loss(form):
        return lambda *inputs: jnp.sum(jnp.sin(form(*inputs, *data, **rest)))

    forms = [fused, *(partial(blocked, **sizes) for sizes in SIZES.values())]
    found = jax.jit(lambda *x: [jax.grad(loss(form), argnums=(0, 1, 2))(*x) for form in forms])(*rows(2))
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=2e-6)


def test_blocks_that_no_query_sees_are_not_computed():
    """At 512 places in 8 spans causality leaves 9/16 of the products, a window of one span less than 3/8."""
    inputs = [jax.ShapeDtypeStruct((1, 512, 2, 32), jnp.float32)] * 3

    def work(**rule):
        return jax.jit(partial(blocked, **rule)).lower(*inputs).compile().cost_analysis()["flops"]

    assert work(causal=True) < 0.6 * work()
    assert work(causal=True, window=64) < 0.4 * work()


def test_memory_of_long_sequences_is_not_quadratic():
    def memory(time):
        inputs = [jax.ShapeDtypeStruct((1, time, 4, 32), jnp.float32)] * 3
        step = jax.jit(jax.grad(lambda *x: jnp.sum(attend(*x, causal=True) ** 2), argnums=(0, 1, 2)))
        return step.lower(*inputs).compile().memory_analysis().temp_size_in_bytes

    scores = 4 * 4 * 8192**2  # bytes
    assert memory(8192) < scores / 4
    assert memory(16_384) < 2.2 * memory(8192)


@pytest.mark.parametrize("window", [None, 4])
def test_a_few_tokens_at_a_time_see_what_they_see_at_once(window):
    """Two examples that have come to different places, prompts of which one is padded on the right."""
    inputs = query, key, value = rows(2, time=12)
    at_once = np.asarray(jax.jit(partial(attend, causal=True, window=window))(*inputs))
    start = jnp.zeros(2, jnp.int32)
    cache = KeyValue(*jnp.zeros((2, 2, 2, 12, 8)))
    step = jax.jit(partial(attend_cached, window=window))
    seen, cache = step(query[:, :5], key[:, :5], value[:, :5], cache, start)
    np.testing.assert_allclose(seen, at_once[:, :5], atol=1e-6)
    for places in ([5, 3], [6, 4], [7, 5]):  # the second has forgotten two
        now = [np.stack([np.asarray(x)[b, [place]] for b, place in enumerate(places)]) for x in inputs]
        seen, cache = step(*now, cache, np.int32(places))
        for b, place in enumerate(places):
            np.testing.assert_allclose(seen[b, 0], at_once[b, place], atol=1e-6)
    before = cache
    seen, cache = step(*now, cache, np.int32([11, 12]))  # the second is beyond its room
    np.testing.assert_array_equal(cache.key[1], before.key[1])
    np.testing.assert_array_equal(cache.key[0, :, 11], now[1][0, 0])


def test_a_cache_goes_through_a_scan():
    query, key, value = rows(2, time=12)

    def step(carry, now):
        cache, place = carry
        seen, cache = attend_cached(*(x[:, None] for x in now), cache, place)
        return (cache, place + 1), seen[:, 0]

    start = KeyValue(*jnp.zeros((2, 2, 2, 12, 8))), jnp.zeros(2, jnp.int32)
    _, seen = jax.lax.scan(step, start, tuple(x.swapaxes(0, 1) for x in (query, key, value)))
    np.testing.assert_allclose(seen.swapaxes(0, 1), attend(query, key, value, causal=True), atol=1e-6)


def test_padding_alone_is_finite():
    out = attend(*rows(2), causal=True, lengths=jnp.zeros(2, jnp.int32))
    assert bool(jnp.all(jnp.isfinite(out)))


def test_on_a_gpu_the_kernel_takes_what_fits(monkeypatch):
    """The rules go to cuDNN as its own arguments; a mask, another window or float32 stays with XLA."""
    chosen = []

    def called(query, *_, implementation, **rules):
        chosen.append((implementation, rules))
        return query

    monkeypatch.setattr(attention.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention.jax.nn, "dot_product_attention", called)
    half = rows(2, dtype="bfloat16")
    fused(*half, None, None, jnp.array([3, 5]), causal=True, window=4)
    assert chosen[-1][0] == "cudnn" and chosen[-1][1]["is_causal"]
    assert chosen[-1][1]["local_window_size"] == (3, 0)
    assert chosen[-1][1]["key_value_seq_lengths"].tolist() == [3, 5]
    fused(*half, None, SEGMENTS, causal=True)
    fused(*half, window=4)
    fused(*rows(2), causal=True)
    assert [name for name, _ in chosen[1:]] == ["xla"] * 3


RATE = 0.25
DROPPING = {"attend": attend} | {name: partial(blocked, **sizes) for name, sizes in SIZES.items()}


def weights(form, **rule):
    """Returns the weights [b, t, heads, s] that a form gives to 8 keys, whose values are the unit vectors."""
    query, key, _ = rows(2)
    return form(query, key[:, :8], jnp.broadcast_to(jnp.eye(8)[:, None], (2, 8, 2, 8)), **rule)


@pytest.mark.parametrize("name", DROPPING)
def test_dropped_weights_are_zero_and_the_others_grow_and_a_mask_stays(name):
    seen = jax.random.bernoulli(jax.random.key(9), 0.7, (2, 6, TIME, 8)).at[..., 0].set(True)
    rule = {"mask": seen, "causal": True, "lengths": jnp.array([5, 8])}

    drop = jax.jit(lambda key: weights(DROPPING[name], **rule, dropout_rate=RATE, dropout_key=key))
    whole = np.asarray(weights(blocked, **rule))
    found = np.stack([drop(jax.random.key(seed)) for seed in range(4)])
    np.testing.assert_array_equal(found[0], drop(jax.random.key(0)))
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[:, whole == 0], 0)
    kept = found > 0
    np.testing.assert_allclose(found[kept], np.broadcast_to(whole, found.shape)[kept] / (1 - RATE), rtol=1e-5)
    share = 1 - kept[:, whole > 0].mean()
    assert abs(share - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / kept[:, whole > 0].size)


@pytest.mark.parametrize("name", DROPPING)
def test_spans_chunks_heads_and_examples_each_draw_for_themselves(name, key):
    kept = np.asarray(weights(DROPPING[name], window=37, dropout_rate=RATE, dropout_key=key)) > 0
    patterns = [kept[b, row : row + 8, h] for b in range(2) for row in (0, 8, 16, 24) for h in range(6)]
    assert len({pattern.tobytes() for pattern in patterns}) == len(patterns)


def test_at_rate_0_or_without_a_key_nothing_is_dropped(key):
    expected = attend(*rows(2), causal=True)
    for noise in ({"dropout_rate": 0.0, "dropout_key": key}, {"dropout_rate": RATE}, {"dropout_key": key}):
        np.testing.assert_array_equal(attend(*rows(2), causal=True, **noise), expected)


def test_the_gradient_meets_the_noise_of_the_forward_pass(key):
    """With a key the output is linear in the values: its derivative along them is itself."""
    query, keys, values = rows(2)

    @jax.jit
    @jax.value_and_grad
    def total(values):
        noise = {"dropout_rate": RATE, "dropout_key": key}
        out = blocked(query, keys, values, causal=True, **SIZES["spans and chunks"], **noise)
        return jnp.sum(out * drawn(*out.shape, seed=4))

    value, gradient = total(values)
    np.testing.assert_allclose(jnp.sum(gradient * values), value, rtol=1e-4)


def test_a_rate_beyond_1_is_refused(key):
    with pytest.raises(ValueError, match="probability, between 0 and 1, not 1.5"):
        attend(*rows(2), dropout_rate=1.5, dropout_key=key)


def test_rules_that_cannot_be_are_named():
    query, key, value = rows(4)
    with pytest.raises(ValueError, match="6 heads of queries do not share 4 heads"):
        attend(query, key, value)
    query, key, value = rows()
    with pytest.raises(ValueError, match="a window holds at least .*, not 0"):
        attend(query, key, value, window=0)
    with pytest.raises(ValueError, match="not of 37 queries and 20 keys"):
        attend(query, key[:, :20], value[:, :20], segments=SEGMENTS)


def test_permuted_positions_come_out_permuted(key):
    layer, x = SelfAttention(2), drawn(2, 6, 8)
    variables = layer.init(key, x)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(
        layer.apply(variables, x[:, order]), layer.apply(variables, x)[:, order], atol=1e-6
    )


def test_each_of_the_three_projections_starts_like_a_square_one(key):
    kernel = SelfAttention(2).init(key, drawn(1, 4, 96))["params"]["qkv"]["kernel"]
    bound = np.sqrt(6 / (96 + 96))
    assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound


def test_heads_that_do_not_split_the_width_are_named(key):
    with pytest.raises(ValueError, match="width of 8 .* 3 heads"):
        SelfAttention(3).init(key, drawn(1, 4, 8))
