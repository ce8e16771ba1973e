"""How noisy an algorithm's gradient is, by the parameters of an actor."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlhf_pg.control.policies import ActorCritic
from rlhf_pg.core import gradients
from rlhf_pg.core.gradients import GradientNoise
from rlhf_pg.core.learner import LearnerConfig, Rollout


def acting_parameters(policy: ActorCritic) -> list[torch.nn.Parameter]:
    """Those that the probabilities of actions depend on; a critic of its own is left out."""
    parts = (policy.trunk, policy.actor, policy.distribution)
    return [p for part in parts if part is not None for p in part.parameters()]


def policy_gradient(policy: ActorCritic, rollout: Rollout, config: LearnerConfig) -> Tensor:
    """One estimate of grad J by the actor's parameters, (parameters,), summed over an episode.

    The advantages are those of `config`; the loss is the plain policy gradient's, which is also
    PPO's at its first step.
    """
    return gradients.policy_gradient(policy, rollout, _plain(config), acting_parameters(policy))


def gradient_noise(
    policy: ActorCritic, rollouts: Sequence[Rollout], config: LearnerConfig
) -> GradientNoise:
    """Mean and variance of the estimates from rollouts (at least two) of equal size."""
    return gradients.gradient_noise(policy, rollouts, _plain(config), acting_parameters(policy))


def _plain(config: LearnerConfig) -> LearnerConfig:
    return replace(config, clip=None, reduction="episode")
