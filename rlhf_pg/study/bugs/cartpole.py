"""Would a test of learning notice a bug? PPO on CartPole, to a mean score of 475."""

from functools import cache
from typing import Any

import numpy as np
import torch

from rlhf_pg.control.collect import Collector, Step
from rlhf_pg.control.config import preset, tuned
from rlhf_pg.control.train import RunState, Trainer, learn
from rlhf_pg.study.bugs.functions import Functions
from rlhf_pg.study.bugs.learner import ReplacedLearner

SEEDS = 3
STEPS = 100_000  # two to three times what the right code needs


class ReplacedCollector(Collector):
    """A collector that calls `functions` for steps that reset and for truncations."""

    functions: Functions

    def _outcome(self, steps: list[Step]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        f = self.functions
        steps = [s._replace(real=f.real_steps(torch.from_numpy(~s.real)).numpy()) for s in steps]
        rewards, ends, mask, terminated = super()._outcome(steps)
        # The collector drops the value after a termination: a step after which `f` drops it is one.
        ended, over = torch.from_numpy(ends).bool(), torch.from_numpy(terminated)
        kept = f.next_values(torch.ones_like(ended), over, ended & ~over)
        return rewards, ends, mask, ~kept.numpy()


def start(f: Functions, seed: int, **options: Any) -> RunState:
    """PPO on CartPole, with functions replaced."""
    state = RunState(tuned(preset("ppo", "CartPole-v1"), seed=seed, **options))
    trainer = state.trainer
    assert isinstance(trainer, Trainer)
    environments, policy = trainer.collector.environments, trainer.policy
    trainer.collector = ReplacedCollector(environments, policy, seed)
    trainer.collector.functions = f
    trainer.learner = ReplacedLearner(policy, trainer.learner.config, f)
    return state


@cache
def learning_test(f: Functions) -> dict[str, Any]:
    """Train with each seed: how many of the runs reached 475, and after how many steps each."""
    options = {"total_steps": STEPS, "threshold": 475.0, "eval_interval": 5_000}
    outcomes = [learn(start(f, seed, **options)) for seed in range(SEEDS)]
    solved, steps = sum(o.solved for o in outcomes), [o.steps for o in outcomes]
    return {"runs": SEEDS, "solved": solved, "steps": steps}
