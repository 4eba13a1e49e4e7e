"""A chatbot: a decoder that learns what the second voice of a dialogue replies.

A conversation is a row of exchanges, `<user> turn <bot> reply <end>`, where the marks are special tokens that
no text can contain. The loss is on the replies and their ends alone.
"""

import functools
import json
import textwrap
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlx import decoding, feed, figures, losses, metrics
from dlx.configuration import ConfigError, build
from dlx.core import Mean, Model, Task
from dlx.data import pipeline, text
from dlx.data import tokenizer as tokenizers
from dlx.data.sources import SOURCES
from dlx.evaluate import mean_over
from dlx.models import MODELS, gpt

SPECIAL = ("pad", "user", "bot", "end")
PLACES = 32  # places in a reply that the figure tells apart


class Corpus(NamedTuple):
    """A tokenizer, learned from the dialogues of "train", and the dialogues of each split."""

    tokenizer: tokenizers.Tokenizer
    dialogues: dict[str, Sequence]


def make_task(config) -> Task:
    """Cross entropy of the tokens of replies, in nats; on held-out dialogues also perplexity."""
    model, dialogues = network(config), data(config).dialogues

    @functools.cache
    def train():  # packed when the first batch is wanted: who only talks needs none
        rows = feed.rows(config.batch)
        return pipeline.batches(packed(config, "train"), config.batch, config.seed, rows=rows)

    def init(key):
        return model.init(key, jnp.zeros((1, 1), jnp.int32))

    def loss(variables, batch, key):
        each, state = nats(model, variables, batch, key)
        mean = metrics.mean(each, batch["weights"])
        return mean.total / jnp.maximum(mean.weight, 1), (state, {"loss": mean})

    def score(variables, batch):
        each, _ = nats(model, variables, batch)
        return {"loss": metrics.mean(each, batch["weights"])}

    def evaluator(split):
        replies = (turn for example in dialogues[split] for turn in example["turns"][1::2])
        size = sum(len(reply.encode()) for reply in replies)
        return mean_over(passes(config, split), score, functools.partial(summary, size))

    held_out = {split: evaluator(split) for split in dialogues if split != "train"}
    return Task(init, loss, lambda step: train()(step), held_out)


def nats(model: Model, variables, batch, key=None):
    """Returns -log p of each target [b, t], of replies or not, and the state."""
    inputs = (batch[name] for name in ("tokens", "segments", "positions"))
    hidden, state = model.apply(variables, *inputs, hidden=True, key=key)
    return losses.chunked_cross_entropy(hidden, gpt.head(variables), batch["targets"]), state


def network(config) -> Model:
    """Returns the model, for the vocabulary of the tokenizer and the context."""
    return build(MODELS, config.model, vocabulary=data(config).tokenizer.size, context=config.context)


def data(config) -> Corpus:
    """Returns the dialogues and their tokenizer; kept, since a run asks for them more than once."""
    return load(spec(config))


def packed(config, split: str) -> dict[str, np.ndarray]:
    """Returns the conversations of a split, packed into rows; kept, and made only when asked for."""
    return rows(spec(config), split)


def spec(config) -> str:
    """Returns what the data are made of, in JSON."""
    return json.dumps([config.source.to_dict(), config.tokenizer.to_dict(), config.context], sort_keys=True)


@functools.lru_cache(maxsize=1)
def load(spec: str) -> Corpus:
    """Reads the source and learns the tokenizer from the training dialogues."""
    source, how, _ = json.loads(spec)
    splits = build(SOURCES, source).splits
    for split, examples in splits.items():
        if all(len(example["turns"]) < 2 for example in examples):
            raise ConfigError(f"{source['name']} {split} has no dialogue with a reply; one needs two turns")
    texts = [turn for example in splits["train"] for turn in example["turns"]]
    return Corpus(build(tokenizers.TOKENIZERS, how, texts=texts, special=SPECIAL), splits)


@functools.lru_cache(maxsize=3)
def rows(spec: str, split: str) -> dict[str, np.ndarray]:
    """Encodes the dialogues of a split and packs their conversations."""
    (tokenizer, dialogues), context = load(spec), json.loads(spec)[-1]
    ids = iter(tokenizer.encode_batch([turn for e in dialogues[split] for turn in e["turns"]]))
    encoded = ([next(ids) for _ in example["turns"]] for example in dialogues[split])
    documents = [d for dialogue in encoded for d in conversations(dialogue, tokenizer.special, context)]
    return text.pack(documents, context)


