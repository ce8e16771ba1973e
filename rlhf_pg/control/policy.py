"""An actor and a critic over flat observations, and the files they are saved in."""

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reward_models.pretrained import one_thread_if_small
from rlhf_pg.checkpoint import checkpoint_folders
from rlhf_pg.control.config import ControlConfig, PolicyConfig
from rlhf_pg.control.distributions import distribution_for
from rlhf_pg.control.normalise import Moments
from rlhf_pg.core.options import made_from
from rlhf_pg.core.rollout import Evaluation, Rollout
from rlhf_pg.memory import check_fits
from rlhf_pg.progress import console
from rlhf_pg.reading import FLAG, read_json


def observation_size(space: spaces.Space) -> int:
    """Length of the vector that `encode` makes of an observation.

    Raises ValueError for images, and for a space (Text, Graph, ...) that has no such vector.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.values() if isinstance(space, spaces.Dict) else space
        return sum(observation_size(part) for part in parts)
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1:
        raise ValueError(
            f"observations {space} are images, which the networks here do not read: let the "
            "environment give a vector of features, or flatten the pixels on purpose with "
            "gymnasium.wrappers.FlattenObservation (and --policy.normalise)"
        )
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return spaces.flatdim(space)
    raise ValueError(
        f"observation space {space} is not supported; wrap the environment so that it gives Box, "
        "Discrete, MultiDiscrete or MultiBinary observations, or a Dict or Tuple of these"
    )


def encode(space: spaces.Space, observations: Any) -> np.ndarray:
    """Observations of N environments, as their vector environment gives them, as float32 (N, size).

    Each row is that of `gymnasium.spaces.flatten`: Discrete and MultiDiscrete are one-hot, the
    parts of a Dict or Tuple stand one after another in the space's order.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate([encode(part, observations[k]) for k, part in space.items()], 1)
    if isinstance(space, spaces.Tuple):
        pairs = zip(space, observations, strict=True)
        return np.concatenate([encode(part, one) for part, one in pairs], 1)
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[observations - space.start]
    rows = observations.reshape(len(observations), -1)
    if isinstance(space, spaces.MultiDiscrete):
        choices = zip(space.nvec.flat, (rows - space.start.reshape(-1)).T, strict=True)
        return np.concatenate([np.eye(n, dtype=np.float32)[chosen] for n, chosen in choices], 1)
    return rows.astype(np.float32, copy=False)


def network(
    sizes: list[int], head: tuple[int, float] | None, config: PolicyConfig
) -> nn.Sequential:
    """Hidden layers of `sizes[1:]` units, each with an activation; then a linear head.

    `head` is the number of outputs and the gain of their initial weights; None is no head.
    """
    activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[config.activation]
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [_linear(a, b, 2**0.5, config.orthogonal), activation()]
    if head is not None:
        layers.append(_linear(sizes[-1], *head, config.orthogonal))
    return nn.Sequential(*layers)


def _linear(a: int, b: int, gain: float, orthogonal: bool) -> nn.Linear:
    layer = nn.Linear(a, b)
    if orthogonal:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layer


def numpy_stages(module: nn.Module) -> list[Callable[[np.ndarray], np.ndarray]]:
    """A network's layers, or Moments, as functions of arrays, with the weights as they are now.

    One after another, they take a third of torch's time for a few dozen rows.
    """
    if isinstance(module, nn.Sequential):
        return [stage for layer in module for stage in numpy_stages(layer)]
    if isinstance(module, nn.Linear):
        weight, bias = module.weight.detach().numpy().T, module.bias.detach().numpy()
        return [lambda x: x @ weight + bias]
    if isinstance(module, Moments):
        mean, scale = module.mean.float().numpy(), module.scale().numpy()
        return [lambda x: ((x - mean) * scale).clip(-10, 10)]
    return [np.tanh if isinstance(module, nn.Tanh) else lambda x: x.clip(0)]


