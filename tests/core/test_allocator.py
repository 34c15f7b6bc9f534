"""Freed memory stays with the process."""

import ctypes
import subprocess
import sys

import pytest

from sfumato.speed.memory import keep_freed_memory

FAULTS = """
import ctypes, resource, sys
from sfumato.speed.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
def use():
    block = c.malloc(100 * 2**20)
    c.memset(block, 1, 100 * 2**20)
    c.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    """Pages that the system had to clear for five blocks of 100 MiB, one after the other."""
    command = [sys.executable, "-c", FAULTS, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc")
def test_a_block_that_was_freed_is_used_again() -> None:
    pages = 5 * 100 * 2**20 // 4096
    assert page_faults("as it is") > 0.9 * pages
    assert page_faults("keep") < 0.01 * pages


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
