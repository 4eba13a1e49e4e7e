"""The IDX format of the MNIST family: a magic number, the shape in big-endian 32-bit numbers, the bytes."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


def read(path: Path | str, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Reads an IDX file of unsigned bytes, gzipped or not, with so many dimensions.

    Raises a ValueError that names the file if its magic number is another one, or if it is shorter or longer
    than its shape says. The format is described at http://yann.lecun.com/exdb/mnist.
    """
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged or truncated gzip file: {error}") from error
    head, magic = 4 + 4 * dimensions, bytes([0, 0, 8, dimensions])
    if data[:4] != magic:
        raise ValueError(
            f"{path} begins with the bytes {data[:4].hex()}; an IDX file of unsigned bytes in "
            f"{dimensions} dimensions begins with {magic.hex()}"
        )
    if len(data) < head:
        raise ValueError(f"{path} is truncated: its header needs {head} bytes, it has {len(data)}")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    expected = head + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        word = "truncated" if len(data) < expected else "too long"
        raise ValueError(f"{path} is {word}: shape {shape} needs {expected:,} bytes, it has {len(data):,}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
