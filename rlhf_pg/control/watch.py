"""Records a trained agent as an animated GIF."""

import warnings
from pathlib import Path

import gymnasium
import numpy as np

from rlhf_pg.control.collect import make_environments
from rlhf_pg.control.config import ControlConfig, WatchConfig, read_config
from rlhf_pg.control.policy import encode, load_policy
from rlhf_pg.progress import console

MAX_RATE = 25  # frames per second, more than which most viewers do not play


def watch(config: WatchConfig) -> Path:
    """Play episodes and write an animated GIF. Returns its path.

    Raises ValueError if the folder holds no control run, or a package for rendering is missing.
    """
    run = read_config(Path(config.run), config.trust)
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError("rendering needs Pillow: pip install 'rlhf-pg[render]'") from error
    try:
        frames, scores, fps = _play(config, run)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(
            f"{run.env} cannot be rendered: {error}; "
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


def _play(config: WatchConfig, run: ControlConfig) -> tuple[list[np.ndarray], list[float], float]:
    """Frames, each episode's score (the last one may be unfinished), and frames per second."""
    # Raises for an unknown id, with a hint.
    make_environments(run.env, 1, run.env_options).close()
    with warnings.catch_warnings():
        # Gymnasium warns of a missing render mode, which is an error below.
        warnings.simplefilter("ignore")
        environment = gymnasium.make(run.env, render_mode="rgb_array", **run.env_options)
    modes = environment.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        raise ValueError(f"{run.env} renders no images; its render modes are {modes}")
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
            step = environment.step(policy.distribution.to_environment(action)[0])
            observation, reward, terminated, truncated, _ = step
            scores[-1] += float(reward)
            over = terminated or truncated
    fps = float(environment.metadata.get("render_fps", 30))
    environment.close()
    return frames, scores, fps
