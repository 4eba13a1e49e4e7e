"""PyTorch modules of sequences, the peers of `benchmark models`, as PyTorch's tuning guide has them.

Attention is `scaled_dot_product_attention`, what is made of one input is one product, LSTM and GRU are
torch.nn's own. Each computes the same function as dlx's model of that name, with as many parameters.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head attention, to itself or to a source, or to all that a cache holds."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, crosses: bool = False):
        """Makes one product of all that is made of the same input."""
        super().__init__()
        self.heads, self.dropout = heads, dropout
        if crosses:
            self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def split(self, x: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """Returns [b, t, parts * d] as `parts` of [b, heads, t, d]."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def forward(self, x, source=None, mask=None, causal=False, past=None):
        """Returns what each position of `x` has seen; `past` is (keys, values, places) to write into."""
        if source is None:
            query, key, value = self.split(self.qkv(x), 3)
        else:
            (query,), (key, value) = self.split(self.query(x), 1), self.split(self.key_value(source), 2)
        if past is not None:
            keys, values, places = past
            key, value = keys.index_copy_(2, places, key), values.index_copy_(2, places, value)
        rate = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, mask, rate, is_causal=causal)
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, attention to a source where it `crosses`, and two dense layers."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float,
        attention_dropout: float = 0.0,
        *,
        pre: bool = True,
        crosses: bool = False,
        activation: Callable = functional.relu,
        epsilon: float = 1e-6,
    ):
        """Makes the layers, normalised before each half (`pre`) or after its sum."""
        super().__init__()
        self.pre, self.activation, self.drop = pre, activation, nn.Dropout(dropout)
        self.attention, self.norm_1 = Attention(width, heads, attention_dropout), nn.LayerNorm(width, epsilon)
        if crosses:
            self.cross = Attention(width, heads, attention_dropout, crosses=True)
            self.norm_cross = nn.LayerNorm(width, epsilon)
        self.dense_1, self.dense_2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm_2 = nn.LayerNorm(width, epsilon)

    def add(self, norm, x, layer):
        """Returns `x` and what a layer makes of it."""
        return x + self.drop(layer(norm(x))) if self.pre else norm(x + self.drop(layer(x)))

    def forward(self, x, source=None, mask=None, causal=False, past=None):
        """Returns `x` updated; `mask` is that of the source where there is one, else of itself."""
        own = None if source is not None else mask
        x = self.add(self.norm_1, x, lambda y: self.attention(y, None, own, causal, past))
        if source is not None:
            x = self.add(self.norm_cross, x, lambda y: self.cross(y, source, mask))
        return self.add(self.norm_2, x, lambda y: self.dense_2(self.activation(self.dense_1(y))))


