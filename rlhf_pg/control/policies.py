"""An actor and a critic over flat observations."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_pg.control.distributions import distribution_for
from rlhf_pg.control.environments import observation_size
from rlhf_pg.control.normalisation import Moments
from rlhf_pg.core.rollout import Evaluation, Rollout


@dataclass
class PolicyConfig:
    """The networks and the kind of action."""

    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """Widths of the hidden layers, usually 32 to 256 each."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between layers; tanh is usual with policy gradients on vectors."""
    shared: bool = False
    """One trunk for actor and critic; separate ones do not compete, a shared one is cheaper."""
    orthogonal: bool = True
    """Orthogonal initial weights: gain sqrt(2), 0.01 for the policy's head, 1 for the value's."""
    squash: bool = False
    """Press real-valued actions into their bounds by tanh, in place of clipping them."""
    state_dependent_std: bool = False
    """Let the network choose the standard deviation, in place of one number per dimension."""
    log_std: float = 0.0
    """Initial log standard deviation of real-valued actions, usually -1 to 0."""
    normalise: bool = False
    """Scale observations by their running mean and deviation; for inputs of unlike sizes."""


class Network(nn.Sequential):
    """Hidden layers of `sizes[1:]` units, each activated; then a linear head, (outputs, gain)."""

    def __init__(
        self, sizes: list[int], head: tuple[int, float] | None, config: PolicyConfig
    ) -> None:
        activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[config.activation]
        layers: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [_linear(a, b, 2**0.5, config.orthogonal), activation()]
        if head is not None:
            layers.append(_linear(sizes[-1], *head, config.orthogonal))
        super().__init__(*layers)

    def plain(self) -> Callable[[np.ndarray], np.ndarray]:
        """The same on numpy arrays: a third of the time where rows are few."""
        stages: list[tuple[np.ndarray, np.ndarray] | Callable[[np.ndarray], np.ndarray]] = []
        for layer in self:
            if isinstance(layer, nn.Linear):
                stages.append((layer.weight.detach().numpy().T, layer.bias.detach().numpy()))
            else:
                stages.append(np.tanh if isinstance(layer, nn.Tanh) else lambda x: x.clip(0))

        def forward(x: np.ndarray) -> np.ndarray:
            for stage in stages:
                x = x @ stage[0] + stage[1] if isinstance(stage, tuple) else stage(x)
            return x

        return forward


def _linear(a: int, b: int, gain: float, orthogonal: bool) -> nn.Linear:
    layer = nn.Linear(a, b)
    if orthogonal:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layer


class ActorCritic(nn.Module):
    """A policy over an action space, with a value of each state where `critic`."""

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
            above = layers[-1:] if config.shared else layers
            self.normaliser = Moments(size) if config.normalise else None
            self.trunk = Network(layers, None, config) if config.shared else None
            self.actor = Network(above, (self.distribution.size, 0.01), config)
            self.critic = Network(above, (1, 1.0), config) if critic else None

    def acting(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """How it acts now: (states (N, size), noise) -> actions (N, ...); noise 0 is greedy."""
        stages = [part.plain() for part in (self.normaliser, self.trunk, self.actor) if part]

        def act(states: np.ndarray, noise: np.ndarray) -> np.ndarray:
            for stage in stages:
                states = stage(states)
            return self.distribution.draw(states, noise)

        return act

    def evaluate(self, rollout: Rollout) -> Evaluation:
        """Log-probabilities, entropies and values of a rollout's actions now, each (B, T)."""
        features = self._features(rollout.inputs)
        logprobs, entropies = self.distribution.score(self.actor(features), rollout.actions)
        values = None if self.critic is None else self.critic(features).squeeze(-1)
        return Evaluation(logprobs, entropies, values)

    def outputs(self, observations: Tensor) -> Tensor:
        """What the distribution is made of, logits for instance: (..., distribution.size)."""
        outputs: Tensor = self.actor(self._features(observations))
        return outputs

    def values(self, observations: Tensor) -> Tensor:
        """V of states (..., size); 0 without a critic."""
        if self.critic is None:
            return observations.new_zeros(observations.shape[:-1])
        values: Tensor = self.critic(self._features(observations)).squeeze(-1)
        return values

    def _features(self, observations: Tensor) -> Tensor:
        for part in (self.normaliser, self.trunk):
            if part is not None:
                observations = part(observations)
        return observations


def save_policy(policy: ActorCritic, folder: Path, about: dict[str, Any]) -> None:
    """Write policy.safetensors (parameters and running moments) and config.json into a folder."""
    state = {name: tensor.contiguous() for name, tensor in policy.state_dict().items()}
    save_file(state, folder / "policy.safetensors")
    described = {**about, "policy": asdict(policy.config), "critic": policy.critic is not None}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def load_policy(folder: Path, observations: spaces.Space, actions: spaces.Space) -> ActorCritic:
    """The policy that `save_policy` wrote, for these spaces; nothing is unpickled.

    Raises ValueError where the folder holds none, or one for other spaces.
    """
    about = read_about(folder)
    policy = ActorCritic(observations, actions, PolicyConfig(**about["policy"]), about["critic"])
    try:
        policy.load_state_dict(load_file(folder / "policy.safetensors"))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"the policy in {folder} does not fit or is damaged: {error}") from error
    return policy


def read_about(folder: Path) -> dict[str, Any]:
    """What `save_policy` wrote beside the parameters; ValueError where there is nothing."""
    try:
        about: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text())
        about["policy"], about["critic"]
        (Path(folder) / "policy.safetensors").stat()
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} holds no control policy: {error}") from error
    return about
