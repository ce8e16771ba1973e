"""Opening a run that somebody else made never runs its code, fetches, or writes outside."""

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import yaml

import rlhf_pg
from reward_models.loading import Reference, code_file, references
from rlhf_pg import trust
from rlhf_pg.cli import main
from rlhf_pg.language import models
from rlhf_pg.runs import Run
from support.language import PROMPTS, TEXTS, tiny_lm

EVIL = """
from pathlib import Path
Path({marker!r}).touch()

def f(completions, **columns):
    return [float(len(text)) for text in completions]
"""
TRAIN = "train --model base --data prompts.jsonl --rows 8 --iterations 2 --max_new_tokens 6"
TRAIN += " --device cpu --samples_every 1 --samples_kept 2 --checkpoint_every 1"

# Every command that opens what a run's config.yaml names.
OPENING = {
    "evaluate": "evaluate gift --prompts 2 --samples_per_prompt 1 --best_of 0 --device cpu",
    "inspect": "inspect gift --completions 1 --continuations 2",
    "study credit": "study credit gift --completions 1 --continuations 2",
    "study estimators": "study estimators --model gift --estimates 40 --rows 4 --truth_rows 4"
    " --samples_per_prompt 2 --critic_batches 1 --lambdas [1.0] --ppo_steps [0]",
    "resume": "resume gift",
    "verify": "verify gift",
    "sample": "sample gift --max_new_tokens 6",
    "doctor": "doctor gift --device cpu",
}
# Commands that take a run as a model: they read its policy and nothing that it names.
READING = {
    "sample": "sample gift --prompt the --max_new_tokens 6 --reward none",
    "train": TRAIN.replace("--model base", "--model gift") + " --reward length",
    "reward": "reward --model gift --data pairs.jsonl --learner.epochs 1",
    "data show": "data show prompts.jsonl --model gift",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a base model, data, rewards, and one's own finished run."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tokenizer = models.train_tokenizer(TEXTS, "word")
        models.save(folder / "base", tiny_lm("llama", tokenizer, spread=0.1), tokenizer)
        write = {
            "prompts": [{"prompt": p} for p in PROMPTS],
            "pairs": [{"prompt": "the film", "chosen": " is good", "rejected": " is dull"}] * 40,
        }
        for name, rows in write.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text)
        (folder / "mine.py").write_text(EVIL.format(marker="mine-ran"))
        assert main(f"{TRAIN} --reward mine.py:f --output own".split()) == 0
        (folder / "mine-ran").unlink()
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of it, in which `gift` is a run that somebody else made, with code in its config."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    trust.sign(Path("own"))  # in this folder, since it names mine.py
    shutil.copytree("own", "gift")
    (folder / "gift/evil.py").write_text(EVIL.format(marker="evil-ran"))
    shutil.copy("prompts.jsonl", "gift/prompts.jsonl")
    shutil.rmtree("gift/checkpoints/000002")  # so that it can be resumed
    edit("gift", reward="gift/evil.py:f", data="gift/prompts.jsonl")
    Path("gift", trust.SIGNATURE).unlink()
    return folder


