"""The command line: help at once, presets and overrides, and one clear line for every error."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from rlhf_pg import cli
from rlhf_pg.cli import COMMANDS, find, main, read_config
from rlhf_pg.language import models
from rlhf_pg.runs import read_jsonl
from support.language import PROMPTS, TEXTS, tiny_lm
from support.language import write_rows as write

REWARDS = """
def broken(completions, **columns):
    return [1 / 0]

def short(completions, **columns):
    return [0.0]

def nan(completions, **columns):
    return [float("nan") for _ in completions]

def nothing(completions, **columns):
    return None
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a base model, data of every kind, and rewards that fail."""
    monkeypatch.chdir(tmp_path)
    tokenizer = models.train_tokenizer(TEXTS, "word")
    models.save(tmp_path / "base", tiny_lm("llama", tokenizer, spread=0.1), tokenizer)
    (tmp_path / "no_model").mkdir()
    write(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    write(tmp_path / "long.jsonl", [{"prompt": p} for p in [*PROMPTS, "the " * 60]])
    write(tmp_path / "corpus.jsonl", [{"text": text} for text in TEXTS * 10])
    write(tmp_path / "few.jsonl", [{"text": text} for text in TEXTS])
    pairs = [{"prompt": "the film", "chosen": " is good", "rejected": " is dull"}] * 40
    write(tmp_path / "pairs.jsonl", pairs)
    write(tmp_path / "wrong.jsonl", [{"question": "why", "answer": "so"}])
    write(tmp_path / "numbers.jsonl", [{"prompt": 7, "text": 7, "chosen": 7, "rejected": 7}])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "mine.py").write_text(REWARDS)
    (tmp_path / "unknown.yaml").write_text("rowz: 4\n")
    (tmp_path / "broken.yaml").write_text("rows: [4\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("my life's work")
    return tmp_path


FINETUNE = "finetune --data corpus.jsonl --width 16 --layers 1 --heads 2 --epochs 1 --output out"
REWARD = "reward --model base --data pairs.jsonl --output out"
TRAIN = (
    "train --algorithm reinforce --model base --data prompts.jsonl --reward length "
    "--iterations 2 --rows 4 --max_new_tokens 4 --device cpu --output out"
)
NO_MODEL = "no_model is a folder but no causal language model"
SAMPLE = "sample base --data prompts.jsonl --max_new_tokens 4"


def run(line, *more):
    return main([*line.split(), *more])


# -- help ------------------------------------------------------------------------------------------


def test_help_answers_at_once_and_imports_nothing_heavy():
    script = (
        "import sys, time; from rlhf_pg.cli import main; code = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'jsonargparse', 'gymnasium'}\n"
        "print(code, sorted(heavy & set(sys.modules)), time.process_time(), sep=';')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    code, heavy, seconds = done.stdout.splitlines()[-1].split(";")
    assert (code, heavy) == ("0", "[]") and float(seconds) < 0.5 and not done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("words", [["--help"], ["study", "examples", "gae"]])
def test_a_reader_that_ends_early_ends_the_command_quietly(words):
    """As in `rlhf-pg --help | head -1`; the second command prints by rich."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    line = [sys.executable, "-m", "rlhf_pg.cli", *words]
    done = subprocess.run(line, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_no_argument_is_help(capsys):
    assert main([]) == main(["-h"]) == 0
    assert "rlhf-pg COMMAND --help" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["study"], ["study", "--help"], ["data"]])
def test_a_group_alone_lists_its_commands(words, capsys):
    assert main(words) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert (f"\n  {name} " in listed) == name.startswith(f"{words[0]} "), name


