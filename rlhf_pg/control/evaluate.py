"""How good the policy of a run is, in new episodes (`rlhf-pg evaluate`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.files import saved_text
from rlhf_pg.control.collect import Collector, make_environments, own_threshold
from rlhf_pg.control.watch import Agent
from rlhf_pg.progress import console


def evaluate_episodes(
    path: Path,
    episodes: int | None = None,
    seed: int = 0,
    greedy: bool = False,
    output: Path | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Play whole episodes with the policy of a run, or of best/ in one; print and return scores.

    `episodes` defaults to the run's `eval_episodes`; each has an environment of its own. The same
    `seed` gives the same episodes. Writes `output`, or evaluation.json if `path` is a run. Raises
    ValueError as `Agent.load` does.
    """
    agent = Agent.load(path, trust=trust)
    config = agent.config
    count, greedy = episodes or config.eval_episodes, greedy or config.greedy
    environments = make_environments(config.env, count, config.env_options)
    collector = Collector(environments, agent.policy, seed, greedy)
    scores = collector.play()
    lengths = [episode.length for episode in collector.finished]
    environments.close()
    mean, std = float(scores.mean()), float(scores.std())
    result = {
        "run": str(path),
        "env": config.env,
        "env_options": config.env_options,
        "episodes": count,
        "seed": seed,
        "greedy": greedy,
        "score": mean,
        "score_std": std,
        "standard_error": std / count**0.5,
        "length": float(np.mean(lengths)),
        "scores": scores.tolist(),
        "lengths": lengths,
    }
    error = f" ± {result['standard_error']:.1f}" if count > 1 else ""
    console.print(
        f"{path}: {mean:.1f}{error} over {count} {'greedy' if greedy else 'sampled'} episodes of "
        f"{config.env}, seed {seed}; lowest {scores.min():g}, highest {scores.max():g}, mean "
        f"length {result['length']:.1f}",
        markup=False,
    )
    threshold = config.threshold if config.threshold is not None else own_threshold(config.env)
    if threshold is not None:
        least = mean - 2 * result["standard_error"]
        console.print(
            f"mean less two standard errors: {least:.1f}, "
            f"{'at least' if least >= threshold else 'below'} the threshold of {threshold:g}"
        )
    where = output or (path / "evaluation.json" if (path / "config.yaml").is_file() else None)
    if where:
        saved_text(where, json.dumps(result, indent=1) + "\n")
        console.print(f"written to {where}", markup=False)
    return result