def edit(run, **options):
    path = Path(run, "config.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | options))


def line(capsys):
    """The error, which must be a line of its own."""
    error = capsys.readouterr().err
    assert error.startswith("rlhf-pg: ") and error.count("\n") == 1
    return error


def opens(words, capsys):
    """The command does its work, or as much of it as so few episodes allow."""
    code, error = main(words), capsys.readouterr().err
    return code == 0 or "raise --truth_rows" in error


@pytest.mark.parametrize("command", OPENING)
def test_code_that_only_a_strangers_config_names_is_not_run_without_trust(here, command, capsys):
    for _ in range(2):  # refusing leaves nothing that changes the next answer
        assert main(OPENING[command].split()) == 2
        assert "gift is of unknown origin" in (said := line(capsys))
        assert "reward gift/evil.py:f (code)" in said and "add --trust" in said
        assert not Path("evil-ran").exists()
    if command != "verify":  # which needs two checkpoints
        assert opens([*OPENING[command].split(), "--trust"], capsys)
        assert Path("evil-ran").exists()


def test_labelling_completions_of_a_strangers_run_asks_too(here, capsys):
    assert main("label --model gift".split()) == 2
    assert "reward gift/evil.py:f (code)" in line(capsys)
    assert main("label --model gift --reward none --data prompts.jsonl".split()) == 2
    assert "needs a terminal" in line(capsys) and not Path("evil-ran").exists()


def test_code_by_its_absolute_path_is_the_same_from_anywhere(made, tmp_path, monkeypatch):
    shutil.copytree(made / "own", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(EVIL.format(marker="evil-ran"))
    assert main(OPENING["evaluate"].replace("gift", "moved").split()) == 0
    assert Path("mine-ran").exists() and not Path("evil-ran").exists()


@pytest.mark.parametrize("command", READING)
def test_a_strangers_run_is_a_model_without_a_question(here, command):
    assert main(READING[command].split()) == 0
    assert not Path("evil-ran").exists()


@pytest.mark.parametrize("command", OPENING)
def test_ones_own_run_opens_without_a_question(made, tmp_path, monkeypatch, command, capsys):
    monkeypatch.chdir(made)
    shutil.copytree("own", tmp_path / "moved")  # a run may be moved, copied and renamed
    words = OPENING[command].replace("gift", str(tmp_path / "moved")).split()
    if command == "resume":
        shutil.rmtree(tmp_path / "moved/checkpoints/000002")
    assert opens(words, capsys)
    (made / "mine-ran").unlink()


@pytest.mark.parametrize("change", ["edited", "appended", "code elsewhere", "other secret"])
def test_a_run_that_is_not_as_it_was_signed_is_a_strangers(here, change, monkeypatch, capsys):
    if change == "edited":
        edit("own", reward="gift/evil.py:f")
    elif change == "appended":
        Path("own/config.yaml").write_bytes(Path("own/config.yaml").read_bytes() + b"\n")
    elif change == "code elsewhere":  # mine.py of another folder is another file
        edit("own", reward="mine.py:f")
        trust.sign(Path("own"))
        monkeypatch.chdir("gift")
        shutil.move("../own", "own")
        shutil.copy("evil.py", "mine.py")
    else:
        monkeypatch.setenv("XDG_STATE_HOME", str(here / "other"))
        trust.sign(Path("gift"))  # another person's secret exists
    assert main(OPENING["evaluate"].replace("gift", "own").split()) == 2
    assert "is not what you signed here" in line(capsys)
    assert not list(here.rglob("*-ran"))


def test_a_run_from_before_signatures_needs_trust_and_names_that_it_may_be_ones_own(here, capsys):
    Path("own", trust.SIGNATURE).unlink()
    assert main(OPENING["evaluate"].replace("gift", "own").split()) == 2
    said = line(capsys)
    assert "is not signed by you" in said and "--trust" in said


def test_a_signature_does_not_fit_another_config(here):
    assert trust.is_signed(Path("own"))
    for other in ("rows: 4\n", "", Path("own/config.yaml").read_text() + "\0/x"):
        Path("gift/config.yaml").write_text(other)
        shutil.copy(f"own/{trust.SIGNATURE}", f"gift/{trust.SIGNATURE}")
        assert not trust.is_signed(Path("gift"))
    for forged in (b"", b"\n", b"0" * 64, "é".encode(), b"\xff"):
        Path("own", trust.SIGNATURE).write_bytes(forged)
        assert not trust.is_signed(Path("own"))


def test_what_the_user_names_is_not_asked_for(here, capsys):
    words = OPENING["evaluate"].split()
    assert main(words) == 2
    assert "or name your own with --reward" in line(capsys)
    assert main([*words, "--reward", "length"]) == 0
    assert not Path("evil-ran").exists()
    assert main([*words, "--reward", "mine.py:f"]) == 0
    assert Path("mine-ran").exists()


def test_rules_and_folders_inside_the_run_need_nothing(here):
    edit("gift", reward="sentiment + 0.1*clip(length, -1, 1)", data="film-notes")
    assert main([*OPENING["evaluate"].split(), "--data", "prompts.jsonl"]) == 0
    edit("gift", data="gift/prompts.jsonl")
    assert main(OPENING["evaluate"].split()) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reward": "owner/name#good"}, "reward owner/name (hub name)"),
        ({"reward": "length + 0.1*worst(base, gift/evil.py:f)"}, "reward gift/evil.py:f (code)"),
        ({"reward": ["length", "0.5*clip(evil:f, 0, 1)"]}, "reward evil:f (code)"),
        ({"reward": {"a": "normalise(gift/evil.py:f)"}}, "reward gift/evil.py:f (code)"),
        ({"gold": "gift/evil.py:f"}, "gold gift/evil.py:f (code)"),
        ({"data": "owner/name"}, "data owner/name (hub name)"),
        ({"data": "prompts.jsonl"}, "data prompts.jsonl (path)"),
        ({"data": "gift/../prompts.jsonl"}, "data gift/../prompts.jsonl (path)"),
        ({"reward": "gift/outside"}, "reward gift/outside (path)"),  # a symbolic link
        ({"reference": "base"}, "reference base (path)"),
        ({"env": "evil:Id-v0"}, "env evil:Id-v0 (code)"),
        ({"env_options": {"a": [{"b": "evil:Id-v0"}]}}, "env_options evil:Id-v0 (code)"),
        ({"critic_from": "base"}, "critic_from base (path)"),
    ],
)
def test_everything_that_a_config_may_name_is_seen(here, options, says):
    plain = {"reward": "length", "gold": None, "data": "film-notes"}
    trust.check(Path("gift"), {**plain, "env": "CartPole-v1", "env_options": {"a": [1, "4x4"]}})
    if "gift/outside" in options.values():
        os.symlink(here / "base", "gift/outside")
    with pytest.raises(ValueError) as error:
        trust.check(Path("gift"), plain | options)
    assert says in str(error.value)
    trust.check(Path("gift"), plain | options, trust=True)


