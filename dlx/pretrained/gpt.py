"""GPT-2 in transformers: GPT2LMHeadModel and GPT2Model."""

import re
from collections.abc import Mapping

import jax
import numpy as np

from dlx.core import Model, Variables
from dlx.models.gpt import gpt
from dlx.pretrained.rules import Entry, Library, Path, StateDict, fill, flat, revert

NAMES = {
    "tokens": "transformer.wte",
    "positions": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "norm_1": "ln_1",
    "qkv": "attn.c_attn",
    "out": "attn.c_proj",
    "norm_2": "ln_2",
    "dense_1": "mlp.c_fc",
    "dense_2": "mlp.c_proj",
}
WORDS, HEAD = "transformer.wte.weight", "lm_head.weight"


def entry(path: Path) -> Entry:
    """Finds a leaf: block_3/qkv/kernel is transformer.h.3.attn.c_attn.weight, with the same axes."""
    _, *blocks, part, leaf = path
    number = f"transformer.h.{blocks[0].removeprefix('block_')}." if blocks else ""
    return Entry(f"{number}{NAMES[part]}.{'bias' if leaf == 'bias' else 'weight'}")


def today(name: str) -> str:
    """Returns the name of an entry in the class with the head."""
    return f"transformer.{name}" if name.startswith(("wte.", "wpe.", "h.", "ln_f.")) else name


LIBRARY = Library(entry, ignored=(".attn.bias", ".attn.masked_bias"), today=today)  # the causal mask


def from_huggingface(state_dict: StateDict) -> Variables:
    """Returns the `Variables` of `models.gpt.gpt`: the sizes are those of the weights, heads do not show.

    A head that equals the embedding of the tokens is tied to it, as in all that was published. Raises
    PretrainedError that lists every entry left over, missing or misshaped.
    """
    weights = {today(name): array for name, array in state_dict.items()}
    tied = HEAD not in weights or np.array_equal(weights[HEAD], weights.get(WORDS, ()))
    if tied:
        weights.pop(HEAD, None)
    vocabulary, width = size(weights, WORDS, (50_257, 768))
    context, _ = size(weights, "transformer.wpe.weight", (1024, width))
    depth = layers(weights, r"transformer\.h\.(\d+)\.", 12)
    model = gpt(vocabulary, context, depth, heads=1, width=width, tied=tied)
    return fill(LIBRARY, "gpt2", weights, leaves(model))


def to_huggingface(variables: Variables) -> dict:
    """Returns the state dict that GPT2LMHeadModel in transformers loads."""
    weights = revert(LIBRARY, variables)
    return {HEAD: weights[WORDS]} | weights


def size(weights: Mapping, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of an entry, or the default where it is missing or has another number of axes."""
    found = np.shape(weights.get(name, np.broadcast_to(0, default)))
    return found if len(found) == len(default) else default


def layers(weights: Mapping, pattern: str, default: int) -> int:
    """Returns the number of layers that names of this pattern count from 0."""
    found = [re.match(pattern, name) for name in weights]
    return 1 + max((int(number[1]) for number in found if number), default=default - 1)


def leaves(model: Model) -> dict[Path, jax.ShapeDtypeStruct]:
    """Returns the leaves of a language model, without computing anything."""
    token = jax.ShapeDtypeStruct((1, 1), np.dtype("int32"))
    return flat({"params": jax.eval_shape(model.init, jax.random.key(0), token).params})
