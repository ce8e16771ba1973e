"""Action distributions: how an action is sampled, its log-probability, and the environment's form.

Each turns a network's outputs (..., size) into actions. Sampling is a function of noise that is
generated beforehand, for a whole rollout at once; **noise 0 gives the greedy action**: the mode of
a categorical, the mean of a Gaussian. Actions are stored as sampled, before clipping or squashing,
so that their log-probabilities are exact.

Sampling uses numpy and scoring torch: for a few dozen small states numpy is three times faster,
and sampling needs no gradient.
"""

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

LOG_STD_RANGE = (-20.0, 2.0)


class Categorical(nn.Module):
    """One or several independent softmax choices, sampled by the Gumbel-max trick.

    Raises ValueError for a MultiDiscrete space that is not flat.
    """

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        super().__init__()
        self.single = isinstance(space, spaces.Discrete)
        choices = np.array([space.n] if isinstance(space, spaces.Discrete) else space.nvec)
        if choices.ndim != 1:
            raise ValueError(f"a MultiDiscrete of shape {choices.shape} is not flat; flatten it")
        self.sizes, self.start = [int(n) for n in choices], space.start
        self.size = sum(self.sizes)
        number = np.uint8 if max(self.sizes) <= 256 else np.int64
        # The type of one action, to store many.
        self.stored = np.dtype((number, () if self.single else (len(self.sizes),)))

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Gumbel noise, (*shape, size)."""
        return rng.gumbel(size=(*shape, self.size)).astype(np.float32)

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Actions, (...) or (..., choices), from logits (..., size)."""
        if self.single:
            return (outputs + noise).argmax(-1)
        parts = np.split(outputs + noise, np.cumsum(self.sizes)[:-1], axis=-1)
        return np.stack([part.argmax(-1) for part in parts], -1)

    def score(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies, each (...), in nats, summed over the choices."""
        if self.single:
            actions = actions.unsqueeze(-1)
        logprobs = entropies = torch.zeros(())
        for part, action in zip(outputs.split(self.sizes, -1), actions.unbind(-1), strict=True):
            logp = part.log_softmax(-1)
            logprobs = logprobs + logp.gather(-1, action.unsqueeze(-1)).squeeze(-1)
            entropies = entropies - (logp.exp() * logp).sum(-1)
        return logprobs, entropies

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions in the environment's numbering."""
        return actions + self.start


class Gaussian(nn.Module):
    """Independent normal actions; the environment gets them clipped to its bounds.

    The log standard deviation is one parameter per dimension or, if `state_dependent`, an output
    of the network; it is clamped to [-20, 2].
    """

    def __init__(self, space: spaces.Box, state_dependent: bool = False, log_std: float = 0.0):
        super().__init__()
        self.shape, self.dtype = space.shape, space.dtype
        self.low, self.high = space.low, space.high
        self.dimensions = math.prod(space.shape)
        self.state_dependent, self.initial_log_std = state_dependent, log_std
        self.size = self.dimensions * (2 if state_dependent else 1)
        self.stored = np.dtype((np.float32, (self.dimensions,)))  # one action's type, unclipped
        if not state_dependent:
            self.log_std = nn.Parameter(torch.full((self.dimensions,), log_std))

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations, each (..., dimensions)."""
        if not self.state_dependent:
            return outputs, self.log_std.clamp(*LOG_STD_RANGE).expand_as(outputs)
        mean, log_std = outputs.chunk(2, -1)
        return mean, (log_std + self.initial_log_std).clamp(*LOG_STD_RANGE)

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Standard normal noise, (*shape, dimensions)."""
        return rng.standard_normal((*shape, self.dimensions), dtype=np.float32)

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Unclipped actions, (..., dimensions)."""
        with torch.no_grad():
            mean, log_std = self.moments(torch.from_numpy(outputs))
            return (mean + log_std.exp() * torch.from_numpy(noise)).numpy()

    def score(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities and differential entropies, each (...), summed over dimensions."""
        mean, log_std = self.moments(outputs)
        z = (actions - mean) * (-log_std).exp()
        logprobs = -0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)
        entropies = log_std + 0.5 * math.log(2 * math.pi * math.e)
        return logprobs.sum(-1), entropies.sum(-1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions within the bounds, in the environment's shape."""
        shaped = actions.reshape(-1, *self.shape)
        return np.clip(shaped, self.low, self.high).astype(self.dtype)


class SquashedGaussian(Gaussian):
    """A Gaussian squashed into the environment's bounds by tanh.

    Stored actions u are the normal ones; the environment gets a = low + (high - low)(tanh u + 1)/2.
    Log-densities are those of a: the normal's minus log |da/du| (Haarnoja et al. 2018, appendix C).
    Raises ValueError for unbounded actions.
    """

    log_half_range: Tensor
    nodes: Tensor
    weights: Tensor

    def __init__(self, space: spaces.Box, state_dependent: bool = False, log_std: float = 0.0):
        super().__init__(space, state_dependent, log_std)
        if not space.is_bounded():
            raise ValueError("tanh-squashed actions need finite bounds; use --policy.squash false")
        half = torch.as_tensor((space.high - space.low) / 2, dtype=torch.float32).reshape(-1)
        self.register_buffer("log_half_range", half.log(), persistent=False)
        # Gauss-Hermite quadrature: E[f(u)] for a normal u, without sampling, so with a gradient.
        nodes, weights = np.polynomial.hermite_e.hermegauss(32)
        weights = weights / weights.sum()
        for name, values in (("nodes", nodes), ("weights", weights)):
            buffer = torch.tensor(values, dtype=torch.float32)
            self.register_buffer(name, buffer, persistent=False)

    def log_slope(self, u: Tensor) -> Tensor:
        """log |da/du| of each dimension: log(half range) + log(1 - tanh(u)^2), stably."""
        return self.log_half_range + 2 * (math.log(2) - u - F.softplus(-2 * u))

    def score(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities in the environment's units, and entropies by quadrature, each (...)."""
        logprobs, entropies = super().score(outputs, actions)
        mean, log_std = self.moments(outputs)
        u = mean + log_std.exp() * self.nodes.view(-1, *[1] * mean.ndim)  # (nodes, ..., dimensions)
        stretch = torch.einsum("q,q...->...", self.weights, self.log_slope(u))
        return logprobs - self.log_slope(actions).sum(-1), entropies + stretch.sum(-1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions within the bounds, in the environment's shape."""
        fraction = (np.tanh(actions).reshape(-1, *self.shape) + 1) / 2
        return (self.low + (self.high - self.low) * fraction).astype(self.dtype)


def distribution_for(
    space: spaces.Space,
    squash: bool = False,
    state_dependent: bool = False,
    log_std: float = 0.0,
) -> Categorical | Gaussian:
    """The distribution for an action space.

    Raises ValueError unless the space is Discrete, MultiDiscrete or a Box of real numbers.
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return Categorical(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        kind = SquashedGaussian if squash else Gaussian
        return kind(space, state_dependent, log_std)
    raise ValueError(
        f"action space {space} is not supported; wrap the environment so that it takes "
        "Discrete, MultiDiscrete or real-valued Box actions"
    )
