"""A trained agent is recorded as a GIF; errors name what is missing."""

import importlib.util

import pytest
from PIL import Image

from rlhf_pg.control.config import WatchConfig, preset, tuned
from rlhf_pg.control.train import train
from rlhf_pg.control.watch import watch


def trained(folder, env: str) -> str:
    config = tuned(
        preset("a2c", env), total_steps=100, eval_episodes=2, hidden=[4], output=str(folder)
    )
    return str(train(config).path)


def test_an_animation_of_the_agent(tmp_path):
    path = watch(WatchConfig(trained(tmp_path / "run", "Counter-v0"), episodes=2))
    assert path == tmp_path / "run" / "watch.gif"
    with Image.open(path) as picture:
        # Two episodes, of two steps and three.
        assert (picture.n_frames, picture.size) == (5, (30, 20))


def test_a_missing_package_is_named(tmp_path):
    run = trained(tmp_path / "run", "CartPole-v1")
    if importlib.util.find_spec("pygame") is None:
        with pytest.raises(ValueError, match="rlhf-pg\\[render"):
            watch(WatchConfig(run))
    else:
        assert watch(WatchConfig(run, max_frames=5)).stat().st_size > 0


def test_a_folder_that_is_no_run_and_a_damaged_one(tmp_path):
    with pytest.raises(ValueError, match="holds no control run"):
        watch(WatchConfig(str(tmp_path)))
    run = trained(tmp_path / "run", "Counter-v0")
    (tmp_path / "run" / "policy" / "policy.safetensors").write_bytes(b"not a policy")
    with pytest.raises(ValueError, match="damaged"):
        watch(WatchConfig(run))
    (tmp_path / "run" / "policy" / "policy.safetensors").unlink()
    with pytest.raises(ValueError, match="no control policy"):
        watch(WatchConfig(run))
