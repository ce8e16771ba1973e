"""Refuses sizes that no memory holds, names what to lower if memory ran out, keeps freed memory."""

import contextlib
import ctypes
import os
from typing import Any


def total_memory(device: Any = "cpu") -> int | None:
    """Bytes of a GPU's memory, or of the machine's for the CPU; None if unknown."""
    if str(device).startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such call on Windows
        return None


def check_fits(needed: float, what: str, lower: str, device: Any = "cpu") -> None:
    """Raise ValueError if `needed` bytes are more than the whole memory of the device.

    `needed` is a lower bound, so nothing that could run is refused. `what` needs it, and `lower`
    names the options to lower.
    """
    total = total_memory(device)
    if total is not None and needed > total:
        raise ValueError(
            f"{what} would take at least {needed / 1e9:,.0f} GB, but there are {total / 1e9:,.0f} "
            f"GB of memory: lower {lower}"
        )


def keep_freed_memory() -> None:
    """Let the C library (glibc) keep up to 1 GB that was freed, for the next training step.

    By default it returns the activations' memory to the system after each step and asks for it
    again in the next: 5 to 10 % of a tiny model's step goes into these page faults.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD at its greatest: setting one fixes both


TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "MemoryError")
LOWER = {  # command -> options that decide how much memory it takes
    "train": "--rows, --learner.micro_rows or --max_new_tokens",
    "finetune": "--batch_size, --context or --width",
    "reward": "--learner.batch_size",
    "control": "--environments, --rollout_steps or --learner.micro_rows",
}


def out_of_memory(error: BaseException, command: str) -> str | None:
    """The message for an error of a command that ran out of memory; None if it is another error.

    That is MemoryError, and RuntimeError with PyTorch's messages for the CPU and GPUs.
    """
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError):
        if not isinstance(error, RuntimeError) or not any(part in text for part in TEXTS):
            return None
    lower = LOWER.get(command, "the number of rows, their length or the size of the model")
    return f"out of memory: lower {lower} ({text[:200] or 'MemoryError'})"
