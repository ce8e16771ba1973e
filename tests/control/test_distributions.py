"""Densities integrate to one, entropies are those of the samples, noise 0 is greedy."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlhf_pg.control.distributions import SquashedGaussian, distribution_for

LOW, HIGH = np.array([[-2.0, 0.0], [2.0, 6.0]], dtype=np.float32)
BOX = spaces.Box(LOW, HIGH)
KINDS = {
    "categorical": (spaces.Discrete(4, start=-1), {}),
    "multi": (spaces.MultiDiscrete([3, 2]), {}),
    "gaussian": (BOX, {"log_std": -0.5}),
    "gaussian-by-state": (BOX, {"state_dependent": True}),
    "squashed": (BOX, {"squash": True, "log_std": -0.3}),
    "squashed-by-state": (BOX, {"squash": True, "state_dependent": True}),
}


def sampled(kind, outputs, count):
    rng = np.random.default_rng(0)
    repeated = outputs.detach().expand(count, -1)
    return kind.sample(repeated.numpy().copy(), kind.noise((count,), rng))


@pytest.mark.parametrize("name", KINDS)
def test_entropy_is_the_mean_of_minus_log_probability(name):
    space, options = KINDS[name]
    kind = distribution_for(space, **options)
    outputs = torch.linspace(-0.6, 0.8, kind.size)
    actions = torch.from_numpy(sampled(kind, outputs, 40_000))
    with torch.no_grad():
        logprobs, entropies = kind.score(outputs.expand(40_000, -1), actions)
    assert logprobs.shape == entropies.shape == (40_000,)
    error = float(logprobs.std()) / 200
    assert float(-logprobs.mean()) == pytest.approx(float(entropies[0]), abs=5 * error)


@pytest.mark.parametrize("name", KINDS)
def test_the_environment_accepts_every_action(name):
    space, options = KINDS[name]
    kind = distribution_for(space, **options)
    actions = kind.to_environment(sampled(kind, 3 * torch.linspace(-1, 1, kind.size), 200))
    assert all(space.contains(action) for action in actions)


@pytest.mark.parametrize("name", KINDS)
def test_gradient_of_entropy_is_that_of_its_definition(name):
    """dH = -E[d log pi log pi], by sampling: a bonus in the loss moves the entropy."""
    space, options = KINDS[name]
    kind = distribution_for(space, **options)
    outputs = torch.linspace(-0.6, 0.8, kind.size, requires_grad=True)
    entropy = kind.score(outputs.unsqueeze(0), _first(kind))[1].sum()
    # An unsquashed Gaussian's entropy does not depend on its mean.
    (exact,) = torch.autograd.grad(entropy, outputs, allow_unused=True, materialize_grads=True)
    many = 200_000
    actions = torch.from_numpy(sampled(kind, outputs, many))
    rows = outputs.detach().expand(many, -1).clone().requires_grad_()
    logprobs, _ = kind.score(rows, actions)
    (slope,) = torch.autograd.grad(logprobs.sum(), rows)
    samples = -slope * (logprobs.detach() - logprobs.mean().detach()).unsqueeze(1)
    error = samples.std(0) / many**0.5
    assert ((samples.mean(0) - exact).abs() < 5 * error + 1e-6).all()


def _first(kind):
    return torch.from_numpy(sampled(kind, torch.zeros(kind.size), 1))


@pytest.mark.parametrize("log_std", [-3.0, 0.0, 1.0])
def test_squashed_density_integrates_to_one_in_the_environments_units(log_std):
    space = spaces.Box(-3.0, 1.0, (1,), np.float32)
    kind = SquashedGaussian(space, log_std=log_std)
    u = torch.linspace(-12, 12, 200_001).unsqueeze(1)
    with torch.no_grad():
        logprobs, entropies = kind.score(torch.full_like(u, 0.4), u)
    actions = torch.from_numpy(kind.to_environment(u.numpy())).double()[:, 0]
    density = logprobs.double().exp()
    widths = actions[1:] - actions[:-1]
    middle = (density[1:] + density[:-1]) / 2
    assert float((middle * widths).sum()) == pytest.approx(1, abs=2e-3)
    by_hand = float(-(middle * middle.clamp(min=1e-30).log() * widths).sum())
    assert float(entropies[0]) == pytest.approx(by_hand, abs=0.02)


def test_gaussian_by_hand_and_stored_unclipped():
    space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    kind = distribution_for(space, log_std=float(np.log(2.0)))
    actions = torch.tensor([[3.0, -1.0]])  # beyond the bounds
    with torch.no_grad():
        logprobs, _ = kind.score(torch.tensor([[1.0, 1.0]]), actions)
    one = -0.5 * 1 - np.log(2) - 0.5 * np.log(2 * np.pi)  # z = 1 and z = -1
    assert float(logprobs) == pytest.approx(2 * one)
    np.testing.assert_array_equal(kind.to_environment(actions.numpy()), [[1.0, -1.0]])


@pytest.mark.parametrize("squash", [False, True])
def test_a_deviation_by_state_is_the_networks_second_half(squash):
    kind = distribution_for(spaces.Box(-1.0, 1.0, (1,)), squash, True, log_std=-0.5)
    outputs = torch.tensor([[0.3, -1.0], [0.3, 0.5]], requires_grad=True)
    actions = kind.sample(outputs.detach().numpy(), np.ones((2, 1), np.float32))
    deviations = torch.tensor([[-1.5], [0.0]]).exp()  # log-std: the output plus the initial one
    np.testing.assert_allclose(actions, 0.3 + deviations.numpy(), rtol=1e-6)
    if not squash:
        normal = torch.distributions.Normal(outputs[:, :1].detach(), deviations)
        logprobs, entropies = kind.score(outputs, torch.from_numpy(actions))
        torch.testing.assert_close(logprobs, normal.log_prob(torch.from_numpy(actions))[:, 0])
        torch.testing.assert_close(entropies, normal.entropy()[:, 0])
    entropies = kind.score(outputs, torch.from_numpy(actions))[1]
    assert torch.autograd.grad(entropies.sum(), outputs)[0][:, 1].all()


def test_log_std_is_clamped():
    kind = distribution_for(BOX, log_std=50.0)
    _, log_std = kind.moments(torch.zeros(1, 2))
    assert log_std.tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("name", KINDS)
def test_noise_zero_is_the_likeliest_sample(name):
    space, options = KINDS[name]
    kind = distribution_for(space, **options)
    outputs = torch.linspace(-0.6, 0.8, kind.size).unsqueeze(0)
    noise = np.zeros_like(kind.noise((1,), np.random.default_rng(0)))
    greedy = torch.from_numpy(kind.sample(outputs.numpy(), noise))
    others = torch.from_numpy(sampled(kind, outputs, 300))
    if name.startswith("squashed"):  # the likeliest u; the squashed density may peak elsewhere
        kind = distribution_for(space, **{**options, "squash": False})
        if not kind.state_dependent:
            kind.log_std.data.fill_(options["log_std"])
    best = kind.score(outputs, greedy)[0]
    assert (kind.score(outputs.expand(300, -1), others)[0] <= best + 1e-6).all()


@pytest.mark.parametrize(
    "space, options, message",
    [
        (spaces.MultiBinary(3), {}, "not supported"),
        (spaces.Box(0, 255, (2,), np.uint8), {}, "not supported"),
        (spaces.Box(-np.inf, np.inf, (1,), np.float32), {"squash": True}, "finite bounds"),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), {}, "flat"),
    ],
)
def test_unsupported_spaces_are_named(space, options, message):
    with pytest.raises(ValueError, match=message):
        distribution_for(space, **options)