class ActorCritic(nn.Module):
    """An action distribution for every observation, and V of it if `critic`."""

    def __init__(
        self,
        observations: spaces.Space,
        actions: spaces.Space,
        config: PolicyConfig,
        critic: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        size = observation_size(observations)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.distribution = distribution_for(
                actions, config.squash, config.state_dependent_std, config.log_std
            )
            layers = [size, *config.hidden]
            head_layers = layers[-1:] if config.shared else layers
            self.normaliser = Moments(size) if config.normalise else None
            self.trunk = network(layers, None, config) if config.shared else None
            self.actor = network(head_layers, (self.distribution.size, 0.01), config)
            self.critic = network(head_layers, (1, 1.0), config) if critic else None

    def acting(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """The policy as it is now: (states (N, size), noise (N, ...)) -> actions (N, ...).

        Noise 0 gives the greedy actions.
        """
        parts = (self.normaliser, self.trunk, self.actor)
        stages = [s for part in parts if part is not None for s in numpy_stages(part)]

        def act(states: np.ndarray, noise: np.ndarray) -> np.ndarray:
            for stage in stages:
                states = stage(states)
            return self.distribution.sample(states, noise)

        return act

    def evaluate(self, rollout: Rollout) -> Evaluation:
        """Log-probabilities, entropies and values of a rollout's actions, each (B, T)."""
        return self.evaluate_actions(rollout.inputs, rollout.actions)

    def evaluate_actions(self, observations: Tensor, actions: Tensor) -> Evaluation:
        """The same of actions (B, T, ...) at observations (B, T, size)."""
        features = self._features(observations)
        logprobs, entropies = self.distribution.score(self.actor(features), actions)
        values = None if self.critic is None else self.critic(features).squeeze(-1)
        return Evaluation(logprobs, entropies, values)

    def outputs(self, observations: Tensor) -> Tensor:
        """The distribution's inputs, such as logits: (..., distribution.size)."""
        outputs: Tensor = self.actor(self._features(observations))
        return outputs

    def values(self, observations: Tensor) -> Tensor:
        """V of observations (..., size); 0 without a critic."""
        if self.critic is None:
            return observations.new_zeros(observations.shape[:-1])
        values: Tensor = self.critic(self._features(observations)).squeeze(-1)
        return values

    def actor_parameters(self) -> list[nn.Parameter]:
        """The parameters that the action probabilities depend on: all but the critic's own."""
        parts = (self.trunk, self.actor, self.distribution)
        return [p for part in parts if part is not None for p in part.parameters()]

    def _features(self, observations: Tensor) -> Tensor:
        for part in (self.normaliser, self.trunk):
            if part is not None:
                observations = part(observations)
        return observations


def make_policy(config: ControlConfig, environments: VectorEnv) -> ActorCritic:
    """A new policy for these environments, with a critic if the baseline is one."""
    sizes = [observation_size(environments.single_observation_space), *config.policy.hidden, 1]
    parameters = sum(a * b for a, b in pairwise(sizes))
    # Before the weights are made: the last digits of an orthogonal matrix depend on the number of
    # threads, and the first run of a process would differ from the same run after another one.
    one_thread_if_small(parameters)
    check_fits(16 * parameters, "training this network with Adam", "--policy.hidden")
    return ActorCritic(
        environments.single_observation_space,
        environments.single_action_space,
        config.policy,
        critic=config.learner.baseline == "critic",
        seed=config.seed,
    )


def save_policy(policy: ActorCritic, folder: Path, about: dict[str, Any]) -> None:
    """Write policy.safetensors (parameters and running moments) and config.json into a folder."""
    folder.mkdir(exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in policy.state_dict().items()}
    save_file(state, folder / "policy.safetensors")
    described = {**about, "policy": asdict(policy.config), "critic": policy.critic is not None}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def policy_folder(path: Path) -> Path:
    """The folder of the policy that a run, or best/ in one, holds: of an unfinished run, the newest
    checkpoint's. Raises ValueError if there is none."""
    found = [path, path / "policy", *(folder / "policy" for folder in checkpoint_folders(path))]
    for at, folder in enumerate(found):
        if (folder / "policy.safetensors").is_file():
            if at > 1:
                text = f"{path} is unfinished: using iteration {int(folder.parent.name)}"
                console.print(text, markup=False)
            return folder
    raise ValueError(f"{path} holds no control policy: it is unfinished, and has no checkpoint yet")


def load_policy(folder: Path, observations: spaces.Space, actions: spaces.Space) -> ActorCritic:
    """The policy that `save_policy` wrote; nothing is unpickled.

    Raises ValueError if the folder holds none, or one for other spaces.
    """
    try:
        about = read_json(folder / "config.json", {"policy!": {}, "critic!": FLAG})
        kind: PolicyConfig = made_from(PolicyConfig, about["policy"], str(folder / "config.json"))
        critic = bool(about["critic"])
        state = load_file(folder / "policy.safetensors")
        policy = ActorCritic(observations, actions, kind, critic)
        policy.load_state_dict(state)
    except OSError as error:
        raise ValueError(f"{folder} holds no control policy: {error}") from error
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"the policy in {folder} does not fit or is damaged: {error}") from error
    return policy