def test_links_to_the_outside_are_refused(here, capsys):
    """Lines and pages are written into the run: through a link, to any file of the person."""
    edit("gift", reward="length")
    Path("precious").write_text("mine")
    Path("gift/metrics.jsonl").unlink()
    os.symlink(here / "precious", "gift/metrics.jsonl")
    assert main(["resume", "gift"]) == 2
    assert "the link gift/metrics.jsonl (path)" in line(capsys)
    Path("gift/metrics.jsonl").unlink()
    os.symlink(here / "precious", "own/evaluation.json")
    assert main(OPENING["evaluate"].replace("gift", "own").split()) == 0
    assert Path("precious").read_text() == "mine" and not Path("own/evaluation.json").is_symlink()


def test_python_opens_a_strangers_policy_and_asks_for_its_reward(here):
    run = rlhf_pg.load("gift")
    run.sample("the film", max_new_tokens=2)
    run.reference, run.prompts  # noqa: B018 (both are in the folder)
    with pytest.raises(ValueError, match="reward gift/evil.py:f"):
        run.reward  # noqa: B018
    assert not Path("evil-ran").exists()
    assert rlhf_pg.load("gift", trust=True).reward and Path("evil-ran").exists()
    rlhf_pg.load("base").sample("the film", max_new_tokens=2)


def test_train_runs_the_config_that_it_is_given_and_names_its_code(here, capsys):
    assert main("train --config gift/config.yaml --output mine --iterations 1".split()) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"loading code: gift/evil.py:f from {here / 'gift/evil.py'}" in said
    assert Path("evil-ran").exists() and trust.is_signed(Path("mine"))


# Control runs: an environment may be a module


ENVIRONMENT = (
    EVIL
    + """
import gymnasium
import numpy
from gymnasium.envs.classic_control import CartPoleEnv

class Drawn(CartPoleEnv):
    def render(self):
        return numpy.zeros((4, 4, 3), dtype=numpy.uint8)

gymnasium.register("Evil-v0", entry_point=Drawn, max_episode_steps=9)
"""
)


