"""Meshes of devices, and where a state and a batch lie on them."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "model")


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


def layout(shapes, mesh: Mesh):
    """Gives every leaf of a tree of shapes its placement on `mesh`: data parallel, the state replicated."""
    replicated = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), shapes
    )
