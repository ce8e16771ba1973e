"""Refuses sizes that no memory holds, before the system starts to swap or ends the process."""

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
