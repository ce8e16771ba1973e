"""Asynchronous workers learn together, and none is ever left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rlhf_pg.control.a3c import Asynchronous, SharedAdam, SharedState
from rlhf_pg.control.presets import preset, tuned
from rlhf_pg.control.synchronous import Synchronous

SMALL = dict(environments=2, rollout_steps=8, hidden=[8], eval_episodes=2)


def alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be buried does not."""
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
    """With nobody else at the parameters, the shared optimiser takes the very same steps."""
    config = tuned(preset("a3c"), **SMALL)
    plain = Synchronous(config)
    shared = SharedState(plain.policy)
    worker = Synchronous(config, optimizer=lambda p: SharedAdam(p, shared, config.learner))
    for _ in range(5):
        assert plain.iterate()["grad_norm"] == pytest.approx(worker.iterate()["grad_norm"])
    for mine, ours, own in zip(
        plain.policy.parameters(), shared.parameters, worker.policy.parameters(), strict=True
    ):
        torch.testing.assert_close(mine.detach(), ours)
        torch.testing.assert_close(own.detach(), ours)


def test_two_workers_step_the_same_parameters_and_a_dead_one_is_reported():
    training = Asynchronous(tuned(preset("a3c"), workers=2, **SMALL))
    pids = [worker.pid for worker in training.workers]
    try:
        before = [p.clone() for p in training.shared.parameters]
        line = training.iterate()
        with training.paused():
            time.sleep(0.05)  # let the step under way end
            assert line["steps"] == training.steps > 0
            assert any(
                not a.equal(b) for a, b in zip(before, training.shared.parameters, strict=True)
            )
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(ChildProcessError, match=r"worker 0 .* exit code -9"):
            for _ in range(100):
                training.iterate()
    finally:
        training.close()
    assert not any(alive(pid) for pid in pids)


def test_a_worker_that_fails_says_why_and_takes_nobody_along():
    # Known here, by the scripted environments, and not in a new process.
    config = tuned(preset("a3c", "Endless-v0"), workers=1, **SMALL)
    with pytest.raises(ChildProcessError, match="no Gymnasium environment 'Endless-v0'"):
        Asynchronous(config)


def test_running_state_is_refused():
    with pytest.raises(ValueError, match="policy.normalise"):
        Asynchronous(tuned(preset("a3c"), normalise=True))


SCRIPT = """
import json, signal, sys, time
from rlhf_pg.control.presets import preset, tuned
from rlhf_pg.control.training import learn
from rlhf_pg.control.a3c import Asynchronous
config = tuned(preset("a3c"), workers=2, total_steps=10**9, eval_interval=10**9)
# A shell starts what it runs in the background deaf to interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
training = Asynchronous(config)
said = False
def report(line):
    global said
    if not said:
        print(json.dumps([worker.pid for worker in training.workers]), flush=True)
    said = True
    if sys.argv[1] == "paused":
        with training.paused():
            time.sleep(1000)
learn(training, config, report)
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
        # As a terminal does: to the whole group.
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