def conversations(turns: Sequence[np.ndarray], special, context: int) -> list[dict[str, np.ndarray]]:
    """Returns the exchanges of a dialogue, joined as long as they fit into the context.

    A document has "tokens", "targets", "weights", 1 where the target is of a reply, and "places" in it, which
    count from 0. A turn that is not replied to, the last of an odd number, is left out.
    """
    joined: list[tuple[list, list]] = []  # ids, and the place in the reply, below 0 before it
    for user, bot in zip(turns[::2], turns[1::2], strict=False):
        ids = exchange(special, user, bot)
        if not joined or len(joined[-1][0]) + len(ids) > context + 1:  # the last token is but a target
            joined.append(([], []))
        joined[-1][0].extend(ids)
        joined[-1][1].extend(range(-len(user) - 2, len(bot) + 1))
    documents = []
    for ids, where in joined:
        places = np.array(where, np.int32)
        document = text.shifted(np.array(ids, np.int32), places >= 0)
        documents.append(document | {"places": np.maximum(places[1:], 0)})
    return documents


def exchange(special, user: np.ndarray, bot: np.ndarray | None = None) -> list[int]:
    """Returns the ids of a turn and the reply to it; without one they end where it is to begin."""
    asked = [special["user"], *user.tolist(), special["bot"]]
    return asked if bot is None else [*asked, *bot.tolist(), special["end"]]


def passes(config, split: str) -> Callable:
    """Returns `() -> batches`: one pass over a split, every token of a reply once."""
    size, rows = config.batch, feed.rows(config.batch)
    return lambda: text.weighted_passes(packed(config, split), size, rows=rows)()


def summary(size: int, sums) -> dict[str, float]:
    """Returns nats per token of a reply, perplexity, and bits for each of the `size` bytes of replies."""
    loss = metrics.summarize(sums)["loss"]
    bits = float(sums["loss"].total) / np.log(2)
    return {"loss": loss, "perplexity": float(np.exp(loss)), "bits_per_byte": bits / size}


def files(config) -> dict[str, str]:
    """Returns what is saved with a run: its tokenizer."""
    return {"tokenizer.json": data(config).tokenizer.json}


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    (tokenizer, dialogues), train = data(config), packed(config, "train")
    sizes = ", ".join(
        f"{split} {len(examples):,} ({int(packed(config, split)['weights'].sum()):,} tokens of replies)"
        for split, examples in dialogues.items()
    )
    return {
        "data": f"{config.source.name}: {sizes} dialogues, {tokenizer.size:,} different tokens",
        "rows": f"{len(train['tokens']):,} of {config.context} tokens, "
        f"{(train['segments'] > 0).mean():.1%} full",
    }


def reply(config, variables) -> Callable[[list[str]], Iterator[str]]:
    """Returns `turns ->` pieces of the reply to the last of them, the user's, knowing the turns before.

    What does not fit into the context beside the reply is forgotten, the oldest exchanges first. Raises
    ValueError for a turn that is blank, or does not fit by itself.
    """
    tokenizer, model = data(config).tokenizer, network(config)
    room = config.context - config.sampling.length
    if room < 3:
        raise ConfigError(
            f"sampling.length={config.sampling.length} leaves no room for a turn in the context of "
            f"{config.context}; lower it"
        )
    start, step = gpt.decoder(model)
    start = jax.jit(start, static_argnames="room")
    step = functools.partial(jax.jit(step), variables)
    draw = decoding.sampling(config.sampling.temperature, config.sampling.top_k, config.sampling.top_p)
    marks = np.array([index for name, index in tokenizer.special.items() if name != "end"])
    choose = jax.jit(lambda key, logits: draw(key, logits.at[:, marks].set(-jnp.inf)))

    def answer(turns: list[str]) -> Iterator[str]:
        ids = remembered(tokenizer, turns, room)
        padded = np.zeros((1, config.context), np.int32)
        padded[0, : len(ids)] = ids
        lengths = np.array([len(ids)], np.int32)
        cache, logits = start(variables, padded, lengths, room=config.context)
        draws = zlib.crc32(np.array(ids, np.int32).tobytes())  # of their own for each conversation
        key = jax.random.fold_in(jax.random.key(config.seed), draws)
        end, length = tokenizer.special["end"], config.sampling.length
        return tokenizers.pieces(
            tokenizer, decoding.stream(step, cache, logits, choose, key, length=length, end=end)
        )

    return answer


