"""Checks of the tokenizer and the prompts. Every public function is a check."""

import statistics

from rlhf_pg.language import data
from rlhf_pg.language.conversations import is_conversation
from rlhf_pg.progress import command, number
from rlhf_pg.study.doctor.context import Context, Result, Skip, result

DECODED = 1000  # prompts that are decoded again, at most


def eos_token(context: Context) -> Result:
    """EOS is the token with which the model was made to end."""
    token, model = context.tokenizer.eos_token_id, context.trainer.policy.model
    ends: set[int] = set()
    for config in (model.config, getattr(model, "generation_config", None)):
        ids = getattr(config, "eos_token_id", None)
        ends |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    advice = (
        f"the model's config ends texts with {sorted(ends)}: set tokenizer.eos_token to the token "
        "that it was trained to end with, and save it; sampling stops at no other"
    )
    measured = f"{context.tokenizer.eos_token!r}, id {token}"
    return result(not ends or token in ends, measured, "the model's own", advice, "warn")


def pad_token(context: Context) -> Result:
    """Pad is not EOS, so that no mask confuses the two."""
    pad = context.tokenizer.pad_token_id
    advice = (
        "safe here, where masks come from lengths; but libraries that mask by `ids != pad` never "
        "train EOS: give the tokenizer a pad_token of its own"
    )
    measured = f"{context.tokenizer.pad_token!r}, id {pad}"
    return result(pad != context.tokenizer.eos_token_id, measured, "not EOS", advice, "warn")


def bos_token(context: Context) -> Result:
    """A prompt begins with at most one BOS; the model never saw two."""
    bos = context.tokenizer.bos_token_id
    twice = [bos is not None and ids[:2] == [bos, bos] for ids in context.encoded]
    advice = "the tokenizer adds BOS to prompts that begin with it already: remove it from the data"
    return result(not any(twice), f"twice in {sum(twice)} prompts", "0", advice, "warn")


def unknown_tokens(context: Context) -> Result:
    """Nearly all tokens of the prompts are known; the model cannot read the others."""
    unknown = context.tokenizer.unk_token_id
    if unknown == context.tokenizer.eos_token_id:  # as in GPT-2, which knows every text
        unknown = None
    counts = [ids.count(unknown) for ids in context.encoded]
    share = sum(counts) / sum(map(len, context.encoded))
    worst = counts.index(max(counts))
    finetune = command("finetune", "--data", "TEXTS", "--tokenizer", "bpe")
    advice = (
        f"most of all in row {worst}, {context.prompts[worst][:40]!r}: use the --data that the "
        f"model was made for, or a model made for this text ({finetune})"
    )
    measured = f"{number(100 * share)}% of all tokens"
    return result(share <= 0.01, measured, "up to 1%", advice, "warn")


def round_trip(context: Context) -> Result:
    """Prompts decoded from their tokens are the same text, white space aside."""
    tokenizer, bos = context.tokenizer, context.tokenizer.bos_token_id
    pairs = list(zip(context.prompts, context.encoded, strict=True))[:DECODED]
    pairs = [(text, ids) for text, ids in pairs if tokenizer.unk_token_id not in ids]
    if not pairs:
        raise Skip("every prompt has unknown tokens")
    texts = [text.removeprefix(tokenizer.bos_token or "") for text, _ in pairs]
    decoded = tokenizer.batch_decode([ids[ids[0] == bos :] for _, ids in pairs])
    differ = [a for a, b in zip(texts, decoded, strict=True) if a.split() != b.split()]
    advice = (
        f"the model reads another text than the reward does, first in {(differ or [''])[0]!r}: "
        "write prompts as the tokenizer does (in lower case, if it lowers them)"
    )
    share = len(differ) / len(pairs)
    measured = f"{number(100 * share)}% of prompts differ"
    return result(share <= 0.01, measured, "up to 1%", advice, "warn")


def special_tokens(context: Context) -> Result:
    """No prompt spells out EOS or pad, which the tokenizer would read as that token."""
    tokenizer, held = context.tokenizer, []
    for row, ids in enumerate(context.encoded):
        # BOS may be the same token as EOS, and is right at the beginning.
        begun = ids[:1] == [tokenizer.bos_token_id]
        if {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids[begun:]):
            held.append(row)
    good = not held or _has_messages(context)  # a chat template writes them
    names = f"{tokenizer.eos_token} or {tokenizer.pad_token}"
    advice = f"the text of row {(held or [0])[0]} spells out {names}: remove it from the data"
    return result(good, f"in {len(held)} prompts", "0 in plain text", advice, "warn")


def chat_template(context: Context) -> Result:
    """A model with a chat template gets its prompts in it."""
    good = context.tokenizer.chat_template is None or _has_messages(context)
    advice = (
        'give prompts as lists of messages ([{"role": "user", "content": ...}]), or keep plain '
        "text if you mean it"
    )
    measured = "none, or in use" if good else "the prompts are plain text"
    return result(good, measured, "used if present", advice, "warn")


def prompt_lengths(context: Context) -> Result:
    """No prompt is far longer than the others: it would pad its whole batch."""
    lengths = [len(ids) for ids in context.encoded]
    longest, limit = max(lengths), max(32, 5 * statistics.median(lengths))
    advice = f"row {lengths.index(longest)} makes its batch slow: shorten or drop the longest"
    measured = f"longest {number(longest)} tokens"
    return result(longest <= limit, measured, f"up to {number(limit)}", advice, "warn")


def repeated_prompts(context: Context) -> Result:
    """Few prompts occur more than once; those that do count as often."""
    share = 1 - len(set(context.prompts)) / len(context.prompts)
    advice = "prompts that occur n times are trained on n times as often: drop the repeats"
    measured = f"{number(100 * share)}% of all prompts"
    return result(share <= 0.1, measured, "up to 10%", advice, "warn")


def number_of_prompts(context: Context) -> Result:
    """There are as many prompts as a rollout takes."""
    count, samples = len(context.prompts), context.config.samples_per_prompt
    needed = context.config.rows // samples
    advice = f"rollouts repeat prompts: lower --rows to {count * samples}, or give more prompts"
    return result(count >= needed, number(count), f"at least {number(needed)}", advice, "warn")


def _has_messages(context: Context) -> bool:
    """Whether the data's prompts are lists of messages, formatted by the chat template."""
    source = context.config.data
    plain = context.tokenizer.chat_template is None or source == data.FILM_NOTES
    return not plain and any(is_conversation(values[0]) for values in data.load(source).values())
