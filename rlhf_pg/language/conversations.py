"""Lists of messages become text, through the chat template of the tokenizer that will read it."""

from typing import Any

from rlhf_pg.language import models

Rows = dict[str, list[Any]]


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages: [{"role": ..., "content": ...}, ...]."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value)
    )


def as_text(rows: Rows, columns: list[str], tokenizer: Any, source: str) -> Rows:
    """The rows with the messages of `columns` as text; other columns stay.

    A prompt ends where the assistant is to speak, and a completion holds only what it adds, without
    the EOS, which is an action of its own. Pairs without a prompt have one in the messages that
    both begin with. Raises ValueError where there is no chat template, or a row is no conversation.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"{source} holds lists of messages, and there is no chat template to write them with: "
            "begin from a model whose tokenizer has one, or give plain text"
        )
    for name in columns:
        for row, value in enumerate(rows[name]):
            if not is_conversation(value):
                raise ValueError(
                    f"{source}, row {row}: {name!r} is no list of messages, as in other rows; a "
                    "message has a role and a content"
                )
    if columns == ["chosen", "rejected"]:
        rows = _with_prompts(rows)
    written = dict(rows)
    if "prompt" not in rows:
        written["text"] = [_write(tokenizer, messages) for messages in rows["text"]]
        return written
    written["prompt"] = [_write(tokenizer, prompt, True) for prompt in rows["prompt"]]
    for name in {"completion", "chosen", "rejected"} & set(rows):
        whole = [
            _write(tokenizer, prompt + answer)
            for prompt, answer in zip(rows["prompt"], rows[name], strict=True)
        ]
        written[name] = [
            _added(head, text, f"{source}, row {row}")
            for row, (head, text) in enumerate(zip(written["prompt"], whole, strict=True))
        ]
    return written


def _write(tokenizer: Any, messages: list[dict[str, Any]], asking: bool = False) -> str:
    """A conversation as text, without the BOS and EOS that tokenising adds by itself."""
    text = str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asking)
    )
    begins = models.encode(tokenizer, ["a"])[0][0] == tokenizer.bos_token_id
    if tokenizer.bos_token and begins:
        text = text.removeprefix(tokenizer.bos_token)
    return text if asking else text.rstrip().removesuffix(tokenizer.eos_token)


def _added(head: str, whole: str, where: str) -> str:
    if not whole.startswith(head):
        raise ValueError(
            f"{where}: with this chat template, the answer does not continue its prompt; "
            "give plain text"
        )
    return whole[len(head) :]


def _with_prompts(rows: Rows) -> Rows:
    """Move the messages that chosen and rejected begin with to a prompt of their own."""
    split: Rows = {"prompt": [], "chosen": [], "rejected": []}
    for chosen, rejected in zip(rows["chosen"], rows["rejected"], strict=True):
        same = 0
        while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
            same += 1
        split["prompt"].append(chosen[:same])
        split["chosen"].append(chosen[same:])
        split["rejected"].append(rejected[same:])
    return rows | split
