"""`rlhf-pg sample --chat`: a policy answers what one types, line by line, until the input ends."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import torch
from rich.text import Text

from rlhf_pg.language import data
from rlhf_pg.language.conversations import conversations_as_text
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.sampling import sample
from rlhf_pg.progress import console

Messages = list[dict[str, str]]


def chat(
    policy: LanguagePolicy,
    tokenizer: Any,
    max_new_tokens: int,
    generator: torch.Generator,
    greedy: bool = False,
) -> None:
    """Read lines from standard input and print a completion of each.

    With a chat template, lines and answers form a conversation, whose oldest turns are left out
    when it no longer fits the context; an empty line begins a new one. Without a template, each
    line is a prompt of its own.
    """
    template = getattr(tokenizer, "chat_template", None) is not None
    about = "an empty line begins a new conversation" if template else "each line is a prompt"
    messages: Messages = []
    for line in _lines(f"{about}; Ctrl-D ends"):
        if not template or not line.strip():
            messages = []
        if not line.strip():
            continue
        said = {"role": "user", "content": line}
        try:
            messages, prompt = _fitting([*messages, said], policy, tokenizer, max_new_tokens)
        except ValueError as error:
            console.print(str(error), style="yellow")
            continue
        done = sample(policy, tokenizer, [prompt], max_new_tokens, generator, greedy)
        answer = Text(done.texts[0].strip("\n"))
        if not done.finished[0]:
            answer.append(" … cut", "yellow")
        console.print(answer, soft_wrap=True)
        messages.append({"role": "assistant", "content": done.texts[0]})


def _fitting(
    messages: Messages, policy: LanguagePolicy, tokenizer: Any, max_new_tokens: int
) -> tuple[Messages, str]:
    """A conversation without the oldest turns that do not fit, and its text.

    Raises ValueError if the last message alone does not fit, or has no tokens.
    """
    while True:
        prompt = messages[-1]["content"]
        if getattr(tokenizer, "chat_template", None) is not None:
            rows = conversations_as_text(
                {"prompt": [messages]}, ["prompt"], tokenizer, "the chat", lambda _: "the chat"
            )
            prompt = rows["prompt"][0]
        try:
            data.check_prompt_lengths(policy.model, tokenizer, [prompt], max_new_tokens)
            return messages, prompt
        except ValueError:
            if len(messages) == 1:
                raise
        messages = messages[2:]  # a question and its answer


def _lines(about: str) -> Iterator[str]:
    """The lines of standard input without their ends; in a terminal, each after a "> "."""
    terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text
    if terminal:
        console.print(about, style="dim")
    while True:
        if terminal:
            console.print("> ", end="")
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\r\n")
