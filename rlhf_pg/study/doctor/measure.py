"""One iteration of training at a learning rate of 0: its gradient, seconds and memory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_pg.core.learner import Evaluation, Learner, Rollout
from rlhf_pg.language.data import PromptBatches
from rlhf_pg.language.train import Trainer

ROUNDING = 1e-7  # a gradient below it is a rounding error
UPDATE_ROWS = 16  # completions of the rollout whose gradient is checked
LONGEST = 20.0  # seconds; an iteration that takes longer is measured on some of its rows


class MeasuredTrainer(Trainer):
    """A trainer that also keeps the peak memory of each stage, in bytes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stage_bytes: dict[str, int] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the seconds and the peak memory of a stage."""
        device = self.accelerator.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # resets this process's peak; other systems keep the highest so far
        with super().timed(stage):
            yield
        cuda = device.type == "cuda"
        self.stage_bytes[stage] = torch.cuda.max_memory_allocated(device) if cuda else _peak()

    def set_rows(self, rows: int) -> int:
        """Sample about `rows` completions from now on; returns how many (whole groups)."""
        each = self.config.samples_per_prompt
        rows = min(self.config.rows, max(1, rows // each) * each)
        self.prompts = PromptBatches(self.prompts.rows, rows, each, self.config.seed)
        return rows

    def bytes_needed(self) -> dict[str, int]:
        """Bytes that a batch of any size needs; activations and caches come on top."""
        weights = sum(p.nbytes for p in self.policy.parameters())
        gradient = sum(p.nbytes for p in self.policy.parameters() if p.requires_grad)
        parts = {"weights": weights, "gradient": gradient, "Adam": 2 * gradient}
        if isinstance(self.reference, nn.Module):  # with adapters, it is the policy itself
            parts["reference"] = sum(p.nbytes for p in self.reference.parameters())
        return parts

    def total_memory(self) -> int:
        """Bytes of the accelerator's memory, or of the machine's."""
        device = self.accelerator.device
        if device.type == "cuda":
            return int(torch.cuda.get_device_properties(device).total_memory)
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _peak() -> int:
    """The most bytes of memory that this process has had; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Gradient:
    """The gradient of a small rollout in one minibatch."""

    norm: float
    reached: list[str]  # parameters whose gradient is not 0
    missing: list[str]  # the other parameters
    finished: int  # completions that ended by EOS
    eos_in_mask: int  # EOS tokens that the learner's mask keeps
    eos_reached: int  # EOS tokens whose gradient is above ROUNDING


def gradient(trainer: MeasuredTrainer) -> Gradient:
    """The gradient of one update of the learner, over the parameters and over every EOS."""
    trainer.set_rows(UPDATE_ROWS)
    generator = torch.Generator().manual_seed(trainer.config.seed + 1)
    completions, scores, _, rollout = trainer.collect(next(trainer.prompts), generator)
    of_eos: list[Tensor] = []

    def evaluate(part: Rollout) -> Evaluation:
        evaluation = trainer.policy.evaluate(part)
        eos = (part.actions == trainer.tokenizer.eos_token_id) & part.mask.bool()
        evaluation.logprobs.register_hook(lambda g: of_eos.append(g[eos]))
        return evaluation

    policy: Any = SimpleNamespace(evaluate=evaluate, parameters=trainer.policy.parameters)
    learner = replace(trainer.config.learner, epochs=1, minibatches=1, critic_warmup=0)
    norm = Learner(policy, learner).update(rollout)["grad_norm"]
    named = dict(trainer.policy.named_parameters())
    reached = [n for n, p in named.items() if p.grad is not None and bool(p.grad.any())]
    missing = [n for n in named if n not in reached]
    if trainer.config.lora_rank is not None:
        # Adapters alone are trained, and A has no gradient while B is zero, as it begins.
        missing = [n for n in missing if named[n].requires_grad and "lora_A" not in n]
    scored = ~scores.shaped.isnan()  # the others are left out
    finished, gradients = int(completions.finished[scored].sum()), torch.cat(of_eos)
    return Gradient(
        norm, reached, missing, finished, len(gradients), int((gradients.abs() > ROUNDING).sum())
    )


@dataclass
class Iteration:
    """What an iteration of the run takes, by stage."""

    rows: int  # that were measured; fewer than the run's if all would take too long
    seconds: dict[str, float]  # of the run's rows: scaled in proportion, an upper bound
    peak_bytes: dict[str, int]  # of `rows`, on the accelerator or in the whole process


def iteration(trainer: MeasuredTrainer) -> Iteration:
    """Time an iteration on a quarter of its rows, and on all of them if that is short enough."""
    whole = trainer.config.rows
    rows = trainer.set_rows(whole // 4)
    trainer.step()
    if rows < whole and sum(trainer.stage_seconds.values()) * whole / rows <= LONGEST:
        rows = trainer.set_rows(whole)
        trainer.step()
    seconds = {stage: x * whole / rows for stage, x in trainer.stage_seconds.items()}
    return Iteration(rows, seconds, dict(trainer.stage_bytes))