def remembered(tokenizer: tokenizers.Tokenizer, turns: list[str], room: int) -> list[int]:
    """Returns the ids of the newest exchanges that fit into `room`, and of the turn to reply to."""
    if len(turns) % 2 == 0 or not turns[-1].strip():
        raise ValueError("there is nothing to reply to: the last turn must be the user's, and not blank")
    last = exchange(tokenizer.special, tokenizer.encode(turns[-1]))
    if len(last) > room:
        raise ValueError(
            f"the turn has {len(last) - 2} tokens; with room left for a reply the context takes "
            f"{max(room - 2, 0)}: say it in fewer words"
        )
    kept = [last]
    for user, bot in reversed([*zip(turns[:-1:2], turns[1::2], strict=True)]):
        ids = exchange(tokenizer.special, tokenizer.encode(user), tokenizer.encode(bot))
        if sum(map(len, kept)) + len(ids) > room:
            break
        kept.insert(0, ids)
    return [token for ids in kept for token in ids]


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws the loss by place in the reply, and held-out questions with replies beside the true ones."""
    corpus = data(config)
    split = list(corpus.dialogues)[-1]
    return [
        by_place(config, variables, split, folder),
        conversation(config, variables, corpus.dialogues[split], f"{config.source.name}, {split}", folder),
    ]


def by_place(config, variables, split: str, folder: Path) -> Path:
    """Draws the mean loss of the first, second, ... token of a reply; the last point is of all after."""
    model = network(config)

    def score(variables, batch):
        each, _ = nats(model, variables, batch)
        place = jax.nn.one_hot(jnp.minimum(batch["places"], PLACES - 1), PLACES) * batch["weights"][..., None]
        return {"loss": Mean((each[..., None] * place).sum(axis=(0, 1)), place.sum(axis=(0, 1)))}

    def report(sums):
        each = zip(metrics.per_class(sums["loss"]), sums["loss"].weight, strict=True)
        return {str(place): float(value) for place, (value, weight) in enumerate(each, 1) if weight}

    found = mean_over(passes(config, split), score, report)(variables)
    figure, axis = figures.canvas(figsize=(6, 4))
    axis.plot([*map(int, found)], [*found.values()], color="tab:blue", marker=".", linewidth=1.5)
    title = f"{config.source.name}, {split}: which tokens of a reply are hard"
    axis.set(
        xlabel=f"token of the reply ({PLACES}: and all after)", ylabel="loss, nats per token", title=title
    )
    axis.grid(alpha=0.3)
    return figures.save(figure, folder / "loss_by_place.png")


def drawable(words: str) -> str:
    """Returns the text with U+FFFD for all but Latin letters and punctuation, which every font can draw."""
    return "".join(
        c if c.isprintable() and (c < "\u0250" or "\u2010" <= c <= "\u2026") else "\ufffd" for c in words
    )


def conversation(config, variables, examples: Sequence, title: str, folder: Path) -> Path:
    """Draws the second exchange of some dialogues: what was said before, the true reply, and the model's."""
    answer = reply(config, variables)
    long = [example["turns"] for example in examples if len(example["turns"]) >= 4]
    chosen = [long[i] for i in np.linspace(0, len(long) - 1, min(6, len(long))).astype(int)]
    figure, axes = figures.canvas(2, 3, figsize=(14, 8))
    for axis, turns in zip(axes.flat, chosen, strict=False):
        top = 1.0
        said = [("user", turns[0]), ("bot", turns[1]), ("user", turns[2]), ("true", turns[3])]
        said.append(("model", "".join(answer(list(turns[:3])))))
        for who, words in said:
            lines = textwrap.wrap(f"{who}: {drawable(words)}", 52)[:6]
            colour = {"model": "tab:blue", "true": "tab:grey"}.get(who, "black")
            style = {"fontsize": 9, "va": "top", "parse_math": False, "transform": axis.transAxes}
            axis.text(0, top, "\n".join(lines), color=colour, **style)
            top -= 0.055 * len(lines) + 0.03
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(f"{title}: true replies, and the model's")
    return figures.save(figure, folder / "replies.png")
