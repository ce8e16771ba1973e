"""Asynchronous workers train shared parameters, and none outlives its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlhf_pg.control.a3c import RUN, STOP, AsynchronousTrainer, SharedAdam, SharedState, work
from rlhf_pg.control.config import preset, tuned
from rlhf_pg.control.train import RunState, Trainer

SMALL = dict(environments=2, rollout_steps=8, hidden=[8], eval_episodes=2)


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def gone(pids: list[int], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_one_worker_alone_is_a2c():
    """With a single worker, the shared optimiser takes the same steps as a2c's."""
    config = tuned(preset("a3c"), **SMALL)
    plain = Trainer(config)
    shared = SharedState(plain.policy)
    worker = Trainer(config, optimizer=lambda p: SharedAdam(p, shared, config.learner))
    for _ in range(5):
        assert plain.step()["grad_norm"] == pytest.approx(worker.step()["grad_norm"])
    for a2c, common, own in zip(
        plain.policy.parameters(), shared.parameters, worker.policy.parameters(), strict=True
    ):
        torch.testing.assert_close(a2c.detach(), common)
        torch.testing.assert_close(own.detach(), common)
    # Adam's moments are shared too.
    assert all(moments["step"] == 5 and moments["exp_avg"].any() for moments in shared.moments)


def test_two_workers_step_the_same_parameters_and_a_dead_one_is_reported():
    training = AsynchronousTrainer(tuned(preset("a3c"), workers=2, **SMALL), Trainer)
    pids = [worker.pid for worker in training.workers]
    try:
        before = [p.clone() for p in training.shared.parameters]
        metrics = training.step()
        assert metrics["steps"] == training.steps > 0 < metrics["gradient_steps"]
        assert training.steps <= 2 * 8 * metrics["gradient_steps"]  # an update is of one segment
        time.sleep(0.05)  # the workers go on: wait for a step after the last one received
        training.pause()
        time.sleep(0.5)  # let the steps under way end
        after = [p.clone() for p in training.shared.parameters]
        assert any(not a.equal(b) for a, b in zip(before, after, strict=True))
        training.pause()
        time.sleep(0.2)
        for paused, own, common in zip(
            after, training.policy.parameters(), training.shared.parameters, strict=True
        ):
            assert paused.equal(own) and paused.equal(common)
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(ChildProcessError, match=r"worker 0 .* exit code -9"):
            for _ in range(100):
                training.step()
    finally:
        training.close()
    assert not any(alive(pid) for pid in pids)


def test_a_worker_trains_by_its_own_rank_and_counts_its_new_steps_alone():
    shared = SimpleNamespace(wanted=torch.tensor(RUN), copy_to=lambda policy: None)
    ranks, sent = [], []

    class Counting:
        policy, steps = None, 0

        def step(self):
            self.steps += 10
            shared.wanted.fill_(STOP if self.steps == 30 else RUN)
            return {"steps": self.steps}

        def close(self):
            ranks.append("closed")

    def make(config, rank, optimizer):
        ranks.append(rank)
        return Counting()

    out = SimpleNamespace(send=sent.append)
    work(3, tuned(preset("a3c"), **SMALL), make, shared, out, os.getppid())
    assert ranks == [3, "closed"]
    assert sent[0] == "ready" and [line["new_steps"] for line in sent[1:]] == [10, 10, 10]


def test_a_worker_that_fails_reports_why():
    # Registered in this process alone, not in a new one.
    config = tuned(preset("a3c", "Endless-v0"), workers=1, **SMALL)
    with pytest.raises(ChildProcessError, match="no Gymnasium environment 'Endless-v0'"):
        AsynchronousTrainer(config, Trainer)


def test_running_state_is_refused():
    with pytest.raises(ValueError, match="policy.normalise"):
        RunState(tuned(preset("a3c"), normalise=True))


SCRIPT = """
import json, signal, sys, time
from rlhf_pg.control.config import preset, tuned
from rlhf_pg.control.train import RunState, learn
config = tuned(preset("a3c"), workers=2, total_steps=10**9, eval_interval=10**9)
# A shell starts background processes with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
state = RunState(config)
def log(metrics):
    if state.iteration == 1:
        print(json.dumps([worker.pid for worker in state.trainer.workers]), flush=True)
    if sys.argv[1] == "paused":
        state.trainer.pause()
        time.sleep(1000)
learn(state, log)
"""


@pytest.mark.parametrize("sent, doing", [(signal.SIGINT, "learning"), (signal.SIGKILL, "paused")])
def test_no_worker_outlives_an_interrupted_parent(sent, doing):
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, doing],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    try:
        pids = json.loads(parent.stdout.readline())
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        # To the whole group, as a terminal does.
        (os.killpg if sent == signal.SIGINT else os.kill)(parent.pid, sent)
        _, errors = parent.communicate(timeout=60)
        assert gone(pids)
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
            parent.communicate()
    assert parent.returncode == -sent
    if sent == signal.SIGINT:
        assert errors.count("Traceback") == 1  # the parent's own KeyboardInterrupt, no worker's
