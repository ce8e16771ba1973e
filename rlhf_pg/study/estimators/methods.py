"""Every gradient estimator of the library, each a choice of the learner's own options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import Baseline, LearnerConfig, algorithm
from rlhf_pg.core.gradients import step_weights
from rlhf_pg.core.rollout import Rollout

BASELINES: dict[str, Baseline] = {  # by the name in the table
    "batch mean": "batch-mean",
    "moving average": "moving-average",
    "optimal constant": "optimal",
    "leave-one-out": "leave-one-out",
    "group mean": "group-centred",
}
VARIANTS = ("grpo", "dr-grpo", "dapo", "gspo", "cispo")  # named algorithms
COMPARING = ("batch-mean", "leave-one-out", "group", "group-centred")


@dataclass(frozen=True)
class Method:
    """A gradient estimator: one way to weight the steps of a batch."""

    name: str
    family: str  # reinforce, reward-to-go, baseline, gae, group, ppo or variant
    config: LearnerConfig
    critic: str | None = None  # a name in `Source.critics`
    whole: bool = False  # weight every step with the return of the whole episode
    steps: int | None = None  # PPO steps from the sampling policy to the measured one

    @property
    def couples(self) -> bool:
        """Whether an episode's weights depend on the other episodes of its batch."""
        config = self.config
        scaled = config.whiten_advantages or config.divide_by_batch_std
        coupled = scaled or config.reduction == "token"
        return coupled or config.baseline in COMPARING

    @property
    def rescaled(self) -> bool:
        """Whether its scale is arbitrary: divided by a deviation, or by a number of tokens."""
        config = self.config
        scaled = config.whiten_advantages or config.divide_by_batch_std
        divided = scaled or config.baseline == "group"
        return divided or config.reduction != "episode"

    def weights(
        self, rollout: Rollout, constants: Mapping[str, float], logprobs: Tensor | None = None
    ) -> Tensor:
        """w (B, T) of g = sum of w_t grad log pi(a_t|s_t), as in the learner's loss.

        `constants` are the constant baselines by name. `logprobs` (B, T) are the measured policy's;
        None if it is the one that sampled.
        """
        constant = constants.get(self.config.baseline, 0.0)
        advantages, _ = estimate_advantages(rollout, self.config, constant)
        if self.whole:
            advantages = advantages[:, :1].expand_as(advantages)
        return step_weights(rollout, advantages, self.config, logprobs)


def methods(
    gamma: float, ppo: LearnerConfig, lambdas: Mapping[str, Sequence[float]]
) -> list[Method]:
    """All estimators at the policy that samples; `lambdas` holds GAE's lambdas by critic.

    The first critic is that of "whitened", "token mean" and PPO.
    """
    plain = LearnerConfig(baseline="none", gamma=gamma)
    first = next(iter(lambdas))

    def with_critic(lam: float, **options: Any) -> LearnerConfig:
        return replace(plain, baseline="critic", lam=lam, **options)

    return [
        Method("REINFORCE, whole return", "reinforce", plain, whole=True),
        Method("reward-to-go", "reward-to-go", plain),
        *(
            Method(name, "baseline", replace(plain, baseline=baseline))
            for name, baseline in BASELINES.items()
        ),
        *(
            Method(f"critic ({critic}), λ=1", "baseline", with_critic(1.0), critic)
            for critic in lambdas
            if critic != "zero"  # the same as reward-to-go
        ),
        *(
            Method(f"gae λ={lam:g}, {critic} critic", "gae", with_critic(lam), critic)
            for critic, grid in lambdas.items()
            for lam in grid
        ),
        Method("÷ group deviation (grpo)", "group", replace(plain, baseline="group")),
        Method("whitened, λ=1", "ppo", with_critic(1.0, whiten_advantages=True), first),
        Method("token mean, λ=1", "ppo", with_critic(1.0, reduction="token"), first),
        after_steps(ppo, 0, first),
        Method(
            "group mean, ÷ batch deviation",
            "variant",
            replace(plain, baseline="group-centred", divide_by_batch_std=True),
        ),
        # At ratio 1 clips have no effect: dapo and cispo are grpo.
        *(m for m in variants(gamma, 0) if m.name.startswith(("grpo", "gspo"))),
    ]


def variants(gamma: float, steps: int) -> list[Method]:
    """The named variants of GRPO at a policy `steps` PPO steps from the sampling one."""
    return [
        Method(f"{name}, k={steps}", "variant", algorithm(name, gamma=gamma), steps=steps)
        for name in VARIANTS
    ]


def after_steps(ppo: LearnerConfig, steps: int, critic: str) -> Method:
    """PPO's clipped gradient at the policy that is `steps` gradient steps from the sampling one."""
    return Method(f"ppo λ={ppo.lam:g}, k={steps}", "ppo", ppo, critic, steps=steps)