def test_hints_name_the_program_as_it_was_called(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/nowhere/venv/bin/rlhf-pg"])
    assert main(["inspect"]) == 2
    assert "`/nowhere/venv/bin/rlhf-pg train`" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip()[0].isdigit()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_every_option(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help-all"])
    printed = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    command = COMMANDS[name]
    assert command.help[1:40] in printed
    assert "usually" in printed or name not in ("demo", "finetune", "reward", "train", "control")
    parser = cli.build_parser(name, command, find(command.config))
    unexplained = [a.dest for a in parser._actions if not a.help and a.option_strings]
    assert not unexplained
    assert all(f.name in printed for f in fields(find(command.config)))


def test_short_help_shows_what_most_people_need(capsys):
    for name, command in COMMANDS.items():
        if command.common:
            parser = cli.build_parser(name, command, find(command.config))
            assert set(command.common.split()) <= {action.dest for action in parser._actions}, name
    printed = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main(["train", option])
        printed[option] = capsys.readouterr().out
    assert len(printed["--help"]) < len(printed["--help-all"]) / 2
    listed = set(re.findall(r"^  --([\w.]+)", printed["--help"], re.MULTILINE))
    assert listed == {"config", *COMMANDS["train"].common.split()}
    total = len(re.findall(r"^  --[\w.]+", printed["--help-all"], re.MULTILINE)) - 3
    assert f"All {total} options: rlhf-pg train --help-all" in printed["--help"]
    assert "All " not in printed["--help-all"] and "(CONFIG" not in printed["--help"]


# -- options ---------------------------------------------------------------------------------------


def config_of(name, *arguments):
    return read_config(name, COMMANDS[name], arguments)


def test_an_algorithm_sets_its_options_and_each_can_be_changed():
    rloo = config_of("train", "--algorithm", "rloo")
    assert (rloo.learner.baseline, rloo.samples_per_prompt, rloo.critic) == (
        "leave-one-out", 4, "none",
    )  # fmt: skip
    changed = config_of("train", "--learner.lr", "1e-4", "--algorithm", "rloo")
    assert changed.learner.lr == 1e-4 and changed.learner.baseline == "leave-one-out"
    assert config_of("train").learner.clip == 0.2


def test_hyphens_stand_for_underscores(here):
    arguments = ["--max-new-tokens", "7", "--learner.entropy-coef=0.5", "--bf16", "--reward", "a-b"]
    config = config_of("train", *arguments)
    assert (config.max_new_tokens, config.learner.entropy_coef, config.bf16) == (7, 0.5, True)
    assert config.reward == "a-b"
    assert config_of("sample", "--samples-per-prompt=2", "my-model").model == "my-model"


def test_a_file_is_read_and_options_go_over_it(here):
    settings = {"algorithm": "grpo", "rows": 16, "learner": {"lr": 0.01, "epochs": 2}}
    (here / "mine.yaml").write_text(yaml.safe_dump(settings))
    config = config_of("train", "--config", "mine.yaml", "--rows", "32")
    assert (config.algorithm, config.rows, config.learner.lr, config.learner.epochs) == (
        "grpo", 32, 0.01, 2,
    )  # fmt: skip
    assert config.learner.baseline == "group" and config.samples_per_prompt == 4


def test_a_model_is_named_by_place_or_by_name():
    assert config_of("sample", "base").model == "base"
    assert config_of("sample").model == "runs/ppo"


def test_one_prompt_or_a_list_of_them():
    assert config_of("sample", "--prompt", "a film : how is it ?").prompt == "a film : how is it ?"
    assert config_of("sample", "--prompt", '["one", "two"]').prompt == ["one", "two"]


def test_the_folder_of_a_run_repeats_it_bit_for_bit():
    assert run(TRAIN.replace("reinforce", "rloo"), "--learner.lr", "0.003") == 0
    assert run("train --config out/config.yaml --output again") == 0
    first, again = (read_jsonl(Path(name) / "metrics.jsonl") for name in ("out", "again"))
    for line in first + again:
        del line["seconds"], line["tokens_per_second"]
    assert first == again
    for name in ("config.yaml", "samples.jsonl", "policy/model.safetensors"):
        assert (Path("out") / name).read_bytes() == (Path("again") / name).read_bytes()


# -- bad input -------------------------------------------------------------------------------------

BAD = {
    # columns and rows
    "corpus with wrong columns": (
        FINETUNE + " --data wrong.jsonl",
        "wrong.jsonl has columns 'question', 'answer'; corpus need 'text'",
    ),
    "prompts with wrong columns": (TRAIN + " --data wrong.jsonl", "prompts need 'prompt'"),
    "pairs with wrong columns": (REWARD + " --data wrong.jsonl", "preferences need 'prompt' +"),
    "numbers for a corpus": (FINETUNE + " --data numbers.jsonl", "line 1: 'text' is int"),
    "numbers for prompts": (TRAIN + " --data numbers.jsonl", "line 1: 'prompt' is int"),
    "numbers for pairs": (REWARD + " --data numbers.jsonl", "line 1: 'prompt' is int"),
    "an empty corpus": (FINETUNE + " --data empty.jsonl", "empty.jsonl holds no rows"),
    "no prompts": (TRAIN + " --data empty.jsonl", "empty.jsonl holds no rows"),
    "no pairs": (REWARD + " --data empty.jsonl", "empty.jsonl holds no rows"),
    "a corpus too small to hold some out": (FINETUNE + " --data few.jsonl", "3 rows are too few"),
    "no such file": (TRAIN + " --data nowhere.jsonl", "no file at nowhere.jsonl"),
    "long prompts": (TRAIN + " --data long.jsonl", "prompt 5 has 60 tokens"),
    "long prompts to sample": (SAMPLE + " --max_new_tokens 48", "Shorten the prompts or lower"),
    # rewards
    "a reward that raises": (
        TRAIN + " --reward mine.py:broken",
        "reward 'broken' failed: broken at",
        "mine.py:3: ZeroDivisionError",
    ),
    "a reward of wrong count": (
        TRAIN + " --reward mine.py:short",
        "'short' returned 1 scores for 4 completions",
    ),
    "a reward of NaN": (TRAIN + " --reward mine.py:nan", "reward 'nan' gave nan to row 0"),
    "a reward of nothing": (TRAIN + " --reward mine.py:nothing", "'nothing' returned NoneType"),
    "an unknown reward": (TRAIN + " --reward lenght", "unknown reward 'lenght'. Did you mean"),
    "an unknown gold": (TRAIN + " --gold lenght", "unknown reward 'lenght'. Did you mean 'length'"),
    "a missing reward file": (TRAIN + " --reward no.py:f", "no such file: 'no.py'"),
    "a missing reward function": (TRAIN + " --reward mine.py:brokn", "Did you mean 'broken'"),
    "a folder without a reward": (
        TRAIN + " --reward no_model",
        "no_model is a folder but no reward model or sequence classifier",
    ),
    "a language model for a reward": (TRAIN + " --reward base", "train a reward model"),
    "the default reward before there is one": (
        TRAIN + " --reward runs/reward",
        "no reward model at runs/reward; `rlhf-pg reward` makes one",
    ),
    # names
    "an unknown algorithm": (TRAIN + " --algorithm po", "unknown algorithm 'po'", "'ppo'?"),
    "an unknown command": ("trian", "unknown command 'trian' (did you mean 'train'?)"),
    "an unknown command of a group": ("study bgs", "'study bgs' (did you mean 'study bugs'?)"),
    "no run to resume": ("resume nowhere", "no run at nowhere"),
    "an unknown preset": ("demo --preset huge", "unknown preset 'huge': use"),
    # models
    "a folder that is no model": (TRAIN + " --model no_model", NO_MODEL),
    "no model to fine-tune": (FINETUNE + " --model no_model", NO_MODEL),
    "no model for a reward": (REWARD + " --model no_model", NO_MODEL),
    "no model to sample from": ("sample no_model", NO_MODEL),
    "no run to sample from": ("sample", "no run at runs/ppo; `rlhf-pg finetune` and"),
    "no model to evaluate": ("evaluate no_model", "no_model"),
    # the hub, without a network
    "a hub model": (TRAIN + " --model someone/model", "'someone/model' is no file or folder here"),
    "hub data": (TRAIN + " --data someone/data", "'someone/data' is no file or folder here"),
    "a hub reward": (TRAIN + " --reward someone/judge", "'someone/judge' is no file or folder"),
    # options
    "an unknown option": (TRAIN + " --zzz 1", "unknown option --zzz: `rlhf-pg train --help-all`"),
    "an option of a group": (TRAIN + " --lr 1", "--lr (did you mean '--learner.lr'?)"),
    "an option nearly right": (TRAIN + " --kl-coeff 1", "--kl-coeff (did you mean '--kl_coef'?)"),
    "an abbreviated option": (TRAIN + " --iter 1", "unknown option --iter"),
    "an unknown inner option": (TRAIN + " --learner.clp 1", "(did you mean '--learner.clip'?)"),
    "a word for a number": (TRAIN + " --rows many", "--rows: expected int, got many"),
    "a wrong choice": (TRAIN + " --critic big", "--critic: expected one of 'shared', 'detached'"),
    "a word for an optional number": (TRAIN + " --kl_target x", "--kl_target: expected float"),
    "an option without its value": (TRAIN + " --rows", "--rows: expected one argument"),
    "a stray word": (TRAIN + " stray", "unknown option stray"),
    "no such configuration": (TRAIN + " --config no.yaml", "--config: File does not exist"),
    "an unknown key in a file": (TRAIN + " --config unknown.yaml", "unknown option rowz (did you"),
    "a broken configuration": (TRAIN + " --config broken.yaml", "broken.yaml, line 2: no YAML"),
    "rows that do not divide": (
        TRAIN + " --rows 6 --samples_per_prompt 4",
        "rows (6) must be a multiple of samples_per_prompt (4)",
    ),
    "no completions at all": (SAMPLE + " --count 0", "must be at least 1"),
    "an empty prompt": (SAMPLE + " --prompt=", "prompt must not be empty"),
    "heads that do not divide": (FINETUNE + " --heads 3", "width (16) must be a multiple of twice"),
    "no layers": (FINETUNE + " --layers 0", "layers must be from 1 to 1,000, not 0"),
    "a small byte vocabulary": (FINETUNE + " --tokenizer bpe --vocabulary 9", "at least 259 entr"),
    "a rate below nothing": (FINETUNE + " --lr -1", "lr must be above 0, not -1.0"),
    "no epochs": (TRAIN + " --learner.epochs 0", "learner.epochs must be at least 1, not 0"),
    "a strange discount": (TRAIN + " --learner.gamma 2", "learner.gamma must be from 0 to 1"),
    "a KL that draws away": (TRAIN + " --kl_coef -1", "kl_coef must be at least 0, not -1.0"),
    "no pairs in a batch": (REWARD + " --learner.batch_size 0", "batch_size must be at least 1"),
    "too few pairs": (REWARD + " --learner.held_out 0.01", "40 pairs are too few to hold some"),
    # the study
    "no run to inspect": ("inspect", "no run at runs/ppo; `rlhf-pg train` and `rlhf-pg control`"),
    "a folder to inspect that is no run": ("inspect no_model", "no_model is no run of"),
    "no run for credit": ("study credit", "no run at runs/ppo; `rlhf-pg train` makes runs"),
    "a model for credit without a reward": ("study credit base", "give --reward"),
    "too much to write down": (
        "study oracle --max_new_tokens 9",
        "8 tokens and 9 steps make 47,079,208 completions",
        "lower max_new_tokens",
    ),
    "an unknown MDP": ("study oracle --mdp maze", "no MDP 'maze': choose among two-state"),
    "no run for estimators": ("study estimators --model nowhere", "no run at nowhere"),
    "two sources of estimates": ("study estimators --env E --model base", "not both"),
    "groups that do not divide": ("study estimators --rows 3", "rows (3) must be a multiple of"),
    "an unknown bug": ("study bugs kl-sing", "no bug 'kl-sing'"),
    "an unknown example": ("study examples gea", "gea"),
    "half a command": ("study --lam 1", "unknown command 'study --lam'"),
    "an output that is taken": (TRAIN + " --output taken", "taken already holds something; choose"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case, here, no_network, capsys):
    line, *expected = BAD[case]
    before = set(here.iterdir())
    assert run(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("rlhf-pg: ") and error.count("\n") == 1 and error.endswith("\n")
    for part in expected:
        assert part in error
    assert "Traceback" not in error
    assert set(here.iterdir()) == before  # nothing is left that would block the corrected command
    assert [path.name for path in (here / "taken").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("case", ["an unknown reward", "a word for a number", "no such file"])
def test_debug_shows_where(case):
    line, *_ = BAD[case]
    with pytest.raises(ValueError):
        run(line, "--debug")


def test_an_error_of_our_own_is_not_dressed_as_the_users(monkeypatch):
    def fails(_):
        raise KeyError("a bug of ours")

    monkeypatch.setattr("rlhf_pg.language.finetune.finetune", fails)
    with pytest.raises(KeyError):
        run(FINETUNE)


def test_an_interrupt_is_reported_and_leaves_no_policy(here, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_pg.core.learner.Learner.update", interrupted)
    assert run(TRAIN) == 130
    assert capsys.readouterr().err == (
        "\nrlhf-pg: stopped; the run folder keeps what was written so far\n"
    )
    assert not (here / "out" / "policy").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--greedy"], True),
        (["--greedy", "base"], True),  # what follows is the model
        (["--greedy", "true"], True),
        (["--greedy", "False"], False),
        (["--greedy=false", "base"], False),
        ([], False),
    ],
)
def test_a_flag_needs_no_value(arguments, expected):
    assert read_config("sample", COMMANDS["sample"], arguments).greedy is expected


def test_a_nested_flag_needs_no_value():
    config = read_config("train", COMMANDS["train"], ["--learner.whiten_rewards", "--rows", "8"])
    assert config.learner.whiten_rewards is True and config.rows == 8
