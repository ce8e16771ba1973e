"""A trained agent, acting on one observation at a time, and its episodes as an animated GIF."""

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from rlhf_pg.control.collect import make_environments, making
from rlhf_pg.control.config import ControlConfig, WatchConfig, control_run, read_config
from rlhf_pg.control.policy import ActorCritic, encode, load_policy, policy_folder
from rlhf_pg.progress import console

MAX_RATE = 25  # frames per second, more than which most viewers do not play


class Agent:
    """The policy of a run: observations in, actions out."""

    def __init__(
        self, policy: ActorCritic, config: ControlConfig, space: gymnasium.Space, seed: int = 0
    ) -> None:
        self.policy, self.config, self.space = policy, config, space
        self.rng = np.random.default_rng(seed)
        self.sample = policy.acting()

    @classmethod
    def load(cls, run: str | Path, seed: int = 0, trust: bool = False) -> "Agent":
        """The agent of a run's folder, or of best/ in it; raises ValueError as `read_config` does.

        `seed` is that of the sampled actions.
        """
        config = read_config(control_run(run) or Path(run), trust)
        environments = make_environments(config.env, 1, config.env_options)
        environments.close()
        space = environments.single_observation_space
        policy = load_policy(policy_folder(Path(run)), space, environments.single_action_space)
        return cls(policy, config, space, seed)

    def act(self, observation: Any, greedy: bool = False) -> Any:
        """An action for one observation, as `env.step` takes it; the likeliest one if `greedy`."""
        batch: Any = create_empty_array(self.space)
        states = encode(self.space, concatenate(self.space, [observation], batch))
        noise = self.policy.distribution.noise((1,), self.rng) * (not greedy)
        return self.policy.distribution.to_environment(self.sample(states, noise))[0]


def watch(config: WatchConfig) -> Path:
    """Play episodes and write an animated GIF. Returns its path.

    Raises ValueError if the folder holds no control run, or a package for rendering is missing.
    """
    agent = Agent.load(config.run, config.seed, config.trust)
    env = agent.config.env
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError("rendering needs Pillow: pip install 'rlhf-pg[render]'") from error
    try:
        frames, scores, fps = _play(config, agent)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(
            f"{env} cannot be rendered: {error}; "
            "for the classic environments, pip install 'rlhf-pg[render]'"
        ) from error
    path = Path(config.output) if config.output else Path(config.run) / "watch.gif"
    if path.is_symlink():  # through a link in somebody else's folder, another file would change
        path.unlink()
    every = max(1, round(fps / MAX_RATE))
    images = [Image.fromarray(frame) for frame in frames[::every]]
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=round(1000 * every / fps),
        loop=0,
        optimize=True,
    )
    listed = ", ".join(f"{score:g}" for score in scores)
    console.print(f"scores {listed}; {len(images)} frames in {path}", soft_wrap=True)
    return path


def _play(config: WatchConfig, agent: Agent) -> tuple[list[np.ndarray], list[float], float]:
    """Frames, each episode's score (the last one may be unfinished), and frames per second."""
    env, options = agent.config.env, agent.config.env_options
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures need no window
    options = {"render_mode": "rgb_array", **options}
    with making(env, options):  # Gymnasium's warning of a missing render mode is an error below
        environment = gymnasium.make(env, **options)
    modes = environment.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        raise ValueError(f"{env} renders no images; its render modes are {modes}")
    frames: list[np.ndarray] = []
    scores: list[float] = []
    for episode in range(config.episodes):
        observation, _ = environment.reset(seed=config.seed + episode)
        scores.append(0.0)
        over = False
        while not over and len(frames) < config.max_frames:
            frames.append(np.asarray(environment.render()))
            action = agent.act(observation, config.greedy)
            observation, reward, terminated, truncated, _ = environment.step(action)
            scores[-1] += float(reward)
            over = terminated or truncated
    fps = float(environment.metadata.get("render_fps", 30))
    environment.close()
    return frames, scores, fps
