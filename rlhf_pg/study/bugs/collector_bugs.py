"""Bugs of collecting episodes that have a time limit; PPO on CartPole can have both."""

import torch
from torch import Tensor

from rlhf_pg.study.bugs.bug import Bug
from rlhf_pg.study.bugs.time_limit import TimeLimit, orchard
from rlhf_pg.study.mdp import two_state

ORCHARD, TWO_STATE = TimeLimit(orchard()), TimeLimit(two_state())


def zero_after_the_limit(following: Tensor, terminated: Tensor, truncated: Tensor) -> Tensor:
    """At a time limit that is not part of the task, the next value is taken for 0, as by CleanRL.

    What pays off beyond the limit seems not worth waiting for: the critic believes that no state
    is worth more than the limit allows. If the limit is part of the task, this code is right.
    """
    return following * ~(terminated | truncated)


def all_steps(resetting: Tensor) -> Tensor:
    """The step that only resets an environment is learned from, as if its action had been taken.

    Gymnasium's vector environments have such steps by default. The action gets credit for what it
    did not do, but the same as every other action would, which averages to 0: harmless to the
    gradient of a given critic. The critic learns wrong values, and a little reaches the gradient.
    """
    return torch.ones_like(resetting)


BUGS = [
    Bug(
        "truncation-as-end",
        {"next_values": zero_after_the_limit},
        effect="no future beyond the limit",
        gradients={
            "the critic its targets lead to": ORCHARD,
            "the true V as critic": TimeLimit(orchard(), fitted=False),
        },
        curves={"an orchard, cut after 3 steps": ORCHARD},
        numbers={"the critic's V(orchard); 14 is true": ORCHARD.value},
        in_control=True,
    ),
    Bug(
        "reset-step",
        {"real_steps": all_steps},
        effect="wrong critic only",
        gradients={
            "the critic its targets lead to": TWO_STATE,
            "the true V as critic": TimeLimit(two_state(), fitted=False),
        },
        curves={"two states, cut after 3 steps": TWO_STATE},
        numbers={"the critic's V(rich); 2.93 is true": TWO_STATE.value},
        in_control=True,
    ),
]
