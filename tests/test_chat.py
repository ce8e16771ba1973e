"""`rlhf-pg sample --chat`: what reaches the model, and what reaches the terminal."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from rlhf_pg import chat
from rlhf_pg.cli import main
from rlhf_pg.progress import CONTROL

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


@pytest.fixture
def typed(monkeypatch, llama, tokenizer):
    """Chat with lines typed; returns the prompts that were sampled from. Answers are "good !"."""

    def typed(text, template=None, answer="good !", finished=True, limit=4):
        tokenizer.chat_template = template
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        prompts = []

        def sample(policy, tokenizer, given, *_):
            prompts.extend(given)
            return SimpleNamespace(texts=[answer], finished=[finished])

        monkeypatch.setattr(chat, "sample", sample)
        policy = chat.LanguagePolicy(llama, 1.0, "none")
        chat.chat(policy, tokenizer, limit, torch.Generator())
        return prompts

    return typed


def test_without_a_template_each_line_is_a_prompt(typed, capsys):
    assert typed("the film\n\n  the plot") == ["the film", "  the plot"]
    assert capsys.readouterr().out == "good !\ngood !\n"


def test_with_a_template_lines_and_answers_are_a_conversation(typed):
    assert typed("the film\nthe plot\n\nno plot\n", TEMPLATE) == [
        "user the film assistant",
        "user the film assistant good ! user the plot assistant",
        "user no plot assistant",  # an empty line begins a new one
    ]


def test_the_oldest_turns_are_left_out_when_the_context_is_full(typed, capsys):
    lines = "\n".join(["the " * 10] * 6 + ["plot " * 60, "film"])
    prompts = typed(lines, TEMPLATE)
    lengths = [len(prompt.split()) for prompt in prompts]
    assert lengths == [12, 26, 40, 40, 40, 40, 31]  # at most 44 of 48, then a line of 60 words
    assert "more than the model's context of 48" in capsys.readouterr().out


def test_an_answer_cannot_control_the_terminal(typed, capsys):
    typed("the film", answer="\x1b[2Jred\u202e\x07\n[bold]x[/]", finished=False)
    printed = capsys.readouterr().out
    assert not CONTROL.search(printed.replace("\n", "")) and "\n[bold]x[/] … cut" in printed


def test_it_answers_what_is_typed_until_the_input_ends(base, monkeypatch, capsys):
    stdin = io.TextIOWrapper(io.BytesIO(b"the film\n\xff\xfe the\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    words = ["sample", base, "--chat", "--max_new_tokens", "3", "--seed", "1"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert len(re.findall("\n", first)) == 2
    stdin = io.StringIO("the film\n")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(words) == 0 and first.startswith(capsys.readouterr().out)  # by the seed
