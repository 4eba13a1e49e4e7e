"""Llama in transformers: LlamaForCausalLM."""

import numpy as np

from dlx.core import Variables
from dlx.models.llama import llama
from dlx.pretrained.gpt import layers, leaves, size
from dlx.pretrained.rules import Entry, Library, Path, StateDict, fill, revert

NAMES = {
    "tokens": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "norm_1": "input_layernorm",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "norm_2": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
WORDS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def entry(path: Path) -> Entry:
    """Finds a leaf: block_3/attention/query/kernel is model.layers.3.self_attn.q_proj.weight."""
    _, *modules, leaf = path
    block = modules.pop(0) if modules[0].startswith("block_") else ""
    number = f"model.layers.{block.removeprefix('block_')}." if block else ""
    return Entry(f"{number}{NAMES['/'.join(modules)]}.weight", "dense" if leaf == "kernel" else "same")


LIBRARY = Library(entry, ignored=("rotary_emb.inv_freq",))


def from_huggingface(state_dict: StateDict) -> Variables:
    """Returns the `Variables` of `models.llama.llama`: the sizes are those of the weights, heads do not show.

    A head that is missing, as in the files of Llama 3.2 1B, or equals the embedding of the tokens is tied to
    it. Raises PretrainedError that lists every entry left over, missing or misshaped.
    """
    weights = dict(state_dict)
    tied = HEAD not in weights or np.array_equal(weights[HEAD], weights.get(WORDS, ()))
    if tied:
        weights.pop(HEAD, None)
    vocabulary, width = size(weights, WORDS, (32_000, 4096))
    shared, _ = size(weights, "model.layers.0.self_attn.k_proj.weight", (width, width))
    if shared % 2 or width % shared:
        shared = width
    model = llama(
        vocabulary,
        depth=layers(weights, r"model\.layers\.(\d+)\.", 32),
        heads=width // 2,  # the finest split: how wide a head is does not show
        groups=shared // 2,
        width=width,
        hidden=size(weights, "model.layers.0.mlp.gate_proj.weight", (4 * width, width))[0],
        tied=tied,
    )
    return fill(LIBRARY, "llama", weights, leaves(model))


def to_huggingface(variables: Variables) -> dict:
    """Returns the state dict that LlamaForCausalLM in transformers loads."""
    weights = revert(LIBRARY, variables)
    return {HEAD: weights[WORDS]} | weights
