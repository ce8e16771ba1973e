"""No network unless a hub name is given, no telemetry, no code or pickle from a model's folder."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reward_models.reward_model import RewardModel
from rlhf_pg.cli import main
from rlhf_pg.language import data, models
from support.language import PROMPTS, TEXTS, tiny_lm

# Run before a command: every attempt to reach another machine is written down, and fails.
NO_NETWORK = """
import os, socket
def refuse(name, real):
    def attempt(*arguments, **options):
        target = arguments[0] if name == "getaddrinfo" else arguments[1]
        if name != "getaddrinfo" and arguments[0].family == socket.AF_UNIX:
            return real(*arguments, **options)
        with open("attempts", "a") as file:
            file.write(f"{name} {target}\\n")
        raise OSError("no network")
    return attempt
socket.getaddrinfo = refuse("getaddrinfo", socket.getaddrinfo)
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse(name, getattr(socket.socket, name)))
"""
CODE = """
from pathlib import Path
Path("ran").touch()
from transformers import LlamaConfig as C, LlamaForCausalLM as M, PreTrainedTokenizerFast as T
"""


def environment(here, **more):
    """Of a person who has set nothing, and has downloaded nothing."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    path = os.pathsep.join([str(here / "site"), str(Path(__file__).parents[1])])
    return own | {"PYTHONPATH": path, "HF_HOME": str(here / "hf"), "OMP_NUM_THREADS": "1"} | more


MAIN = """
import sys
from rlhf_pg.cli import main
for words in sys.argv[1:]:
    assert main(words.split()) == 0, words
"""


