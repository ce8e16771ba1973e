"""Two text tasks for the estimators: one whose completions are all known, and a trained run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from rlhf_pg.core.gradients import step_scores
from rlhf_pg.core.rollout import Policy, Rollout
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward
from rlhf_pg.language.settings import preset
from rlhf_pg.language.trained import open_trained
from rlhf_pg.study.estimators.measure import Batch, Tick
from rlhf_pg.study.estimators.methods import Method
from rlhf_pg.study.estimators.sources import How, Sampled, Sizes, ended, fit_critic
from rlhf_pg.study.estimators.statistics import Truth
from rlhf_pg.study.oracle import Exact, language_oracle, policy_parameters
from rlhf_pg.study.tasks import SmallTask

CHUNK = 16  # completions whose every step is scored at once: the work grows with its square


class Enumerated:
    """A small text task, every completion of it, and three critics: fitted, zero and exact."""

    how: How = "enumeration"
    gamma = 1.0

    def __init__(self, task: SmallTask, sizes: Sizes, kl_coef: float = 0.1) -> None:
        self.small, self.sizes, self.kl_coef = task, sizes, kl_coef
        # Fitting must not move the policy, so the critic reads its trunk from aside.
        self.policy = LanguagePolicy(task.policy.model, critic="detached")
        self.ppo = preset("ppo").learner
        self.generator = torch.Generator().manual_seed(sizes.seed)
        self.exact = self._oracle(self.policy)
        self.values = {"zero": torch.zeros_like(self.exact.values), "exact": self.exact.values}
        earlier = [self._rows("zero", self._draw()) for _ in range(sizes.critic_batches)]
        fit_critic(self.policy, self.acting(self.policy), earlier, self.gamma, lr=0.02)
        with torch.no_grad():
            fitted = self.policy.evaluate(self.exact.episodes).values
        assert fitted is not None
        self.values = {"fitted": fitted.double(), **self.values}
        self.critics = {
            "fitted": f"fitted on {sizes.critic_batches} batches",
            "zero": "zero",
            "exact": "exact",
        }
        count = len(self.exact.probs)
        self.task = (
            f"the small text task: {count:,} completions of {task.prompt!r}, "
            f"KL coefficient {kl_coef:g}"
        )

    def acting(self, policy: Policy) -> list[torch.nn.Parameter]:
        return policy_parameters(policy)

    def draw(self) -> Batch:
        rows = self._draw()
        return {critic: self._rows(critic, rows) for critic in self.critics}

    def truth(self, policy: Policy, tick: Tick) -> Truth:
        exact = self.exact if policy is self.policy else self._oracle(policy)
        tick()
        return Truth(exact.gradient[None], len(exact.probs))

    def expected(
        self, chosen: Sequence[Method], constants: Mapping[str, float]
    ) -> list[tuple[Tensor, float]]:
        """Sums over every completion, in chunks; float64."""
        every = torch.arange(len(self.exact.probs))
        weights = [
            len(every) * method.weights(self._rows(method.critic or "zero", every, 1), constants)
            for method in chosen
        ]
        parameters = self.acting(self.policy)
        means = torch.zeros(len(chosen), sum(p.numel() for p in parameters), dtype=torch.float64)
        squares = torch.zeros(len(chosen), dtype=torch.float64)
        for rows in every.split(CHUNK):
            logprobs = self.policy.evaluate(self.exact.episodes[rows]).logprobs
            scores = step_scores(logprobs, parameters)
            for m, w in enumerate(weights):
                each = torch.einsum("nt,ntp->np", w[rows], scores).double()
                means[m] += self.exact.probs[rows] @ each
                squares[m] += self.exact.probs[rows] @ (each**2).sum(1)
        return list(zip(means, squares.tolist(), strict=True))

    def _oracle(self, policy: Policy) -> Exact:
        task = self.small
        return language_oracle(
            cast(LanguagePolicy, policy), task.reference, task.tokenizer, task.prompt, task.reward,
            task.max_new_tokens, self.kl_coef,
        )  # fmt: skip

    def _draw(self) -> Tensor:
        probs = self.exact.probs
        return torch.multinomial(probs, self.sizes.rows, replacement=True, generator=self.generator)

    def _rows(self, critic: str, rows: Tensor, group: int | None = None) -> Rollout:
        """The completions of these numbers as a run would have them, valued by a critic."""
        exact, values, ends = self.exact, self.values[critic], self.exact.episodes.ends
        assert exact.ref_logprobs is not None
        following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
        penalty = self.kl_coef * (exact.logprobs - exact.ref_logprobs)
        whole = replace(
            exact.episodes,
            logprobs=exact.logprobs.float(),
            values=values.float(),
            next_values=(following * (1 - ends)).float(),
            rewards=(exact.episodes.rewards - penalty).float(),
        )
        return replace(whole[rows], group_size=group or self.sizes.group)


class Text(Sampled):
    """A run of `rlhf-pg train`: its policy, critic, prompts, reward and KL coefficient."""

    def __init__(
        self,
        name: str,
        load_reward: Callable[[str], Reward],
        sizes: Sizes,
        reward: str | None = None,
    ) -> None:
        """Raises ValueError where `name` is no run, or has no reward that is known."""
        trained = open_trained(name, load_reward, reward=reward)
        self.trained, self.sizes = trained, sizes
        config = trained.task.config
        learner = config.learner
        self.gamma = learner.gamma
        clipped = config.algorithm == "ppo"
        self.ppo = learner if clipped else replace(preset("ppo").learner, gamma=self.gamma)
        # The KL stands in the reward and no end is bootstrapped, so that all estimate one gradient.
        trained.task.config = replace(
            config,
            samples_per_prompt=sizes.group,
            bootstrap_truncated=False,
            learner=replace(learner, kl_in="reward"),
        )
        self.generator = torch.Generator().manual_seed(sizes.seed)
        self.policy = trained.policy
        self.critics = {"own": f"the run's own ({self.policy.critic})"}
        if self.policy.critic == "none":
            self.policy = LanguagePolicy(self.policy.model, config.temperature, "detached")
            self.critics = {"fitted": f"fitted on {sizes.critic_batches} batches"}
            earlier = [self.rollout(self.policy, sizes.rows) for _ in range(sizes.critic_batches)]
            fit_critic(self.policy, self.acting(self.policy), earlier, self.gamma, lr=0.01)
        self.task = f"{name}: {config.data}, {config.reward}, KL coefficient {trained.kl_coef:g}"

    def acting(self, policy: Policy) -> list[torch.nn.Parameter]:
        return policy_parameters(policy)

    def rollout(self, policy: Policy, rows: int) -> Rollout:
        """Completions of prompts drawn anew, K of each in a row."""
        trained, group = self.trained, self.sizes.group
        count = len(trained.prompts["prompt"])
        drawn = torch.randint(count, (rows // group,), generator=self.generator)
        repeated = drawn.repeat_interleave(group).tolist()
        columns = {name: [xs[i] for i in repeated] for name, xs in trained.prompts.items()}
        answers = trained.task.answer(
            cast(LanguagePolicy, policy), columns, self.generator, trained.kl_coef
        )
        return ended(answers.rollout)
