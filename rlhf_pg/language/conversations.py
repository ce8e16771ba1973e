"""Conversations: lists of messages become text through the tokenizer's chat template."""

from collections.abc import Callable, Sequence
from typing import Any

from reward_models.calling import MESSAGES
from rlhf_pg.language.sampling import encode

Rows = dict[str, list[Any]]  # column -> values
Messages = list[dict[str, Any]]
ANSWERS = ("completion", "chosen", "rejected")


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages: [{"role": ..., "content": ...}, ...]."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value)
    )


def has_conversations(rows: Rows, columns: Sequence[str]) -> bool:
    """Whether a column of the first row is a list of messages."""
    return any(is_conversation(rows[name][0]) for name in columns)


def conversations_as_text(
    rows: Rows, columns: list[str], tokenizer: Any, source: str, where: Callable[[int], str]
) -> Rows:
    """The rows with the messages of `columns` as text; other columns stay.

    A prompt ends where the assistant's turn begins. A completion holds only what it adds, without
    the EOS, which is an action of its own. `prompt` or the answers may be text, and the answers may
    repeat the prompt's messages; without a prompt, it is the messages that the answers share, up to
    an assistant's turn. The prompts' messages are kept in the column MESSAGES. `where` names a
    row's place in errors. Raises ValueError without a chat template, or for a row that is no
    conversation.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"{source} holds lists of messages, but there is no chat template to format them: use "
            "a model whose tokenizer has one, or plain text"
        )
    lists = {name: is_conversation(rows[name][0]) for name in columns}
    for name in columns:
        for row, value in enumerate(rows[name]):
            if lists[name] and not is_conversation(value):
                raise ValueError(
                    f"{where(row)}: {name!r} is no list of messages, as in other rows; a message "
                    "has a role and a content"
                )
            if not lists[name] and not isinstance(value, str):
                raise ValueError(f"{where(row)}: {name!r} is {type(value).__name__}, not text")
    as_text = dict(rows)
    if columns == ["text"]:
        as_text["text"] = [_formatted(tokenizer, messages) for messages in rows["text"]]
        return as_text
    answers = [name for name in columns if name in ANSWERS]
    for name in ["prompt", MESSAGES, *answers]:
        as_text[name] = []
    for row in range(len(rows[columns[0]])):
        given = rows["prompt"][row] if "prompt" in columns else None
        prompt, own = _parted(given, [rows[name][row] for name in answers])
        head = _formatted(tokenizer, prompt, True)
        as_text["prompt"].append(head)
        as_text[MESSAGES].append(prompt)
        for name, answer in zip(answers, own, strict=True):
            whole = _formatted(tokenizer, prompt + answer)
            if not whole.startswith(head):
                raise ValueError(
                    f"{where(row)}: with this chat template, the answer does not continue its "
                    "prompt; give plain text"
                )
            as_text[name].append(whole[len(head) :])
    return as_text


def _parted(
    prompt: str | Messages | None, answers: list[str | Messages]
) -> tuple[Messages, list[Messages]]:
    """The messages of a prompt, and those that each answer adds to it."""
    lists = [
        [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        for answer in answers
    ]
    if isinstance(prompt, list):
        start = len(prompt)
        repeated = all(answer[:start] == prompt and len(answer) > start for answer in lists)
        return prompt, [answer[start:] for answer in lists] if repeated else lists
    if prompt is not None and all(answer[0]["role"] == "assistant" for answer in lists):
        return [{"role": "user", "content": prompt}], lists
    shared = _shared(lists)
    return lists[0][:shared], [answer[shared:] for answer in lists]


def prompt_of(messages: Messages) -> Messages:
    """A conversation up to its last answer: all of it if the user has the last word."""
    return messages if messages[-1]["role"] == "user" else messages[: _shared([messages])]


def _shared(conversations: list[Messages]) -> int:
    """How many messages all conversations begin with, before a turn of the assistant if possible.

    At least one is left to each.
    """
    same, most = 0, min(map(len, conversations)) - 1
    while same < most and all(c[same] == conversations[0][same] for c in conversations):
        same += 1
    turns = [n for n in range(same + 1) if all(c[n]["role"] == "assistant" for c in conversations)]
    return max(turns, default=same)


def _formatted(tokenizer: Any, messages: Messages, generation_prompt: bool = False) -> str:
    """A conversation as text, without the BOS and EOS that tokenising adds again."""
    text = str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation_prompt
        )
    )
    adds_bos = encode(tokenizer, ["a"])[0][0] == tokenizer.bos_token_id
    if tokenizer.bos_token and adds_bos:
        text = text.removeprefix(tokenizer.bos_token)
    return text if generation_prompt else text.rstrip().removesuffix(tokenizer.eos_token)
