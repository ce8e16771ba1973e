"""The trained agent acting, as an animated picture."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlhf_pg.control.environments import encode, make_environments
from rlhf_pg.control.policies import load_policy, read_about
from rlhf_pg.progress import console


@dataclass
class WatchConfig:
    """Which run to watch, and for how long."""

    run: str = "runs/CartPole-v1-ppo"
    """Folder of a control run."""
    episodes: int = 1
    """Episodes one after another, usually 1 to 5."""
    seed: int = 0
    """Of the environment and the actions."""
    greedy: bool = False
    """Take the most likely action, in place of sampling."""
    max_frames: int = 500
    """Pictures at most, every one of them in memory."""
    output: str | None = None
    """A .gif file; none: watch.gif in the run's folder."""


def watch(config: WatchConfig) -> Path:
    """Play, and write an animated GIF. Returns its path.

    Raises ValueError where the folder holds no control run, or what draws is not installed.
    """
    about = read_about(Path(config.run) / "policy")
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError("pictures need Pillow: pip install 'rlhf-pg[render]'") from error
    try:
        frames, scores, fps = _play(config, about)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(
            f"{about['env']} cannot be drawn: {error}; "
            "for the classic ones, pip install 'rlhf-pg[render]'"
        ) from error
    path = Path(config.output) if config.output else Path(config.run) / "watch.gif"
    # Most viewers play no more than 25 pictures a second.
    skip = max(1, round(fps / 25))
    pictures = [Image.fromarray(frame) for frame in frames[::skip]]
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 * skip / fps),
        loop=0,
        optimize=True,
    )
    said = ", ".join(f"{score:g}" for score in scores)
    console.print(f"scores {said}; {len(pictures)} pictures in {path}", soft_wrap=True)
    return path


def _play(
    config: WatchConfig, about: dict[str, Any]
) -> tuple[list[np.ndarray], list[float], float]:
    """Frames, each episode's score (the last perhaps unfinished), and frames per second."""
    make_environments(about["env"], 1, about["env_options"]).close()  # names an unknown id
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing render modes, which the next lines say
        environment = gymnasium.make(about["env"], render_mode="rgb_array", **about["env_options"])
    modes = environment.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        raise ValueError(f"{about['env']} draws no pictures; its render modes are {modes}")
    space = environment.observation_space
    policy = load_policy(Path(config.run) / "policy", space, environment.action_space)
    act, rng = policy.acting(), np.random.default_rng(config.seed)
    frames: list[np.ndarray] = []
    scores: list[float] = []
    for episode in range(config.episodes):
        observation, _ = environment.reset(seed=config.seed + episode)
        scores.append(0.0)
        over = False
        while not over and len(frames) < config.max_frames:
            frames.append(np.asarray(environment.render()))
            noise = policy.distribution.noise((1,), rng) * (not config.greedy)
            action = act(encode(space, np.asarray(observation)[None]), noise)
            told = policy.distribution.to_environment(action)[0]
            observation, reward, terminated, truncated, _ = environment.step(told)
            scores[-1] += float(reward)
            over = terminated or truncated
    fps = float(environment.metadata.get("render_fps", 30))
    environment.close()
    return frames, scores, fps
