"""An environment of one's own: a module in the current folder, in every command."""

import sys

import pytest

import rlhf_pg
from rlhf_pg.cli import main
from rlhf_pg.control.collect import Collector, time_limit

MODULE = """
import gymnasium, numpy
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
import beside

class Walk(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict({"at": spaces.Discrete(5), "seen": spaces.MultiBinary(2)})

    def __init__(self, render_mode=None, pixels=False):
        self.render_mode, self.pixels = render_mode, pixels
        if pixels:
            self.observation_space = spaces.Box(0, 255, (4, 5), numpy.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(5))
        return self.observe(), {}

    def observe(self):
        if self.pixels:
            return numpy.full((4, 5), self.at, numpy.uint8)
        return {"at": self.at, "seen": numpy.array([self.at > 2, True], numpy.int8)}

    def step(self, action):
        self.at = min(4, max(0, self.at + 2 * int(action) - 1))
        return self.observe(), float(self.at == 4), False, False, {}

    def render(self):
        return numpy.zeros((2, 2, 3), numpy.uint8)

gymnasium.register("Walk-v0", entry_point=Walk, max_episode_steps=6)
gymnasium.register("Endless-walk-v0", entry_point=Walk)
gymnasium.register("Flat-v0", entry_point=lambda: FlattenObservation(Walk(pixels=True)),
                   max_episode_steps=6)
"""
SMALL = "--total_steps 60 --environments 2 --rollout_steps 10 --eval_episodes 3 --eval_interval 20"
SMALL += " --policy.hidden [4] --checkpoint_every 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    (folder / "walk_module.py").write_text(MODULE)
    (folder / "beside.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(f"control --env walk_module:Walk-v0 {SMALL} --output run".split()) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_a_module_is_found_in_the_current_folder_and_named(folder, capsys):
    """A console script's path lacks the current folder, as the tests' does."""
    assert not {str(folder), "", "."} & set(sys.path)
    assert main(f"control --env walk_module:Walk-v0 {SMALL} --output other".split()) == 0
    said = capsys.readouterr().out
    assert f"loading code: walk_module:Walk-v0 from {folder / 'walk_module.py'}" in said
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    "words",
    [
        "inspect run",
        "inspect run --terminal",
        "watch run --max_frames 8",
        "evaluate run",
        "verify run",
        "compare --env walk_module:Walk-v0 --total_steps 40 --eval_episodes 2 --seeds 1 "
        "--algorithms [a2c] --gradient_batches 2 --probe_steps 20",
        "study estimators --model run --estimates 40 --rows 4 --truth_rows 4000 "
        "--samples_per_prompt 2 --lambdas [1.0] --ppo_steps [0]",
    ],
)
def test_every_command_opens_it(words, capsys):
    code, said = main(words.split()), capsys.readouterr()
    assert code == 0 or "raise --truth_rows" in said.err, said.err


def test_an_agent_acts_on_the_environments_own_observations():
    agent = rlhf_pg.load("run")
    observation = agent.space.sample()
    assert agent.act(observation, greedy=True) in (0, 1)
    assert rlhf_pg.load("run/best").act(observation) in (0, 1)


def test_pixels_are_refused_and_flattened_on_purpose(capsys):
    words = f"control --env walk_module:Walk-v0 {SMALL} --output pixels".split()
    assert main([*words, "--env_options.pixels", "true"]) == 2
    assert "images" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert main(f"control --env walk_module:Flat-v0 {SMALL} --output flat".split()) == 0


def test_a_missing_time_limit_is_said_and_can_be_set(capsys):
    name = "walk_module:Endless-walk-v0"
    words = f"control --env {name} {SMALL} --output limited"
    assert main(f"{words} --env_options.max_episode_steps 4".split()) == 0
    assert "no time limit" not in capsys.readouterr().out
    assert time_limit(name, {}) is time_limit(name, {"max_episode_steps": -1}) is None
    assert time_limit(name, {"max_episode_steps": 4}) == 4 != time_limit("walk_module:Walk-v0", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collector, "LONGEST", 50)
        assert main(f"control --env {name} {SMALL} --output endless".split()) == 2
    said = capsys.readouterr()
    assert f"note: {name} has no time limit" in said.out
    assert "did not end within 50 steps: set a time limit, --env_options" in said.err
