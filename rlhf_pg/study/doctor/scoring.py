"""Checks that what is sampled is what is scored, and that there is something to sample."""

import math
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.masked import masked_mean, zero_padding
from rlhf_pg.language import models
from rlhf_pg.language.rollout import unscored
from rlhf_pg.study.doctor.finding import Check, Finding, Status, judged, small
from rlhf_pg.study.doctor.patient import DRIFT, Patient

ROUNDING = 1e-3  # beyond it, a difference is no rounding error of fp32
PADS = 7  # columns of padding put before a prompt
FEW = 0.05  # share of completions that end by themselves


@torch.no_grad()
def ratio(patient: Patient) -> Finding:
    """A token has the same probability when it is sampled (with a cache) and when it is scored."""
    done = patient.completions
    scored = patient.policy.evaluate(unscored(done)).logprobs
    drift = zero_padding((scored - done.logprobs).exp() - 1, done.mask)
    value = float(drift.abs().max())
    return judged(
        value < DRIFT,
        f"max |ratio - 1| {small(value)}",
        "below 1e-5",
        _why_not_equal("with its cache of keys and values, the model says other things than "
                       "without", value, patient),
        _how_bad(value, patient),
        value,
    )  # fmt: skip


@torch.no_grad()
def left_padding(patient: Patient) -> Finding:
    """A prompt padded on the left, as it is in a batch, is read as it is alone."""
    value = max(
        float((padded(patient, row, positions=True) - alone(patient, row)).abs().max())
        for row in _chosen(patient)
    )
    return judged(
        value < DRIFT,
        f"padded - alone {small(value)}",
        "below 1e-5",
        _why_not_equal("padding before a prompt changes what the model says of it, though it is "
                       "given attention_mask and position_ids: its forward must use both", value,
                       patient),
        _how_bad(value, patient),
        value,
    )  # fmt: skip


@torch.no_grad()
def without_positions(patient: Patient) -> Finding:
    """How far off scores would be without position_ids: not for RoPE, far for GPT-2."""
    value = max(
        float((padded(patient, row, positions=False) - alone(patient, row)).abs().max())
        for row in _chosen(patient)
    )
    absolute = value > ROUNDING
    remedy = (
        "this model learned a vector for each position (as GPT-2 did): a library that pads on the "
        "left and passes no position_ids scores it wrongly"
    )
    return Finding(
        "note",
        f"off by {small(value)} nats, {'absolute' if absolute else 'relative'} positions",
        "not used here",
        remedy if absolute else "",
        value,
    )


def entropy(patient: Patient) -> Finding:
    """How open the next token is: log(vocabulary) is untrained, 0 leaves nothing to try."""
    done = patient.completions
    with torch.no_grad():
        found = patient.policy.evaluate(unscored(done)).entropies
    value = float(masked_mean(found, done.mask))
    uniform = math.log(patient.model.config.get_text_config().vocab_size)
    if value > 0.9 * uniform:
        remedy = (
            "the model is nearly uniform, as untrained ones are: fine-tune it first (rlhf-pg "
            f"finetune --model {patient.config.model}), or look whether its lm_head was saved"
        )
    else:
        remedy = (
            "the model is nearly certain of every token, so samples hardly differ and there is "
            "little to learn from: raise --temperature, or begin from an earlier checkpoint"
        )
    good = 0.05 <= value <= 0.9 * uniform
    return judged(
        good, f"{value:.2f} nats per token", f"0.05 to {0.9 * uniform:.2f}", remedy, "warn", value
    )


def ends(patient: Patient) -> Finding:
    """Some texts end by themselves: what the model never does cannot be rewarded."""
    done = patient.completions
    value = float(done.finished.float().mean())
    return judged(
        value >= FEW,
        f"{value:.0%} end by EOS",
        f"at least {FEW:.0%}",
        f"hardly any completion ends within {patient.config.max_new_tokens} tokens: raise "
        "--max_new_tokens, or fine-tune on texts that end (rlhf-pg finetune closes each with EOS)",
        "warn",
        value,
    )


def _how_bad(value: float, patient: Patient) -> Status:
    return "fail" if not value < ROUNDING and not patient.config.bf16 else "warn"


def _why_not_equal(cause: str, value: float, patient: Patient) -> str:
    if patient.config.bf16:
        return "bfloat16 rounds in the third digit; leave --bf16 out, or keep to one epoch"
    if value < ROUNDING:
        return (
            "a rounding error, larger than a small model's: harmless below 1e-3, and PPO's first "
            "ratio will show it (first_ratio_drift); on a GPU, switch TF32 off"
        )
    return cause


def _chosen(patient: Patient) -> list[int]:
    """A few rows, spread over the prompts."""
    count = len(patient.completions.texts)
    return list(range(0, count, max(1, count // 6)))


def alone(patient: Patient, row: int) -> Tensor:
    """log pi of a completion's tokens (T,), from one plain call: no padding, mask or cache."""
    ids, steps = _tokens(patient, row)
    return _of_tokens(patient, patient.policy.model(input_ids=ids).logits, ids, steps)


def padded(patient: Patient, row: int, positions: bool) -> Tensor:
    """The same with padding before it, as in a batch with a longer prompt."""
    ids, steps = _tokens(patient, row)
    pads = torch.full((1, PADS), patient.tokenizer.pad_token_id, device=ids.device)
    ids = torch.cat([pads, ids], dim=1)
    mask = (torch.arange(ids.shape[1], device=ids.device) >= PADS).long()[None]
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if positions:
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return _of_tokens(patient, patient.policy.model(**given).logits, ids, steps)


def _tokens(patient: Patient, row: int) -> tuple[Tensor, int]:
    done = patient.completions
    limit = models.context_length(patient.model) or 10**9
    prompt = done.prompt_ids[row][done.prompt_mask[row].bool()]
    ids = torch.cat([prompt, done.ids[row][done.mask[row]]])[: max(2, limit - PADS)]
    return ids[None], max(1, len(ids) - len(prompt))


def _of_tokens(patient: Patient, logits: Tensor, ids: Tensor, steps: int) -> Tensor:
    logp = (logits.float() / patient.policy.temperature).log_softmax(-1)
    return logp[0, -steps - 1 : -1].gather(1, ids[0, -steps:, None]).squeeze(1)


CHECKS: dict[str, Check] = {
    "sampling = scoring": ratio,
    "left padding": left_padding,
    "without position_ids": without_positions,
    "entropy": entropy,
    "completions end": ends,
}
