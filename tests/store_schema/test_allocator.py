"""A process that keeps freed memory does not fault it in again, whatever Dask's nannies put into its environment."""

import ctypes
import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from store_schema.allocator import keep_freed_memory
from store_schema.testing.page_faults import faults_of_large_blocks
if sys.argv[1] == "kept":
    assert keep_freed_memory() and keep_freed_memory()
faults_of_large_blocks()
print(faults_of_large_blocks())
"""


def faults(way: str) -> int:
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PROGRAM, way]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the allocator of this system has no mallopt")
def test_freed_blocks_are_reused_under_a_nannys_environment():
    assert faults("kept") < 5_000 < faults("as it is")
