"""What a reward may do to the process that calls it, and for how long. See also test_faults.py."""

import os
import signal
import sys
import time

import pytest
import torch

from reward_models import RewardError, guard
from reward_models.calling import call_reward
from reward_models.guard import copied, guarded, time_limit
from reward_models.loading import load_function
from support.runs import forked


def test_rewards_get_copies_of_lists_and_dicts_and_the_same_other_values():
    tensor = torch.zeros(2)
    columns = {"a": ["x", tensor], "b": [[{"c": ["y"]}], None]}
    copy = copied(columns)
    assert copy == columns and copy["a"][1] is tensor
    copy["a"].append("z")
    copy["b"][0][0]["c"].clear()
    assert columns == {"a": ["x", tensor], "b": [[{"c": ["y"]}], None]}


def test_the_import_of_a_reward_is_guarded_too(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os, torch\ntorch.set_default_dtype(torch.float64)\nos.chdir('/')\n"
        "def reward(completions): return [float(torch.get_default_dtype() == torch.float32)]\n"
    )
    here = os.getcwd()
    reward = load_function(f"{tmp_path}/mine.py:reward")
    assert torch.get_default_dtype() == torch.float32 and os.getcwd() == here
    assert call_reward(reward, "mine", prompts=["a"], completions=["b"]) == [1.0]


def test_settings_are_restored_also_after_an_error():
    def states():
        return (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_default_device(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
            os.getcwd(),
        )

    before = states()
    with pytest.raises(KeyError), guarded("r"):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(2)
        os.chdir("/")
        assert not set(states()) & {*before[:1], *before[2:3], *before[5:]}
        raise KeyError
    assert states() == before


@pytest.mark.parametrize("code", ["while True: pass", "re.match('(a+)+$', 'a' * 40 + 'b')"])
def test_a_time_limit_interrupts_python_code_and_regular_expressions(code):
    def reward(completions):
        exec(f"import re\n{code}")

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(RewardError, match="'r' failed: .*more than --reward_timeout 0.05 s"):
        with time_limit(0.05, "--reward_timeout"):
            call_reward(reward, "r", prompts=["a"], completions=["b"])
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_code_that_cannot_be_interrupted_is_ended_with_the_process(tmp_path):
    """A C function that holds the interpreter and never looks for signals."""

    def run():
        sys.__stderr__ = sys.stderr
        guard.GRACE = 0.1
        with time_limit(0.1):
            max(iter(int, 1))

    began = time.monotonic()
    finished = forked(tmp_path, "--version", before=run)
    assert finished.code == 1 and "Timeout (0:00:00.2" in finished.err
    assert 'test_guard.py", line' in finished.err and time.monotonic() - began < 10


def test_without_a_time_limit_no_signal_is_touched(monkeypatch):
    monkeypatch.delattr(signal, "setitimer")
    monkeypatch.delattr(signal, "SIGALRM")
    with time_limit(None):
        pass
    with time_limit(5.0):  # as on Windows
        pass
