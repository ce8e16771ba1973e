"""The card says what the run was, in the form that the hub reads, and names no folder of a home."""

import shlex
from pathlib import Path

import pytest
import yaml

from rlhf_pg.cli import COMMANDS, main, read_config
from rlhf_pg.language.config import preset, train_config
from rlhf_pg.language.model_card import command_of, hub_base, shortened
from rlhf_pg.language.train import train
from rlhf_pg.runs import read_jsonl
from support.language import PROMPTS, count_good, write_rows


@pytest.fixture
def words(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    return shlex.split(
        f"train --algorithm rloo --model {base} --data prompts.jsonl --reward 'length:target=4' "
        "--iterations 2 --rows 8 --max_new_tokens 3 --device cpu --output run --kl_coef 0.05 "
        "--learner.lr 0.001 --samples_every 1 --kl_target 3"
    )


def parts(folder):
    """The header and the text of a card."""
    _, header, text = (Path(folder) / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def test_a_card_of_a_run(words, tmp_path):
    assert main(words) == 0
    header, text = parts("run/policy")
    assert header == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "rlhf-pg", "rloo"],
    }
    last = read_jsonl(Path("run/metrics.jsonl"))[-1]
    assert f"| score | {last['score']:.3f} |" in text and f"| kl | {last['kl']:.3f} |" in text
    for row in ("base model | `base`", "reward | `length:target=4`", "KL coefficient | `0.05`"):
        assert f"| {row} |" in text
    assert str(tmp_path) not in text and "rlhf-pg `0" in text
    assert (Path("run/best/README.md")).is_file()
    config = train_config(Path("run"))  # and the command of a card repeats the run
    again = read_config("train", COMMANDS["train"], shlex.split(command_of(config))[2:])
    assert again == config


def test_a_function_as_reward_is_named_and_not_in_the_command(words, base):
    config = preset("reinforce")
    config.model, config.data, config.output, config.iterations = base, "prompts.jsonl", "run", 1
    config.rows, config.max_new_tokens, config.device = 4, 3, "cpu"
    train(config, count_good)
    text = parts("run/policy")[1]
    assert "| reward | `Python: count_good` |" in text and "from Python, toward a function" in text
    assert "--reward" not in text


def test_the_base_model_is_a_hub_name_also_through_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, model in {"a": "someone/model", "b": "a", "c": "c", "d": None}.items():
        Path(name).mkdir()
        Path(name, "config.yaml").write_text(yaml.safe_dump({"model": model}))
    assert hub_base("someone/model") == hub_base("a") == hub_base("b") == "someone/model"
    assert hub_base("c") is hub_base("d") is hub_base("runs/gone") is hub_base("/gone") is None


def test_names_of_folders_are_shortened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    text = f"{tmp_path}/run + 0.1*/home/me/mine.py:f\x1b"
    assert shortened(text) == "run + 0.1*~/mine.py:f\N{REPLACEMENT CHARACTER}"
