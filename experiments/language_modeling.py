"""Language modeling: what comes next in a text.

A text is a stream of tokens. Training reads it in windows that begin anywhere; a recurrent model reads it end
to end in as many tracks as a batch has rows, and carries its state from step to step (truncated
backpropagation). Held-out text is read whole: every token but the first is predicted exactly once.
"""

import collections
import functools
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dlx import decoding, feed, figures, losses, metrics
from dlx.configuration import ConfigError, build
from dlx.core import Mean, Model, Task, Variables
from dlx.data import text
from dlx.data import tokenizer as tokenizers
from dlx.data.sources import SOURCES
from dlx.evaluate import mean_over
from dlx.models import MODELS, gpt, recurrent

RECURRENT = ("gru", "lstm")


class Corpus(NamedTuple):
    """A tokenizer, the tokens of each split, and how many UTF-8 bytes its predicted tokens stand for."""

    tokenizer: tokenizers.Tokenizer
    tokens: dict[str, np.ndarray]
    bytes: dict[str, int]


def make_task(config) -> Task:
    """Cross entropy of every next token, in nats; of held-out text also perplexity and bits per byte."""
    model, corpus = network(config), data(config)
    read = text.contiguous if is_recurrent(config) else text.windows
    rows = feed.rows(config.batch)
    train = read(corpus.tokens["train"], config.context, config.batch, config.seed, rows=rows)
    surprise = nats(config, model)

    def init(key):
        variables = model.init(key, jnp.zeros((1, 1), jnp.int32))
        if not is_recurrent(config):
            return variables
        (_, state), _ = model.apply(variables, jnp.zeros((config.batch, 1), jnp.int32))
        return Variables(variables.params, packed(jax.tree.map(jnp.zeros_like, state)))

    def loss(variables, batch, key):
        each, state = surprise(variables, batch, key)
        return each.mean(), (state, {"loss": metrics.mean(each)})

    def score(variables, batch):
        each, _ = surprise(variables, batch)
        return {"loss": metrics.mean(each, batch["weights"])}

    def evaluator(split):
        length = config.context
        if is_recurrent(config):  # one batch of long rows, for the state is not forgotten
            length = -(-(len(corpus.tokens[split]) - 1) // config.batch)
        peer = functools.cache(functools.partial(beside, config, split))
        report = functools.partial(summary, corpus.bytes[split], peer)
        return mean_over(passes(config, split, length), score, report)

    return Task(init, loss, train, {split: evaluator(split) for split in corpus.tokens if split != "train"})


def data(config) -> Corpus:
    """Returns the texts as tokens; kept, since a run asks for them more than once."""
    return load(json.dumps([config.source.to_dict(), config.tokenizer.to_dict()], sort_keys=True))


@functools.lru_cache(maxsize=1)
def load(spec: str) -> Corpus:
    """Reads the source and learns the tokenizer, whose specs are given in JSON, from the training text."""
    source, how = json.loads(spec)
    splits = build(SOURCES, source).splits
    if "train" not in splits:
        raise ConfigError(f"the source has {', '.join(splits)}; it needs a split 'train' to learn from")
    texts = {split: "\n".join(example["text"] for example in splits[split]) for split in splits}
    tokenizer = build(tokenizers.TOKENIZERS | {"file": existing}, how, texts=[texts["train"]])
    tokens = {split: tokenizer.encode(texts[split]) for split in texts}
    first = {split: tokenizer.decode(ids[:1]) for split, ids in tokens.items()}
    sizes = {split: len(texts[split].encode()) - len(first[split].encode()) for split in texts}
    return Corpus(tokenizer, tokens, sizes)


def existing(texts, *, path: str) -> tokenizers.Tokenizer:
    """Returns the tokenizer of a file or folder, GPT-2's own say; `texts` teach it nothing."""
    return tokenizers.load(path)


def network(config) -> Model:
    """Returns the model, for the vocabulary of the tokenizer and, where it has one, the context."""
    size = {"vocabulary": data(config).tokenizer.size}
    return build(MODELS, config.model, **size | ({} if is_recurrent(config) else {"context": config.context}))


def is_recurrent(config) -> bool:
    """Tells whether the model carries a state through the text, rather than seeing a context."""
    return config.model.name in RECURRENT


def nats(config, model: Model) -> Callable:
    """Returns `(variables, batch, key=None) ->` -log p of each target [b, t], and the state."""

    def attending(variables, batch, key=None):
        hidden, state = model.apply(variables, batch["tokens"], hidden=True, key=key)
        return losses.chunked_cross_entropy(hidden, gpt.head(variables), batch["targets"]), state

    def carrying(variables, batch, key=None):
        state = None
        if "reset" in batch:
            state = unpacked(model, variables, len(batch["reset"]))
            state = jax.tree.map(lambda leaf: jnp.where(batch["reset"][:, None], 0, leaf), state)
        (logits, state), _ = model.apply(Variables(variables.params, {}), batch["tokens"], state, key=key)
        return losses.softmax_cross_entropy(logits, batch["targets"]), packed(state)

    return carrying if is_recurrent(config) else attending


def packed(state) -> dict:
    """Returns a recurrent state as the nested dict that `Variables` hold."""
    return {"carry": {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(state))}}


