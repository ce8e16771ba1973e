"""Every gradient estimator of the library, each a choice of the learner's own options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import Baseline, LearnerConfig
from rlhf_pg.core.gradients import step_weights
from rlhf_pg.core.rollout import Rollout

Family = Literal["reinforce", "reward-to-go", "baseline", "gae", "group", "ppo"]

BASELINES: dict[str, Baseline] = {  # by the name in the table
    "batch mean": "batch-mean",
    "moving average": "moving-average",
    "optimal constant": "optimal",
    "leave-one-out": "leave-one-out",
    "group mean": "group-centred",
}


@dataclass(frozen=True)
class Method:
    """One way to weigh the steps of a batch."""

    name: str
    family: Family
    config: LearnerConfig
    critic: str | None = None
    whole: bool = False  # every step is weighed with the return of its whole episode
    steps: int | None = None  # of PPO, between the policy that sampled and the one measured

    @property
    def couples(self) -> bool:
        """Whether an episode's weights depend on the other episodes of its batch."""
        config = self.config
        return (
            config.whiten_advantages
            or config.reduction == "token"
            or config.baseline in ("batch-mean", "leave-one-out", "group", "group-centred")
        )

    def same(self, other: "Method") -> bool:
        """Whether it is the other under another name."""
        mine, theirs = (replace(m, name="", family="gae") for m in (self, other))
        return mine == theirs

    @property
    def rescaled(self) -> bool:
        """Whether its scale is arbitrary: divided by a deviation, or by a number of tokens."""
        config = self.config
        return (
            config.whiten_advantages or config.reduction != "episode" or config.baseline == "group"
        )

    def weights(
        self, rollout: Rollout, constants: Mapping[str, float], logprobs: Tensor | None = None
    ) -> Tensor:
        """w (B, T) of g = sum of w_t grad log pi(a_t|s_t), as the learner would weigh the steps.

        `constants` by baseline are what earlier rollouts taught; `logprobs` (B, T) are the
        policy's where it is no longer the one that sampled.
        """
        constant = constants.get(self.config.baseline, 0.0)
        advantages, _ = estimate_advantages(rollout, self.config, constant)
        if self.whole:
            advantages = advantages[:, :1].expand_as(advantages)
        return step_weights(rollout, advantages, self.config, logprobs)


def methods(
    gamma: float, ppo: LearnerConfig, lambdas: Mapping[str, Sequence[float]]
) -> list[Method]:
    """All estimators but PPO after its first step; `lambdas` by critic, GAE's grid for each."""
    plain = LearnerConfig(baseline="none", gamma=gamma)
    best = list(lambdas)[0]

    def with_critic(critic: str, lam: float, **options: Any) -> LearnerConfig:
        return replace(plain, baseline="critic", lam=lam, **options)

    found = [
        Method("REINFORCE, whole return", "reinforce", plain, whole=True),
        Method("reward-to-go", "reward-to-go", plain),
        *(
            Method(name, "baseline", replace(plain, baseline=baseline))
            for name, baseline in BASELINES.items()
        ),
        *(
            Method(f"critic ({critic}), λ=1", "baseline", with_critic(critic, 1.0), critic)
            for critic in lambdas
            if critic != "zero"  # which is the reward-to-go once more
        ),
        *(
            Method(f"gae λ={lam:g}, {critic} critic", "gae", with_critic(critic, lam), critic)
            for critic, grid in lambdas.items()
            for lam in grid
        ),
        Method("÷ group deviation (grpo)", "group", replace(plain, baseline="group")),
    ]
    one = with_critic(best, 1.0)
    return [
        *found,
        Method("whitened, λ=1", "ppo", replace(one, whiten_advantages=True), best),
        Method("token mean, λ=1", "ppo", replace(one, reduction="token"), best),
        after_steps(ppo, 0, best),
    ]


def after_steps(ppo: LearnerConfig, steps: int, critic: str) -> Method:
    """PPO's clipped gradient at the policy that `steps` gradient steps made of the sampling one."""
    return Method(f"ppo λ={ppo.lam:g}, k={steps}", "ppo", ppo, critic, steps=steps)
