"""A time limit taken for the end of the episode."""

import numpy as np
import torch
from torch import Tensor

from rlhf_pg.control.collect import Collector, Step
from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.study.bugs import cartpole, limited
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings, both
from rlhf_pg.study.bugs.limited import TRUTH, Limited, Walks
from rlhf_pg.study.mdp import TabularMDP


def wrong(following: Tensor, terminated: Tensor, truncated: Tensor) -> Tensor:
    return following * ~(terminated | truncated)


def cut(walks: Walks, values: Tensor) -> tuple[Tensor, Tensor]:
    """The walks of an MDP that never ends, its limit taken for an end."""
    never = torch.zeros_like(walks.resetting)
    at_limit = never.clone()
    at_limit[:, -2] = True
    return ~walks.resetting, wrong(values[walks.next_states], never, at_limit)


OUTCOME = Collector._outcome


def outcome(
    collector: Collector, steps: list[Step]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the collector is told, with every end a termination."""
    rewards, ends, mask, _ = OUTCOME(collector, steps)
    return rewards, ends, mask, ends.astype(bool)


def orchard() -> TabularMDP:
    """Eat for 1 a step, or plant, once and for nothing, and have 1.4 a step ever after."""
    transitions = torch.zeros(2, 2, 2, dtype=torch.float64)
    transitions[0, 0, 0] = transitions[0, 1, 1] = transitions[1, :, 1] = 1
    rewards = torch.tensor([[1.0, 0.0], [1.4, 1.4]], dtype=torch.float64)
    start = torch.tensor([1.0, 0.0])
    return TabularMDP(transitions, rewards, start, 0.9, ["field", "orchard"], ["eat", "plant"])


def measure() -> Findings:
    task, uniform = Limited(orchard(), limit=3), torch.zeros(2, 2).double()
    config, swap = algorithm("a2c", gamma=0.9, lr=0.1), (limited, "segment", cut)
    true = task.mdp.exact(uniform).values

    settled = both(lambda: float(task.critic(uniform, config, true, 300)[1]), swap)
    return Findings(
        [
            task.compare("the critic its targets lead to", uniform, config, swap, fitted=True),
            task.compare("the true V as critic", uniform, config, swap, fitted=False),
        ],
        [task.curves("an orchard, cut after 3 steps", config, swap, updates=100)],
        {"the critic's V(orchard); 14 is true": settled},
        truth=TRUTH,
    )


LESSON = (
    "What pays off beyond the limit is not worth waiting for, and the critic believes that no "
    "state has more than the limit's worth of future. Where the limit is part of the task, it is "
    "right."
)
EXHIBIT = Exhibit(
    name="truncation-as-end",
    what="A time limit that is no part of the task is learned as if nothing came after it.",
    origin="CleanRL treats both as terminal.",
    right=(Collector._rollout, r"following \*"),
    wrong=wrong,
    effect="no future beyond the limit",
    lesson=LESSON,
    measure=measure,
    cartpole=lambda: cartpole.learning_test("ppo", (Collector, "_outcome", outcome)),
)