def unpacked(model: Model, variables: Variables, batch: int):
    """Returns the recurrent state of `variables`, as the model takes it."""
    tokens = jax.ShapeDtypeStruct((batch, 1), jnp.int32)
    (_, like), _ = jax.eval_shape(model.apply, Variables(variables.params, {}), tokens)
    carry = variables.state["carry"]
    return jax.tree.unflatten(jax.tree.structure(like), [carry[str(i)] for i in range(len(carry))])


def passes(config, split: str, length: int) -> Callable:
    """Returns `() -> batches`: one pass over a split, in rows of a length, every target once."""
    rows = text.chunks(data(config).tokens[split], length)
    return text.weighted_passes(rows, config.batch, rows=feed.rows(config.batch))


def summary(size: int, peer: Callable, sums) -> dict[str, float]:
    """Returns nats per token, perplexity, bits for each of the `size` bytes of the text, and `peer()`."""
    loss = metrics.summarize(sums)["loss"]
    bits = float(sums["loss"].total) / np.log(2)
    return {"loss": loss, "perplexity": float(np.exp(loss)), "bits_per_byte": bits / size} | peer()


def beside(config, split: str) -> dict[str, float]:
    """Returns the nats per token of a split that `config.peer` needs, if there is one."""
    if "peer" not in config:
        return {}
    tokenizer, tokens, _ = data(config)
    sides = {"train": tokens["train"], "held_out": tokens[split], "vocabulary": tokenizer.size}
    return {f"loss_{config.peer.name}": float(build({"n_gram": n_gram}, config.peer, **sides).mean())}


def n_gram(
    train: Int[np.ndarray, "n"], held_out: Int[np.ndarray, "m"], order: int, vocabulary: int
) -> Float[np.ndarray, "m-1"]:
    """Returns -log p, in nats, of each token but the first given the `order` - 1 before it, as counted.

    The shares of tokens after a context are mixed with those after the context without its first token, down
    to none and to all tokens alike, as Witten and Bell have it: a context with t different tokens among n
    leaves t / (n + t) to the shorter one (Chen and Goodman 1999, "An empirical study of smoothing techniques
    for language modeling", section 2.6).
    """
    known, asked = train.tolist(), held_out.tolist()
    chance = np.full(len(asked), 1 / vocabulary)
    for length in range(order):
        counts = collections.Counter(grams(known, length + 1))
        total, kinds = collections.Counter(), collections.Counter()
        for gram, count in counts.items():
            total[gram[:-1]] += count
            kinds[gram[:-1]] += 1
        for place, gram in enumerate(grams(asked, length + 1), start=length):
            if seen := total[gram[:-1]]:
                left = kinds[gram[:-1]]
                chance[place] = (counts[gram] + left * chance[place]) / (seen + left)
    return -np.log(chance[1:])


def grams(tokens: list[int], length: int) -> Iterator[tuple[int, ...]]:
    """Yields every run of so many tokens, in order."""
    return zip(*(tokens[start:] for start in range(length)), strict=False)


def files(config) -> dict[str, str]:
    """Returns what is saved with a run: its tokenizer."""
    return {"tokenizer.json": data(config).tokenizer.json}


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    corpus = data(config)
    sizes = ", ".join(f"{split} {len(tokens):,}" for split, tokens in corpus.tokens.items())
    return {
        "data": f"{config.source.name}: {sizes} tokens, "
        f"{corpus.tokenizer.size:,} different ({config.tokenizer.name})"
    }


