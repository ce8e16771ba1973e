"""Freed memory is kept for the next step."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from rlhf_pg.memory import keep_freed_memory

torch.set_num_threads(1)
{keep}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2**20) for _ in range(30)]  # 4 MB each
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def page_faults(keep: str) -> int:
    command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_memory_that_was_freed_is_not_asked_for_again():
    assert page_faults("keep_freed_memory()") < page_faults("") / 4
