"""A trained agent can be watched; what is missing is said."""

import importlib.util

import pytest
from PIL import Image

from rlhf_pg.control.presets import preset, tuned
from rlhf_pg.control.training import train
from rlhf_pg.control.watch import WatchConfig, watch


def trained(folder, env: str) -> str:
    config = tuned(
        preset("a2c", env), total_steps=100, eval_episodes=2, hidden=[4], output=str(folder)
    )
    return train(config).path


def test_an_animated_picture_of_the_agent(tmp_path):
    path = watch(WatchConfig(trained(tmp_path / "run", "Counter-v0"), episodes=2))
    assert path == tmp_path / "run" / "watch.gif"
    with Image.open(path) as picture:
        # Two episodes, of two steps and three.
        assert (picture.n_frames, picture.size) == (5, (30, 20))


def test_without_what_draws_the_remedy_is_said(tmp_path):
    run = trained(tmp_path / "run", "CartPole-v1")
    if importlib.util.find_spec("pygame") is None:
        with pytest.raises(ValueError, match="rlhf-pg\\[render"):
            watch(WatchConfig(run))
    else:
        assert watch(WatchConfig(run, max_frames=5)).stat().st_size > 0


def test_a_folder_that_is_no_run_and_a_damaged_one(tmp_path):
    with pytest.raises(ValueError, match="no control policy"):
        watch(WatchConfig(str(tmp_path)))
    run = trained(tmp_path / "run", "Counter-v0")
    (tmp_path / "run" / "policy" / "policy.safetensors").write_bytes(b"not a policy")
    with pytest.raises(ValueError, match="policy"):
        watch(WatchConfig(run))
