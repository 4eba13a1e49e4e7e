"""Weights from elsewhere: the state dicts of torchvision and timm as `Variables`, and back.

A state dict is a mapping of names to numpy arrays, so torch is not needed. Each family has one file with
one rule per library: a function from the path of one of our leaves to its name there and the way its
axes change. The same rule serves both directions, so what goes out comes back bit for bit.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlx.core import Variables
from dlx.models import MODELS

StateDict = Mapping[str, np.ndarray]
Path = tuple[str, ...]  # such as ("params", "Conv_0", "kernel") or ("batch_stats", "BatchNorm_0", "mean")


class PretrainedError(ValueError):
    """Weights that do not fit; the message lists every leftover, missing and misshaped entry."""


class Entry(NamedTuple):
    """Where a leaf lies in a state dict: its name, and how the axes there become ours."""

    name: str
    change: str = "same"


class Library(NamedTuple):
    """What one library calls the parts of one model.

    `entry(path)` says where a leaf of ours lies; `head` is the name of the bias whose length is the number of
    classes; `size` is the side of the images that the weights are for, in pixels; `ignored` are endings of
    names that hold no weight.
    """

    entry: Callable[[Path], Entry]
    head: str
    size: int = 224
    ignored: tuple[str, ...] = ("num_batches_tracked",)


CHANGES = {  # from their axes to ours, and back
    "same": (lambda x: x, lambda x: x),
    "conv": (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),  # OIHW <-> HWIO
    "dense": (lambda x: x.T, lambda x: x.T),
}


@functools.cache
def shapes(name: str, num_classes: int, size: int) -> dict[Path, jax.ShapeDtypeStruct]:
    """Returns the leaves of a model by path, without computing anything."""
    init = MODELS[name](num_classes=num_classes).init
    variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return flat({"params": variables.params, **variables.state})


def flat(tree: Mapping, path: Path = ()) -> dict:
    """Returns the leaves of nested dicts by path."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, (*path, key)) if isinstance(value, Mapping) else {(*path, key): value}
    return leaves


def convert(library: Library, name: str, state_dict: StateDict) -> Variables:
    """Returns the `Variables` of `MODELS[name]` with the weights of a state dict.

    Raises PretrainedError that lists what is left over, missing or misshaped.
    """
    if library.head not in state_dict:
        raise PretrainedError(f"the weights hold no {library.head!r}: they are not those of a {name}")
    classes = len(state_dict[library.head])
    left, missing, wrong, leaves = set(state_dict), [], [], {}
    for path, leaf in shapes(name, classes, library.size).items():
        entry = library.entry(path)
        if entry.name not in state_dict:
            missing.append(f"  missing: {entry.name} for {'/'.join(path)} {leaf.shape}")
            continue
        left.discard(entry.name)
        there = np.asarray(state_dict[entry.name])
        try:
            here = CHANGES[entry.change][0](there)
        except ValueError:  # another number of axes
            here = there
        if here.shape != leaf.shape:
            wrong.append(
                f"  misshaped: {entry.name} {there.shape} does not fit {'/'.join(path)} {leaf.shape}"
            )
        leaves[path] = np.ascontiguousarray(here)
    unused = [f"  left over: {key}" for key in sorted(left) if not key.endswith(library.ignored)]
    if missing or wrong or unused:
        raise PretrainedError(
            f"these weights are not those of a {name}:\n" + "\n".join(missing + wrong + unused)
        )
    return nested(leaves)


def revert(library: Library, variables: Variables) -> dict[str, np.ndarray]:
    """Returns the state dict of some `Variables`: the inverse of `convert`."""
    state_dict = {}
    for path, leaf in flat({"params": variables.params, **variables.state}).items():
        entry = library.entry(path)
        state_dict[entry.name] = np.ascontiguousarray(CHANGES[entry.change][1](np.asarray(leaf)))
    return state_dict


def nested(leaves: Mapping[Path, np.ndarray]) -> Variables:
    """Returns leaves by path as `Variables`."""
    tree: dict = {}
    for path, leaf in leaves.items():
        functools.reduce(lambda node, key: node.setdefault(key, {}), path[:-1], tree)[path[-1]] = leaf
    return Variables(tree.pop("params", {}), tree)
