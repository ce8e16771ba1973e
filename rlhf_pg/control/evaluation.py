"""How good a policy is: whole episodes, in environments that training never sees."""

import numpy as np

from rlhf_pg.control.environments import make_environments
from rlhf_pg.control.policies import ActorCritic
from rlhf_pg.control.presets import ControlConfig
from rlhf_pg.control.rollout import Collector

EVALUATION_SEED = 500_009  # added to a run's seed


class Evaluator:
    """`eval_episodes` environments side by side, one episode of each; new ones at every call."""

    def __init__(self, config: ControlConfig, policy: ActorCritic) -> None:
        environments = make_environments(config.env, config.eval_episodes, config.env_options)
        seed = config.seed + EVALUATION_SEED
        self.collector = Collector(environments, policy, seed, config.greedy)

    def __call__(self) -> np.ndarray:
        """Undiscounted scores, (eval_episodes,)."""
        return np.array([episode.score for episode in self.collector.play()])

    def close(self) -> None:
        """Release the environments."""
        self.collector.environments.close()


def surely_reaches(scores: np.ndarray, threshold: float | None) -> bool:
    """Whether the mean less two standard errors is at the threshold or above.

    The errors are taken off because training asks again and again: it would stop on a lucky draw.
    """
    if threshold is None:
        return False
    return bool(scores.mean() - 2 * scores.std() / len(scores) ** 0.5 >= threshold)
