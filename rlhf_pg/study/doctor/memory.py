"""Bytes: what a step needs, what there is, and what was used."""

import os
import resource
import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from rlhf_pg.study.doctor.patient import Patient


def bytes_needed(patient: "Patient") -> dict[str, int]:
    """Bytes that any batch needs: weights, their gradient, Adam's two moments, and the reference.

    Activations, keys and values come on top, and grow with rows and lengths.
    """
    parameters = list(patient.policy.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    kept = patient.reference  # with adapters, the policy itself with them off
    beside = kept.parameters() if isinstance(kept, torch.nn.Module) else []
    copied = sum(p.numel() * p.element_size() for p in beside)
    parts = {"weights": weights, "gradient": trained, "Adam": 2 * trained, "reference": copied}
    return {**parts, "all": sum(parts.values())}


def memory_there(device: torch.device) -> int:
    """Bytes of the accelerator's memory, or of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak(device: torch.device) -> int:
    """The most bytes in use so far: of the accelerator, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
