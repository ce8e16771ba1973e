"""Text from models, data and people cannot steer the terminal that it is printed on."""

import io
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from rlhf_pg import commands, label, progress
from rlhf_pg.cli import main
from rlhf_pg.language import data_show, models
from rlhf_pg.progress import CONTROL, PlainConsole, Progress, plain
from support.language import tiny_lm

ATTACKS = {
    "clipboard": "\x1b]52;c;aGk=\x07",
    "clipboard by C1": "\x9d52;c;aGk=\x9c",
    "title": "\x1b]0;owned\x1b\\",
    "link": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "clear": "\x1b[2J\x1b[H",
    "colour": "\x1b[31mred",
    "return": "real\rfake",
    "backspaces": "abc\b\b\b",
    "bell": "\x07",
    "delete": "\x7f",
    "null": "\x00",
    "device": "\x1bP+q\x1b\\",
    "bidi override": "\u202eevil\u202c",
    "bidi isolate": "\u2066evil\u2069",
    "bidi mark": "\u200f\u061c",
    "separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "surrogate": "\ud800",
    "tags": "\U000e0041\U000e007f",
    "markup": "[bold red]b[/] [link=http://evil]x[/link] :smile: [/oops]",
}
OWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # rich's colours, and the progress bar's movements


def is_harmless(shown):
    """Nothing steers the terminal but colours and the like, which `OWN` takes out first."""
    return not CONTROL.search(shown.replace("\n", "").replace("\r", ""))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_plain_text_is_one_line_without_any_control(attack):
    shown = plain(f"a{attack}b\r\nc\td")
    assert not CONTROL.search(shown) and len(shown.splitlines()) == 1
    assert shown.startswith("a") and shown.endswith("b�⏎c d")
    assert plain(shown) == shown


def test_plain_text_keeps_what_people_write():
    for text in ("naïve 雪 👩‍👩‍👧 می‌خواهم שלום", "a  b", "“quotes” — … ✓ ▁█ �⏎"):
        assert plain(text) == text


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("colour", [None, "truecolor"])
def test_the_console_prints_it_however_it_is_given(attack, colour):
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, color_system=colour, force_terminal=bool(colour))
    table = Table(attack, title=attack, caption=attack, title_style="bold")
    table.add_row(attack)
    table.add_row(Text(attack, "red"))
    console.print(attack, Text(attack, "bold"), table, style="dim")
    console.print(attack, soft_wrap=True, markup=False)
    console.rule(Text(attack))
    console.rule(attack)
    shown = file.getvalue()
    assert is_harmless(OWN.sub("", shown)), repr(shown)
    assert "8;;" not in shown or "�]8;;" in shown  # no link of rich's own
    if attack == ATTACKS["markup"]:
        assert shown.count(":smile: [/oops]") >= 8


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_progress_bar_shows_its_title_and_names_as_they_are(attack, terminal, monkeypatch):
    file = io.StringIO()
    console = PlainConsole(file=file, width=300, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    with Progress(2, attack, every_seconds=0) as bar:
        bar.say(attack)
        bar.update(1, **{attack: 1.0, "score": 2.0})
        bar.update(2, **{attack: 1.0, "score": 2.0})
    shown = file.getvalue()
    assert is_harmless(OWN.sub("", shown)), repr(shown)
    assert "score 2" in shown and ("[/oops]" in shown) == ("[/oops]" in attack)


# The commands: an attack wherever text comes from


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A model that writes attacks, and data full of them; new lines too, where a line is one."""
    monkeypatch.chdir(tmp_path)
    bad = [text for text in ATTACKS.values() if text != "\ud800"]  # no UTF-8 file holds it
    words = [word for text in bad for word in re.split(r"\s+", text) if word]
    tokenizer = models.train_tokenizer([" ".join(words)], "word")
    models.save(tmp_path / "base", tiny_lm("llama", tokenizer, spread=0.1), tokenizer)
    name = "".join(bad).replace("\0", "") + "\n+9.99 a line of its own"
    rows = [{"prompt": f"{text}\n+9.99 faked", "text": text, name: text} for text in bad]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("wrong.jsonl").write_text(json.dumps({name: "x"}) + "\n")
    return tmp_path


def only_harmless(capsys):
    out, err = capsys.readouterr()
    assert is_harmless(out) and is_harmless(err), repr(out + err)
    return out, err


def test_sample_prints_a_line_for_each_completion(here, capsys):
    words = "sample base --data prompts.jsonl --count 99 --max_new_tokens 9 --reward length"
    assert main(words.split()) == 0
    lines = only_harmless(capsys)[0].splitlines()
    assert len(lines) == len(ATTACKS) - 1
    assert all("⏎+9.99 faked" in line and re.match(r"[+-]\d", line) for line in lines)
    prompt = "".join(text for text in ATTACKS.values() if text != "\ud800").replace("\0", "")
    assert main(["sample", "base", "--prompt", prompt, "--max_new_tokens", "3"]) == 0
    assert len(only_harmless(capsys)[0].splitlines()) == 1


def test_data_show_prints_rows_and_names_of_columns(here, capsys):
    assert main(["data", "show", "prompts.jsonl"]) == 0
    out, _ = only_harmless(capsys)
    assert not [line for line in out.splitlines() if line.startswith("+9.99")]
    assert main(["data", "show", "prompts.jsonl", "--model", "base"]) == 0
    only_harmless(capsys)


def test_errors_are_one_harmless_line(here, capsys):
    mean = "".join(text for text in ATTACKS.values() if text not in ("\ud800", "\x00"))
    for words in (
        ["sample", f"no{mean}"],
        ["train", "--model", "base", "--data", "wrong.jsonl", "--reward", "length"],
        ["train", "--model", "base", "--reward", f"{mean}.py:f"],
        ["train", f"--{mean}", "1"],
        [mean],
    ):
        assert main(words) == 2
        out, err = only_harmless(capsys)
        assert not out and err.startswith("rlhf-pg: ") and err.count("\n") == 1


def test_doctor_and_train_name_them_harmlessly(here, capsys):
    words = "--data prompts.jsonl --rows 4 --max_new_tokens 6 --device cpu"
    with suppress(SystemExit):  # a check fails
        main(
            ["doctor", "base", *words.split(), "--reward", "keyword:words=\x1b]52;c;aGk=\x07\u202e"]
        )
    assert "gradient step" in (shown := only_harmless(capsys))[0], shown
    reward = "keyword:words=\x1b[2J\u202e"
    assert (
        main(["train", "--model", "base", *words.split(), "--iterations", "1", "--reward", reward])
        == 0
    )
    assert "ppo toward keyword:words=�[2J�" in only_harmless(capsys)[0]


def test_label_shows_pairs(here, capsys, monkeypatch):
    text = "".join(ATTACKS.values()).replace("\ud800", "")
    pairs = [label.Pair(text, text + "l", text + "r")] * 2
    label.judge(pairs, label.Judgements(here / "kept"), lambda: "q")
    out, _ = only_harmless(capsys)
    assert "�]52;c;aGk=" in out and "[/oops]" in out


def test_every_command_prints_through_this_console():
    """The shared console, or one line of the command line itself: nothing else prints."""
    root = Path(commands.__file__).parent
    for path in root.rglob("*.py"):
        source = path.read_text()
        if path.name not in ("cli.py", "launch.py", "progress.py"):
            assert not re.search(r"(?<![\w.])print\(|\bConsole\(|sys\.std(out|err)\.write", source)
    for module in (progress, data_show):
        assert isinstance(module.console, PlainConsole)
