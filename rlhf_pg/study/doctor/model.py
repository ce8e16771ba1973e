"""Checks of the policy and its reference. Every public function is a check."""

import math

from rlhf_pg.core.masked import masked_mean, zero_padding
from rlhf_pg.language.check import ROUNDING, alone_differences, sampling_differences
from rlhf_pg.language.rollout import reference_logprobs
from rlhf_pg.progress import command, number
from rlhf_pg.study.doctor.context import TOLERANCE, Context, Result, result


def finite_weights(context: Context) -> Result:
    """No weight is NaN or infinite; a single one makes every probability NaN."""
    bad, tensors = context.not_finite, len(list(context.trainer.policy.parameters()))
    advice = f"{', '.join(bad[:3])}: take an earlier checkpoint, or fine-tune with a lower --lr"
    return result(not bad, f"{len(bad)} of {tensors} tensors not finite", "0", advice)


def dropout_off(context: Context) -> Result:
    """Two evaluations of the same tokens agree bit for bit: no dropout and no other noise."""
    first, second = context.evaluations
    value = float((first.logprobs - second.logprobs).abs().max())
    modules = context.policy.named_modules()
    on = [n for n, m in modules if m.training and isinstance(getattr(m, "p", None), float)]
    advice = (
        f"old and new probabilities differ by chance, from {', '.join(on[:3]) or 'the forward'}: "
        "set dropout to 0 in the model's config (attn_pdrop, attention_dropout, ...)"
    )
    return result(value == 0, f"evaluations differ by {number(value)}", "0", advice)


def sampling_equals_scoring(context: Context) -> Result:
    """A token has the same probability in sampling, with a cache, as in scoring, without one."""
    difference = sampling_differences(context.completions, context.evaluation.logprobs)
    value = float((-difference).expm1().abs().max())
    cause = "the model computes other probabilities with its key-value cache than without it"
    return _equal(context, value, f"max |ratio − 1| {number(value)}", cause)


def left_padding(context: Context) -> Result:
    """Completions have the same probabilities in a batch, with padded prompts, as alone."""
    scored = context.evaluation.logprobs
    rows = range(0, len(scored), max(1, len(scored) // 6))
    difference = alone_differences(context.policy, context.completions, scored, rows)
    value = float(difference.abs().max())
    cause = "padding changes the probabilities: the model must use attention_mask and position_ids"
    return _equal(context, value, f"max |padded − alone| {number(value)}", cause)


def reference_tokens(context: Context) -> Result:
    """The reference has the policy's tokens, since the KL compares the two token by token."""
    value, tokens = context.differing_tokens, len(context.tokenizer)
    advice = "give a --reference with the policy's tokenizer, or none: a copy of the policy is used"
    return result(value == 0, f"{number(value)} of {number(tokens)} tokens differ", "0", advice)


def kl_at_the_start(context: Context) -> Result:
    """KL(policy || reference) begins at exactly 0 or, with another model, not far above."""
    _, done = context.evaluation, context.completions
    ours, theirs = (reference_logprobs(p, done) for p in (context.policy, context.reference))
    log_ratio = zero_padding(ours - theirs, done.mask)
    if context.config.reference is None:
        value = float(log_ratio.abs().max())
        advice = (
            "the reference is a copy, but its probabilities differ: look for state that the model "
            "keeps between calls, or give --reference"
        )
        return result(value == 0, f"max |log ratio| {number(value)}", "0", advice)
    value = float(log_ratio.sum(1).mean())
    advice = (
        f"a penalty of {number(context.config.kl_coef * value)} per completion, from the start, "
        "outweighs the score: leave --reference out, or lower --kl_coef"
    )
    return result(value <= 20, f"{number(value)} nats per completion", "up to 20", advice, "warn")


def entropy(context: Context) -> Result:
    """The next token is neither certain, so samples differ, nor nearly uniform."""
    value = float(masked_mean(context.evaluations[0].entropies, context.completions.mask))
    most = 0.9 * math.log(context.embedded)
    finetune = command("finetune", "--model", context.config.model)
    uniform = f"nearly uniform, as if untrained: {finetune}, or check that its lm_head was saved"
    certain = "nearly certain, so samples hardly differ: raise --temperature, or use another model"
    measured, limit = f"{number(value)} nats per token", f"0.05 to {number(most)}"
    advice = uniform if value > most else certain
    return result(0.05 <= value <= most, measured, limit, advice, "warn")


def completions_end(context: Context) -> Result:
    """Some completions end by EOS; what never occurs cannot be rewarded."""
    share = float(context.completions.finished.float().mean())
    advice = "raise --max_new_tokens, or fine-tune on texts that end (finetune appends EOS to each)"
    measured = f"{number(100 * share)}% by EOS"
    return result(share >= 0.05, measured, "at least 5%", advice, "warn")


def sampled_ids(context: Context) -> Result:
    """Sampled ids are tokens; a model may embed more ids than the tokenizer has tokens."""
    share = float((context.completions.ids >= len(context.tokenizer)).float().mean())
    advice = "save the tokenizer that the model was trained with beside it"
    measured = f"{number(100 * share)}% are no token"
    return result(share <= 1e-3, measured, "up to 0.1%", advice, "warn")


def _equal(context: Context, value: float, measured: str, cause: str) -> Result:
    """The result for two sets of log-probabilities that should be equal but for rounding."""
    small = value < ROUNDING or context.config.bf16
    if context.config.bf16:
        cause = "bfloat16 rounds in the third digit: leave --bf16 out, or keep to one epoch"
    elif small:
        cause = "a rounding error, seen in PPO's first_ratio_drift too; on a GPU, turn TF32 off"
    limit = f"below {number(TOLERANCE, 2)}"
    return result(value < TOLERANCE, measured, limit, cause, "warn" if small else "fail")
