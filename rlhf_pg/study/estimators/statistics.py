"""Bias, variance and direction of an estimator, free of the noise that measures them.

The estimates g are averaged in n blocks, the truth in m; all that is asked can be said in inner
products of these. A square such as |E g|^2 is taken as the mean product of two *different* blocks,
whose noise is independent, so that no noise is added to it. Standard errors leave out one block
at a time (the jackknife, Efron 1982), of the estimates and of the truth; for the square of a bias
that is zero they are too large, by about the root of 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Numbers = dict[str, float]


@dataclass
class Truth:
    """The gradient that estimates are held against, in blocks of equal size or as it is."""

    blocks: Tensor  # (m, parameters), independent and unbiased; m = 1 where it is exact
    episodes: int  # that it took

    @property
    def exact(self) -> bool:
        return len(self.blocks) == 1

    @property
    def mean(self) -> Tensor:
        return self.blocks.mean(0)

    @property
    def gram(self) -> Tensor:
        return inner(self.blocks, self.blocks)

    @property
    def squared_norm(self) -> float:
        """|g*|^2, without what the noise of the blocks adds to it; it may even be negative."""
        return float(square_of_mean(self.gram))

    @property
    def relative_error(self) -> float:
        """Root of E|mean - g*|^2 over |g*|; infinite where the noise drowns the truth."""
        if self.exact:
            return 0.0
        noise = float(self.gram.diagonal().mean()) - self.squared_norm
        if self.squared_norm <= 0:
            return math.inf
        return math.sqrt(max(noise, 0.0) / len(self.blocks) / self.squared_norm)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows, (n, m), in float64."""
    return a.double() @ b.double().T


def square_of_mean(gram: Tensor) -> Tensor:
    """|E x|^2 from the inner products of n independent x: the mean over pairs of different ones."""
    n = len(gram)
    if n == 1:
        return gram[0, 0]
    return (gram.sum() - gram.diagonal().sum()) / (n * (n - 1))


def relative(own: float, along: float, variance: float, truth: float, rescaled: bool) -> Numbers:
    """All measures from |E g|^2, E g . g*, the trace of the covariance and |g*|^2.

    A `rescaled` estimator is first multiplied by what makes its mean's component along the truth
    as long as the truth: its scale is not compared, and its bias is the tangent of the angle
    between them, as long as that is less than a right one.
    """
    cosine = along / math.sqrt(own * truth) if own > 0 and truth > 0 else math.nan
    scale = truth / abs(along) if rescaled and along else 1.0
    own, along, variance = own * scale**2, along * scale, variance * scale**2
    bias = (own - 2 * along + truth) / truth
    return {
        "bias_squared": bias,
        "variance": variance / truth,
        "mse": bias + variance / truth,
        "cosine": cosine,
        "snr": own / variance if variance > 0 else math.inf,
        "scale": scale,
    }


def measured(
    blocks: Tensor,
    squares: Tensor,
    truth: Truth,
    rescaled: bool,
    anchor: Tensor | None = None,
) -> Numbers:
    """The measures and their standard errors, `..._se`.

    `blocks` (n, parameters) are means of equally many estimates, `squares` (n,) of their |g|^2.
    `anchor` (n, parameters) are those of an unbiased estimator u from the same batches, as a
    control variate: E g is taken as mean(g) - beta (mean(u) - g*), beta such that the noise of the
    bias is least.
    """
    beta = 0.0
    factor = _factor(blocks, anchor) if rescaled and anchor is not None else 1.0
    blocks, squares = blocks * factor, squares.double() * factor**2
    away = blocks
    if anchor is not None:
        beta = _share(blocks, anchor, truth)
        away = blocks - beta * anchor
    own, apart = inner(blocks, blocks), inner(away, away)
    along, true = inner(away, truth.blocks), truth.gram

    def of(rows: Tensor, columns: Tensor) -> Numbers:
        variance = float(squares[rows].mean()) - float(square_of_mean(own[rows][:, rows]))
        product = float(along[rows][:, columns].mean())
        norm = float(square_of_mean(true[columns][:, columns]))
        mean_squared = float(square_of_mean(apart[rows][:, rows]))
        mean_squared += 2 * beta * product + beta**2 * norm
        return relative(mean_squared, product + beta * norm, variance, norm, rescaled)

    rows, columns = torch.arange(len(own)), torch.arange(len(true))
    result = of(rows, columns)
    variances = _jackknife(lambda i: of(rows[rows != i], columns), len(rows))
    if not truth.exact:
        by_truth = _jackknife(lambda j: of(rows, columns[columns != j]), len(columns))
        variances = {name: x + by_truth[name] for name, x in variances.items()}
    result["scale"] *= factor
    return result | {f"{name}_se": math.sqrt(x) for name, x in variances.items()}


def _factor(blocks: Tensor, anchor: Tensor) -> float:
    """What brings the blocks nearest to the anchor's."""
    return float((blocks * anchor).sum() / (blocks**2).sum().clamp(min=1e-30))


def _share(blocks: Tensor, anchor: Tensor, truth: Truth) -> float:
    """beta that makes the noise of mean(g) - beta mean(u) - (1 - beta) g* least."""
    g, u, t = (x - x.mean(0) for x in (blocks, anchor, truth.blocks))
    n = len(g) * (len(g) - 1)
    common, whole = float((g * u).sum()) / n, float((u**2).sum()) / n
    of_truth = 0.0 if truth.exact else float((t**2).sum()) / (len(t) * (len(t) - 1))
    return (common + of_truth) / max(whole + of_truth, 1e-30)


def known(mean: Tensor, square: float, rows: int, truth: Truth, rescaled: bool) -> Numbers:
    """The measures of an estimator that averages `rows` independent episodes.

    `mean` (parameters,) is the exact expectation over an episode, `square` that of |g|^2. There is
    no error to state.
    """
    mean, true = mean.double(), truth.mean.double()
    own = float(mean @ mean)
    result = relative(
        own, float(mean @ true), max(square - own, 0.0) / rows, float(true @ true), rescaled
    )
    return result | {f"{name}_se": 0.0 for name in result}


def root(square: float, error: float) -> tuple[float, float]:
    """|bias| and its standard error from bias squared and its own.

    Where the square is within noise, even negative, the bias is at most about the value returned
    plus two errors.
    """
    value = math.sqrt(max(square, 0.0))
    return value, (math.sqrt(max(square, 0.0) + 2 * error) - value) / 2


def _jackknife(without: Callable[[int], Numbers], n: int) -> Numbers:
    """The variance of each number, from its values with each of n blocks left out."""
    left_out = [without(i) for i in range(n)]
    variances = {}
    for name in left_out[0]:
        values = torch.tensor([numbers[name] for numbers in left_out], dtype=torch.float64)
        variances[name] = float((n - 1) * values.var(correction=0))
    return variances
