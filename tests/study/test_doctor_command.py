"""`rlhf-pg doctor`: what it prints, its exit code, and that it changes no file."""

import hashlib
import json

import pytest

from rlhf_pg.cli import main
from rlhf_pg.language import data, models
from rlhf_pg.study.doctor.context import Result
from rlhf_pg.study.doctor.measure import Iteration
from rlhf_pg.study.doctor.report import formatted, stages, summary
from support.language import tiny_lm


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def base(tmp_path):
    """runs/base, untrained, with the vocabulary of the film notes."""
    texts = data.read("film-notes", "corpus", "test")["text"]
    tokenizer = models.train_tokenizer(texts, "word")
    model = tiny_lm("llama", tokenizer, context=64, spread=0.3, tie_word_embeddings=True)
    models.save(tmp_path / "runs" / "base" / "policy", model, tokenizer)
    (tmp_path / "mine.py").write_text(
        "def words(completions, **_):\n"
        "    return [len(set(text)) / (1 + len(text)) for text in completions]\n"
        "def infinite(completions, **_):\n"
        "    return [1e999 for _ in completions]\n"
    )
    return tmp_path / "runs" / "base"


def printed(capsys, *options, code=0):
    """What the command prints; it must end with this exit code."""
    arguments = ["doctor", *options, "--rows", "8", "--max_new_tokens", "8", "--device", "cpu"]
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    output = capsys.readouterr()
    assert status == code, output.out + output.err
    return output.out + output.err


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_without_arguments_it_checks_the_base_and_writes_nothing(base, capsys, tmp_path):
    before = contents(tmp_path)
    text = printed(capsys)
    assert "runs/base on film-notes toward no reward\nppo, 8 completions of at most 8 tok" in text
    assert "  skip  7 checks                 no reward: give --reward\n" in text
    assert ", 0 FAIL, 8 skip" in text and "iteration of 8 rows" in text
    assert max(map(len, text.splitlines())) <= 80
    assert contents(tmp_path) == before


def test_a_reward_of_the_user_and_a_file_of_the_results(base, capsys, tmp_path):
    text = printed(capsys, "--reward", "mine.py:words", "--output", "found")
    report = json.loads((tmp_path / "found" / "doctor.json").read_text())
    by_name = {(r["group"], r["name"]): r for r in report["results"]}
    assert by_name["reward", "spread"]["status"] == "pass"
    assert by_name["model", "finite weights"]["measured"] == "0 of 22 tensors not finite"
    assert report["config"]["reward"] == "mine.py:words" and report["summary"] in text
    assert set(report["iteration"]["seconds"]) == {"sampling", "reward", "reference", "update"}
    assert text.endswith("written to found/doctor.json\n")
    printed(capsys, "--output", "here.json")
    assert json.loads((tmp_path / "here.json").read_text())["config"]["reward"] == "runs/reward"


def test_a_failure_is_exit_code_1_after_all_results(base, capsys):
    text = printed(capsys, "--reward", "mine.py:infinite", code=1)
    assert "  FAIL  valid scores             error\n" in text
    assert "gave inf to row 0" in " ".join(text.split())
    assert "  skip  6 checks                 error in 'valid scores'\n" in text
    assert text.index("FAIL  valid scores") < text.index("1 FAIL")


def test_what_training_refuses_is_exit_code_2(base, capsys, tmp_path):
    assert "no run at runs/bsae" in printed(capsys, "runs/bsae", code=2)
    (tmp_path / "runs" / "reward").mkdir()
    assert "runs/reward" in printed(capsys, code=2)  # an empty folder is no reward
    assert "did you mean 'ppo'" in printed(capsys, "--algorithm", "pppo", code=2)


def test_the_algorithm_sets_what_it_sets_in_training(base, capsys, tmp_path):
    printed(capsys, "--algorithm", "rloo", "--output", "rloo.json")
    config = json.loads((tmp_path / "rloo.json").read_text())["config"]
    assert config["samples_per_prompt"] == 4 and config["learner"]["baseline"] == "leave-one-out"
    assert config["learner"]["lr"] == 5e-4 and config["critic"] == "none"


def test_text_of_models_and_data_is_printed_as_it_is(base, capsys, tmp_path):
    rows = [{"prompt": "[bold]review[/] of a [red]western"}, {"prompt": "[/wrong] review of a"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = printed(capsys, "--data", "rows.jsonl")
    assert "[bold]review[/]" in text or "[/wrong]" in text


def test_every_check_is_explained_on_request(base, capsys):
    sentence = "No prompt spells out EOS or pad"
    assert sentence not in printed(capsys)
    assert sentence in printed(capsys, "--explain")


def test_the_words_carry_the_meaning_without_colour():
    results = [
        Result("pass", "1", "up to 2", name="one"),
        Result("fail", "2", "3", "mend it " * 12, name="two", explanation="It is not 2."),
        Result("skip", "no reward", name="three"),
    ]
    one, two, three = (formatted(result, result.name).plain for result in results)
    assert one == f"  pass  {'one':<25}{'1':<32}up to 2"
    assert two.splitlines() == [
        f"  FAIL  {'two':<25}{'2':<32}3",
        "        mend it mend it mend it mend it mend it mend it mend it mend it mend it",
        "        mend it mend it mend it",
    ]
    assert three == f"  skip  {'three':<25}no reward"
    assert formatted(results[1], "two", explain=True).plain == two + "\n        It is not 2."
    assert summary(results) == "1 pass, 0 warn, 1 FAIL, 1 skip"


def test_the_stages_of_an_iteration():
    table = stages(
        Iteration(8, {"sampling": 1.5, "update": 2.0}, {"sampling": 3e6, "update": 5e6}), 8
    )
    assert [line.split() for line in table.splitlines()] == [
        "iteration of 8 rows seconds peak memory".split(),
        "sampling 1.5 3 MB".split(),
        "update 2 5 MB".split(),
        "all 3.5 5 MB".split(),
    ]
    assert len({len(line) for line in table.splitlines()}) == 1
    assert "iteration of 64 rows, seconds scaled from 8  " in stages(
        Iteration(8, {"a": 1.0}, {"a": 1}), 64
    )
