"""Classic mistakes in a policy gradient of one's own."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.study.bugs.bug import Bug
from rlhf_pg.study.bugs.critic_descent import CriticDescent
from rlhf_pg.study.bugs.functions import Functions
from rlhf_pg.study.bugs.gaussian import Gaussian
from rlhf_pg.study.bugs.learner import TablePolicy, direction
from rlhf_pg.study.bugs.small_text import SmallText, enumerated
from rlhf_pg.study.mdp import two_state

CRITIC = SmallText(algorithm("a2c", lam=1.0, lr=0.1, max_grad_norm=0.0, value_coef=1.0))
TWO_STATE = CriticDescent(two_state())


@dataclass
class LaterStep(SmallText):
    """SmallText, but the gradient is measured after `before` steps up the exact gradient."""

    before: int = 10
    lr: float = 0.3

    def direction(self, f: Functions) -> dict[str, float]:
        """The last step's gradient, with what is left of those before, beside the true one."""
        policy = TablePolicy(enumerated().ref_logits)
        step = torch.zeros(policy.logits.numel(), dtype=policy.logits.dtype)
        for _ in range(self.before):
            step = self.exact(policy).gradient + f.left_gradient(step)
            policy.logits.data += self.lr * step.reshape(policy.logits.shape)
        truth = self.exact(policy).gradient
        return direction(truth + f.left_gradient(step), truth)


def loss_of_other_sign(
    logprobs: Tensor, advantages: Tensor, mask: Tensor, reduction: str
) -> Tensor:
    """The minus of the actor's loss is missing, so that the optimiser lowers J.

    Every update goes exactly the wrong way. Unlike most silent bugs, a look at the curve finds it.
    """
    return zero_padding(logprobs * advantages.detach(), mask).sum(1).mean()


def clip_loss_of_other_sign(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float, reduction: str
) -> Tensor:
    """The same bug in PPO's loss."""
    ratio = zero_padding(logprobs - old, mask).exp()
    terms = torch.minimum(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip))
    return zero_padding(terms, mask).sum() / mask.sum()


def loss_without_log(logprobs: Tensor, advantages: Tensor, mask: Tensor, reduction: str) -> Tensor:
    """The loss is -pi(a|s) A instead of -log pi(a|s) A: the probability that sampled counts twice.

    grad pi = pi grad log pi, so an action learns in proportion to how probable it is already. A
    rare action that is good is hardly learned, and learning stops below the optimum.
    """
    pi = zero_padding(logprobs, mask).exp()
    return -zero_padding(pi * advantages.detach(), mask).sum(1).mean()


def value_after_the_action(values: Tensor, next_values: Tensor) -> Tensor:
    """The baseline is V(s_{t+1}), read after the token instead of before it: it depends on a_t.

    What a token gains for the future is subtracted again, so that only its own reward is left. With
    the true V the bias is largest: a better critic makes it worse. With V = 0 it is harmless.
    """
    return next_values


def target_with_a_gradient(following: Tensor) -> Tensor:
    """The critic's target is not detached: V(s_{t+1}) is pulled down to V(s_t), not only V(s_t) up.

    That descends the squared TD error itself (the residual gradient, Baird 1995). Where transitions
    are random, its minimum is not V: it charges for the variance of V(s_{t+1}), so that the values
    become too similar. It learns more slowly, too.
    """
    return following


def reparameterised_action(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """The action of a Gaussian policy is drawn by rsample and not detached before log_prob.

    a = mean + std noise moves with the mean, so log pi(a) does not: its gradient by the mean is 0
    on every sample. By the deviation it is -1 / std whatever the action: 0 on average if the
    advantages are centred, and without a baseline the mean reward alone.
    """
    return mean + std * noise


def gradient_that_stays(last: Tensor) -> Tensor:
    """zero_grad is forgotten, so that each step uses the sum of all gradients so far.

    The first step is right. Later ones are a momentum that never decays: the policy passes the
    optimum, and old gradients, of policies long gone, drown the new one.
    """
    return last


BUGS = [
    Bug(
        "actor-sign",
        {"policy_loss": loss_of_other_sign, "clip_loss": clip_loss_of_other_sign},
        effect="J falls",
        gradients={"REINFORCE minus the batch's mean": SmallText()},
        curves={"from the reference": SmallText()},
        in_control=True,
    ),
    Bug(
        "log-missing",
        {"policy_loss": loss_without_log},
        effect="rare actions are not learned",
        gradients={"REINFORCE minus the batch's mean": SmallText()},
        curves={"from the reference": SmallText()},
    ),
    Bug(
        "action-baseline",
        {"baseline": value_after_the_action},
        effect="no credit for the future",
        gradients={
            "lambda 1, critic true": replace(CRITIC, critic="true"),
            "lambda 1, critic wrong": replace(CRITIC, critic="wrong"),
            "lambda 1, critic zero": CRITIC,
        },
        curves={"a critic that learns": CRITIC},
        in_control=True,
    ),
    Bug(
        "target-not-detached",
        {"target_value": target_with_a_gradient},
        effect="flattens the values",
        gradients={"two states, one-step TD": TWO_STATE},
        curves={"two states, one-step TD": TWO_STATE},
        numbers={"the critic's V(rich); 2.93 is true": TWO_STATE.value},
    ),
    Bug(
        "rsample-not-detached",
        {"action": reparameterised_action},
        effect="nothing is learned",
        gradients={
            "a Gaussian, minus the mean reward": Gaussian(),
            "a Gaussian, no baseline": Gaussian(baseline=False),
        },
        curves={"a Gaussian, minus the mean reward": Gaussian()},
    ),
    Bug(
        "gradients-not-zeroed",
        {"left_gradient": gradient_that_stays},
        effect="steps go on past the optimum",
        gradients={"after 10 steps": LaterStep(), "the first step": LaterStep(before=0)},
        curves={"from the reference": SmallText()},
        in_control=True,
    ),
]
