"""Checks of the prompts."""

import statistics

from rlhf_pg.language import models
from rlhf_pg.study.doctor.finding import Check, Finding, judged
from rlhf_pg.study.doctor.patient import Patient


def reads(patient: Patient) -> Finding:
    """The data can be read as prompts."""
    rows = patient.rows.made()
    count, beside = len(rows["prompt"]), [name for name in rows if name != "prompt"]
    said = f"{count:,} prompts" + (f", with {', '.join(beside)}" if beside else "")
    return Finding("pass", said, value=count)


def not_empty(patient: Patient) -> Finding:
    """Every prompt has a token to begin from."""
    empty = [i for i, ids in enumerate(patient.encoded()) if not ids]
    return judged(
        not empty,
        f"{len(empty):,} without tokens",
        "0",
        f"row {empty[0] if empty else 0} is empty for this tokenizer: take such rows out of the "
        "data, or begin each prompt with some text",
        value=len(empty),
    )


def fit(patient: Patient) -> Finding:
    """The longest prompt and its completion fit the model's context."""
    limit, new = models.context_length(patient.model), patient.config.max_new_tokens
    lengths = [len(ids) for ids in patient.encoded()]
    longest = max(lengths)
    said = f"{longest:,} + {new} tokens"
    if limit is None:
        return Finding("pass", said, "no limit", value=longest + new)
    over = sum(length + new > limit for length in lengths)
    shorter = limit - longest
    lower = f", or lower --max_new_tokens to {shorter}" if shorter > 0 else ""
    return judged(
        not over,
        said,
        f"at most {limit:,}",
        f"{over:,} prompts are too long for the context (the longest is row "
        f"{lengths.index(longest)}): shorten or drop them{lower}",
        value=longest + new,
    )


def alike(patient: Patient) -> Finding:
    """No prompt is much longer than the others: the whole batch is padded to it."""
    lengths = [len(ids) for ids in patient.encoded()]
    longest, middle = max(lengths), statistics.median(lengths)
    return judged(
        longest <= max(32, 5 * middle),
        f"longest {longest:,}, median {middle:g}",
        "5 medians, or 32",
        f"a batch is padded to its longest prompt, and row {lengths.index(longest)} makes it "
        "slow: shorten or drop the longest prompts",
        "warn",
        longest,
    )


def duplicates(patient: Patient) -> Finding:
    """Few prompts stand there more than once; those count that often."""
    prompts = patient.rows()["prompt"]
    share = 1 - len(set(prompts)) / len(prompts)
    return judged(
        share <= 0.1,
        f"{share:.1%} are repeats",
        "at most 10%",
        "a prompt that stands there n times is trained on n times as often: drop the repeats, "
        "unless that is meant",
        "warn",
        share,
    )


def enough(patient: Patient) -> Finding:
    """There are as many prompts as a rollout takes."""
    count, run = len(patient.rows()["prompt"]), patient.train
    wanted = run.rows // run.samples_per_prompt
    return judged(
        count >= wanted,
        f"{count:,}, a rollout takes {wanted:,}",
        "no fewer",
        f"every rollout asks some prompts twice: lower --rows to {count * run.samples_per_prompt}, "
        "or give more prompts",
        "warn",
        count,
    )


CHECKS: dict[str, Check] = {
    "reads": reads,
    "prompts not empty": not_empty,
    "fits the context": fit,
    "lengths alike": alike,
    "repeats": duplicates,
    "enough prompts": enough,
}
