"""Commands on a trained run use its own prompts, reward, length and temperature, anywhere."""

import json

import pytest

from rlhf_pg import label
from rlhf_pg.cli import main
from rlhf_pg.language.config import LabelConfig
from rlhf_pg.language.loaded import with_run_options
from rlhf_pg.runs import options_of
from support.language import PROMPTS, write_rows
from support.runs import make_world

REWARD = """
def f(completions, answer, **columns):
    return [100.0 + number for number in answer]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a run trained on prompts, columns and a reward of its own."""
    folder = make_world(tmp_path_factory.mktemp("project"))
    write_rows(folder / "own.jsonl", [{"q": p, "answer": i} for i, p in enumerate(PROMPTS)])
    (folder / "mine.py").write_text(REWARD)
    words = (
        "train --algorithm rloo --model base --data own.jsonl --columns prompt=q --rows 8 "
        "--iterations 1 --max_new_tokens 5 --temperature 0.9 --device cpu --samples_every 1 "
        "--output runs/own --reward"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*words.split(), "mine.py:f + 0.5*length:target=3"]) == 0
    return folder


@pytest.fixture(params=["here", "elsewhere"])
def run(request, project, tmp_path, monkeypatch):
    """The run's name, from the folder it was made in and from another one."""
    monkeypatch.chdir(project if request.param == "here" else tmp_path)
    return "runs/own" if request.param == "here" else str(project / "runs/own")


def test_samples_are_of_its_prompts_with_its_reward(run, capsys):
    assert main(["sample", run, "--count", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for i, (line, prompt) in enumerate(zip(lines, PROMPTS, strict=True)):
        score, _, text = line.strip().partition(" ")
        assert text.startswith(prompt) and 99 + i <= float(score) <= 100 + i
    assert main(["sample", run, "--prompt", "the film", "--reward", "none"]) == 0
    assert capsys.readouterr().out.startswith("the film")


def test_a_prompt_by_hand_has_no_columns_to_score_with(run, capsys):
    assert main(["sample", run, "--prompt", "the film"]) == 0
    note, line = capsys.readouterr().out.splitlines()
    assert "not scored: reward 'f' needs an argument 'answer'" in note
    assert line.startswith("the film")


def test_options_given_come_before_those_of_the_run(project, monkeypatch):
    monkeypatch.chdir(project)
    own = with_run_options(LabelConfig(model="runs/own"))
    assert (own.data, own.columns) == (str(project / "own.jsonl"), "prompt=q")
    assert (own.max_new_tokens, own.temperature) == (5, 0.9) and "mine.py:f" in own.reward
    config = LabelConfig(model="runs/own/policy", data="x.jsonl", temperature=0.5, reward="none")
    given = with_run_options(config)
    assert (given.data, given.columns, given.reward) == ("x.jsonl", None, None)
    assert (given.max_new_tokens, given.temperature) == (5, 0.5)
    plain = with_run_options(LabelConfig(model="base"))
    assert (plain.data, plain.reward, plain.max_new_tokens, plain.temperature) == (
        "film-notes", None, 48, 1.0,
    )  # fmt: skip


def test_pairs_to_label_are_of_its_prompts(run):
    from reward_models.loading import load_reward

    config = LabelConfig(model=run, count=3, device="cpu")
    reward = load_reward(with_run_options(config).reward)
    pairs = label.make_pairs(config, reward)
    assert {pair.prompt for pair in pairs} <= set(PROMPTS) and pairs[0].left_score > 99


def test_evaluate_and_doctor_use_them_too(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = str(project / "runs/own")
    words = "--prompts 5 --samples_per_prompt 1 --best_of 0 --device cpu --output out.json"
    assert main(["evaluate", run, *words.split()]) == 0
    capsys.readouterr()
    result = json.loads(open_text("out.json"))
    assert result["prompts"] == 5 and 99 < result["policy"]["score"] < 104
    assert main(["doctor", run, "--output", "doctor.json", "--device", "cpu"]) in (0, 1)
    results = json.loads(open_text("doctor.json"))
    assert "own.jsonl" in str(results) and "mine.py" in str(results)


def open_text(name):
    with open(name, encoding="utf-8") as file:
        return file.read()


def test_paths_are_kept_absolute_and_names_as_they_are(project):
    options = options_of(project / "runs/own")
    assert options["model"] == str(project / "base") and options["data"] == str(
        project / "own.jsonl"
    )
    assert options["reward"] == f"{project / 'mine.py'}:f + 0.5*length:target=3"


def test_what_is_no_language_model_is_named(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    words = "reward --data pairs.jsonl --model base --learner.steps 1 --output runs/judge"
    assert main(words.split()) == 0
    assert (
        main("finetune --data corpus.jsonl --width 16 --heads 2 --epochs 1 --output f".split()) == 0
    )
    (project / "half").mkdir(exist_ok=True)
    (project / "half/config.yaml").write_text((project / "f/config.yaml").read_text())
    (project / "cart").mkdir(exist_ok=True)
    (project / "cart/config.yaml").write_text("env: CartPole-v1\n")
    capsys.readouterr()
    for name, says in {
        "runs/judge": "runs/judge is a reward model, not a language model",
        "half": "half is unfinished, and has no checkpoint yet",
        "cart": "cart is a run of `rlhf-pg control`",
    }.items():
        assert main(["sample", name, "--prompt", "a"]) == 2
        assert says in capsys.readouterr().err
    assert main("train --model base --data own.jsonl --columns prompt=q --reward half".split()) == 2
    assert "half is a run without a trained reward model: unfinished" in capsys.readouterr().err
