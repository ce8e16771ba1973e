"""Mean, variance and whitening over the real entries of a padded batch.

`mask` is True or 1.0 on real entries. Padding is replaced by zero, not multiplied, so that even an
infinity in it has no effect. `reduce` sums a tensor over processes; with one, it is the identity.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


def alone(x: Tensor) -> Tensor:
    """The sum over a single process: the tensor itself."""
    return x


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """`x` with every padding entry replaced by zero."""
    return torch.where(mask.bool(), x, torch.zeros_like(x))


def masked_mean(x: Tensor, mask: Tensor, reduce: Reduce = alone) -> Tensor:
    """The mean of the real entries of `x` (any shape), a scalar; 0 if there are none."""
    total = reduce(zero_padding(x, mask).sum())
    return total / reduce(mask.to(x.dtype).sum()).clamp(min=1)


def masked_var(x: Tensor, mask: Tensor, reduce: Reduce = alone) -> Tensor:
    """The population variance (divided by n, not n-1) of the real entries of `x`, a scalar."""
    centred = x - masked_mean(x, mask, reduce)
    return masked_mean(centred**2, mask, reduce)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, reduce: Reduce = alone) -> Tensor:
    """Scale the real entries to unit variance and, if `shift_mean`, to mean zero.

    Shape as `x`; padding becomes 0. Use `shift_mean=False` for rewards, whose mean carries
    information. The scale is computed from the same samples, so the gradient is rescaled and
    slightly biased (Ziegler et al. 2019).
    """
    mean, var = masked_mean(x, mask, reduce), masked_var(x, mask, reduce)
    whitened = (x - mean) * torch.rsqrt(var + 1e-8)
    return zero_padding(whitened if shift_mean else whitened + mean, mask)
