"""Sums of 64 bits over the leaves of a state, taken where the state lies.

A sum is the same on every mesh and on any number of processes: integers are added modulo 2**32, in whatever
order, and what is added for an element depends on nothing but its bits and its place in the whole array.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped, UInt32

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # bytes of an element -> its words


def sums(leaves: Mapping[str, Array]) -> dict[str, UInt32[Array, "2"]]:
    """Returns two sums of 32 bits of every array, by its name; they are computed asynchronously.

    Every word of 32 bits is mixed with its place in the array and the results are added, twice, with other
    mixes. A mix is a permutation of the words, so an array that differs in one word alone never has the sums
    of the other; for other differences the chance is 2**-64. Nothing is gathered: each device adds what
    it holds.
    """
    found = {}
    for name, leaf in leaves.items():
        found[name] = _program(_whole(leaf), leaf.is_fully_replicated)(leaf)
        if not leaf.is_fully_replicated and jax.default_backend() == "cpu":
            found[name].block_until_ready()  # its threads are too few for several programs that add together
    return found


def text(pair: UInt32[Array, "2"]) -> str:
    """Returns two sums as 16 hexadecimal digits; waits for them."""
    return "".join(f"{int(part):08x}" for part in jax.device_get(pair))


def both(leaf: Shaped[Array, "..."], flat: bool = False) -> UInt32[Array, "2"]:
    """Returns the two sums of one array.

    `flat` adds along one axis, which takes XLA half the time on a CPU, but gathers an array that is split.
    """
    mixed = words(leaf)
    mixed = mixed.reshape(-1) if flat else mixed
    mixed = _mix(mixed ^ (places(mixed.shape) * jnp.uint32(0x9E3779B9)))
    again = mixed * jnp.uint32(0x27D4EB2F)
    again ^= again >> 15
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(again, dtype=jnp.uint32)])


def words(leaf: Shaped[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns the bits of an array, one word of 32 for an element, or two, on a last axis, for 8 bytes."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(leaf, UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)


def places(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Returns the place of every element in row-major order, modulo 2**32."""
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return place


def _mix(word: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Permutes the words of 32 bits, so that each bit of one depends on all of the other.

    These are the last steps of MurmurHash3 (Appleby 2011).
    """
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def _whole(leaf: Array) -> NamedSharding | None:
    """Returns the placement of sums that every process can read: whole on each device of the leaf's mesh."""
    sharding = leaf.sharding
    return NamedSharding(sharding.mesh, P()) if isinstance(sharding, NamedSharding) else None


@functools.cache
def _program(placement: NamedSharding | None, flat: bool):
    return jax.jit(functools.partial(both, flat=flat), out_shardings=placement)
