"""The course: its commands parse, its links lead somewhere, its code runs, its numbers are true."""

import contextlib
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from rlhf_pg.cli import COMMANDS, build_parser, find, main, read_config
from rlhf_pg.study import examples
from rlhf_pg.study.bugs import BUGS
from rlhf_pg.study.bugs.functions import RIGHT
from rlhf_pg.study.exercises import EXERCISES

ROOT = Path(__file__).parents[1]
LEARN = ROOT / "docs" / "learn.md"
TEXT = LEARN.read_text(encoding="utf-8")
LESSONS = {
    int(n): body for n, body in re.findall(r"^## (\d+)\. (.*?)(?=^## )", TEXT, re.DOTALL | re.M)
}
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.M)
LINES = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
]
COMMAND_LINES = sorted({*LINES, *re.findall(r"`(rlhf-pg [^`]+)`", TEXT)})


def numbers_of(lesson, *texts):
    """That a lesson says each of these numbers."""
    for text in texts:
        assert re.search(rf"(?<![\d.]){re.escape(text)}(?!\d)", LESSONS[lesson]), text


# Form


def test_there_are_twelve_lessons_with_a_command_and_two_questions():
    assert list(LESSONS) == list(range(1, 13))
    for body in LESSONS.values():
        assert "\n```\nrlhf-pg " in body or "\n```python\n" in body
        assert "**Look at**" in body
        assert body.count("<details>") == body.count("</details>") == body.count("<summary>") == 2
    for heading in ("Symptom, likely cause, option", "Glossary", "Reading"):
        assert f"\n## {heading}\n" in TEXT
    for row in ("high variance", "collapse", "KL runs away", "critic does not learn",
                "length drifts", "reward does not rise"):  # fmt: skip
        assert f"\n| {row}" in TEXT


def test_every_exercise_is_in_its_lesson_and_in_no_other():
    for name, exercise in EXERCISES.items():
        marked = [
            n for n, body in LESSONS.items() if f"`{name}`" in body.partition("**Exercise")[2]
        ]
        assert marked == [exercise.lesson], name


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_parses(line):
    words = shlex.split(line)
    assert words[0] == "rlhf-pg"
    name = " ".join(words[1:3]) if words[1] == "study" else words[1]
    if name == "study playground" and name not in COMMANDS:
        pytest.skip("no playground here")
    config = read_config(name, COMMANDS[name], words[3 if " " in name else 2 :])
    if name == "study bugs":
        assert config.bug in BUGS
    if name == "study examples":
        assert config.example in examples.EXAMPLES
    if name == "study exercise":
        assert config.name in (None, *EXERCISES)


def test_options_in_the_table_exist():
    table = TEXT.split("## Symptom")[1].split("## Glossary")[0]
    command = COMMANDS["train"]
    known = build_parser("train", command, find(command.config)).get_defaults()
    options = re.findall(r"`--([\w.]+) ?([\w.]*)`", table + LESSONS[8] + LESSONS[11])
    assert len(options) > 15 and not {name for name, _ in options} - set(known.keys())
    words = [word for name, value in options if value for word in (f"--{name}", value)]
    read_config("train", command, words)


def slug(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 15
    for link in links:
        path, _, anchor = link.partition("#")
        target = (LEARN.parent / path).resolve() if path else LEARN
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), link
    assert "](docs/learn.md)" in (ROOT / "README.md").read_text(encoding="utf-8")[:3000]


def test_mathematics_is_in_githubs_syntax():
    r"""Inline between $` and `$: between plain dollars, Markdown reads \, and | and _ first."""
    outside = re.sub(r"^```.*?^```", "", TEXT, flags=re.DOTALL | re.M)
    inline = re.findall(r"(?<![\w`$])\$`([^`$\n]+)`\$(?![\w`$])", outside)
    assert len(inline) > 100 and outside.count("$") == 2 * len(inline)
    displayed = [block for language, block in BLOCKS if language == "math"]
    assert len(displayed) > 15 and not any("$" in block for _, block in BLOCKS)
    for formula in inline + displayed:
        depth = 0
        for sign in re.sub(r"\\[{}]", "", formula):
            depth += (sign == "{") - (sign == "}")
            assert depth >= 0, formula
        assert depth == 0, formula


# Numbers


@cache
def example(name):
    lines = []
    found = examples.EXAMPLES[name](lines.append)
    return found, "\n".join(lines)


def printed(code):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "learn.md", "exec"), {"__name__": "__main__"})
    return out.getvalue()


