"""Best-of-n: draw n completions of a prompt, keep the one the reward likes most.

The yardstick for any fine-tuning: it needs no gradient, and its KL to the policy it draws from is
known. `scores` are (P, N): a pool of N samples of each of P prompts serves every n up to N.
"""

import math

import torch
from torch import Tensor


def best_of_n(scores: Tensor, values: Tensor, n: int) -> Tensor:
    """E[value of the best-scored of n samples] of each prompt, (P,), without bias.

    The mean over all n-subsets of the pool: of the samples in rising order, the i-th is the best
    of C(i-1, n-1) of the C(N, n) subsets. Samples of equal score share their places, as a draw
    among them would. `values` (P, N) may be the scores or anything else measured on the same
    samples. Raises ValueError where the pool is smaller than n.
    """
    if not 1 <= n <= scores.shape[1]:
        raise ValueError(
            f"best-of-{n} needs n between 1 and the {scores.shape[1]} samples of each prompt; "
            "draw a larger pool"
        )
    return (_chosen(scores.double(), n) * values.double()).sum(1)


def best_of_n_kl(probabilities: Tensor, n: int) -> float:
    """The exact KL(best-of-n || policy), nats, where the reward takes few values.

    `probabilities` are the policy's of each value, in rising order of the reward. With F the
    distribution function, the best of n has the value i with probability F_i^n - F_{i-1}^n. Ties
    make it smaller than log n - (n-1)/n (Beirami et al. 2024, arXiv 2401.01879).
    """
    above = probabilities.double().cumsum(0)
    return float(_kl_of_ties(above - probabilities.double(), above, n).sum())


def pool_kl(scores: Tensor, n: int) -> Tensor:
    """KL(best-of-n || policy) of each prompt, (P,), nats, estimated from its pool of samples.

    A score that several samples share is an outcome of that frequency (the plug-in of
    `best_of_n_kl`); one that stands alone is a piece of a continuous distribution. Where no scores
    tie, this is log n - (n-1)/n, exact for a continuous reward; it is never above that.
    """
    kls = []
    for row in scores.double():
        count = row.unique(return_counts=True)[1].double() / len(row)
        above = count.cumsum(0)
        below = above - count
        alone = count * len(row) < 1.5
        kls.append(torch.where(alone, _kl_alone(below, above, n), _kl_of_ties(below, above, n)))
    return torch.stack([kl.sum() for kl in kls])


def kl_bound(n: int) -> float:
    """log n - (n-1)/n: the KL of best-of-n without ties, and an upper bound with them."""
    return math.log(n) - (n - 1) / n


def _chosen(scores: Tensor, n: int) -> Tensor:
    """P(this sample is the best of a random n-subset of its prompt's pool), (P, N)."""
    size = scores.shape[1]
    rank = torch.arange(size, 0, -1, dtype=torch.float64)  # of the best first
    # C(i-2, n-1) / C(i-1, n-1) = (i-n) / (i-1) takes each weight to the next one below.
    ratio = ((rank[:-1] - n).clamp(min=0) / (rank[:-1] - 1)) if size > 1 else rank[:0]
    weights = n / size * torch.cat([torch.ones(1, dtype=torch.float64), ratio.cumprod(0)])
    placed = torch.empty_like(scores)
    for row, own in enumerate(scores):
        order = own.argsort(descending=True)
        tied = own[order].unique_consecutive(return_inverse=True)[1]
        sums = torch.zeros(size, dtype=torch.float64).index_add(0, tied, weights)
        counts = torch.zeros(size, dtype=torch.float64).index_add(0, tied, torch.ones_like(weights))
        placed[row, order] = (sums / counts)[tied]
    return placed


def _kl_of_ties(below: Tensor, above: Tensor, n: int) -> Tensor:
    """q log(q / p) of outcomes with probability p = above - below, q that of the best of n."""
    p, q = above - below, above**n - below**n
    return torch.where(q > 0, q * (q / p).log(), torch.zeros_like(q))


def _kl_alone(below: Tensor, above: Tensor, n: int) -> Tensor:
    """The integral of n u^(n-1) log(n u^(n-1)) du from below to above."""

    def primitive(u: Tensor) -> Tensor:
        log_u = u.clamp(min=1e-300).log()
        return u**n * (math.log(n) + (n - 1) * (log_u - 1 / n))

    return primitive(above) - primitive(below)
