"""Meshes of devices, and where a state and a batch lie on them.

A mesh has two axes. Over "data" the batch is divided: with `fsdp` each device keeps only its share of the
large arrays of the state too, and gathers a parameter where it is used (Zhao et al. 2023). Over "model" the
matrices of transformers are divided: attention by heads, dense layers by hidden units, tables by words
(Shoeybi et al. 2019). Where a run happens changes nothing in what is learned.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dlx.core import Batch, Key, Variables

AXES = ("data", "model")
LARGE = 2**14  # elements from which on an array is worth a message of its own

Rules = Sequence[tuple[str, tuple[str | None, ...]]]
INSIDE = r"(^|/)(\w+_\d+|attention|cross)/"  # a block, or the attention in one
TENSOR_PARALLEL: Rules = (  # patterns of the end of a path, and the axis of the mesh for each of the array
    (INSIDE + "(query|key|value|gate|up|dense_1)/kernel", (None, "model")),
    (INSIDE + "(query|key|value|gate|up|dense_1)/bias", ("model",)),
    (INSIDE + "(out|down|dense_2)/kernel", ("model", None)),
    (INSIDE + "qkv/kernel", ("model", None)),  # kept so; `layers.attention.Projections` divides it by heads
    (r"(^|/)(tokens|head|words|\w+_words)/embedding", ("model", None)),
)


def mesh(shape: Mapping[str, int] | None = None, devices=None) -> Mesh:
    """Returns a mesh with the axes "data" and "model"; -1 means "all the devices that are left".

    Raises ValueError when the axes are unknown or do not multiply to the number of devices.
    """
    shape = {"data": -1, "model": 1} | dict(shape or {})
    devices = jax.devices() if devices is None else devices
    if unknown := set(shape) - set(AXES):
        raise ValueError(f"unknown mesh axes {sorted(unknown)}; a mesh has the axes {list(AXES)}")
    sizes = [shape[axis] for axis in AXES]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) == 1 and fixed > 0 and len(devices) % fixed == 0:
        sizes = [len(devices) // fixed if size == -1 else size for size in sizes]
    if int(np.prod(sizes)) != len(devices) or min(sizes) < 1:
        raise ValueError(f"a mesh of {dict(shape)} does not fit {len(devices)} devices")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def current() -> Mesh:
    """Returns the mesh of `jax.set_mesh`, or one of all devices where none is set."""
    found = jax.sharding.get_mesh()
    return mesh() if found.empty else found


def parsed(text: str) -> dict[str, int]:
    """Returns the shape of a mesh that is written as "data=4,model=2"; "" is all devices along "data"."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    try:
        shape = {name.strip(): int(size) for name, _, size in pairs}
    except ValueError as error:
        raise ValueError(f"{text!r} is no mesh; it is written as data=4,model=2") from error
    if unknown := set(shape) - set(AXES):
        raise ValueError(f"unknown mesh axes {sorted(unknown)}; a mesh has the axes {list(AXES)}")
    return shape


def batch(mesh: Mesh) -> NamedSharding:
    """Returns the placement of a batch: its leading axis split over "data"."""
    return NamedSharding(mesh, P("data"))


def check_batch(size: int, mesh: Mesh) -> None:
    """Raises ValueError, naming sizes that work, when `mesh` cannot divide a batch of `size` examples."""
    parts = mesh.shape["data"]
    if size < 1 or size % parts:
        below, above = size // parts * parts, (size // parts + 1) * parts
        near = [n for n in (below, above) if n > 0]
        raise ValueError(
            f"a batch of {size} cannot be divided among {parts} devices on the mesh axis 'data'; "
            f"use a multiple of {parts}, for example {' or '.join(map(str, near))}"
        )


def layout(shapes, mesh: Mesh, rules: Rules = TENSOR_PARALLEL, fsdp: int | None = None):
    """Gives every leaf of a tree of shapes its placement on `mesh`.

    The first of the `rules` whose pattern is the end of a leaf's path, and that speaks of as many axes as the
    leaf has, divides it over "model", if the devices there divide its size. With `fsdp` a leaf of at least so
    many elements is then divided over "data", along the longest of its other axes that can be; `LARGE` is a
    good number. All else is on every device. What an optimizer keeps of a parameter lies where that does, for
    its path has the same end.
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        where = NamedSharding(mesh, spec(divided(name, leaf.shape, mesh, rules, fsdp)))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map_with_path(place, shapes)


def spec(axes: Sequence[str | None]) -> P:
    """Returns the PartitionSpec of an array's axes, those left out at the end that are not divided."""
    most = max((number for number, axis in enumerate(axes, 1) if axis), default=0)
    return P(*axes[:most])


