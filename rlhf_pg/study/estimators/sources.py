"""What is measured: a fixed policy, batches of its episodes, and its true gradient."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reward_models.pretrained import limit_threads
from rlhf_pg.control.collect import Collector, introduce, make_environments
from rlhf_pg.control.config import ControlConfig
from rlhf_pg.control.config import preset as control_preset
from rlhf_pg.control.policy import ActorCritic
from rlhf_pg.control.train import Trainer
from rlhf_pg.control.watch import Agent
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.gradients import policy_gradient, step_scores
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.rollout import Policy, Rollout
from rlhf_pg.language.config import preset
from rlhf_pg.language.data import repeated
from rlhf_pg.language.loaded import open_run
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import language_rollout, reference_logprobs
from rlhf_pg.language.sampling import sample
from rlhf_pg.progress import Progress
from rlhf_pg.study.config import BLOCKS, EstimatorsConfig
from rlhf_pg.study.estimators.methods import Method
from rlhf_pg.study.estimators.statistics import Truth
from rlhf_pg.study.oracle import Exact, language_oracle, policy_parameters
from rlhf_pg.study.tasks import SmallTask

TRUTH_CHUNK = 128  # episodes in one forward and backward pass of a sampled truth
SCORES_CHUNK = 16  # episodes whose every step is differentiated at once: work is quadratic in it

Batch = Mapping[str, Rollout]  # the same episodes with the values of each critic, by its name
Moments = list[tuple[Tensor, float]]  # E g (parameters,) and E|g|^2 of one episode, by method


class Source:
    """A policy and its task; here, one whose episodes and true gradient are sampled.

    Subclasses set the attributes and define `rollout`. The end of an episode is terminal, at a
    limit of time or length too, so that all estimators have the same gradient to estimate.
    """

    how = "large sample"  # how the truth is known
    config: EstimatorsConfig
    task: str  # description
    policy: Any
    critics: dict[str, str]  # descriptions by name; PPO trains with the first
    gamma: float
    ppo: LearnerConfig

    def rollout(self, policy: Any, rows: int) -> Rollout:
        """`rows` new episodes of a policy; K consecutive ones have the same start."""
        raise NotImplementedError

    def batch(self) -> Batch:
        """A new batch of the policy's episodes."""
        return {critic: self.rollout(self.policy, self.config.rows) for critic in self.critics}

    def truth(self, policy: Policy) -> Truth:
        """The gradient of `policy`: the mean of estimates by returns minus V, which are unbiased.

        `truth_rows` new episodes in BLOCKS blocks, rounded up to whole groups.
        """
        config = LearnerConfig(baseline="critic", lam=1.0, gamma=self.gamma)
        group, needed = self.config.samples_per_prompt, math.ceil(self.config.truth_rows / BLOCKS)
        chunks = math.ceil(needed / TRUTH_CHUNK)
        rows = math.ceil(needed / chunks / group) * group
        parameters, blocks = actor_parameters(policy), []
        with Progress(BLOCKS, "true gradient") as progress:
            for _ in range(BLOCKS):
                rollouts = (self.rollout(policy, rows) for _ in range(chunks))
                block = [policy_gradient(policy, r, config, parameters) for r in rollouts]
                blocks.append(torch.stack(block).mean(0))
                progress.update(len(blocks))
        return Truth(torch.stack(blocks), BLOCKS * chunks * rows)

    def moments(self, chosen: Sequence[Method], constants: Mapping[str, float]) -> Moments:
        """Exact moments of methods that do not couple episodes; empty if episodes are sampled."""
        return []

    def fit_critic(self, lr: float) -> None:
        """Fit the policy's critic to the returns of new batches; the actor does not change."""
        batches = self.config.critic_batches
        rollouts = [self.rollout(self.policy, self.config.rows) for _ in range(batches)]
        config = LearnerConfig(
            lam=1.0, gamma=self.gamma, lr=lr, epochs=4, critic_warmup=batches, max_grad_norm=0.0
        )
        actor = actor_parameters(self.policy)
        for p in actor:
            p.requires_grad_(False)
        learner = Learner(self.policy, config)
        for rollout in rollouts:
            learner.update(rollout)
        for p in actor:
            p.requires_grad_(True)


def actor_parameters(policy: Any) -> list[torch.nn.Parameter]:
    """The parameters that the action probabilities depend on."""
    in_control = isinstance(policy, ActorCritic)
    return policy.actor_parameters() if in_control else policy_parameters(policy)


