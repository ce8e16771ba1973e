"""GAE that forgets its lambda."""

import torch
from torch import Tensor

from rlhf_pg.core import returns
from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.returns import discounted_sum, td_errors
from rlhf_pg.study.bugs import cartpole
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings
from rlhf_pg.study.bugs.small_table import SmallTable


def wrong(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    delta = td_errors(rewards, values, next_values, gamma)
    return discounted_sum(delta, gamma * (1 - ends.to(rewards.dtype)))


SWAP = (returns, "gae", wrong)


def measure() -> Findings:
    task = SmallTable()
    policy = task.policy()
    config = algorithm("a2c", lam=0.5, lr=0.1, max_grad_norm=0.0, value_coef=1.0)
    guess = torch.randn(len(policy.values), generator=torch.Generator().manual_seed(0)).double()
    truth = task.true_values(policy)
    found = []
    for name, values in (("zero", 0 * truth), ("wrong", guess), ("true", truth)):
        policy.values.data.copy_(values)
        found.append(task.compare(f"lambda 0.5, critic {name}", policy, config, SWAP))
    return Findings(found, [task.curves("lambda 0.5, a critic that learns", config, SWAP)])


LESSON = (
    "Not a bias: lambda 1 is the unbiased end, whatever the critic says, and where the critic is "
    "wrong the right code is the biased one. What was asked for, and is not had, is less noise."
)
EXHIBIT = Exhibit(
    name="lambda-ignored",
    what="The recursion of GAE decays by gamma alone, so every lambda is 1.",
    origin="Planted here: of nine bugs, one of the two that a learning test on CartPole missed.",
    right=(returns.gae, "lam"),
    wrong=wrong,
    effect="no bias, more noise",
    lesson=LESSON,
    measure=measure,
    cartpole=lambda: cartpole.learning_test("ppo", SWAP),
)
