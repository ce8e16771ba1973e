"""Exercise: the baseline of least variance."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises.checks import Case, Facts, Function


def optimal_baseline(probs: Tensor, rewards: Tensor) -> Tensor:
    """The baseline b(s) for which g = grad log pi(a|s) (r(s, a) - b(s)) has the least variance.

    probs (S, A) are pi(a|s) of a softmax with its own logits in every state, and rewards (S, A) are
    r(s, a). The gradient is by the logits: d log pi(a) / d logit_k = 1[k = a] - pi(k). Variance is
    E|g - E g|^2. A baseline must not depend on the action, so the result is (S, 1):
    b = E[|grad log pi|^2 r] / E[|grad log pi|^2], with expectations over a.
    """
    norms = 1 - 2 * probs + (probs**2).sum(1, keepdim=True)  # |grad log pi(a)|^2
    weights = probs * norms
    return (weights * rewards).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


def mean_reward(probs: Tensor, rewards: Tensor) -> Tensor:
    """the mean reward, which is V(s): unbiased, but not the least variance"""
    return (probs * rewards).sum(1, keepdim=True)


def unweighted_mean(probs: Tensor, rewards: Tensor) -> Tensor:
    """the mean over actions without their probabilities"""
    return rewards.mean(1, keepdim=True)


def norm_not_squared(probs: Tensor, rewards: Tensor) -> Tensor:
    """weights of |grad log pi| instead of its square"""
    norms = (1 - 2 * probs + (probs**2).sum(1, keepdim=True)).sqrt()
    weights = probs * norms
    return (weights * rewards).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


def own_logit_alone(probs: Tensor, rewards: Tensor) -> Tensor:
    """the derivative by the logit of the action itself, without those of the other logits"""
    weights = probs * (1 - probs) ** 2
    return (weights * rewards).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


def without_probabilities(probs: Tensor, rewards: Tensor) -> Tensor:
    """the expectation over actions leaves out their probabilities"""
    norms = 1 - 2 * probs + (probs**2).sum(1, keepdim=True)
    return (norms * rewards).sum(1, keepdim=True) / norms.sum(1, keepdim=True)


def depends_on_the_action(probs: Tensor, rewards: Tensor) -> Tensor:
    """a baseline that depends on the action, which biases the gradient (here to zero)"""
    return rewards.clone()


def _variance(probs: Tensor, rewards: Tensor, baseline: Tensor) -> Tensor:
    """E|g - E g|^2 in every state, (S,), by summing over actions."""
    scores = torch.eye(probs.shape[1], dtype=probs.dtype) - probs[:, None, :]  # (S, A, A)
    g = scores * (rewards - baseline)[..., None]
    mean = (probs[..., None] * g).sum(1, keepdim=True)
    return (probs * ((g - mean) ** 2).sum(-1)).sum(1)


def _least(function: Function) -> dict[str, bool]:
    generator = torch.Generator().manual_seed(0)
    logits, rewards = torch.randn(2, 5, 4, generator=generator).double()
    probs = logits.softmax(1)
    mine = function(probs.clone(), rewards.clone())
    if mine.shape != (5, 1):
        return {"the result has the shape (S, 1)": False}
    variance = _variance(probs, rewards, mine)
    others = [_variance(probs, rewards, mine + step) for step in (-0.01, 0.01)]
    return {
        "in every state, a baseline 0.01 lower has more variance": bool(
            (others[0] > variance).all()
        ),
        "in every state, one 0.01 higher has more variance": bool((others[1] > variance).all()),
    }


WRONG = [
    mean_reward, unweighted_mean, norm_not_squared, own_logit_alone, without_probabilities,
    depends_on_the_action,
]  # fmt: skip
CHECKS = [
    Case("a Bernoulli bandit with p = .3: b = 1 - p", ([[0.7, 0.3]], [[0, 1]]), [[0.7]]),
    Case("p = .9, where the mean reward raises the variance", ([[0.1, 0.9]], [[0, 1]]), [[0.1]]),
    Case("three actions by hand", ([[0.5, 0.25, 0.25]], [[4, 0, 0]]), [[1.2]]),
    Facts("variance, by summing over all actions", _least),
]
