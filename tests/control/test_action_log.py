"""The log of actions is what was done, byte for byte, and what is missing from it is said."""

import os
import shutil

import numpy as np
import pytest
from gymnasium import spaces

from rlhf_pg.cli import main
from rlhf_pg.control.action_log import CHUNK, ActionLog
from rlhf_pg.control.collect import Collector, make_environments
from rlhf_pg.control.config import PolicyConfig
from rlhf_pg.control.distributions import distribution_for
from rlhf_pg.control.policy import ActorCritic


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Discrete(256), 1),
        (spaces.Discrete(257, start=-3), 8),
        (spaces.MultiDiscrete([2, 9]), 2),
        (spaces.Box(-1, 1, (2, 2)), 16),
    ],
    ids=str,
)
def test_actions_are_read_as_they_were_sampled(tmp_path, space, size):
    distribution, rng = distribution_for(space), np.random.default_rng(0)
    log = ActionLog(tmp_path / "log", distribution.stored, environments=3)
    done: list[np.ndarray | None] = []
    for _ in range(CHUNK + 2):
        outputs = rng.standard_normal((3, distribution.size), dtype=np.float32)
        done.append(distribution.sample(outputs, distribution.noise((3,), rng)))
        log.step(done[-1])
    done.append(None)
    log.restart()
    length = log.flush()
    assert length == (CHUNK + 3) * (1 + 3 * size) == os.path.getsize(tmp_path / "log")
    for expected, found in zip(done, log.read(length), strict=True):
        assert (expected is None) == (found is None)
        assert expected is None or np.array_equal(expected, found)
    log.close()


def test_a_collector_brings_its_environments_to_where_they_were(tmp_path, counter_log):
    """Also those whose state depends on all episodes before, which no seed tells."""

    def collector() -> Collector:
        environments = make_environments("Counter-v0", 3)
        spaces_ = environments.single_observation_space, environments.single_action_space
        made = Collector(environments, ActorCritic(*spaces_, PolicyConfig(hidden=[4])), seed=1)
        made.keep_log(tmp_path / "log")
        return made

    first = collector()
    first.segment(7), first.episodes(), first.segment(2)
    state = first.state_dict()
    second = collector()
    second.load_state_dict(state)
    assert first.segment(9).inputs.equal(second.segment(9).inputs)
    assert not first.log.file.closed
    first.close(), second.close()


def test_a_damaged_log_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "control --total_steps 2000 --environments 4 --eval_episodes 2 --checkpoint_every 1"
    assert main(f"{words} --output run".split()) == 0
    log = tmp_path / "run/training.actions"
    shutil.copy(log, "kept")
    os.truncate(log, os.path.getsize(log) // 2)
    assert main("resume run".split()) == 2
    error = capsys.readouterr().err
    assert "training.actions is missing or cut short" in error and error.count("\n") == 1
    content = bytearray((tmp_path / "kept").read_bytes())
    content[1:] = [byte ^ 1 if at % 5 else byte for at, byte in enumerate(content[1:], 1)]
    log.write_bytes(content)
    assert main("resume run".split()) == 2
    assert "did not repeat their steps" in capsys.readouterr().err
