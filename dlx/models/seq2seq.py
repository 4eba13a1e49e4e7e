"""Recurrent encoder and decoder with attention (Bahdanau et al. 2015; Luong et al. 2015)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlx.core import Model, Variables
from dlx.layers.dense import by_rows
from dlx.layers.recurrent import CELLS, Carry, Gates, Recurrent, State, multiply, scan, uniform
from dlx.layers.regularization import dropout
from dlx.nn import from_linen


class Memory(NamedTuple):
    """What the decoder looks at."""

    keys: Array  # [b, s, d], what its output is compared with
    values: Array  # [b, s, 2 d], the encoder's outputs
    mask: Array  # [b, s]


class Cache(NamedTuple):
    """What the decoder knows after some tokens; every array has the example first."""

    memory: Memory
    state: State
    attended: Array  # [b, d], what the last token's logits came from


class Seq2Seq(nn.Module):
    """A bidirectional encoder, and a decoder that looks at all of it after each of its steps.

    The decoder's input is a word and what it attended to before ("input feeding"). Its output asks those of
    the encoder, by the product with a projection of them ("general", Luong) or by a layer of its own
    ("additive", Bahdanau); their average and the output together make the vector from which the next word is
    read. It starts from projections of the encoder's last states, layer by layer.
    """

    source_vocabulary: int = 8000
    target_vocabulary: int = 8000
    width: int = 256
    depth: int = 1
    cell: str = "gru"
    attention: str = "additive"
    dropout: float = 0.2
    dtype: str = "float32"

    def setup(self):
        """Makes the weights."""
        if self.cell not in CELLS:
            raise ValueError(f"the cell is one of {sorted(CELLS)}, not {self.cell!r}")
        if self.attention not in ("additive", "general"):
            raise ValueError(f'attention is "additive" or "general", not {self.attention!r}')
        width, near = self.width, uniform(self.width**-0.5)
        embed = partial(
            nn.Embed, features=width, dtype=self.dtype, embedding_init=nn.initializers.normal(0.1)
        )
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=near, dot_general=by_rows)
        self.source_words, self.target_words = embed(self.source_vocabulary), embed(self.target_vocabulary)
        self.encoder = Recurrent(
            self.cell, width, self.depth, bidirectional=True, dropout=self.dropout, dtype=self.dtype
        )
        self.bridges = [[dense(width) for _ in range(CELLS[self.cell].carried)] for _ in range(self.depth)]
        self.keys = dense(width, use_bias=False)
        self.layers = [Gates(self.cell, width, self.dtype) for _ in range(self.depth)]
        if self.attention == "additive":
            self.query = self.param("query", near, (width, width))
            self.energy = self.param("energy", near, (width,))
        self.combine = self.param("combine", near, (3 * width, width))
        self.output = dense(self.target_vocabulary)

    def dropped(self, x, *, train: bool):
        """Returns `x` with dropout."""
        return dropout(x, self.dropout, self.make_rng("dropout") if train and self.dropout else None)

    def encode(self, source: Int[Array, "b s"], mask: Bool[Array, "b s"], *, train: bool) -> Cache:
        """Returns the cache before the first token."""
        x = self.dropped(self.source_words(source), train=train)
        values, state = self.encoder(x, mask, train=train)
        state = tuple(
            tuple(
                jnp.tanh(bridge(jnp.concatenate([ahead, back], axis=-1))).astype(jnp.float32)
                for bridge, ahead, back in zip(bridges, state[2 * layer], state[2 * layer + 1], strict=True)
            )
            for layer, bridges in enumerate(self.bridges)
        )
        memory = Memory(self.keys(values), values, mask)
        return Cache(memory, state, jnp.zeros((len(source), self.width)))

    def decode(
        self, target: Int[Array, "b t"], cache: Cache, *, train: bool
    ) -> tuple[Float[Array, "b t k"], Cache]:
        """Returns logits of what follows each token, and the cache after the last."""
        x = self.dropped(self.target_words(target), train=train).swapaxes(0, 1)
        keys, values, mask = cache.memory
        kernels = {"combine": self.combine.astype(self.dtype), "values": values}
        if self.attention == "additive":
            kernels["query"] = self.query.astype(self.dtype)
            looked_at: tuple[Array, ...] = (keys.astype(jnp.float32), self.energy)
        else:
            kernels["keys"] = keys.swapaxes(1, 2)
            looked_at = ()
        biases, inputs = [], None
        for layer, gates in enumerate(self.layers):
            entry, entry_bias, kernels[f"recurrent_{layer}"], bias = gates(
                self.width * (2 if layer == 0 else 1)
            )
            biases.append((entry_bias, bias))
            if layer == 0:  # the word's part needs no loop
                inputs = multiply(x, entry[: self.width])
                kernels["entry_0"] = entry[self.width :]
            else:
                kernels[f"entry_{layer}"] = entry
        kept = [
            self.dropped(jnp.ones((*x.shape[:2], self.width)), train=train) for _ in range(self.depth - 1)
        ]
        step = partial(advance, CELLS[self.cell].step)
        constants = (tuple(biases), looked_at, mask)
        xs = (inputs, tuple(kept))
        (state, attended), outputs = scan(step, kernels, constants, (cache.state, cache.attended), xs)
        logits = self.output(self.dropped(outputs, train=train).swapaxes(0, 1).astype(self.dtype))
        return logits.astype(jnp.float32), Cache(cache.memory, state, attended)

    def __call__(
        self,
        source: Int[Array, "b s"],
        source_mask: Bool[Array, "b s"],
        target: Int[Array, "b t"],
        *,
        train: bool,
    ) -> Float[Array, "b t k"]:
        """Returns logits: what follows each target token, given the source and the tokens up to it."""
        return self.decode(target, self.encode(source, source_mask, train=train), train=train)[0]

    def step(self, cache: Cache, token: Int[Array, "b"]) -> tuple[Cache, Float[Array, "b k"]]:
        """Returns the cache with a token more, and logits of what follows it."""
        logits, cache = self.decode(token[:, None], cache, train=False)
        return cache, logits[:, 0]


def advance(cell: Callable, times: Callable, constants, carry, now):
    """Takes one step of the decoder: its layers, attention, and the vector that a word is read from."""
    (biases, looked_at, mask), (state, attended), (inputs, kept) = constants, carry, now
    inputs = inputs + times("entry_0", attended)
    carries: list[Carry] = []
    for layer, ((entry_bias, bias), before) in enumerate(zip(biases, state, strict=True)):
        if layer:
            inputs = times(f"entry_{layer}", carries[-1][0] * kept[layer - 1])
        products = times(f"recurrent_{layer}", before[0]) + bias
        carries.append(cell(inputs + entry_bias, products, before))
    output = carries[-1][0]
    if looked_at:
        keys, energy = looked_at
        scores = jnp.tanh(times("query", output)[:, None] + keys) @ energy
    else:
        scores = times("keys", output)
    shares = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min))
    context = times("values", shares)
    attended = jnp.tanh(times("combine", jnp.concatenate([output, context], axis=-1)))
    return (tuple(carries), attended), attended


def seq2seq(**sizes) -> Model:
    """Builds the encoder-decoder from the fields of `Seq2Seq`.

    `apply(variables, source, source_mask, target)` takes token numbers [b, s], bool [b, s] that is True where
    there is a token, and the token numbers [b, t] that the decoder has seen, a start token and the sentence
    without its end; it returns logits [b, t, target_vocabulary], float32, of what follows each. Padding after
    the target needs no mask: no token before sees it. Padding of the source may stand on either side.
    """
    return from_linen(Seq2Seq(**sizes))


def decoder(**sizes) -> tuple[Callable[..., Cache], Callable[..., tuple[Cache, Array]]]:
    """Returns how the model of these sizes writes, as `dlx.decoding` takes it: (start, step).

    `start(variables, source, source_mask, max_length=None) -> cache` encodes the source; the cache has room
    for any length. `step(variables, cache, token [b]) -> (cache, logits [b, k])` takes one token of each
    sentence, the start token first.
    """
    module = Seq2Seq(**sizes)

    def pure(variables: Variables, *inputs, **settings) -> Any:
        return module.apply({"params": variables.params}, *inputs, **settings)

    def start(variables: Variables, source, source_mask, max_length: int | None = None) -> Cache:
        return pure(variables, source, source_mask, train=False, method="encode")

    def step(variables: Variables, cache: Cache, token) -> tuple[Cache, Array]:
        return pure(variables, cache, token, method="step")

    return start, step
