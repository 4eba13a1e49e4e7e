"""The frame of weight conversion: one rule per family and library serves both directions."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from dlx.core import Variables
from dlx.models import MODELS

StateDict = Mapping[str, np.ndarray]
Path = tuple[str, ...]  # such as ("params", "Conv_0", "kernel") or ("batch_stats", "BatchNorm_0", "mean")

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
CHANGES = {  # from their axes to ours, and back
    "same": (lambda x: x, lambda x: x),
    "conv": (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),  # OIHW <-> HWIO
    "dense": (lambda x: x.transpose(1, 0), lambda x: x.transpose(1, 0)),
    "dense after 7x7": (  # of a flattened map, channels first there and last here
        lambda x: x.reshape(len(x), -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, len(x)),
        lambda x: x.reshape(7, 7, -1, x.shape[1]).transpose(3, 2, 0, 1).reshape(x.shape[1], -1),
    ),
}


class PretrainedError(ValueError):
    """Weights that do not fit; the message lists every leftover, missing and misshaped entry."""


class Entry(NamedTuple):
    """Where a leaf lies in a state dict: its name, and which of CHANGES makes the axes there ours."""

    name: str
    change: str = "same"


class Library(NamedTuple):
    """What one library calls the parts of one model.

    `entry(path)` says where a leaf of ours lies; `head` is the name of the bias whose length is the number of
    classes; `size` is the side of the images that the weights are for, in pixels; `ignored` are endings of
    names that hold no weight; `today(name)` is the present name of an entry that older files call by another;
    `free` entries may have any length along one axis, as positions of images of another size do.
    """

    entry: Callable[[Path], Entry]
    head: str = ""
    size: int = 224
    ignored: tuple[str, ...] = ("num_batches_tracked",)
    today: Callable[[str], str] = str
    free: tuple[str, ...] = ()


@functools.cache
def shapes(name: str, num_classes: int, size: int) -> dict[Path, jax.ShapeDtypeStruct]:
    """Returns the leaves of a model by path, without computing anything."""
    init = MODELS[name](num_classes=num_classes).init
    variables = jax.eval_shape(
        init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), np.dtype("float32"))
    )
    return flat({"params": variables.params, **variables.state})


def flat(tree: Mapping, path: Path = ()) -> dict:
    """Returns the leaves of nested dicts by path."""
    leaves: dict = {}
    for key, value in tree.items():
        leaves |= flat(value, (*path, key)) if isinstance(value, Mapping) else {(*path, key): value}
    return leaves


def nested(leaves: Mapping[Path, np.ndarray]) -> Variables:
    """Returns leaves by path as `Variables`."""
    tree: dict = {}
    for path, leaf in leaves.items():
        functools.reduce(lambda node, key: node.setdefault(key, {}), path[:-1], tree)[path[-1]] = leaf
    return Variables(tree.pop("params", {}), tree)


def convert(library: Library, name: str, state_dict: StateDict) -> Variables:
    """Returns the `Variables` of `MODELS[name]` with the weights of a state dict, in float32.

    Raises PretrainedError that lists what is left over, missing or misshaped.
    """
    state_dict = {library.today(there): weights for there, weights in state_dict.items()}
    head = np.atleast_1d(state_dict.get(library.head, np.zeros(1000)))
    return fill(library, name, state_dict, shapes(name, len(head) or 1000, library.size))


def fill(
    library: Library, name: str, state_dict: StateDict, wanted: Mapping[Path, jax.ShapeDtypeStruct]
) -> Variables:
    """Returns `Variables` with the wanted leaves, each from its entry of a state dict of today's names.

    Raises PretrainedError that lists what is left over, missing or misshaped; `name` is for the message.
    """
    wrong: list[str] = []
    leaves: dict[Path, np.ndarray] = {}
    used: set[str] = set()
    for path, leaf in wanted.items():
        there, change = library.entry(path)
        used.add(there)
        if there not in state_dict:
            wrong.append(f"missing: {there}, for {'/'.join(path)} {leaf.shape}")
            continue
        weights = np.asarray(state_dict[there])
        try:
            leaves[path] = np.asarray(CHANGES[change][0](weights), leaf.dtype, order="C")
            unequal = sum(a != b for a, b in zip(leaves[path].shape, leaf.shape, strict=True))
            fits = unequal <= (there in library.free)
        except ValueError:  # another number of axes
            fits = False
        if not fits:
            expected = CHANGES[change][1](np.broadcast_to(0, leaf.shape)).shape
            wrong.append(f"misshaped: {there} is {weights.shape} instead of {expected}")
    left = sorted(key for key in set(state_dict) - used if not key.endswith(library.ignored))
    wrong += [f"left over: {key} {np.shape(state_dict[key])}" for key in left]
    if wrong:
        raise PretrainedError("\n  ".join([f"these are not the weights of a {name}:", *wrong]))
    return nested(leaves)


def revert(library: Library, variables: Variables) -> dict[str, np.ndarray]:
    """Returns the state dict of some `Variables`: the inverse of `convert`.

    Counts of batches ("num_batches_tracked") are no weights: PyTorch sets those that it misses.
    """
    state_dict = {}
    for path, leaf in flat({"params": variables.params, **variables.state}).items():
        there, change = library.entry(path)
        state_dict[there] = np.asarray(CHANGES[change][1](np.asarray(leaf)), order="C")
    return state_dict