def after(policy: Policy, recorded: Rollout, ppo: LearnerConfig, steps: int) -> Policy:
    """A copy of the policy after `steps` gradient steps, each on the whole recorded batch."""
    moved = copy.deepcopy(policy)
    options: dict[str, Any] = {"target_kl": None, "critic_warmup": 0, "lr_decay_updates": None}
    Learner(moved, replace(ppo, epochs=steps, minibatches=1, **options)).update(recorded)
    return moved


class Enumerated(Source):
    """The small text task: all its completions, their exact gradient, and three critics."""

    how = "enumeration"
    gamma = 1.0

    def __init__(self, config: EstimatorsConfig, task: SmallTask, kl_coef: float = 0.1) -> None:
        self.config, self.small, self.kl_coef = config, task, kl_coef
        # A detached critic: fitting it must not move the policy.
        self.policy = LanguagePolicy(task.policy.model, critic="detached")
        self.ppo = preset("ppo").learner
        self.generator = torch.Generator().manual_seed(config.seed)
        limit_threads(self.policy)
        self.exact = self._oracle(self.policy)
        self.values = {"zero": torch.zeros_like(self.exact.values), "exact": self.exact.values}
        self.fit_critic(lr=0.02)
        with torch.no_grad():
            self.values["fitted"] = self.policy.evaluate(self.exact.episodes).values.double()
        fitted = f"fitted on {config.critic_batches} batches"
        self.critics = {"fitted": fitted, "zero": "zero", "exact": "exact"}
        self.task = (
            f"the small text task: {len(self.exact.probs):,} completions of {task.prompt!r}, "
            f"KL coefficient {kl_coef:g}"
        )

    def rollout(self, policy: Any, rows: int) -> Rollout:
        return self._with_values("zero")[self._sample(rows)]

    def batch(self) -> Batch:
        rows = self._sample(self.config.rows)
        return {critic: self._with_values(critic)[rows] for critic in self.critics}

    def truth(self, policy: Any) -> Truth:
        exact = self.exact if policy is self.policy else self._oracle(policy)
        return Truth(exact.gradient[None], len(exact.probs))

    def moments(self, chosen: Sequence[Method], constants: Mapping[str, float]) -> Moments:
        probs, parameters = self.exact.probs, actor_parameters(self.policy)
        weights = []
        for method in chosen:
            every = replace(self._with_values(method.critic or "zero"), group_size=1)
            # Weights in a batch of all completions, times its size: those in a batch of one.
            weights.append(len(probs) * method.weights(every, constants))
        means = torch.zeros(len(chosen), sum(p.numel() for p in parameters), dtype=torch.float64)
        squares = torch.zeros(len(chosen), dtype=torch.float64)
        for rows in torch.arange(len(probs)).split(SCORES_CHUNK):
            logprobs = self.policy.evaluate(self.exact.episodes[rows]).logprobs
            scores = step_scores(logprobs, parameters)
            for m, w in enumerate(weights):
                gradients = torch.einsum("nt,ntp->np", w[rows], scores).double()
                means[m] += probs[rows] @ gradients
                squares[m] += probs[rows] @ (gradients**2).sum(1)
        return list(zip(means, squares.tolist(), strict=True))

    def _oracle(self, policy: LanguagePolicy) -> Exact:
        task = self.small
        return language_oracle(
            policy, task.reference, task.tokenizer, task.prompt, task.reward, task.max_new_tokens,
            self.kl_coef,
        )  # fmt: skip

    def _sample(self, rows: int) -> Tensor:
        """Indices (rows,) of sampled completions."""
        return torch.multinomial(self.exact.probs, rows, replacement=True, generator=self.generator)

    def _with_values(self, critic: str) -> Rollout:
        """All completions as training would have them, with the values of a critic."""
        exact, values, ends = self.exact, self.values[critic], self.exact.episodes.ends
        assert exact.ref_logprobs is not None
        following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
        penalty = self.kl_coef * (exact.logprobs - exact.ref_logprobs)
        return replace(
            exact.episodes,
            logprobs=exact.logprobs.float(),
            values=values.float(),
            next_values=(following * (1 - ends)).float(),
            rewards=(exact.episodes.rewards - penalty).float(),
            group_size=self.config.samples_per_prompt,
        )


