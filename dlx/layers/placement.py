"""Where the arrays of a model lie on the mesh of `jax.set_mesh`, for the few layers that must say it.

XLA finds out by itself how most operations divide among devices, from where parameters and batch lie
(`dlx.sharding`). What these functions say holds on every mesh, and is nothing without one.
"""

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped


def parts(axis: str | None = None) -> int:
    """Returns how many devices an axis of the mesh has, or the whole mesh; 1 where there is none."""
    shape = jax.sharding.get_abstract_mesh().shape
    if axis is None:
        return max(1, jax.sharding.get_abstract_mesh().size)
    return shape.get(axis, 1)


def constrain(x: Shaped[Array, "..."], *axes: str | None) -> Shaped[Array, "..."]:
    """Returns `x`, each of its axes divided over the axis of the mesh that is named for it, or not (None).

    Axes that are not named at the end are left to XLA, and so is one that its number of devices does not
    divide. The identity where no axis named has several devices.
    """
    free = P.UNCONSTRAINED
    named = [None if axis is None or parts(axis) == 1 else axis for axis in axes]
    if not any(named):
        return x
    spec = [
        free if axis is not None and size % parts(axis) else axis
        for axis, size in zip(named, x.shape, strict=False)
    ]
    return jax.lax.with_sharding_constraint(x, P(*spec, *[free] * (x.ndim - len(spec))))
