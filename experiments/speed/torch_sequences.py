"""Sequence models of `benchmark models`: dlx's against PyTorch modules of the same layers and sizes.

Both sides train on the same loss of the same batch, at the same rates of dropout and without clipping of
gradients. The peer is measured as it stands, and behind torch.compile, its loss included.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch

from dlx import losses, metrics, optimizers
from dlx.configuration import lookup
from dlx.core import Key, Task, Variables
from dlx.models import bert, gpt, recurrent, transformer
from experiments.speed import sides, torch_modules, torch_side
from experiments.speed.sides import Contest

RATE = 1e-3
IGNORED = -100  # the label of padding, PyTorch's own
OPTIMIZERS = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class Work(NamedTuple):
    """A model of dlx, the module that is the same function, and the batch that both learn from.

    `init(key)` makes dlx's variables, `logits(variables, batch)` is its model, and `each(variables, batch,
    key)` its loss of every one of `batch["labels"]`. `module()` makes the module, which takes the `inputs` of
    the batch, in this order. `macs` are the multiply-adds of a token's forward pass.
    """

    what: str
    init: Callable[[Key], Variables]
    logits: Callable
    each: Callable
    module: Callable[[], torch.nn.Module]
    inputs: tuple[str, ...]
    batch: Mapping[str, np.ndarray]
    optimizer: Mapping[str, Any]
    smoothing: float = 0.0
    macs: float | None = None


def gpt_work(
    batch: int,
    time: int,
    dtype: str,
    vocabulary: int = 65,
    depth: int = 6,
    heads: int = 6,
    width: int = 384,
    dropout: float = 0.0,
) -> Work:
    """Returns GPT on random tokens.

    Its multiply-adds are counted as PaLM's are (Chowdhery et al. 2022, appendix B): one for each parameter
    but the positions', and those of every token with the whole context.
    """
    sizes = {"depth": depth, "heads": heads, "width": width, "dropout": dropout}
    model = gpt.gpt(vocabulary, time, **sizes, dtype=dtype)
    tokens = integers(vocabulary, batch, time + 1)

    def each(variables, batch, key):
        states, _ = model.apply(variables, batch["tokens"], hidden=True, key=key)
        return losses.chunked_cross_entropy(states, gpt.head(variables), batch["labels"])

    return Work(
        f"GPT {depth}x{width}, vocabulary {vocabulary:,}, {batch}x{time}",
        lambda key: model.init(key, jnp.asarray(tokens[:1, :-1])),
        lambda variables, batch: model.apply(variables, batch["tokens"])[0],
        each,
        lambda: torch_modules.GPT(vocabulary, time, **sizes),
        ("tokens",),
        {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]},
        {"name": "adamw", "weight_decay": 0.1},
        macs=depth * (12 * width + 13) * width + (vocabulary + 2) * width + 2 * depth * time * width,
    )


def bert_work(
    batch: int,
    time: int,
    dtype: str,
    vocabulary: int = 30_522,
    depth: int = 12,
    heads: int = 12,
    width: int = 768,
    context: int = 512,
    dropout: float = 0.1,
) -> Work:
    """Returns BERT's masked language model: random tokens that fill their rows, 15 % of them to be guessed.

    The weights of attention are dropped at the same rate as all else.
    """
    sizes = {"width": width, "depth": depth, "heads": heads, "context": context, "dropout": dropout}
    model = bert.bert("masked_lm", vocabulary=vocabulary, **sizes, attention_dropout=dropout, dtype=dtype)
    tokens = integers(vocabulary, batch, time)
    places = np.tile(np.arange(time, dtype=np.int32), (batch, 1))
    positions = np.sort(np.random.default_rng(1).permuted(places, axis=1)[:, : -(-15 * time // 100)])

    def logits(variables, batch, key=None):
        return model.apply(variables, batch["tokens"], None, None, batch["positions"], key=key)[0]

    return Work(
        f"BERT {depth}x{width}, masked LM, dropout {dropout:g}, {batch}x{time}",
        lambda key: model.init(key, jnp.asarray(tokens[:1])),
        logits,
        each_of(logits),
        lambda: torch_modules.Bert(vocabulary, **sizes),
        ("tokens", "positions"),
        {"tokens": tokens, "positions": positions, "labels": np.take_along_axis(tokens, positions, 1)},
        {"name": "adamw", "weight_decay": 0.01},
    )


def recurrent_work(
    cell: str,
    batch: int,
    time: int,
    dtype: str,
    vocabulary: int = 10_000,
    width: int = 650,
    depth: int = 2,
    dropout: float = 0.5,
) -> Work:
    """Returns a recurrent language model on random tokens, from a state of zeros."""
    make = {"lstm": recurrent.lstm, "gru": recurrent.gru}[cell]
    model = make(vocabulary, width, depth, dropout, dtype=dtype)
    tokens = integers(vocabulary, batch, time + 1)

    def logits(variables, batch, key=None):
        return model.apply(variables, batch["tokens"], key=key)[0][0]

    return Work(
        f"{cell.upper()} {depth}x{width}, vocabulary {vocabulary:,}, dropout {dropout:g}, {batch}x{time}",
        lambda key: model.init(key, jnp.asarray(tokens[:1, :1])),
        logits,
        each_of(logits),
        lambda: torch_modules.Recurrent(cell, vocabulary, width, depth, dropout),
        ("tokens",),
        {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]},
        {"name": "sgd"},
    )


def transformer_work(
    batch: int,
    time: int,
    dtype: str,
    vocabulary: int = 4000,
    width: int = 256,
    depth: int = 3,
    heads: int = 4,
    hidden: int = 512,
    dropout: float = 0.1,
) -> Work:
    """Returns the Transformer; sources and targets have random lengths of a third of `time` to all of it."""
    sizes = {"width": width, "depth": depth, "heads": heads, "hidden": hidden, "dropout": dropout}
    words = {"source_vocabulary": vocabulary, "target_vocabulary": vocabulary}
    model = transformer.transformer(**words, **sizes, norm="pre", dtype=dtype)
    source, tokens, labels = integers(vocabulary, 3, batch, time)
    ends = np.random.default_rng(1).integers(time // 3, time + 1, (2, batch, 1))
    source_mask, mask = np.arange(time) < ends
    inputs = ("source", "source_mask", "tokens")

    def logits(variables, batch, key=None):
        return model.apply(variables, *(batch[name] for name in inputs), key=key)[0]

    return Work(
        f"Transformer 2x{depth}x{width}, vocabulary {vocabulary:,}, dropout {dropout:g}, {batch}x{time}",
        lambda key: model.init(key, *(jnp.asarray(x[:1]) for x in (source, source_mask, tokens))),
        logits,
        each_of(logits, 0.1),
        lambda: torch_modules.Transformer(vocabulary, **sizes),
        inputs,
        {
            "source": source,
            "source_mask": source_mask,
            "tokens": tokens,
            "labels": np.where(mask, labels, np.int32(IGNORED)),
        },
        {"name": "adamw", "weight_decay": 0.01},
        0.1,
    )


def integers(below: int, *shape: int) -> np.ndarray:
    """Returns random tokens."""
    return np.random.default_rng(0).integers(0, below, shape).astype(np.int32)


def each_of(logits: Callable, smoothing: float = 0.0) -> Callable:
    """Returns `(variables, batch, key) ->` the cross entropy of every label, with dropout from the key."""

    def each(variables, batch, key):
        return losses.softmax_cross_entropy(logits(variables, batch, key), batch["labels"], smoothing)

    return each


WORKS: dict[str, Callable[..., Work]] = {
    "gpt": gpt_work,
    "bert": bert_work,
    "lstm": functools.partial(recurrent_work, "lstm"),
    "gru": functools.partial(recurrent_work, "gru"),
    "transformer": transformer_work,
}


def contest(name: str, dtype: str = "float32", **settings) -> Contest:
    """Returns the row of a name of `WORKS`, of the settings of that."""
    work = lookup(WORKS, name)(dtype=dtype, **settings)

    def loss(variables, batch, key):
        each = metrics.mean(work.each(variables, batch, key), jnp.asarray(batch["labels"] != IGNORED))
        return each.total / each.weight, (variables.state, {"loss": each})

    def inputs(batch):
        return [batch[name] for name in work.inputs]

    task = Task(work.init, loss, lambda step: work.batch)
    optimizer = optimizers.make(dict(work.optimizer), {"name": "constant", "peak": RATE}, steps=1)
    rest = {name: value for name, value in work.optimizer.items() if name != "name"}
    peer = functools.partial(
        torch_side.trained,
        lambda: torch_modules.Learner(work.module(), work.smoothing),
        lambda module, batch: module(inputs(batch), batch["labels"]),
        lambda module, batch: module(inputs(batch)),
        {name: x if x.dtype == bool else x.astype(np.int64) for name, x in work.batch.items()},
        optimizer=functools.partial(OPTIMIZERS[work.optimizer["name"]], lr=RATE, fused=True, **rest),
        dtype=dtype,
    )
    return Contest(
        work.what if dtype == "float32" else f"{work.what}, {dtype}",
        "PyTorch",
        work.batch["tokens"].size,
        functools.partial(sides.trained, task, optimizer, work.logits),
        {"eager": peer, "torch.compile": functools.partial(peer, compiled=True)},
        work.macs,
        "tokens",
    )