def divided(
    path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules, fsdp: int | None
) -> list[str | None]:
    """Returns for each axis of a leaf the axis of the mesh that divides it, or None."""
    found = next(
        (axes for end, axes in rules if len(axes) == len(shape) and re.search(end + "$", path)),
        (None,) * len(shape),
    )

    def fits(axis: str, size: int) -> bool:
        return mesh.shape[axis] > 1 and size > 0 and size % mesh.shape[axis] == 0

    axes = [axis if axis and fits(axis, size) else None for axis, size in zip(found, shape, strict=True)]
    if fsdp is not None and math.prod(shape) >= fsdp:
        free = [i for i, size in enumerate(shape) if axes[i] is None and fits("data", size)]
        if free:
            axes[max(free, key=lambda i: shape[i])] = "data"
    return axes


def whole(placement):
    """Returns the placement of parameters where they are used: not divided over "data"."""

    def used(kept):
        if not isinstance(kept, NamedSharding):
            return kept
        return NamedSharding(kept.mesh, spec([None if axis == "data" else axis for axis in kept.spec]))

    return jax.tree.map(used, placement)


def gather(variables: Variables) -> Variables:
    """Returns variables that are on devices as evaluation uses them: not divided over "data"."""
    return jax.device_put(variables, whole(jax.tree.map(lambda leaf: leaf.sharding, variables)))


def gathering(loss: Callable, placement: Variables) -> Callable:
    """Returns the loss of variables that are kept at `placement`, each gathered before it is used.

    The gradient of each is summed over all devices and goes to where its parameter is kept. Until the
    gradient pass has used a parameter it is there as a whole: gathering it again would take a
    `jax.checkpoint` around the loss, whose policy would overrule those within. Where nothing is divided over
    "data", it is `loss` itself.
    """
    full = whole(placement)
    if jax.tree.leaves(full) == jax.tree.leaves(placement):
        return loss

    def gathered(variables: Variables, batch: Batch, key: Key):
        return loss(jax.tree.map(moved, variables, placement, full), batch, key)

    return gathered


def moved(leaf, kept: NamedSharding, used: NamedSharding):
    """Returns an array that is kept at one placement at another, and its gradient there and back again."""
    place = jax.lax.with_sharding_constraint

    @jax.custom_vjp
    def move(x):
        return place(x, used)

    # the sum first, then each device its part: asked for at once, XLA may divide the work before otherwise
    move.defvjp(lambda x: (place(x, used), None), lambda _, sum: (place(place(sum, used), kept),))
    return leaf if kept == used else move(leaf)


class Collective(NamedTuple):
    """A message among devices: what is done, and the shapes of what each device has in the end."""

    kind: str  # all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute
    shapes: tuple[str, ...]  # such as f32[64,128]

    @property
    def size(self) -> int:
        """Is the number of bytes of those."""
        return sum(map(bytes_of, self.shapes))


def collectives(program: str) -> list[Collective]:
    """Returns the messages among devices in a compiled program (`compiled.as_text()`), each once.

    Those within a loop are sent in each of its rounds.
    """
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    call = re.compile(rf" = (\([^=]*?\)|\S+) ({kinds})(?:-start)?\(")
    lines = re.sub(r"/\*.*?\*/", "", program).splitlines()  # tuples have the numbers of some elements
    found = [match for line in lines if (match := call.search(line))]
    return [Collective(match[2], tuple(re.findall(r"[a-z]\w*\[[\d,]*\]", match[1]))) for match in found]


def bytes_of(shape: str) -> int:
    """Returns how many bytes an array has whose shape XLA writes so: "bf16[8,128]", say."""
    dtype, sizes = shape.removesuffix("]").split("[")
    bits = int(next(iter(re.findall(r"\d+", dtype)), 8))  # "pred" has no number, and a byte
    return math.prod(int(size) for size in sizes.split(",") if size) * max(bits, 8) // 8


def on_a_device(layout: Any) -> int:
    """Returns how many bytes of a tree of placed shapes one device holds."""
    leaves = jax.tree.leaves(layout)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