def test_the_worked_examples_print_what_the_lessons_say():
    for lesson, name, numbers in (
        (1, "softmax-step", ["(0.5, -0.5)", "(0.1, -0.1)", "0.5498"]),
        (3, "reward-to-go", ["0.25", "0.3125", "0.0625"]),
        (4, "bernoulli-bandit", ["0.2100", "0.1029", "0.0336"]),
        (5, "gae", ["1.288"]),
        (12, "rock-paper-scissors", ["-1", "-0.014"]),
    ):
        for number in numbers:
            assert number in example(name)[1] and number in LESSONS[lesson], (lesson, number)


def test_python_in_the_lessons_prints_what_they_say():
    codes = [block for language, block in BLOCKS if language == "python"]
    bandit, steps, groups = map(printed, codes)
    for number in ("0.0009", "0.0576"):
        assert number in bandit
        numbers_of(4, number)
    found = re.findall(r"J = ([\d.]+), \|gradient\| = ([\d.]+)", steps)
    assert [j for j, _ in found] == ["0.632", "1.258", "6.486", "6.947", "2.014"]
    numbers_of(9, *(j for j, _ in found), found[-1][1])
    assert float(found[-1][0]) < float(found[3][0])
    found = re.findall(r"[+-][\d.]+", groups)
    assert len(found) == 4
    numbers_of(11, *(number.lstrip("+") for number in found))


def test_the_oracles_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(line):
        assert f"\nrlhf-pg {line}\n" in TEXT
        assert main(line.split()) == 0
        return capsys.readouterr().out.replace("−", "-")

    plain = command("study oracle --mdp two-state")
    assert "J 2.51" in plain and "A +0.670" in plain and "A -0.670" in plain and "J* 7.91" in plain
    assert plain.count(" 1.00 ") == 2
    visits = [float(x) for x in re.findall(r"visits ([\d.]+)", plain)]
    assert sum(visits) == pytest.approx(10, abs=0.02)
    numbers_of(2, "2.51", "0.670", "10")
    soft = command("study oracle --mdp two-state --kl_coef 0.5")
    assert "go 0.72" in soft and "stay 0.97" in soft and "J* 4.9," in soft
    numbers_of(8, "0.72", "0.97", "7.91", "4.9")
    text = command("study oracle --max_new_tokens 3 --show 4")
    for number in ("-1.266", "0.6162", "3.765", "400"):
        assert number in text
        numbers_of(10, number)
    assert 0.6162 + 1.266 == pytest.approx(0.5 * 3.765, abs=1e-3)
    numbers_of(10, "1.882")
    good, bad = (
        re.search(rf"^├── {word} .* A ([+-][\d.]+)", text, re.M)[1] for word in ("good", "bad")
    )
    assert (good, bad) == ("+1.478", "-0.259")
    numbers_of(11, "1.478", "-0.259")


def test_the_bugs_numbers():
    def both(name):
        bug = BUGS[name]
        return [
            {side: setting.direction(f) for side, f in (("right", RIGHT), ("wrong", bug.functions))}
            for setting in bug.gradients.values()
        ]

    def say(lesson, *values):
        numbers_of(lesson, *(f"{value:.3f}" for value in values))

    (log,) = both("log-missing")
    say(2, log["wrong"]["cosine"], log["wrong"]["bias"])
    _, wrong, true = both("lambda-ignored")
    say(5, wrong["right"]["bias"], wrong["right"]["noise"], wrong["wrong"]["noise"])
    say(5, true["right"]["noise"], true["wrong"]["noise"])
    assert max(wrong["wrong"]["bias"], true["right"]["bias"], true["wrong"]["bias"]) < 1e-9
    bug = BUGS["target-not-detached"]
    (value,) = bug.numbers.values()
    say(6, value(RIGHT), value(bug.functions), both("target-not-detached")[0]["wrong"]["bias"])
    bug = BUGS["rsample-not-detached"]
    (gaussian,) = bug.curves.values()
    say(7, *(gaussian.learn(f)[0][-1] for f in (RIGHT, bug.functions)))
    say(7, both("rsample-not-detached")[0]["wrong"]["cosine"])
    true, _, zero = both("action-baseline")
    say(11, true["wrong"]["cosine"], zero["wrong"]["cosine"])


def test_the_demos_numbers_are_the_readmes():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-")
    reward, gold = (
        re.search(rf"^\| {name} \|(.*)\|$", readme, re.M)[1].replace("*", "").split("|")
        for name in ("learned reward", "gold")
    )
    numbers_of(10, reward[1].strip(), reward[2].strip(), gold[1].strip(), gold[2].strip())
