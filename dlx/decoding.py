"""Generating sequences from any step function: greedy, sampling and beam search.

A step is `step(cache, token [b]) -> (cache, logits [b, k])`: it takes one token for each example and says
what may follow. Every search starts from the `cache` and the `logits` that the prompt has left behind. Arrays
of a cache have the example as their first axis; scalars, such as a position, are shared by all.

All is jittable: give the step, the choice and the lengths from outside, as `functools.partial` does.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Shaped

from dlx.core import Key

Cache = Any
Step = Callable[[Cache, Int32[Array, "b"]], tuple[Cache, Float[Array, "b k"]]]
Choice = Callable[[Key, Float[Array, "b k"]], Int32[Array, "b"]]


class Decoded(NamedTuple):
    """What was generated: after its end a sequence is filled with the end token.

    `tokens` is int32 [b, length]; `lengths` int32 [b] counts the tokens up to the end, and the end itself.
    """

    tokens: Array
    lengths: Array


class Beams(NamedTuple):
    """The hypotheses of a beam search, the best first.

    `tokens` is int32 [b, beams, length], `lengths` int32 [b, beams] as in `Decoded`, and `scores` float32
    [b, beams] the log-likelihoods over their length penalties; minus infinity where there was no hypothesis.
    """

    tokens: Array
    lengths: Array
    scores: Array


def greedy(key: Key, logits: Float[Array, "b k"]) -> Int32[Array, "b"]:
    """Chooses the likeliest token, the first of equals; the key is not used."""
    return logits.argmax(-1).astype(jnp.int32)


def sampling(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Choice:
    """Returns the choice that draws a token from the softmax of the logits over `temperature`.

    `top_k` keeps the k likeliest tokens, and more where several equal the last of them. `top_p` then keeps
    the fewest tokens whose probabilities sum to at least p (nucleus sampling, Holtzman et al. 2020). What
    one example draws does not depend on the others of its batch.
    """
    if not temperature > 0:
        raise ValueError(
            f"the temperature must be above 0, not {temperature}; for the likeliest token, `greedy`"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")

    def choose(key: Key, logits: Float[Array, "b k"]) -> Int32[Array, "b"]:
        logits = restrict(logits.astype(jnp.float32) / temperature, top_k, top_p)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(logits)))
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    return choose


def restrict(
    logits: Float[Array, "b k"], top_k: int | None = None, top_p: float | None = None
) -> Float[Array, "b k"]:
    """Sets the logits of all tokens outside the `top_k` likeliest, then outside the nucleus, to -infinity."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None and top_p < 1:
        falling = jnp.sort(logits, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(falling), axis=-1) - jax.nn.softmax(falling)  # of likelier tokens
        least = jnp.where(before < top_p, falling, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def generate(
    step: Step,
    cache: Cache,
    logits: Float[Array, "b k"],
    choose: Choice,
    key: Key,
    *,
    length: int,
    end: int | None = None,
) -> Decoded:
    """Generates up to `length` tokens for each example, and stops early when all have chosen `end`.

    The token at position t is `choose(fold_in(key, t), logits)`. Without an `end` none stops early.
    """
    examples = len(logits)
    stop = -1 if end is None else end
    filler = 0 if end is None else end

    def running(state):
        position, _, _, _, ended = state
        return (position < length) & ~ended.all()

    def advance(state):
        position, cache, logits, tokens, ended = state
        token = choose(jax.random.fold_in(key, position), logits)
        token = jnp.where(ended, filler, token)
        tokens = tokens.at[:, position].set(token)
        cache, logits = step(cache, token)
        return position + 1, cache, logits, tokens, ended | (token == stop)

    tokens = jnp.full((examples, length), filler, jnp.int32)
    start = (jnp.int32(0), cache, logits, tokens, jnp.zeros(examples, bool))
    tokens = jax.lax.while_loop(running, advance, start)[3]
    return Decoded(tokens, _lengths(tokens, stop))


def stream(
    step: Step,
    cache: Cache,
    logits: Float[Array, "1 k"],
    choose: Choice,
    key: Key,
    *,
    length: int,
    end: int | None = None,
) -> Iterator[int]:
    """Yields the tokens of one example as they are chosen, the same as `generate` does; `end` is not yielded.

    Give a jitted `step`: it is called once for each token.
    """
    for position in range(length):
        token = choose(jax.random.fold_in(key, position), logits)
        if (chosen := int(token[0])) == end:
            return
        yield chosen
        if position + 1 < length:
            cache, logits = step(cache, token)


def beam_search(
    step: Step,
    cache: Cache,
    logits: Float[Array, "b k"],
    *,
    length: int,
    end: int,
    beams: int = 4,
    length_penalty: float = 0.6,
) -> Beams:
    """Searches the likeliest sequences, keeping the `beams` best hypotheses of each example.

    The log-likelihood of a sequence of n tokens, its end included, is divided by
    ((5 + n) / 6) ** length_penalty (Wu et al. 2016, equation 14); one that has not ended after `length`
    tokens counts as it stands. The search ends when no open hypothesis can overtake the worst of `beams`
    ended ones.
    """
    if beams < 1 or length_penalty < 0:
        raise ValueError(f"beams={beams} must be at least 1 and length_penalty={length_penalty} at least 0")
    examples, vocabulary = logits.shape
    if not 0 <= end < vocabulary:
        raise ValueError(f"the end token {end} is not one of the {vocabulary} tokens")
    wide = min(2 * beams, beams * vocabulary)  # of twice the beams, at most `beams` end: as many stay open
    longest = penalty(length, length_penalty)

    def running(state):
        position, _, _, _, scores, _, ended_scores = state
        hopeless = ended_scores.min(axis=1) >= scores.max(axis=1) / longest
        return (position < length) & ~hopeless.all()

    def advance(state):
        position, cache, logits, tokens, scores, ended_tokens, ended_scores = state
        likelihoods = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(examples, beams, vocabulary)
        likelihoods = (scores[..., None] + likelihoods).reshape(examples, -1)
        found, index = jax.lax.top_k(likelihoods, wide)
        parent, token = index // vocabulary, (index % vocabulary).astype(jnp.int32)
        grown = _take(tokens, parent).at[:, :, position].set(token)

        ends = jnp.where(token == end, found / penalty(position + 1, length_penalty), -jnp.inf)
        pool = jnp.concatenate([ended_tokens, grown], axis=1)
        ended_scores, best = jax.lax.top_k(jnp.concatenate([ended_scores, ends], axis=1), beams)
        ended_tokens = _take(pool, best)

        scores, best = jax.lax.top_k(jnp.where(token == end, -jnp.inf, found), beams)
        tokens, parent, token = _take(grown, best), _take(parent, best), _take(token, best)
        rows = (parent + beams * jnp.arange(examples)[:, None]).reshape(-1)
        cache, logits = step(_rows(lambda leaf: leaf[rows], cache), token.reshape(-1))
        return position + 1, cache, logits, tokens, scores, ended_tokens, ended_scores

    blank = jnp.full((examples, beams, length), end, jnp.int32)
    none = jnp.full((examples, beams), -jnp.inf)
    cache, logits = _rows(lambda leaf: jnp.repeat(leaf, beams, axis=0), (cache, logits))
    start = (jnp.int32(0), cache, logits, blank, none.at[:, 0].set(0.0), blank, none)
    position, _, _, tokens, scores, ended_tokens, ended_scores = jax.lax.while_loop(running, advance, start)

    open_scores = jnp.where(position == length, scores / longest, -jnp.inf)
    scores, best = jax.lax.top_k(jnp.concatenate([ended_scores, open_scores], axis=1), beams)
    tokens = _take(jnp.concatenate([ended_tokens, tokens], axis=1), best)
    return Beams(tokens, _lengths(tokens, end), scores)


def penalty(length, power: float):
    """Returns what the log-likelihood of a sequence of `length` tokens is divided by (Wu et al. 2016)."""
    return ((5 + length) / 6) ** power


def _take(values: Shaped[Array, "b m ..."], index: Int32[Array, "b n"]) -> Shaped[Array, "b n ..."]:
    """Returns the chosen entries of each example."""
    return jax.vmap(lambda row, chosen: row[chosen])(values, index)


def _rows(change: Callable, cache: Cache) -> Cache:
    """Changes the arrays of a cache; its scalars are shared by all examples and stay."""
    return jax.tree.map(lambda leaf: change(leaf) if jnp.ndim(leaf) else leaf, cache)


def _lengths(tokens: Int32[Array, "... t"], end: int) -> Int32[Array, "..."]:
    """Returns the number of tokens up to the first `end`, and with it."""
    ends = tokens == end
    first = jnp.where(ends.any(-1), ends.argmax(-1) + 1, tokens.shape[-1])
    return first.astype(jnp.int32)
