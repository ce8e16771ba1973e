"""Mean, variance and whitening over the real entries of a padded batch.

`mask` is True or 1.0 on real entries. Padding is replaced, not multiplied, so that even an
infinity in it cannot leak. `reduce` sums a tensor over processes; alone, it is the identity.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


def alone(x: Tensor) -> Tensor:
    """The sum over one process: the tensor itself."""
    return x


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """`x` with every padding entry replaced by zero."""
    return torch.where(mask.bool(), x, torch.zeros_like(x))


def masked_mean(x: Tensor, mask: Tensor, reduce: Reduce = alone) -> Tensor:
    """The mean of the real entries of `x` (any shape), a scalar; 0 where there are none."""
    total = reduce(zero_padding(x, mask).sum())
    return total / reduce(mask.to(x.dtype).sum()).clamp(min=1)


def masked_var(x: Tensor, mask: Tensor, reduce: Reduce = alone) -> Tensor:
    """The population variance (divided by n, not n-1) of the real entries of `x`, a scalar."""
    centred = x - masked_mean(x, mask, reduce)
    return masked_mean(centred**2, mask, reduce)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, reduce: Reduce = alone) -> Tensor:
    """Scale the real entries to unit variance, and to mean zero where `shift_mean`.

    Shape as `x`; padding becomes 0. Rewards keep their mean (`shift_mean=False`), since the mean
    reward is information; advantages lose it. Whitening divides by a quantity computed from the
    same samples, so the result is a rescaled and slightly biased gradient (Ziegler et al. 2019).
    """
    mean, var = masked_mean(x, mask, reduce), masked_var(x, mask, reduce)
    whitened = (x - mean) * torch.rsqrt(var + 1e-8)
    return zero_padding(whitened if shift_mean else whitened + mean, mask)
