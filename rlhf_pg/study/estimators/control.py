"""An environment for the estimators: a policy that has learned for a while, or that of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from rlhf_pg.control.collect import Collector, make_environments
from rlhf_pg.control.config import preset
from rlhf_pg.control.policy import ActorCritic, load_policy
from rlhf_pg.control.train import Trainer
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.rollout import Policy, Rollout
from rlhf_pg.runs import options_of
from rlhf_pg.study.estimators.sources import Sampled, Sizes, ended, fit_critic


class Control(Sampled):
    """Whole episodes of a Gymnasium environment, all begun alike.

    The gradient estimated is the sum over steps of E[grad log pi(a_t|s_t) A(s_t, a_t)], A being
    discounted from step t on and the steps not weighed by gamma^t: what actor-critics follow. Only
    the whole return of REINFORCE carries that weight, and so is biased here where gamma < 1.
    """

    def __init__(
        self,
        env: str,
        options: dict[str, Any],
        policy: ActorCritic,
        learner: LearnerConfig,
        sizes: Sizes,
        about: str,
        own_critic: bool = True,
    ) -> None:
        """`learner` gives the discount, and PPO's options where it clips."""
        self.env, self.options, self.sizes, self.gamma = env, options, sizes, learner.gamma
        ppo = learner if learner.clip else preset("ppo", env).learner
        self.ppo = replace(ppo, gamma=self.gamma)
        self.collectors: dict[int, Collector] = {}
        self.policy = policy
        self.critics = {"own": "the policy's own"}
        if policy.critic is None or not own_critic:
            self.policy = self._with_critic(policy)
            self.critics = {"fitted": f"fitted on {sizes.critic_batches} batches"}
            earlier = [self.rollout(self.policy, sizes.rows) for _ in range(sizes.critic_batches)]
            fit_critic(self.policy, self.acting(self.policy), earlier, self.gamma, lr=3e-3)
        self.task = f"{env}, {about}, γ {self.gamma:g}"

    def acting(self, policy: Policy) -> list[torch.nn.Parameter]:
        return cast(ActorCritic, policy).actor_parameters()

    def rollout(self, policy: Policy, rows: int) -> Rollout:
        actor = cast(ActorCritic, policy)
        if rows not in self.collectors:
            environments = make_environments(self.env, rows, self.options)
            self.collectors[rows] = Collector(environments, actor, self.sizes.seed + rows)
        self.collectors[rows].policy = actor
        return replace(ended(self.collectors[rows].episodes()), group_size=self.sizes.group)

    def _with_critic(self, policy: ActorCritic) -> ActorCritic:
        """The same actor with a fresh critic of its own."""
        environments = make_environments(self.env, 1, self.options)
        spaces = environments.single_observation_space, environments.single_action_space
        environments.close()
        whole = ActorCritic(*spaces, policy.config, critic=True, seed=self.sizes.seed)
        whole.load_state_dict(policy.state_dict(), strict=False)
        return whole


def learned(env: str, steps: int, sizes: Sizes) -> Control:
    """A policy and critic that a2c has taught for so many steps; ValueError for unknown names."""
    training = Trainer(replace(preset("a2c", env), seed=sizes.seed))
    while training.steps < steps:
        training.step()
    training.close()
    about = f"after {training.steps:,} steps of a2c"
    learner = preset("a2c", env).learner
    return Control(env, {}, training.policy, learner, sizes, about)


def from_run(path: str, sizes: Sizes) -> Control:
    """The policy that a run of `rlhf-pg control` saved; ValueError where there is none.

    Its critic is fitted anew where it was not trained on the environment's own rewards.
    """
    run = options_of(path)
    if "env_options" not in run:
        raise ValueError(f"{path} is no run of `rlhf-pg control`; give one, or --env")
    environments = make_environments(run["env"], 1, run["env_options"])
    spaces = environments.single_observation_space, environments.single_action_space
    environments.close()
    policy = load_policy(Path(path) / "policy", *spaces)
    own = not run["normalise_rewards"] and not run["entropy_temperature"]
    learner = LearnerConfig(**run["learner"])
    return Control(run["env"], run["env_options"], policy, learner, sizes, f"run {path}", own)
