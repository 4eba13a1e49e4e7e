"""Memory of the host, as a long computation wants it."""

import ctypes
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8  # parameters of glibc's mallopt(3)
SPARE = 64 << 20  # bytes that the heap grows beyond what is asked for


def keep_freed_memory() -> bool:
    """Makes this process keep the memory it frees, for what it allocates next; returns whether it could.

    XLA on a CPU allocates the temporary memory of a step anew in each. Blocks that large glibc hands back to
    Linux as soon as they are free, which zeroes them page by page in the next step. Kept, they cost nothing,
    and the process stays as large as it ever was. Call it before JAX starts: threads that exist already keep
    the heaps they have. Elsewhere than on glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, SPARE))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