def run(here, *commands, script=MAIN):
    """Commands in one new process without network; returns what it attempted to reach."""
    (here / "site").mkdir()
    (here / "site/sitecustomize.py").write_text(NO_NETWORK)
    words = [sys.executable, "-c", script, *commands]
    done = subprocess.run(
        words, cwd=here, env=environment(here), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (here / "attempts").read_text() if (here / "attempts").exists() else ""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base("base")
    write = {
        "prompts": [{"prompt": p} for p in PROMPTS],
        "corpus": [{"text": text} for text in TEXTS * 10],
        "pairs": [{"prompt": "the film", "chosen": " is good", "rejected": " is dull"}] * 40,
    }
    for name, rows in write.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("corpus.txt").write_text("\n".join(TEXTS * 10))
    return tmp_path


def base(folder):
    """A small language model."""
    tokenizer = models.train_tokenizer(TEXTS, "word")
    models.save(Path(folder), tiny_lm("llama", tokenizer, spread=0.1), tokenizer)
    return Path(folder)


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


SMALL = "--max_new_tokens 4 --device cpu"


def test_commands_on_local_things_reach_no_network(here):
    attempts = run(
        here,
        "finetune --data corpus.txt --width 16 --layers 1 --heads 2 --context 48 --epochs 1",
        "reward --data pairs.jsonl --learner.epochs 1",
        f"train --data prompts.jsonl --rows 4 --iterations 2 --samples_kept 2 {SMALL}",
        "sample runs/ppo --reward runs/reward --data prompts.jsonl --max_new_tokens 4",
        f"evaluate runs/ppo --prompts 2 --samples_per_prompt 1 --best_of 2 {SMALL}",
        "data show pairs.jsonl",
        "data show film-notes --model base",
    )
    assert attempts == ""


def test_an_attempt_would_be_noticed(tmp_path):
    script = "import socket\ntry: socket.create_connection(('huggingface.co', 443))\n"
    assert "huggingface.co" in run(tmp_path, script=script + "except OSError: pass")


@pytest.mark.parametrize("package", ["rlhf_pg", "reward_models.loading"])
def test_telemetry_is_off_unless_the_person_turns_it_on(tmp_path, package):
    script = f"import {package}, os, huggingface_hub.constants as hub\n"
    script += "print(hub.HF_HUB_DISABLE_TELEMETRY, os.environ['HF_UPDATE_DOWNLOAD_COUNTS'])"
    on = {"HF_HUB_DISABLE_TELEMETRY": "0", "HF_UPDATE_DOWNLOAD_COUNTS": "1"}
    for more, expected in (({}, "True 0"), (on, "False 1")):
        words = [sys.executable, "-c", script]
        env = environment(tmp_path, **more)
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[0] == expected


# Models that bring code or pickles


def with_code(kind, folder="gift"):
    """A model's folder that wants its own code to be run, or another model to be opened."""
    path = base(folder)
    (path / "mine.py").write_text(CODE)
    code = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoTokenizer": "mine.T"}
    if kind == "model":
        edit(path / "config.json", model_type="mine", auto_map=code)
    elif kind == "tokenizer":
        own = {"AutoTokenizer": ["mine.T", "mine.T"]}
        edit(path / "tokenizer_config.json", tokenizer_class="Mine", auto_map=own)
    elif kind == "adapter":
        text = json.dumps({"base_model_name_or_path": "owner/name", "peft_type": "LORA"})
        (path / "adapter_config.json").write_text(text)
    elif kind == "kernel":
        edit(path / "config.json", attn_implementation="owner/kernel")
    elif kind == "optional":  # transformers has this architecture: its own code is enough
        edit(path / "config.json", auto_map=code)
        (path / "custom_generate").mkdir()
        (path / "custom_generate/generate.py").write_text(CODE)
    return path


SAYS = {
    "model": "gift needs code of its own",
    "tokenizer": "gift needs code of its own",
    "adapter": "gift holds a LoRA adapter",
    "kernel": "gift: its config.json names code on the hub (attn_implementation: owner/kernel)",
}


@pytest.mark.parametrize("kind", SAYS)
@pytest.mark.parametrize(
    "words",
    [
        "sample gift --prompt the",
        "train --model gift --data prompts.jsonl --reward length",
        "train --model base --data prompts.jsonl --reward gift/",
        "reward --model gift --data pairs.jsonl",
    ],
)
def test_a_folder_that_needs_code_is_refused_in_one_line(here, kind, words, capsys):
    with_code(kind)
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert SAYS[kind] in error and error.count("\n") == 1
    assert not Path("ran").exists() and not Path("runs").exists()


def test_code_that_is_not_needed_is_left_alone(here):
    with_code("optional")
    assert main(["sample", "gift", "--prompt", "the", "--max_new_tokens", "3"]) == 0
    assert not Path("ran").exists()


@pytest.mark.parametrize("kind", ["model", "tokenizer"])
def test_nobody_at_a_terminal_is_asked_about_code(here, kind):
    """transformers asks "[y/N]" where there is a terminal; this one would say yes."""
    with_code(kind)
    ours, theirs = pty.openpty()
    words = "sample gift --prompt the --max_new_tokens 3".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf_pg.cli", *words],
        cwd=here, env=environment(here), stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 120
    os.write(ours, b"y\n")
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the process is gone
                break
    os.close(ours)
    assert process.wait(10) == 2, shown
    assert b"y/N" not in shown and not Path("ran").exists()
    assert SAYS[kind].encode() in shown


class Payload:
    """Unpickled, it leaves a mark."""

    def __reduce__(self):
        return Path("ran").touch, ()


def test_nothing_in_a_folder_is_unpickled(here, capsys):
    gift = base("gift")
    weights = load_file(gift / "model.safetensors") | {"x": Payload()}
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "value_head.bin"):
        torch.save(weights, gift / name)  # beside the weights: not looked at
    assert main(["sample", "gift", "--prompt", "the", "--max_new_tokens", "3"]) == 0
    (gift / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.safetensors"):
        torch.save(weights, gift / name)
        assert main(["sample", "gift", "--prompt", "the"]) == 2
        assert "gift is a folder but no causal language model" in capsys.readouterr().err
    base("gift2")
    RewardModel.from_base("gift2").save_pretrained("judge")
    torch.save(weights, "judge/model.safetensors")
    torch.save(weights, "rows.pkl")
    torch.save(weights, "rows.jsonl")
    for source in ("rows.pkl", "rows.jsonl"):
        with pytest.raises(ValueError):
            data.read(source, "prompts")
    assert main("train --model base --data prompts.jsonl --reward judge".split()) == 2
    assert not Path("ran").exists()
    torch.load("rows.pkl", weights_only=False)
    assert Path("ran").exists()  # it would have been seen
