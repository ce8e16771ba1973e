"""Freed memory is kept for the next step."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from rlhf_pg.memory import keep_freed_memory

torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2**20) for _ in range(30)]  # 4 MB each
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = [faults(), faults()][-1]
keep_freed_memory()
print(usual, [faults(), faults()][-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_memory_that_was_freed_is_not_asked_for_again():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    usual, kept = map(int, run.stdout.split())
    assert kept < usual / 4
