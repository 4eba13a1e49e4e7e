"""Decoding against brute force: every sequence of a small vocabulary is scored."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import decoding

VOCABULARY, END, LENGTH, BATCH = 4, 0, 4, 3
TABLE = jax.random.normal(jax.random.key(1), (BATCH, VOCABULARY, VOCABULARY, VOCABULARY)) * 2


def step(cache, token):
    """The next logits depend on the example and its last two tokens, which the cache must carry along."""
    example, last = cache["example"], cache["last"]
    logits = TABLE[example, last, token]
    return {"example": example, "last": token, "position": cache["position"] + 1}, logits


def start():
    cache = {
        "example": jnp.arange(BATCH),
        "last": jnp.ones(BATCH, jnp.int32),
        "position": jnp.int32(0),
    }
    return step(cache, jnp.full(BATCH, 2, jnp.int32))


def every_sequence():
    """All sequences that end at their first END, or fill LENGTH without one."""
    for size in range(1, LENGTH + 1):
        for body in itertools.product(range(1, VOCABULARY), repeat=size - 1):
            yield (*body, END)
    yield from itertools.product(range(1, VOCABULARY), repeat=LENGTH)


def log_likelihood(example, sequence):
    table, (last, token), total = np.asarray(jax.nn.log_softmax(TABLE))[example], (1, 2), 0.0
    for following in sequence:
        total += table[last, token, following]
        last, token = token, following
    return total


def padded(sequence):
    return [*sequence, *[END] * (LENGTH - len(sequence))]


@pytest.mark.parametrize("power", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_sequences_of_all(power):
    beams = 40
    search = partial(decoding.beam_search, step, length=LENGTH, end=END, beams=beams, length_penalty=power)
    found = jax.jit(search)(*start())
    for example in range(BATCH):
        scores = {s: log_likelihood(example, s) / ((5 + len(s)) / 6) ** power for s in every_sequence()}
        best = sorted(scores, key=scores.get, reverse=True)[:5]
        assert found.tokens[example, :5].tolist() == [padded(s) for s in best]
        assert found.lengths[example, :5].tolist() == [len(s) for s in best]
        np.testing.assert_allclose(found.scores[example, :5], [scores[s] for s in best], rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_a_narrow_beam_is_the_beam_search_written_in_python(beams):
    found = decoding.beam_search(step, *start(), length=LENGTH, end=END, beams=beams, length_penalty=0.6)
    for example in range(BATCH):
        live, ended = [((), 0.0)], []
        for size in range(1, LENGTH + 1):
            grown = [(*s, t) for s, _ in live for t in range(VOCABULARY)]
            grown = sorted(((s, log_likelihood(example, s)) for s in grown), key=lambda pair: -pair[1])
            grown = grown[: 2 * beams]
            ended += [(s, score / ((5 + size) / 6) ** 0.6) for s, score in grown if s[-1] == END]
            live = [(s, score) for s, score in grown if s[-1] != END][:beams]
        ended += [(s, score / ((5 + LENGTH) / 6) ** 0.6) for s, score in live]
        best = sorted(ended, key=lambda pair: -pair[1])[:beams]
        assert found.tokens[example].tolist() == [padded(s) for s, _ in best]
        np.testing.assert_allclose(found.scores[example], [score for _, score in best], rtol=1e-5)


def test_scores_are_the_likelihoods_of_the_tokens_that_come_with_them():
    found = decoding.beam_search(step, *start(), length=LENGTH, end=END, beams=3, length_penalty=0.0)
    for example, beam in itertools.product(range(BATCH), range(3)):
        sequence = found.tokens[example, beam, : found.lengths[example, beam]].tolist()
        assert found.scores[example, beam] == pytest.approx(log_likelihood(example, sequence), rel=1e-5)


def test_beam_search_stops_when_nothing_can_overtake():
    calls = []

    def certain(cache, token):
        jax.debug.callback(lambda: calls.append(1))
        return cache, jnp.where(jnp.arange(VOCABULARY) == END, 9.0, 0.0) * jnp.ones((len(token), 1))

    logits = jnp.zeros((1, VOCABULARY)).at[:, END].set(9.0)
    decoding.beam_search(certain, (), logits, length=1000, end=END, beams=2)
    jax.effects_barrier()
    assert len(calls) < 100


def test_greedy_takes_the_likeliest_token_each_time_and_fills_after_the_end():
    decoded = jax.jit(partial(decoding.generate, step, choose=decoding.greedy, length=LENGTH, end=END))(
        *start(), key=jax.random.key(0)
    )
    for example in range(BATCH):
        last, token, expected = 1, 2, []
        while len(expected) < LENGTH and (not expected or expected[-1] != END):
            following = int(TABLE[example, last, token].argmax())
            expected.append(following)
            last, token = token, following
        assert decoded.tokens[example].tolist() == padded(expected)
        assert decoded.lengths[example] == len(expected)


def test_greedy_is_a_beam_of_one_where_nothing_ends():
    def never(cache, token):
        cache, logits = step(cache, token)
        return cache, logits.at[:, END].set(-jnp.inf)

    cache, logits = start()
    logits = logits.at[:, END].set(-jnp.inf)
    beam = decoding.beam_search(never, cache, logits, length=LENGTH, end=END, beams=1)
    one = decoding.generate(never, cache, logits, decoding.greedy, jax.random.key(0), length=LENGTH)
    assert beam.tokens[:, 0].tolist() == one.tokens.tolist()
    assert one.lengths.tolist() == [LENGTH] * BATCH


def test_sampling_follows_the_softmax_over_the_temperature():
    logits = jnp.array([1.0, 0.0, -1.0, 2.0])
    drawn = decoding.sampling(0.7)(jax.random.key(0), jnp.tile(logits, (20_000, 1)))
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, jax.nn.softmax(logits / 0.7), atol=0.015)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"top_k": 1}, [3]),
        ({"top_k": 2}, [0, 3]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.4}, [3]),
        ({"top_p": 0.5}, [3]),
        ({"top_p": 0.51}, [0, 3]),
        ({"top_p": 0.81}, [0, 1, 3]),
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"top_k": 2, "top_p": 0.6}, [3]),  # 0.5 of the 0.8 left is above 0.6
    ],
)
def test_top_k_and_top_p_keep_the_likeliest(limits, kept):
    logits = jnp.log(jnp.array([[0.3, 0.15, 0.05, 0.5]]))
    assert np.flatnonzero(np.isfinite(decoding.restrict(logits, **limits)[0])).tolist() == kept


def test_what_an_example_draws_does_not_depend_on_its_batch():
    cache, logits = start()
    choose = decoding.sampling(2.0)
    whole = decoding.generate(step, cache, logits, choose, jax.random.key(3), length=LENGTH, end=END)
    part = {name: leaf[:2] if leaf.ndim else leaf for name, leaf in cache.items()}
    less = decoding.generate(step, part, logits[:2], choose, jax.random.key(3), length=LENGTH, end=END)
    assert whole.tokens[:2].tolist() == less.tokens.tolist()


def test_generation_stops_early_when_all_have_ended():
    calls = []

    def counted(cache, token):
        jax.debug.callback(lambda: calls.append(1))
        return step(cache, token)

    def ends_at_once(key, logits):
        return jnp.full(len(logits), END, jnp.int32)

    decoded = decoding.generate(counted, *start(), ends_at_once, jax.random.key(0), length=50, end=END)
    jax.effects_barrier()
    assert len(calls) == 1
    assert decoded.lengths.tolist() == [1] * BATCH


def test_a_stream_is_what_generate_gives():
    cache, logits = start()
    alone, first = jax.tree.map(lambda leaf: leaf[:1] if leaf.ndim else leaf, (cache, logits))
    for seed in range(6):
        key, choose = jax.random.key(seed), decoding.sampling(1.5)
        decoded = decoding.generate(step, alone, first, choose, key, length=LENGTH, end=END)
        expected = [token for token in decoded.tokens[0].tolist() if token != END]
        assert list(decoding.stream(step, alone, first, choose, key, length=LENGTH, end=END)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, not 0.0; for the likeliest token, `greedy`"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5"),
    ],
)
def test_sampling_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        decoding.sampling(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end": 4}, "the end token 4 is not one of the 4 tokens"),
        ({"end": 0, "beams": 0}, "beams=0 must be at least 1"),
        ({"end": 0, "length_penalty": -1.0}, "length_penalty=-1.0 at least 0"),
    ],
)
def test_beam_search_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        decoding.beam_search(step, *start(), length=LENGTH, **options)
