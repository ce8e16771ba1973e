"""Entropy in the reward is exactly the maximum-entropy objective; a collapse warns once."""

import math

import pytest
import torch

from rlhf_pg.control.config import preset, tuned
from rlhf_pg.control.entropy import Temperature
from rlhf_pg.control.train import Trainer
from rlhf_pg.core.losses import policy_gradient_loss
from rlhf_pg.core.returns import rewards_to_go
from rlhf_pg.core.rollout import Rollout


def test_the_expected_gradient_is_that_of_reward_plus_entropy():
    """By enumerating the four episodes of two binary choices, the second depending on the first."""
    torch.manual_seed(0)
    theta = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    reward = torch.randn(2, 2, dtype=torch.float64)
    temperature = Temperature(0.7)
    logp = theta.log_softmax(-1)
    episodes = torch.tensor([[a, b] for a in (0, 1) for b in (0, 1)])
    logprobs = torch.stack(
        [logp[0, episodes[:, 0]], logp[1 + episodes[:, 0], episodes[:, 1]]], dim=1
    )
    probability = logprobs.sum(1).exp()
    returns = reward[episodes[:, 0], episodes[:, 1]]
    objective = (probability * returns).sum() - 0.7 * (probability * logprobs.sum(1)).sum()
    (exact,) = torch.autograd.grad(objective, theta, retain_graph=True)

    nothing = torch.zeros(4, 2, dtype=torch.float64)
    rewards = torch.stack([torch.zeros(4).double(), returns], 1)
    ends, mask = torch.tensor([[0.0, 1.0]]).expand(4, 2), torch.ones(4, 2)
    rollout = Rollout(None, episodes, logprobs.detach(), nothing, nothing, rewards, ends, mask)
    to_go = rewards_to_go(temperature.shape(rollout).rewards, ends, 1.0)
    # The mean over rows is made the expectation by weighting each row with its probability.
    weighted = to_go * probability.detach().unsqueeze(1) * 4
    (estimated,) = torch.autograd.grad(policy_gradient_loss(logprobs, weighted, mask), theta)
    torch.testing.assert_close(-estimated, exact)


def test_temperature_follows_its_target():
    temperature = Temperature(0.1, target=0.5, rate=0.1)
    temperature.update(0.3)
    assert temperature.value == pytest.approx(0.1 * math.exp(0.1 * 0.2))
    temperature.update(5.0)
    assert temperature.value == pytest.approx(0.1 * math.exp(0.1 * (0.2 - 1)))
    again = Temperature(0.1, target=0.5)
    again.load_state_dict(temperature.state_dict())
    assert again.value == temperature.value


@pytest.mark.parametrize("target", [0.5, 0.9])
def test_a_tuned_temperature_holds_the_entropy_near_its_target(target):
    config = tuned(
        preset("a2c", "Target-v0"),
        environments=64,
        rollout_steps=4,
        hidden=[],
        lr=0.05,
        gamma=0.9,
        entropy_temperature=0.3,
        target_entropy=target,
    )
    trainer = Trainer(config)
    late = [trainer.step()["entropy"] for _ in range(250)][-50:]
    assert sum(late) / 50 == pytest.approx(target, abs=0.1)
    assert trainer.temperature.value > 0


def test_negative_or_untunable_temperatures_are_refused():
    for value, target in ((-0.1, None), (0.0, 0.5)):
        with pytest.raises(ValueError, match="temperature"):
            Temperature(value, target)
