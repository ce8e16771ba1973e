"""Checks of the reward, on samples of the policy. Every public function is a check."""

from collections import defaultdict

import torch

from rlhf_pg.language.advice import LARGEST_PENALTY, SMALLEST_TILT, suggested_kl_coef
from rlhf_pg.progress import number
from rlhf_pg.study.doctor.context import Context, Result, Skip, Status, result

EQUAL = 1e-4  # of two scores of one text, relative to the largest score if that is above 1
FEW = 16  # scores; of fewer, a large correlation may be chance


def valid_scores(context: Context) -> Result:
    """The reward gives every completion a finite score."""
    share = context.scores.count(None) / len(context.scores)  # other bad scores raise an error
    advice = (
        "completions with a score of None (does not apply) are left out of training: if that is "
        "not meant, add a part that applies to all, as in --reward 'A + 0.1*length'"
    )
    otherwise: Status = "warn" if share < 1 else "fail"
    return result(share == 0, f"{number(100 * share)}% None", "0%", advice, otherwise)


def same_score_twice(context: Context) -> Result:
    """The same texts score the same in a second call."""
    value, limit = _difference(context.scores, context.second_scores), _allowed(context)
    advice = "the reward is random: call model.eval() in it, and fix the seed of any sampling"
    return result(value <= limit, f"differ by {number(value)}", f"up to {number(limit, 2)}", advice)


def order_and_batch(context: Context) -> Result:
    """A score depends on its text alone, not on the row or on the other texts of the batch."""
    scores, limit = _repeatable_scores(context), _allowed(context)
    rows = range(len(scores))
    value = _difference(scores[::-1], context.score(rows[::-1]))
    cause = "a score changes with its row: return scores in the order of the rows"
    # With running moments, scores depend on the batch by intent.
    if value <= limit and not context.trainer.reward.state_dict():
        some = rows[:: max(1, len(scores) // 8)]
        value = max(_difference([scores[row]], context.score([row])) for row in some)
        cause = "a text scores differently alone than in a batch: subtract no mean of the batch"
    advice = (
        f'{cause}; in a model, pad on the right (tokenizer.padding_side = "right"), pass '
        "attention_mask, and read the score at the last real token"
    )
    return result(value <= limit, f"differ by {number(value)}", f"up to {number(limit, 2)}", advice)


def spread(context: Context) -> Result:
    """Completions score differently, also those of one prompt: otherwise there is no gradient."""
    scores, within = context.numbers, _std_within_prompts(context)
    std, unit = float(scores.std(correction=0)), max(1.0, float(scores.abs().max()))
    counts = scores.unique(return_counts=True)[1]
    commonest, advice = float(counts.max()) / len(scores), ""
    status: Status = "fail"
    if std <= 1e-6 * unit:
        advice = "all completions score the same: choose a reward that distinguishes them"
    elif within is not None and within <= 1e-6 * unit:
        advice = "the score depends on the prompt alone: the reward must read `completions`"
    elif commonest > 0.9 or std < 1e-3 * unit:
        status, advice = "warn", f"{number(100 * commonest)}% of the scores are equal, or nearly"
    elif len(counts) == 2:
        status, advice = "warn", "two values, which teach nothing if a prompt's samples agree"
    if status == "warn":
        advice += ": use --algorithm rloo with --samples_per_prompt 8, or add a graded part"
    measured = f"std {number(std)}, {number(within)} per prompt"
    return result(not advice, measured, "above 0", advice, status)


def sees_the_end(context: Context) -> Result:
    """A completion that was cut off scores differently than one that ended."""
    scores, penalty = _repeatable_scores(context), context.config.missing_eos_penalty
    opposite = [not ended for ended in context.completions.finished.tolist()]
    value = _difference(scores, context.score(finished=opposite))
    seen = value > _allowed(context)
    std = float(context.numbers.std(correction=0))
    advice = (
        f"set --missing_eos_penalty to the scores' std, {std:.2g}, or let the reward read the "
        "column `finished`"
    )
    measured = f"differ by {number(value if seen else penalty)}"
    return result(seen or penalty > 0, measured, "above 0", advice, "warn")


def scale(context: Context) -> Result:
    """The scores suit the KL penalty, the missing-EOS penalty, and the critic, which begins at
    0."""
    config = context.config
    beta, clip = config.kl_coef, config.score_clip or float("inf")
    scores = context.numbers.clamp(-clip, clip)
    mean, std = float(scores.mean()), float(scores.std(correction=0))
    # The optimum is ref * exp(r / beta) / Z: std / beta is how far, in nats, it tilts the texts.
    tilt, advice = std / beta if beta else 0.0, ""
    rescaled = (
        f"scale it, as in --reward 'normalise({context.reward})', set --score_clip 5, or raise "
        "--kl_coef"
    )
    cut = not bool(context.completions.finished.all()) and not config.mask_truncated
    if std == 0:
        pass  # `spread` reports equal scores
    elif abs(mean) > max(1.0, 20 * std):
        advice = f"far from 0: {rescaled}"
    elif tilt > 50:
        advice = f"too large for the KL penalty: {rescaled}"
    elif beta and tilt < SMALLEST_TILT:
        advice = f"too small for the KL penalty: set --kl_coef {suggested_kl_coef(std):.2g}"
    elif cut and config.missing_eos_penalty > LARGEST_PENALTY * std:
        advice = (
            f"missing_eos_penalty {config.missing_eos_penalty:g} outweighs scores that differ by "
            f"{std:.2g}: set --missing_eos_penalty {std:.2g}"
        )
    measured = f"mean {number(mean)}, std / kl_coef {number(tilt)}"
    return result(not advice, measured, "ratio 1 to 50", advice, "warn")


def length(context: Context) -> Result:
    """The score is not a matter of the completion's length alone."""
    lengths = context.completions.mask.sum(1).tolist()
    pairs = [(n, s) for n, s in zip(lengths, context.scores, strict=True) if s is not None]
    columns = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).T
    if len(pairs) < FEW or bool((columns.std(1) == 0).any()):
        raise Skip("too few scores, or all equal")
    value = float(torch.corrcoef(columns)[0, 1])
    advice = (
        f"{'longer' if value > 0 else 'shorter'} completions score higher, and training will learn "
        "that: add a target length, as in --reward 'A + length:target=20'"
    )
    return result(abs(value) <= 0.8, f"correlation {number(value)}", "−0.8 to 0.8", advice, "warn")


def _repeatable_scores(context: Context) -> list[float | None]:
    """The scores; Skip if a second call gives others."""
    if _difference(context.scores, context.second_scores) > _allowed(context):
        raise Skip("scores differ each time")
    return context.scores


def _difference(a: list[float | None], b: list[float | None]) -> float:
    """max |a - b|; infinite if only one of the two is None."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if not (x is None and y is None)]
    infinity = float("inf")
    return max((infinity if x is None or y is None else abs(x - y) for x, y in pairs), default=0.0)


def _allowed(context: Context) -> float:
    """How far apart two scores of one text may be, for rounding."""
    return EQUAL * max([1.0, *(abs(s) for s in context.scores if s is not None)])


def _std_within_prompts(context: Context) -> float | None:
    """Mean standard deviation among samples of one prompt; None if each prompt has only one."""
    groups: dict[str, list[float]] = defaultdict(list)
    for prompt, score in zip(context.completions.prompts, context.scores, strict=True):
        if score is not None:
            groups[prompt].append(score)
    several = [torch.tensor(g).std(correction=0) for g in groups.values() if len(g) > 1]
    return float(torch.stack(several).mean()) if several else None
