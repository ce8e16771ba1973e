"""`rlhf-pg doctor`: what it prints, its exit code, and that it leaves everything as it was."""

import hashlib
import json

import pytest
import torch

from rlhf_pg.cli import main
from rlhf_pg.language import data, models
from rlhf_pg.study.doctor.finding import Finding
from rlhf_pg.study.doctor.report import summary, table
from rlhf_pg.study.doctor.step import duration, size

from ..language.conftest import tiny_lm


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def base(tmp_path):
    """runs/base, as a user has one: it reads the film notes, and has learned nothing."""
    texts = data.read("film-notes", "corpus", "test")["text"]
    tokenizer = models.train_tokenizer(texts, "word")
    model = tiny_lm("llama", tokenizer, context=64, spread=0.3, tie_word_embeddings=True)
    models.save(tmp_path / "runs" / "base" / "policy", model, tokenizer)
    return tmp_path / "runs" / "base"


def examined(capsys, *options, code=0):
    arguments = ["doctor", *options, "--rows", "8", "--max_new_tokens", "8", "--device", "cpu"]
    try:
        found = main(arguments)
    except SystemExit as end:
        found = end.code
    said = capsys.readouterr()
    assert found == code, said.out + said.err
    return said.out


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_without_arguments_it_examines_the_base_and_leaves_the_reward_out(base, capsys, tmp_path):
    before = contents(tmp_path)
    said = examined(capsys)
    assert "runs/base on film-notes toward no reward: ppo, 8 completions" in said
    assert "11 checks" in said and "no reward: name one with --reward" in said
    assert "0 FAIL" in said and " skipped" in said
    assert contents(tmp_path) == before


def test_the_trained_reward_is_taken_where_it_stands(base, capsys, tmp_path):
    (tmp_path / "runs" / "reward").mkdir()
    said = examined(capsys, code=1)  # an empty folder is no reward
    assert "toward runs/reward" in said and "FAIL" in said


def test_a_reward_of_ones_own_and_the_file_that_is_asked_for(base, capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def words(prompts, completions, **_):\n"
        "    return [0.1 * len(set(c)) + 0.01 * len(c) for c in completions]\n"
    )
    said = examined(capsys, "--reward", "mine.py:words", "--output", "found")
    report = json.loads((tmp_path / "found" / "doctor.json").read_text())
    by_name = {(f["group"], f["name"]): f for f in report["findings"]}
    assert by_name["reward", "spread"]["status"] == "pass"
    assert by_name["model", "sampling = scoring"]["value"] < 1e-5
    assert report["config"]["reward"] == "mine.py:words" and report["summary"] in said
    assert "found/doctor.json" in said


def test_a_failure_is_exit_code_1_after_the_whole_table(base, capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def nan(completions, **_): return [1e999 for _ in completions]"
    )
    said = examined(capsys, "--reward", "mine.py:nan", code=1)
    assert (
        "To mend" in said
        and "reward, answers" in said
        and "gave inf to row 0" in " ".join(said.split())
    )
    assert "the run takes" in said and "1 FAIL" in said


def test_a_misspelt_model_is_said_in_the_table(capsys):
    said = examined(capsys, "runs/bsae", code=1)
    assert "no run at runs/bsae" in " ".join(said.split()) and "504 prompts" in said


def test_options_that_nobody_can_mean_are_exit_code_2(base, capsys):
    assert main(["doctor", "--rows", "0"]) == 2
    assert main(["doctor", "--temperature", "0"]) == 2
    assert main(["doctor", "--algorithm", "pppo"]) == 2
    said = capsys.readouterr().err
    assert "rows must be at least 1" in said and "temperature must be above 0" in said
    assert "did you mean 'ppo'" in said


def test_text_of_models_and_data_is_shown_as_it_is(base, capsys, tmp_path):
    rows = [{"prompt": "[bold]review[/] of a [red]western"}, {"prompt": "[/wrong] review of a"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = examined(capsys, "--data", "rows.jsonl")
    assert "[bold]review[/]" in said or "[/wrong]" in said


def test_lora_is_examined_as_such(base, capsys):
    said = examined(capsys, "--lora_rank", "2", "--algorithm", "reinforce")
    assert "0 FAIL" in said and "reference 0 B" in said


def test_each_check_is_explained_where_that_is_asked_for(base, capsys):
    sentence = "The policy begins at its reference"
    assert sentence not in " ".join(examined(capsys).split())
    assert sentence in " ".join(examined(capsys, "--explain", "true").split())


def test_the_words_carry_the_meaning_without_colour():
    from rich.console import Console

    found = [
        Finding("pass", "1", group="a", name="one"),
        Finding("warn", "2", "3", "mend it", group="a", name="two"),
        Finding("fail", "4", "5", "mend it too", group="b", name="three"),
        Finding("skipped", "no reward", group="c", name="four"),
        Finding("skipped", "no reward", group="c", name="five"),
        Finding("skipped", "no tokenizer", group="c", name="six"),
    ]
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(table(found))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["warn", "two", "2", "3"] in lines and ["FAIL", "three", "4", "5"] in lines
    assert ["skip", "2", "checks", "no", "reward"] in lines
    assert ["skip", "six", "no", "tokenizer"] in lines
    assert summary(found) == "1 pass, 1 warn, 1 FAIL, 3 skipped"


def test_numbers_for_people():
    assert [size(x) for x in (12, 1650, 1.66e6, 2.5e10)] == ["12 B", "1.65 kB", "1.66 MB", "25 GB"]
    assert [duration(x) for x in (0.42, 7, 60, 95, 5400)] == [
        "0.42 s",
        "7 s",
        "1 min",
        "1 min 35 s",
        "1 h 30 min",
    ]
