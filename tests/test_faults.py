"""Faults that really happen to a run: what is lost, what is said, and that it can be resumed.

Every run is a process of its own, forked from this one. `scripts/faults` repeats these faults many
times at random moments.
"""

import ctypes
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import reward_models.files
from rlhf_pg import trust
from rlhf_pg.checkpoint import checkpoint_folders, newest
from rlhf_pg.cli import main
from rlhf_pg.core.learner import Learner
from rlhf_pg.memory import out_of_memory
from support.runs import Forked, content, forked, make_world

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are tried in forked runs")

TRAIN = (
    "train --model base --data prompts.jsonl --rows 8 --max_new_tokens 4 --samples_every 1 "
    "--algorithm a2c --iterations 5 --checkpoint_every 2 --device cpu --reward rewards.py:"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_world(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(words("plain", "whole")) == 0  # in this process: forked ones import nothing
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A folder with the same files; "whole" is a run without faults."""
    shutil.copytree(world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    trust.sign(Path("whole"))  # its code and data are here now
    return tmp_path / "here"


def words(reward, output="run", *more):
    return [*(TRAIN + reward).split(), "--output", output, *more]


def said(finished):
    """The only line on stderr."""
    assert finished.err.startswith("rlhf-pg: ") and finished.err.count("\n") == 1, finished
    return finished.err


def resumes(here, checkpoint):
    """The newest checkpoint is this one, and resuming from it gives the run without faults."""
    assert checkpoint_folders(here / "run")[0].name == f"{checkpoint:06d}"
    resumed = forked(here, "resume", "run")
    assert resumed.code == 0, resumed
    assert content(here / "run") == content(here / "whole")


# Rewards


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("raises", "ZeroDivisionError: division by zero"),
        ("hangs", "RewardTimeout: scoring a rollout took more than --reward_timeout 0.3 s"),
        ("exits", "SystemExit: 0"),
        ("cancels", "CancelledError"),
    ],
)
def test_a_reward_that_fails_ends_the_run_with_a_line_and_the_command_that_resumes(
    here, reward, says
):
    limit = ["--reward_timeout", "0.3"] if reward == "hangs" else []
    finished = forked(here, *words(reward, "run", *limit))
    assert finished.code == 2
    line = said(finished)
    assert f"reward '{reward}' failed: {reward} at " in line and says in line
    assert "checkpoint of iteration 2 is kept; continue with: " in finished.out
    assert "resume run" in finished.out
    if reward in ("exits", "cancels"):
        resumes(here, 2)


@pytest.mark.parametrize("reward", ["forks", "changes_settings", "edits"])
def test_what_a_reward_does_to_the_process_or_its_arguments_changes_nothing(here, reward):
    finished = forked(here, *words(reward))
    assert finished.code == 0, finished
    assert content(here / "run") == content(here / "whole")
    ended = "reward 'forks' forked a process that returned from it; it was ended\n"
    assert finished.err == (ended if reward == "forks" else "")


def test_a_process_that_a_reward_left_does_not_hold_the_run(here):
    finished = forked(here, *words("leaves_a_process"))
    child = int((here / "child").read_text())
    try:
        assert finished.code == -signal.SIGKILL
        resumes(here, 2)
    finally:
        os.kill(child, signal.SIGKILL)


# Kills and files


@pytest.mark.parametrize("moment", ["filling", "before the rename", "after the rename"])
def test_a_kill_while_a_checkpoint_is_written_leaves_a_whole_one(here, moment):
    def before():
        flush, rename = reward_models.files._flush, Path.rename

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        def flush_or_die(path):
            flush(path)
            if moment == "filling" and path.name == "state.json" and "000004" in str(path):
                die()

        def rename_or_die(path, target):
            if Path(target).name == "000004" and moment == "before the rename":
                die()
            rename(path, target)
            if Path(target).name == "000004" and moment == "after the rename":
                die()

        reward_models.files._flush, Path.rename = flush_or_die, rename_or_die

    assert forked(here, *words("plain"), before=before).code == -signal.SIGKILL
    assert len((here / "run/metrics.jsonl").read_text().splitlines()) == 4
    resumes(here, 4 if moment == "after the rename" else 2)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(here, capsys):
    shutil.copytree("whole", "run")
    shutil.rmtree("run/policy")
    for name in ("tensors.safetensors", "state.json", "checksums.json", "policy/config.json"):
        file = here / "run/checkpoints/000004" / name
        data = file.read_bytes()
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 16
        for damaged in (data[: len(data) // 2], b"", bytes(flipped), None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            assert newest(Path("run"))["iteration"] == 2
            warning = capsys.readouterr().out
            assert "warning: the checkpoint run/checkpoints/000004 is damaged (" in warning
            assert file.name in warning or name == "checksums.json"
            file.write_bytes(data)
        assert newest(Path("run"))["iteration"] == 4
    file.write_bytes(flipped)
    resumed = forked(here, "resume", "run")
    assert resumed.code == 0 and "from iteration 2" in resumed.out
    assert content(here / "run") == content(here / "whole")


def test_if_every_checkpoint_is_damaged_it_says_so(here):
    for folder in checkpoint_folders(here / "whole"):
        (folder / "state.json").write_text("{}")
    assert "no checkpoint of whole can be used: the checkpoint" in said(
        forked(here, "resume", "whole")
    )


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(here):
    finished = forked(here, *words("fills_the_disk"))
    assert finished.code == 2 and "File too large" in said(finished)
    assert "checkpoint of iteration 2 is kept" in finished.out
    assert not list((here / "run").rglob(".0*")) and not (here / "run/policy").exists()
    resumes(here, 2)


def test_a_torn_last_line_is_dropped_and_said(here):
    for name in ("metrics", "samples", "tokens"):
        path = here / f"whole/{name}.jsonl"
        path.write_bytes(path.read_bytes()[:-7])
    inspected = forked(here, *"inspect whole --completions 1 --continuations 2".split())
    assert inspected.code == 0, inspected
    for name in ("metrics", "tokens"):
        assert f"warning: whole/{name}.jsonl: incomplete last line left out" in inspected.out


def test_of_two_runs_into_one_folder_one_is_refused(here):
    both = [run.wait() for run in [Forked(here, *words("plain")) for _ in range(2)]]
    assert sorted(finished.code for finished in both) == [0, 2]
    assert "choose another --output" in said(max(both))
    assert content(here / "run") == content(here / "whole")


def test_a_folder_removed_while_it_runs_is_an_error(here):
    finished = forked(here, *words("removes_the_run"))
    assert finished.code == 2
    assert "the run's folder run was removed while it ran" in said(finished)
    assert not (here / "run").exists()


def not_above_permissions():
    """Let the administrator be refused as others are (Linux: without CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        assert libc.capget(header, sets) == 0
        sets[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        assert libc.capset(header, sets) == 0


@pytest.mark.skipif(sys.platform != "linux" and os.geteuid() == 0, reason="root may write all")
def test_a_read_only_folder_is_one_line(here):
    (here / "locked").mkdir(mode=0o555)
    finished = forked(here, *words("plain", "locked/run"), before=not_above_permissions)
    assert finished.code == 2 and "Permission denied" in said(finished)
    finished = forked(here, *words("makes_it_read_only"), before=not_above_permissions)
    assert finished.code == 2 and "Permission denied" in said(finished)
    for path in [here / "run", *(here / "run").rglob("*")]:
        path.chmod(0o755)
    resumes(here, 2)


# Memory


def test_out_of_memory_names_what_to_lower(here):
    def before():
        losses, calls = Learner._losses, []

        def hungry(self, *arguments):
            calls.append(1)
            if len(calls) == 3:  # iterations
                resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
                torch.empty(2**34)
            return losses(self, *arguments)

        Learner._losses = hungry

    finished = forked(here, *words("plain"), before=before)
    assert finished.code == 2
    line = said(finished)
    assert "out of memory: lower --rows, --learner.micro_rows or --max_new_tokens" in line
    assert "checkpoint of iteration 2 is kept" in finished.out
    resumes(here, 2)


def test_what_out_of_memory_is():
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")):
        assert "lower --learner.batch_size" in out_of_memory(error, "reward")
    assert "out of memory: lower the number of rows" in out_of_memory(MemoryError(), "demo")
    for error in (RuntimeError("shapes do not fit"), ValueError("out of memory")):
        assert out_of_memory(error, "train") is None
