"""From host batches to devices.

No thread is needed: a jitted step is dispatched and returns, so the host reads the next batch while the
devices work on this one.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from dlx import cluster
from dlx.core import Batch


def parts() -> tuple[int, list[int]]:
    """Returns into how many parts the mesh of `jax.set_mesh` divides a batch, and which this process reads.

    Processes that share a part, where the axis "model" spans them, both read it. Raises ValueError when there
    are several processes and no mesh: it decides who reads what.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        if jax.process_count() > 1:
            raise ValueError(
                "which rows of a batch a process reads depends on the mesh: build the task, and train and "
                "evaluate it, within jax.set_mesh(mesh)"
            )
        return 1, [0]
    by_part = np.moveaxis(mesh.devices, mesh.axis_names.index("data"), 0).reshape(mesh.shape["data"], -1)
    own = jax.process_index()
    held = [part for part, devices in enumerate(by_part) if any(d.process_index == own for d in devices)]
    return len(by_part), held


def rows(size: int) -> slice | np.ndarray:
    """Returns which rows of a global batch of `size` examples this process reads: a slice or indices.

    Raises ValueError when `size` cannot be divided among the parts of the mesh that other processes hold.
    """
    count, held = parts()
    if len(held) == count:
        return slice(0, size)
    if size % count:
        raise ValueError(
            f"a batch of {size} cannot be divided among the {count} devices on the mesh axis 'data'; "
            f"use a multiple of {count}"
        )
    each = size // count
    if held == list(range(held[0], held[-1] + 1)):
        return slice(held[0] * each, (held[-1] + 1) * each)
    return np.concatenate([np.arange(part * each, (part + 1) * each) for part in held])


def whole(count: int) -> int:
    """Returns the size of the global batch of which this process reads `count` rows."""
    every, held = parts()
    return count * every // len(held)


def placement(*axes: str | None) -> Sharding:
    """Returns the sharding `P(*axes)` on the mesh of `jax.set_mesh`, or the default device without one."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return SingleDeviceSharding(jax.devices()[0])
    return NamedSharding(mesh, P(*axes))


def stack(batches: Sequence[Batch], size: int) -> Batch:
    """Returns at most `size` batches as one of arrays [size, b, ...]; what is missing is left unset."""

    def stacked(*arrays):
        whole = np.empty((size, *np.shape(arrays[0])), np.result_type(arrays[0]))
        np.stack(arrays, out=whole[: len(arrays)])
        return whole

    return jax.tree.map(stacked, *batches)


def place(batch: Batch, *before: str | None) -> Batch:
    """Puts this process's rows of a batch on the devices, as global arrays split over the axis "data".

    That is the first of their axes, or the one after those of `before`: None for an axis that is not split.
    On one device the arrays stay as they are: the jitted function that gets them puts them there.
    """
    cluster.beat()
    sharding = placement(*before, "data")
    if sharding.num_devices == 1:
        return batch  # a jitted function takes numpy arrays by a shorter way
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
