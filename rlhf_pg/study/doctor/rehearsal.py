"""One iteration of training at a learning rate of 0: all its work, and the policy stays as it is.

Done twice: on a few rows in one piece, to see which tokens and parameters the gradient reaches;
then as the run would do it, to see what it takes.
"""

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_pg.core.learner import Evaluation, Learner, Rollout
from rlhf_pg.language.answers import paid
from rlhf_pg.language.prompts import prompt_batches
from rlhf_pg.language.rollout import language_rollout, reference_logprobs, score_completions
from rlhf_pg.language.sampling import sample
from rlhf_pg.study.doctor.finding import Missing
from rlhf_pg.study.doctor.memory import bytes_needed, memory_there, peak

if TYPE_CHECKING:
    from rlhf_pg.study.doctor.patient import Patient

SMALL = 16  # rows of the first iteration, which also warms up
PATIENCE = 20.0  # seconds: an iteration that would take longer is measured in part, and scaled


class Watched:
    """The policy, keeping each evaluation, so that the gradient of every token can be read."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.seen: list[tuple[Rollout, Tensor]] = []  # and log-probabilities (B, T)

    def evaluate(self, rollout: Rollout) -> Evaluation:
        found: Evaluation = self.policy.evaluate(rollout)
        found.logprobs.retain_grad()
        self.seen.append((rollout, found.logprobs))
        return found

    def parameters(self) -> Any:
        return self.policy.parameters()


@dataclass
class Rehearsal:
    """What an iteration did and took."""

    toward: str  # the reward, or what stood in for it
    grad_norm: float
    trained: list[str]  # parameters that the gradient reached
    untrained: list[str]  # those it did not, though they are to be trained
    frozen: list[str]
    finished: int  # completions that ended by EOS
    eos_kept: int  # those whose EOS the learner's mask holds
    eos_reached: int  # those whose EOS had a gradient
    seconds: dict[str, float] = field(default_factory=dict)  # of an iteration of all rows
    measured_rows: int = 0  # timed; fewer than the run's where that would take too long
    peak_bytes: int = 0  # on the accelerator, or of the whole process


class Clock:
    """Seconds of each stage, the accelerator's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()
        self.last = self._now()

    def __call__(self, stage: str) -> None:
        now = self._now()
        self.seconds[stage], self.last = now - self.last, now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def rehearse(patient: "Patient") -> Rehearsal:
    """Both iterations; Missing where there is no memory for them."""
    if bytes_needed(patient)["all"] > memory_there(patient.device):
        raise Missing("a step needs more memory than there is")
    found = _watched(patient)
    run, part = patient.train, _rows(patient, patient.train.rows // 4)
    seconds = _timed(patient, part)
    if part < run.rows and sum(seconds.values()) * run.rows / part <= PATIENCE:
        part, seconds = run.rows, _timed(patient, run.rows)
    found.measured_rows, found.seconds = part, seconds
    if part < run.rows:
        half = _rows(patient, part // 2)
        found.seconds = extrapolated(
            half, _timed(patient, half) if half < part else {}, part, seconds, run.rows
        )
    found.peak_bytes = peak(patient.device)
    return found


def _rows(patient: "Patient", wanted: int) -> int:
    """About so many rows: whole groups of a prompt's samples, and a row for every minibatch."""
    run, each = patient.train, patient.train.samples_per_prompt
    groups = max(1, wanted // each, -(-run.learner.minibatches // each))
    return min(run.rows, groups * each)


def extrapolated(
    few: int, less: dict[str, float], many: int, more: dict[str, float], rows: int
) -> dict[str, float]:
    """Seconds of each stage for `rows` rows, on the line through those of `few` and `many` rows.

    In proportion to the rows where nothing was measured for fewer: too much, since a step costs
    something even without rows.
    """
    if not less:
        return {stage: x * rows / many for stage, x in more.items()}
    slopes = {stage: max(0.0, (x - less[stage]) / (many - few)) for stage, x in more.items()}
    return {stage: x + slopes[stage] * (rows - many) for stage, x in more.items()}


def _watched(patient: "Patient") -> Rehearsal:
    run, policy = patient.train, patient.policy
    each = run.samples_per_prompt
    rows = max(each, min(SMALL, run.rows) // each * each)
    once = replace(run.learner, epochs=1, minibatches=1, micro_rows=None, critic_warmup=0)
    watched = Watched(policy)
    toward, scored = patient.spec or "", _varied(patient)
    if not scored:
        toward = "random scores"
    learner = Learner(watched, replace(once, lr=0.0))  # type: ignore[arg-type]
    metrics, _, finished = _iteration(patient, learner, rows, scored)
    tokens = [
        (at, gradient.grad[at])
        for rollout, gradient in watched.seen
        if gradient.grad is not None
        for at in [(rollout.actions == patient.tokenizer.eos_token_id) & rollout.mask.bool()]
    ]
    named = dict(policy.named_parameters())
    reached = [n for n, p in named.items() if p.grad is not None and bool((p.grad != 0).any())]
    return Rehearsal(
        toward,
        metrics["grad_norm"],
        reached,
        [n for n, p in named.items() if p.requires_grad and n not in reached],
        [n for n, p in named.items() if not p.requires_grad],
        finished,
        sum(int(at.sum()) for at, _ in tokens),
        sum(int((g != 0).sum()) for _, g in tokens),
    )


def _timed(patient: "Patient", rows: int) -> dict[str, float]:
    learner = Learner(patient.policy, replace(patient.train.learner, lr=0.0))
    if patient.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(patient.device)
    return _iteration(patient, learner, rows, _answers(patient))[1]


def _iteration(
    patient: "Patient", learner: Learner, rows: int, scored: bool
) -> tuple[dict[str, float], dict[str, float], int]:
    """Metrics, seconds and finished completions of an iteration, as `training.Loop` does it."""
    run = replace(patient.train, rows=rows)
    columns = next(prompt_batches(patient.usable(), run, 0, 1))
    prompts = columns.pop("prompt")
    generator = torch.Generator().manual_seed(run.seed + 1)
    clock = Clock(patient.device)
    done = sample(patient.policy, patient.tokenizer, prompts, run.max_new_tokens, generator)
    clock("sampling")
    if scored:
        scores = score_completions(patient.reward(), done, columns)[0]
        clock("reward")
    else:
        scores = torch.randn(len(prompts), generator=generator).to(patient.device)
    ref_logprobs = reference_logprobs(patient.reference, done)
    clock("reference")
    rollout = language_rollout(
        done, paid(run, scores, done.finished), ref_logprobs, run.kl_coef, run.learner.kl_in,
        run.bootstrap_truncated, run.samples_per_prompt,
    )  # fmt: skip
    metrics = learner.update(rollout)
    clock("update")
    return metrics, clock.seconds, int(done.finished.sum())


def _answers(patient: "Patient") -> bool:
    try:
        patient.applied()
    except Missing:
        return False
    return True


def _varied(patient: "Patient") -> bool:
    """Whether the reward tells completions apart, so that there is something to learn from."""
    return _answers(patient) and len(patient.applied().unique()) > 1
