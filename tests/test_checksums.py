import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dlx import checksums, sharding

TYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool", "complex64", "float8_e4m3fn"]


def digest(array):
    return checksums.text(checksums.sums({"x": jnp.asarray(array)})["x"])


def by_hand(array):
    """The definition, word by word in Python's integers."""

    def mix(word):
        word = (word ^ (word >> 16)) * 0x85EBCA6B % 2**32
        word = (word ^ (word >> 13)) * 0xC2B2AE35 % 2**32
        return word ^ (word >> 16)

    array = np.ascontiguousarray(array)
    first = second = 0
    for place, element in enumerate(array.reshape(-1)):
        word = int.from_bytes(element.tobytes(), "little")
        mixed = mix(word ^ (place * 0x9E3779B9 % 2**32))
        again = mixed * 0x27D4EB2F % 2**32
        first, second = first + mixed, second + (again ^ (again >> 15))
    return f"{first % 2**32:08x}{second % 2**32:08x}"


def drawn(dtype, shape=(6, 5)):
    raw = np.random.default_rng(3).integers(0, 255, (*shape, 8), np.uint8)
    if dtype == "bool":
        return raw[..., 0] > 127
    kind = jnp.dtype(dtype)
    return np.ascontiguousarray(raw[..., : kind.itemsize]).view(kind)[..., 0]


@pytest.mark.parametrize("dtype", [name for name in TYPES if name != "complex64"])
def test_the_sums_are_those_by_hand(dtype):
    array = drawn(dtype)
    assert digest(array) == by_hand(array)
    assert digest(array[0, 0]) == by_hand(array[0, 0]) and digest(array[:0]) == 16 * "0"


@pytest.mark.parametrize("dtype", TYPES)
def test_every_flipped_bit_changes_both_halves(dtype):
    array = drawn(dtype)
    before, size = digest(array), array.dtype.itemsize
    for bit in [0] if dtype == "bool" else range(8 * size):
        flipped = array.copy()
        flipped.view(np.uint8).reshape(6, 5, size)[bit % 6, bit % 5, bit // 8] ^= 1 << bit % 8
        after = digest(flipped)
        assert after[:8] != before[:8] and after[8:] != before[8:], bit


def test_changes_that_cancel_in_a_plain_sum_are_seen():
    array = drawn("float32")
    signs, swapped = array.copy(), array.copy()
    signs[0, 0], signs[3, 2] = -signs[0, 0], -signs[3, 2]
    swapped[0], swapped[1] = array[1], array[0]
    assert len({digest(other) for other in (array, signs, swapped, array.reshape(5, 6).T)}) == 4


def test_the_sums_do_not_depend_on_the_mesh():
    array = drawn("float32", (16, 8))
    found = {digest(array)}
    for shape, spec in (
        ((8, 1), P("data")),
        ((4, 2), P("data", "model")),
        ((2, 4), P(None, "data")),
        ((8, 1), P()),
    ):
        mesh = sharding.mesh(dict(zip(sharding.AXES, shape, strict=True)))
        placed = jax.device_put(array, NamedSharding(mesh, spec))
        pair = checksums.sums({"x": placed})["x"]
        assert pair.is_fully_replicated
        found.add(checksums.text(pair))
    assert len(found) == 1
