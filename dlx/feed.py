"""From host batches to devices.

No thread is needed: a jitted step is dispatched and returns, so the host reads the next batch while the
devices work on this one.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from dlx.core import Batch


def rows(size: int) -> slice:
    """Returns which rows of a global batch of `size` examples this process reads.

    Raises ValueError when `size` cannot be divided among the processes.
    """
    count, index = jax.process_count(), jax.process_index()
    if size % count:
        raise ValueError(f"a batch of {size} cannot be divided among {count} processes")
    return slice(index * size // count, (index + 1) * size // count)


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
    sharding = placement(*before, "data")
    if sharding.num_devices == 1:
        return batch  # a jitted function takes numpy arrays by a shorter way
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
