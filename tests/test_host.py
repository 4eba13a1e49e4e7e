"""Memory that a process frees is memory that it keeps."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from dlx import host
    print(host.keep_freed_memory())
else:
    print(True)
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 26, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str) -> tuple[bool, int, int]:
    done = subprocess.run([sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=True)
    kept, first, second = done.stdout.split()
    return kept == "True", int(first), int(second)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="getrusage counts page faults on Linux")
def test_what_is_freed_is_used_again_without_page_faults():
    kept, first, second = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    assert second < first / 10
    _, first, second = faults("as it is")
    assert second > first / 2  # else the law above says nothing