class GPT(nn.Module):
    """GPT-2, with or without a cache."""

    def __init__(self, vocabulary: int, context: int, depth: int, heads: int, width: int, dropout: float):
        """Makes embeddings and blocks."""
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.drop, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)
        gelu = functools.partial(functional.gelu, approximate="tanh")
        self.block = nn.ModuleList(
            Block(width, heads, 4 * width, dropout, activation=gelu, epsilon=1e-5) for _ in range(depth)
        )

    def cache(self, batch: int, room: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns empty keys and values of each layer, [b, heads, room, d]."""
        like, attention = self.tokens.weight, self.block[0].attention
        shape = (2, batch, attention.heads, room, like.shape[1] // attention.heads)
        return [like.new_zeros(shape).unbind() for _ in self.block]

    def forward(self, tokens, places=None, cache=None, mask=None):
        """Returns logits; `cache` holds (keys, values) of each layer, and the tokens come at `places`."""
        places = torch.arange(tokens.shape[1], device=tokens.device) if places is None else places
        x = self.drop(self.tokens(tokens) + self.positions(places))
        causal = mask is None and tokens.shape[1] > 1
        for layer, block in enumerate(self.block):
            past = None if cache is None else (*cache[layer], places)
            x = block(x, mask=mask, causal=causal, past=past)
        return self.norm(x) @ self.tokens.weight.T


class Bert(nn.Module):
    """BERT with its masked language model."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, context: int, dropout: float):
        """Makes embeddings, blocks and the head."""
        super().__init__()
        self.words, self.types = nn.Embedding(vocabulary, width), nn.Embedding(2, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.drop, self.norm = nn.Dropout(dropout), nn.LayerNorm(width, 1e-12)
        settings = {"pre": False, "activation": functional.gelu, "epsilon": 1e-12}
        self.block = nn.ModuleList(
            Block(width, heads, 4 * width, dropout, dropout, **settings) for _ in range(depth)
        )
        self.masked_lm = nn.ModuleDict({"dense": nn.Linear(width, width), "norm": nn.LayerNorm(width, 1e-12)})
        self.masked_lm.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens, positions):
        """Returns logits [b, m, vocabulary] of the tokens at the positions [b, m]."""
        x = self.words(tokens) + self.types(torch.zeros_like(tokens)) + self.positions[: tokens.shape[1]]
        x = self.drop(self.norm(x))
        for block in self.block:
            x = block(x)
        x = x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))
        x = self.masked_lm["norm"](functional.gelu(self.masked_lm["dense"](x)))
        return x @ self.words.weight.T + self.masked_lm.bias


class Recurrent(nn.Module):
    """A recurrent language model; time is the first axis within, as torch.nn's layers are fastest."""

    def __init__(self, cell: str, vocabulary: int, width: int, depth: int, dropout: float):
        """Makes the layers; of the two biases that PyTorch adds up in an LSTM one stays at 0."""
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)
        self.layers = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](width, width, depth, dropout=dropout)
        self.drop = nn.Dropout(dropout)
        for name, weight in self.layers.named_parameters():
            if cell == "lstm" and name.startswith("bias_hh"):
                weight.requires_grad_(False).zero_()

    def forward(self, tokens):
        """Returns logits."""
        x, _ = self.layers(self.drop(self.tokens(tokens.T)))
        return self.head(self.drop(x).transpose(0, 1))


class Transformer(nn.Module):
    """The Transformer, normalised before each layer, of one vocabulary."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, hidden: int, dropout: float):
        """Makes embeddings and blocks."""
        super().__init__()
        self.words, self.drop = nn.Embedding(vocabulary, width), nn.Dropout(dropout)
        self.encoder, self.decoder = (
            nn.ModuleList(Block(width, heads, hidden, dropout, crosses=crosses) for _ in range(depth))
            for crosses in (False, True)
        )
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        angles = torch.arange(256)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
        table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        self.register_buffer("sinusoids", table, persistent=False)

    def embed(self, tokens):
        """Returns the words at their places."""
        x = self.words(tokens) * math.sqrt(self.words.embedding_dim)
        return self.drop(x + self.sinusoids[: tokens.shape[1]])

    def forward(self, source, source_mask, tokens):
        """Returns logits."""
        x, y, mask = self.embed(source), self.embed(tokens), source_mask[:, None, None]
        for block in self.encoder:
            x = block(x, mask=mask)
        x = self.encoder_norm(x)
        for block in self.decoder:
            y = block(y, x, mask, causal=True)
        return self.decoder_norm(y) @ self.words.weight.T


class Learner(nn.Module):
    """A network and its loss in one module, for torch.compile to see both."""

    def __init__(self, network: nn.Module, smoothing: float = 0.0):
        """Takes the network, and the smoothing of labels."""
        super().__init__()
        self.network, self.smoothing = network, smoothing

    def forward(self, inputs, labels=None):
        """Returns logits, or given labels their mean cross entropy; labels of -100 count for nothing."""
        logits = self.network(*inputs)
        if labels is None:
            return logits
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), label_smoothing=self.smoothing
        )
