"""Decoding of `benchmark models`: a GPT writes on from a prompt, the likeliest token each time, with a cache.

The peer is the same GPT in PyTorch, in three variants: with memory for keys and values made beforehand, of
which each step sees what is filled; the same with the rest masked, so that torch.compile has one program for
all steps; and the `generate` of `transformers`, with the cache that it has by default.
"""

import functools
import importlib.util
import itertools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dlx import decoding
from dlx.core import Model
from dlx.models.gpt import decoder, gpt
from experiments.speed import sides, torch_modules, torch_vision
from experiments.speed.sides import Contest, Side
from experiments.speed.torch_side import DEVICE, wait

DECODING = "decoding"


def contest(
    batch: int,
    prompt: int = 32,
    length: int = 200,
    dtype: str = "float32",
    vocabulary: int = 65,
    depth: int = 6,
    heads: int = 6,
    width: int = 384,
) -> Contest:
    """Returns the row in which `length` tokens follow each of the prompts of `prompt` tokens."""
    sizes = {"vocabulary": vocabulary, "context": prompt + length, "depth": depth, "heads": heads}
    sizes |= {"width": width, "dropout": 0.0}
    tokens = np.random.default_rng(0).integers(0, vocabulary, (batch, prompt))

    def peer(make: Callable, write: Callable) -> Side:
        network = make().eval().to(DEVICE, getattr(torch, dtype))
        return theirs(network, lambda prompts: write(network, prompts, length), tokens)

    def compiled() -> Side:
        module = torch_modules.GPT(**sizes).eval().to(DEVICE, getattr(torch, dtype))
        network = torch.compile(module)
        return theirs(module, lambda prompts: written(network, prompts, length, whole=True), tokens, True)

    kind = "" if dtype == "float32" else f", {dtype}"
    return Contest(
        f"GPT {depth}x{width}, {length} tokens after {prompt}, batch {batch}{kind}",
        "PyTorch",
        batch * length,
        functools.partial(ours, gpt(**sizes, dtype=dtype), jnp.asarray(tokens, jnp.int32), length),
        {
            "eager": functools.partial(peer, lambda: torch_modules.GPT(**sizes), written),
            "torch.compile": compiled,
            "transformers": functools.partial(peer, functools.partial(huggingface, **sizes), generated),
        },
        unit="tokens",
    )


def writer(model: Model, length: int) -> Callable:
    """Returns dlx's `(variables, prompts [b, t]) -> tokens [b, length]`."""
    start, step = decoder(model)

    def write(variables, prompts):
        examples, size = prompts.shape
        cache, logits = start(variables, prompts, jnp.full(examples, size), size + length)
        one = functools.partial(step, variables)
        key = jax.random.key(0)  # that `greedy` does not use
        return decoding.generate(one, cache, logits, decoding.greedy, key, length=length).tokens

    return write


def ours(model: Model, prompts: jax.Array, length: int) -> Side:
    """Returns dlx's side: the prompts are read and all is written in one program."""
    variables = jax.jit(model.init)(jax.random.key(0), prompts)
    clock = time.perf_counter()
    compiled = jax.jit(writer(model, length)).lower(variables, prompts).compile()
    compile_s = time.perf_counter() - clock

    def run(count: int) -> float:
        for _ in range(count):
            tokens = compiled(variables, prompts)
        return float(jax.block_until_ready(tokens)[0, -1])

    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    return Side({DECODING: run}, parameters, compile_s, sides.planned(compiled))


def theirs(module: torch.nn.Module, write: Callable, prompts: np.ndarray, compiled: bool = False) -> Side:
    """Returns the side of a function of prompts that writes with a module."""
    tensor = torch.from_numpy(prompts).to(DEVICE)

    def run(count: int) -> float:
        with torch.inference_mode():
            for _ in range(count):
                tokens = write(tensor)
        wait()
        return tokens[0, -1].item()

    clock = time.perf_counter()
    run(1)
    middle = time.perf_counter()
    run(1)
    compile_s = (middle - clock) - (time.perf_counter() - middle)
    parameters = sum(weight.numel() for weight in module.parameters())
    return Side({DECODING: run}, parameters, compile_s if compiled else None)


def written(network, prompts: torch.Tensor, length: int, *, whole: bool = False) -> torch.Tensor:
    """Returns the tokens that follow; each step sees the filled part of the cache, or the `whole`, masked."""
    size = prompts.shape[1]
    cache, places = network.cache(len(prompts), size + length), torch.arange(size + length, device=DEVICE)
    tokens, found = prompts, []
    for first, last in itertools.pairwise([0, *range(size, size + length)]):
        here = places[first:last].clone()
        if whole:
            logits = network(tokens, here, cache, places <= here[:, None])
        else:
            logits = network(tokens, here, [[x[:, :, :last] for x in layer] for layer in cache])
        tokens = logits[:, -1:].argmax(-1)
        found.append(tokens)
    return torch.cat(found, 1)


def huggingface(vocabulary: int, context: int, depth: int, heads: int, width: int, dropout: float):
    """Returns the GPT-2 of `transformers` of these sizes."""
    if importlib.util.find_spec("torchvision") is not None:
        torch_vision.torchvision()  # which transformers imports in its turn
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=depth,
        n_head=heads,
        resid_pdrop=dropout,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.GPT2LMHeadModel(config)


def generated(network, prompts: torch.Tensor, length: int) -> torch.Tensor:
    """Returns the tokens that `generate` of `transformers` finds."""
    found = network.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=length, do_sample=False
    )
    return found[:, prompts.shape[1] :]