def reply(config, variables) -> Callable[[list[str]], Iterator[str]]:
    """Returns `turns ->` pieces of text that continue the turns, which are lines of one text.

    A model with a context sees its last tokens alone: of a longer prompt the end, as a note on standard error
    says, and of what it has written itself, whenever the context is full, the last half. Raises ValueError
    where there is nothing to continue, or a character that the tokenizer does not know.
    """
    tokenizer, write = data(config).tokenizer, writer(config, variables)

    def answer(turns: list[str]) -> Iterator[str]:
        ids = tokenizer.encode("\n".join(turns))
        if not len(ids):
            raise ValueError("the prompt is empty: give at least one character to continue")
        if not is_recurrent(config) and len(ids) > config.context:
            seen = f"the prompt has {len(ids):,} tokens, of which the model sees the last {config.context:,}"
            print(f"note: {seen}", file=sys.stderr)
        return tokenizers.pieces(tokenizer, write(ids))

    return answer


def writer(config, variables) -> Callable[..., Iterator[int]]:
    """Returns `(ids, draw=0) ->` tokens that continue them, sampled as the config says; draws differ."""
    start, step = (recurrent if is_recurrent(config) else gpt).decoder(network(config))
    start, step = jax.jit(start, static_argnames="room"), functools.partial(jax.jit(step), variables)
    choose = jax.jit(decoding.sampling(config.sampling.temperature, config.sampling.top_k))

    def write(ids: np.ndarray, draw: int = 0) -> Iterator[int]:
        left, key = config.sampling.length, jax.random.fold_in(jax.random.key(config.seed), draw)
        room = len(ids) + left if is_recurrent(config) else config.context
        ids = list(ids[-room:])
        while left:
            padded = np.zeros((1, room), np.int32)
            padded[0, : len(ids)] = ids
            cache, logits = start(variables, padded, np.array([len(ids)], np.int32), room=room)
            count = min(left, room - len(ids) + 1)
            tokens = decoding.stream(step, cache, logits, choose, jax.random.fold_in(key, left), length=count)
            for token in tokens:
                ids.append(token)
                yield token
            ids, left = ids[-max(room // 2, 1) :], left - count

    return write


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws the loss by the number of tokens seen, and continuations of held-out text."""
    corpus = data(config)
    split = list(corpus.tokens)[-1]
    name = f"{config.source.name}, {split}"
    return [
        by_position(config, variables, split, f"{name}: what a longer context is worth", folder),
        samples(config, variables, corpus.tokens[split], f"{name}: given text, and its continuation", folder),
    ]


def by_position(config, variables, split: str, title: str, folder: Path) -> Path:
    """Draws the mean loss of the first, second, ... token that a row of the context predicts."""
    surprise = nats(config, network(config))

    def score(variables, batch):
        each, _ = surprise(variables, batch)
        return {"loss": Mean((each * batch["weights"]).sum(axis=0), batch["weights"].sum(axis=0))}

    def report(sums):
        return {str(place): float(value) for place, value in enumerate(metrics.per_class(sums["loss"]), 1)}

    found = mean_over(passes(config, split, config.context), score, report)(variables)
    figure, axis = figures.canvas(figsize=(6, 4))
    axis.plot([*map(int, found)], [*found.values()], color="tab:blue", linewidth=1.5)
    axis.set(xlabel="tokens seen before", ylabel="loss, nats per token", title=title, xscale="log")
    axis.grid(alpha=0.3)
    return figures.save(figure, folder / "loss_by_position.png")


def samples(config, variables, tokens: np.ndarray, title: str, folder: Path) -> Path:
    """Draws three places of the held-out text, blue, and how the model goes on from each, black."""
    write, decode = writer(config, variables), data(config).tokenizer.decode
    length = min(max(config.context // 2, 1), len(tokens))
    figure, axes = figures.canvas(1, 3, figsize=(13, 6))
    starts = np.linspace(0, len(tokens) - length, 5).astype(int)[1:4]
    for draw, (axis, start) in enumerate(zip(axes, starts, strict=True)):
        prompt = tokens[start : start + length]
        given, said = wrapped(decode(prompt))[-9:], wrapped(decode([*write(prompt, draw)]))
        parts = (given, "tab:blue"), ([""] * len(given) + said[: 40 - len(given)], "black")
        for lines, colour in parts:
            style = {"family": "monospace", "fontsize": 7.5, "va": "top", "parse_math": False}
            axis.text(0, 1, "\n".join(lines), color=colour, transform=axis.transAxes, **style)
        axis.axis("off")
    figure.suptitle(title)
    return figures.save(figure, folder / "samples.png")


def wrapped(words: str) -> list[str]:
    """Returns text as lines that fit, with a sign for what cannot be drawn."""
    words = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in words)
    return [part for line in words.split("\n") for part in textwrap.wrap(line, 52) or [""]]