class TextRun(Source):
    """A run of `rlhf-pg train`: its policy, critic, prompts, reward and KL coefficient."""

    def __init__(self, config: EstimatorsConfig) -> None:
        """Raises ValueError if `config.model` is no run, or its reward is not known."""
        self.config, self.run = (
            config,
            open_run(str(config.model), config.trust, reward=config.reward),
        )
        options = self.run.config
        self.gamma = options.learner.gamma
        ppo = options if options.algorithm == "ppo" else preset("ppo")
        self.ppo = replace(ppo.learner, gamma=self.gamma)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.policy = self.run.policy
        self.critics = {"own": f"the run's own ({self.policy.critic})"}
        if self.policy.critic == "none":
            self.policy = LanguagePolicy(self.policy.model, options.temperature, "detached")
            self.critics = {"fitted": f"fitted on {config.critic_batches} batches"}
            self.fit_critic(lr=0.01)
        task = f"{config.model}: {options.data}, {options.reward}"
        self.task = f"{task}, KL coefficient {self.run.kl_coef:g}"

    def rollout(self, policy: Any, rows: int) -> Rollout:
        """Completions of random prompts, with the KL in the reward."""
        run, group = self.run, self.config.samples_per_prompt
        count = len(run.prompts["prompt"])
        chosen = torch.randint(count, (rows // group,), generator=self.generator)
        columns = repeated(run.prompts, chosen.tolist(), group)
        limit = run.config.max_new_tokens
        completions = sample(policy, run.tokenizer, columns["prompt"], limit, self.generator)
        scores = run.score(completions, columns, with_gold=False).rewards
        ref_logprobs = reference_logprobs(run.reference, completions)
        return language_rollout(completions, scores, ref_logprobs, run.kl_coef, group_size=group)


class Environment(Source):
    """Whole episodes of a Gymnasium environment.

    The gradient is the sum over steps of E[grad log pi(a_t|s_t) A(s_t, a_t)], where A is discounted
    from step t on but the steps are not weighted by gamma^t: what actor-critics follow. The whole
    return of REINFORCE has that weight, and so is biased here if gamma < 1.
    """

    def __init__(
        self, config: EstimatorsConfig, run: ControlConfig, policy: ActorCritic, about: str
    ) -> None:
        """The policy in the environment of `run`, with its discount, and its PPO options if any."""
        self.config, self.run, self.policy, self.gamma = config, run, policy, run.learner.gamma
        ppo = run if run.learner.clip else control_preset("ppo", run.env)
        self.ppo = replace(ppo.learner, gamma=self.gamma)
        self.collectors: dict[int, Collector] = {}  # by number of environments
        self.critics = {"own": "the policy's own"}
        # A critic trained on other rewards than the environment's does not predict its returns.
        if policy.critic is None or run.normalise_rewards or run.entropy_temperature:
            environments = self._collector(config.rows).environments
            spaces = environments.single_observation_space, environments.single_action_space
            self.policy = ActorCritic(*spaces, policy.config, critic=True, seed=config.seed)
            self.policy.load_state_dict(policy.state_dict(), strict=False)
            self.critics = {"fitted": f"fitted on {config.critic_batches} batches"}
            self.fit_critic(lr=3e-3)
        self.task = f"{run.env}, {about}, γ {self.gamma:g}"

    def rollout(self, policy: Any, rows: int) -> Rollout:
        collector = self._collector(rows)
        collector.policy = policy
        episodes = collector.episodes()
        terminal = episodes.next_values * (1 - episodes.ends)  # at the time limit too
        return replace(episodes, next_values=terminal, group_size=self.config.samples_per_prompt)

    def _collector(self, rows: int) -> Collector:
        if rows not in self.collectors:
            environments = make_environments(self.run.env, rows, self.run.env_options)
            seed = self.config.seed + rows
            self.collectors[rows] = Collector(environments, self.policy, seed)
        return self.collectors[rows]


def trained_environment(config: EstimatorsConfig) -> Environment:
    """`config.env` after `probe_steps` of a2c; raises ValueError for an unknown environment."""
    env, options = str(config.env), config.env_options
    introduce(env, options)
    run = replace(control_preset("a2c", env), env_options=options, seed=config.seed)
    trainer = Trainer(run)
    while trainer.steps < config.probe_steps:
        trainer.step()
    trainer.close()
    return Environment(config, run, trainer.policy, f"after {trainer.steps:,} steps of a2c")


def control_run(config: EstimatorsConfig) -> Environment:
    """A run of `rlhf-pg control`; raises ValueError if `config.model` is none."""
    agent = Agent.load(str(config.model), trust=config.trust)
    return Environment(config, agent.config, agent.policy, f"run {config.model}")
