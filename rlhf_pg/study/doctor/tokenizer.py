"""Checks of the tokenizer, beside the model and on the data's own prompts."""

from rlhf_pg.language import conversations
from rlhf_pg.study.doctor.finding import Check, Finding, Missing, judged
from rlhf_pg.study.doctor.patient import Patient

MOST = 1000  # prompts read back


def vocabulary(patient: Patient) -> Finding:
    """The model has a row for every token, and seldom writes a row that is no token."""
    size = len(patient.tokenizer)
    rows = patient.model.config.get_text_config().vocab_size
    said = f"{size:,} tokens, {rows:,} rows"
    if size > rows:
        remedy = "save the tokenizer that the model was trained with beside it"
        return Finding("fail", said, "tokens ≤ rows", remedy, size - rows)
    if size == rows:
        return Finding("pass", said, "tokens ≤ rows", value=0.0)
    stray = float((patient.completions.ids >= size).float().mean())
    return judged(
        stray < 1e-3,
        f"{said}; {stray:.1%} of samples are no token",
        "0.1%",
        "the model writes numbers that its tokenizer does not know: save the tokenizer that the "
        "model was trained with beside it",
        "warn",
        stray,
    )


def eos(patient: Patient) -> Finding:
    """There is an end-of-sequence token, and it is the one that the model was made to write."""
    token, number = patient.tokenizer.eos_token, patient.tokenizer.eos_token_id
    named: set[int] = set()
    for config in (patient.model.config, getattr(patient.model, "generation_config", None)):
        ids = getattr(config, "eos_token_id", None)
        named |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return judged(
        number is not None and (not named or number in named),
        f"{token!r}, number {number}",
        "the model's own",
        f"the model's config ends texts with {sorted(named)}: set tokenizer.eos_token to the token "
        "that the model was trained to write, and save it; sampling stops at no other",
        "warn",
        number,
    )


def pad(patient: Patient) -> Finding:
    """Pad is another token than EOS, so that no mask mistakes the one for the other."""
    tokenizer = patient.tokenizer
    return judged(
        tokenizer.pad_token_id != tokenizer.eos_token_id,
        f"pad {tokenizer.pad_token!r}, EOS {tokenizer.eos_token!r}",
        "not the same",
        "safe here, where masks come from lengths; libraries that mask by `ids != pad` never train "
        "EOS, and a classifier cannot see the end: give it tokenizer.pad_token of its own",
        "warn",
    )


def bos(patient: Patient) -> Finding:
    """A prompt begins with one BOS or none: two are a beginning the model never saw."""
    number = patient.tokenizer.bos_token_id
    if number is None:
        return Finding("pass", "there is none", "at most one", value=0.0)
    most = 0
    for ids in patient.encoded():
        count = next((i for i, token in enumerate(ids) if token != number), len(ids))
        most = max(most, count)
    return judged(
        most <= 1,
        f"{patient.tokenizer.bos_token!r}, at most {most} at the start",
        "at most one",
        "the tokenizer adds a BOS to prompts that already have one: take it out of the data's text",
        "warn",
        most,
    )


def unknown(patient: Patient) -> Finding:
    """Nearly all of the prompts' tokens are known; of the others the model sees nothing."""
    number, encoded = patient.tokenizer.unk_token_id, patient.encoded()
    known = number is None or number == patient.tokenizer.eos_token_id  # GPT-2 names EOS so
    counts = [0 if known else ids.count(number) for ids in encoded]
    share = sum(counts) / max(1, sum(map(len, encoded)))
    worst = max(range(len(counts)), key=counts.__getitem__)
    text = patient.rows()["prompt"][worst][:40]
    return judged(
        share <= 0.01,
        f"{share:.1%} of the prompts' tokens",
        "at most 1%",
        f"the model cannot read {sum(map(bool, counts)):,} prompts whole (row {worst}: {text!r}): "
        "begin from a model made for this text (rlhf-pg finetune --data TEXTS --tokenizer bpe), "
        "or name the --data it was made for",
        "warn",
        share,
    )


def round_trip(patient: Patient) -> Finding:
    """Prompts read back from their tokens are the same, spaces aside."""
    tokenizer = patient.tokenizer
    skipped = {tokenizer.unk_token_id, tokenizer.bos_token_id}
    tried = [
        (text, ids)
        for text, ids in zip(patient.rows()["prompt"][:MOST], patient.encoded(), strict=False)
        if ids and tokenizer.unk_token_id not in ids
    ]
    if not tried:
        raise Missing("no prompt without unknown tokens")
    begins = [ids[1:] if ids[0] in skipped else ids for _, ids in tried]
    back = tokenizer.batch_decode(begins)
    bos_token = tokenizer.bos_token or ""
    differ = [
        text
        for (text, _), again in zip(tried, back, strict=True)
        if text.removeprefix(bos_token).split() != again.split()
    ]
    share = len(differ) / len(tried)
    return judged(
        share <= 0.01,
        f"{share:.1%} of {len(tried):,} prompts differ",
        "at most 1%",
        f"the model reads other text than the reward does (as of {differ[:1]}); write the prompts "
        "as the tokenizer does, in lower case where it lowers them",
        "warn",
        share,
    )


def special_tokens(patient: Patient) -> Finding:
    """No text spells out EOS or pad, which would be read as the token."""
    if _told(patient):
        return Finding("pass", "written by the chat template", "none in plain text")
    special = {patient.tokenizer.eos_token_id, patient.tokenizer.pad_token_id}
    begins = patient.tokenizer.bos_token_id  # which may be EOS, and stands first by right
    held = [
        i
        for i, ids in enumerate(patient.encoded())
        if special & set(ids[1:] if ids[:1] == [begins] else ids)
    ]
    return judged(
        not held,
        f"{len(held):,} prompts with EOS or pad in them",
        "0",
        f"the text of row {held[0] if held else 0} spells out {patient.tokenizer.eos_token} or "
        f"{patient.tokenizer.pad_token}: take it out of the data",
        "warn",
        len(held),
    )


def chat_template(patient: Patient) -> Finding:
    """A model that was taught to answer in a chat template is asked in it."""
    has = getattr(patient.tokenizer, "chat_template", None) is not None
    patient.rows()  # messages without a template cannot be read, and the data's check says so
    if _told(patient):
        return Finding("pass", "messages, written by the template", "used if there")
    return judged(
        not has,
        "there is one, and prompts are plain text" if has else "none, and prompts are plain text",
        "used if there",
        "the tokenizer has a chat template: give prompts as lists of messages "
        '([{"role": "user", "content": ...}]), or keep plain text if that is what you mean',
        "warn",
    )


def _told(patient: Patient) -> bool:
    raw = patient.raw()
    return "prompt" in raw and conversations.is_conversation(raw["prompt"][0])


CHECKS: dict[str, Check] = {
    "vocabulary": vocabulary,
    "EOS": eos,
    "pad is not EOS": pad,
    "BOS": bos,
    "unknown words": unknown,
    "round trip": round_trip,
    "special tokens in text": special_tokens,
    "chat template": chat_template,
}
