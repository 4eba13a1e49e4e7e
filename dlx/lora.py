"""Low-rank adaptation (Hu et al. 2022): a model whose weights are fixed, and small matrices beside them.

    model, variables = MODELS["gpt2"](), pretrained.from_huggingface("gpt2", weights)
    small = lora.adapted(model, rank=8, targets="attention.*kernel")
    adapters = lora.start(key, variables, rank=8, targets="attention.*kernel")   # trains through any Task
    whole = lora.merged(adapters)                                                # Variables of `model` again

The adapters are the parameters, so only they get gradients and optimizer state; the fixed weights lie in
`Variables.state["lora"]` and travel with them. The adapted model computes with the merged weights, so merging
changes no output by a single bit.
"""

import math
import re

import jax
import jax.numpy as jnp

from dlx.core import Key, Model, Variables


def adapted(model: Model, *, rank: int, targets: str = "kernel$", alpha: float | None = None) -> Model:
    """Returns `model` with its parameters fixed, and adapters learned for those that match `targets`.

    `targets` is a regular expression, searched for in the path of a parameter, its keys joined by "/". A
    kernel W [..., k] becomes W + alpha / rank * A B with A [..., rank], leading axes taken as one, and
    B [rank, k]; `alpha` is `rank` unless given.
    """

    def init(key, *inputs):
        start_key, key = jax.random.split(key)
        return start(start_key, model.init(key, *inputs), rank=rank, targets=targets, alpha=alpha)

    def apply(variables, *inputs, key=None):
        outputs, state = model.apply(merged(variables), *inputs, key=key)
        return outputs, dict(state) | {"lora": variables.state["lora"]}

    return Model(init, apply)


def start(
    key: Key, variables: Variables, *, rank: int, targets: str = "kernel$", alpha: float | None = None
) -> Variables:
    """Returns the variables of `adapted` at which it computes what the model does with `variables`.

    A is drawn as by He et al. 2015, B is zero. Raises ValueError when no matrix matches.
    """
    if rank < 1:
        raise ValueError(f"the rank of an adapter must be at least 1, not {rank}")
    leaves = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(variables.params)}
    chosen = {name: leaf for name, leaf in leaves.items() if leaf.ndim > 1 and re.search(targets, name)}
    if not chosen:
        raise ValueError(f"no matrix matches {targets!r}; the parameters are {', '.join(sorted(leaves))}")
    params = {}
    for number, (name, leaf) in enumerate(sorted(chosen.items())):
        rows, columns = math.prod(leaf.shape[:-1]), leaf.shape[-1]
        if rank > min(rows, columns):
            raise ValueError(f"{name} is {rows} x {columns}: an adapter of rank {rank} is no smaller")
        a = jax.random.normal(jax.random.fold_in(key, number), (rows, rank), leaf.dtype) * (2 / rows) ** 0.5
        params[name] = {"a": a, "b": jnp.zeros((rank, columns), leaf.dtype)}
    scale = jnp.float32((rank if alpha is None else alpha) / rank)
    return Variables(params, dict(variables.state) | {"lora": {"params": variables.params, "scale": scale}})


def merged(variables: Variables) -> Variables:
    """Returns the variables of the plain model, with the adapters added to its weights."""
    state = dict(variables.state)
    fixed = state.pop("lora")

    def merge(path, leaf):
        if (name := _name(path)) not in variables.params:
            return leaf
        adapter = variables.params[name]
        change = fixed["scale"].astype(leaf.dtype) * (adapter["a"] @ adapter["b"])
        return leaf + change.reshape(leaf.shape)

    return Variables(jax.tree.map_with_path(merge, fixed["params"]), state)


def _name(path) -> str:
    """Returns the keys of a path joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
