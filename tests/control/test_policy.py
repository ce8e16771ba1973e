"""The numpy forward is torch's, and a saved policy is the one that was trained."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from rlhf_pg.control.config import PolicyConfig
from rlhf_pg.control.policy import (
    ActorCritic,
    encode,
    load_policy,
    numpy_stages,
    observation_size,
    save_policy,
)
from rlhf_pg.core.rollout import Rollout

OBSERVATIONS = spaces.Box(-1e6, 1e6, (3,))
SPACES = OBSERVATIONS, spaces.Discrete(4)
OPTIONS = [
    {},
    {"hidden": []},
    {"hidden": [8, 8], "activation": "relu", "orthogonal": False},
    {"shared": True, "normalise": True},
]


def made(options, seed=0, critic=True):
    policy = ActorCritic(*SPACES, PolicyConfig(**options), critic, seed)
    if policy.normaliser is not None:
        policy.normaliser.update(torch.randn(50, 3) * 4 + 1)
    return policy


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_acting_in_numpy_is_scored_in_torch(options):
    policy = made(options)
    states = torch.randn(20, 3) * 5
    if policy.normaliser is not None:
        states[0] = 1e3  # beyond its clamp
    x = states.numpy()
    for part in (policy.normaliser, policy.trunk, policy.actor):
        for stage in numpy_stages(part) if part is not None else []:
            x = stage(x)
    torch.testing.assert_close(torch.from_numpy(x), policy.outputs(states).detach())
    greedy = policy.acting()(states.numpy(), torch.zeros(20, 4).numpy())
    assert greedy.tolist() == policy.outputs(states).argmax(-1).tolist()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("critic", [True, False])
def test_a_saved_policy_is_the_same_policy(options, critic, tmp_path):
    policy = made(options, seed=3, critic=critic)
    save_policy(policy, tmp_path, {"env": "any"})
    again = load_policy(tmp_path, *SPACES)
    states = torch.randn(5, 3)
    assert again.outputs(states).equal(policy.outputs(states))
    assert again.values(states).equal(policy.values(states))
    assert (again.critic is None) == (not critic)
    with pytest.raises(ValueError, match="does not fit"):
        load_policy(tmp_path, spaces.Box(-1, 1, (7,)), SPACES[1])


def test_the_actors_parameters_are_those_that_log_probabilities_depend_on():
    box = spaces.Box(-1, 1, (1,))
    for options in OPTIONS:
        policy = ActorCritic(OBSERVATIONS, box, PolicyConfig(**options))
        actions, nothing = torch.ones(2, 5, 1), [torch.zeros(2, 5)] * 6
        rollout = Rollout(torch.randn(2, 5, 3), actions, *nothing)
        policy.evaluate(rollout).logprobs.sum().backward()
        moved = [p for p in policy.parameters() if p.grad is not None]
        assert {id(p) for p in moved} == {id(p) for p in policy.actor_parameters()}


def test_a_discrete_observation_is_one_hot():
    space = spaces.Discrete(3, start=1)
    assert encode(space, torch.tensor([3, 1]).numpy()).tolist() == [[0, 0, 1], [1, 0, 0]]


BOX, IMAGE = spaces.Box(-1, 1, (2, 3)), spaces.Box(0, 255, (8, 8, 3), np.uint8)
FLAT = {
    "box": BOX,
    "integers": spaces.Box(-3, 3, (4,), np.int64),
    "memory": spaces.Box(0, 255, (16,), np.uint8),  # bytes, but no image
    "discrete": spaces.Discrete(3, start=-1),
    "several": spaces.MultiDiscrete([2, 3], start=[0, 5]),
    "grid": spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "bits": spaces.MultiBinary([2, 2]),
    "tuple": spaces.Tuple((spaces.Discrete(2), BOX)),
    "dict": spaces.Dict(
        {
            "z": BOX,
            "a": spaces.Dict({"deep": spaces.Tuple((spaces.MultiBinary(2),))}),
            "k": spaces.MultiDiscrete([3, 2]),
        }
    ),
}


@pytest.mark.parametrize("name", FLAT)
def test_observations_are_flattened_as_by_gymnasium(name):
    space = FLAT[name]
    space.seed(0)
    samples = [space.sample() for _ in range(5)]
    batch = concatenate(space, samples, create_empty_array(space, 5))
    expected = np.stack([spaces.flatten(space, sample) for sample in samples])
    vectors = encode(space, batch)
    np.testing.assert_array_equal(vectors, expected.astype(np.float32))
    assert vectors.dtype == np.float32 and vectors.shape == (5, observation_size(space))


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (IMAGE, "images"),
        (spaces.Dict({"camera": IMAGE, "speed": BOX}), "FlattenObservation"),
        (spaces.Text(5), "Dict or Tuple of these"),
        (spaces.Tuple((BOX, spaces.Sequence(BOX))), "not supported"),
    ],
    ids=str,
)
def test_observations_that_are_no_vector_are_refused(space, says):
    with pytest.raises(ValueError, match=says):
        observation_size(space)