@pytest.mark.parametrize(
    "command", ["watch {} --max_frames 9", "inspect {}", "evaluate {}", "resume {}"]
)
@pytest.mark.parametrize("option", ["env", "env_options"])
def test_an_environment_module_is_not_imported_without_trust(
    tmp_path, command, option, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = f"module_{option}_{command.split()[0]}"
    Path(f"{module}.py").write_text(ENVIRONMENT.format(marker="evil-ran"))
    small = "--total_steps 64 --eval_episodes 1 --environments 1 --policy.hidden [4]"
    small += " --checkpoint_every 1"
    assert main(f"control {small} --output gift".split()) == 0
    named = {"env": f"{module}:Evil-v0", "env_options": {"x": f"{module}:E"}}
    edit("gift", **{option: named[option]})
    words = command.format("gift").split()
    assert main(words) == 2
    assert f"{module}:E" in (said := line(capsys)) and "(code)" in said
    assert not Path("evil-ran").exists()
    done = main([*words, "--trust"])
    assert Path("evil-ran").exists() == (option == "env")
    if option == "env" and not command.startswith("resume"):
        assert done == 0  # and one's own run of it:
        assert main(f"control {small} --env {module}:Evil-v0 --output own".split()) == 0
        assert main(command.format("own").split()) == 0
        monkeypatch.chdir("gift")
        capsys.readouterr()
        assert main(command.format("../own").split()) == 2
        assert "is not what you signed here" in line(capsys)
        assert main("watch . --max_frames 9".split()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "learner: {class_path: a_class.It}",
        "learner: a_class.It",
        "learner.class_path: a_class.It",
        "learner: {lr: {class_path: a_class.It}}",
        "config: other.yaml",
        "model: !!python/name:a_class.It",
        "model: !!python/object/apply:a_class.It []",
    ],
)
def test_a_file_of_options_imports_no_class(tmp_path, monkeypatch, text, capsys):
    """jsonargparse imports what a `class_path` names, to see whether it would fit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("a_class.py").write_text(EVIL.format(marker="evil-ran") + "\nIt = dict\n")
    Path("a.yaml").write_text(text)
    Path("other.yaml").write_text("learner: {class_path: a_class.It}")
    for words in ("train --config a.yaml", "train --config=a.yaml", "reward --config a.yaml"):
        assert main(words.split()) == 2
        line(capsys)
    Path("a.yaml").write_text("class_path: a_class.It")
    assert main("train --learner a.yaml".split()) == 2
    assert not Path("evil-ran").exists()


def test_the_file_of_a_module_is_found_without_importing_it(here, monkeypatch):
    Path("pack/inner").mkdir(parents=True)
    Path("pack/__init__.py").write_text("raise SystemExit")
    Path("pack/inner/judge.py").write_text("raise SystemExit")
    assert code_file("pack.inner.judge:f") == str(here / "pack/inner/judge.py")
    assert code_file("json.decoder:f") == json.decoder.__file__
    assert code_file("nowhere.at.all:f") == "nowhere.at.all"
    assert not [name for name in sys.modules if name.split(".")[0] == "pack"]


def test_references_of_spellings(here):
    code, path, hub = (
        lambda name, kind=kind: Reference(kind, name) for kind in ("code", "path", "hub name")
    )
    expected = {
        "length:target=3": [],
        "2*a.py:f + -1*owner/name#bad:score=prob": [code("a.py:f"), hub("owner/name")],
        "mean(base, b.c:g, worst(sentiment, a/b))": [path("base"), code("b.c:g"), hub("a/b")],
        "base#label + runs/gone": [path("base"), path("runs/gone")],
    }
    for spec, found in expected.items():
        assert references(spec) == found
    for wrong in (5, None, "clip(length)", "what:ever here", ""):
        with pytest.raises(ValueError):
            references(wrong)


# The secret


def test_the_secret_is_private_and_made_once_by_many_processes_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    runs = [Run.create(tmp_path / str(i), "x", {"a": i}).path for i in range(2)]
    secret = tmp_path / "state/rlhf_pg/secret"
    assert secret.stat().st_mode & 0o777 == 0o600 and len(secret.read_bytes()) == 32
    assert all(map(trust.is_signed, runs))
    secret.unlink()
    threads = [threading.Thread(target=trust.sign, args=(run,)) for run in runs * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(trust.is_signed, runs)) and os.listdir(secret.parent) == ["secret"]


def test_a_damaged_secret_signs_nothing_until_it_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = Run.create(tmp_path / "run", "x", {"a": 1}).path
    secret = tmp_path / "state/rlhf_pg/secret"
    for damage in (b"", b"short"):
        secret.write_bytes(damage)
        assert not trust.is_signed(run)
        trust.sign(run)
        assert trust.is_signed(run) and len(secret.read_bytes()) == 32


def test_without_a_state_folder_a_run_is_made_and_is_unsigned(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    run = Run.create(tmp_path / "run", "x", {"a": 1}).path
    assert not trust.is_signed(run) and not (run / trust.SIGNATURE).exists()
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored, says its specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert trust.is_signed(Run.create(tmp_path / "other", "x", {"a": 1}).path)
    assert (tmp_path / "home/.local/state/rlhf_pg/secret").is_file()
