"""Bias, variance and direction of a gradient estimator, corrected for the noise of the sample.

The estimates g are averaged in n blocks, the true gradient g* in m; every measure is a function of
inner products of these. A square such as |E g|^2 is the mean product of two *different* blocks,
whose noise is independent, so that no noise is added to it. Standard errors leave out one block at
a time (the jackknife, Efron 1982), of the estimates and of the truth; for the square of a bias
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
    """The true gradient g*: exact, or as the means of independent blocks of equal size."""

    blocks: Tensor  # (m, parameters), unbiased; m = 1 if it is exact
    episodes: int  # number of episodes summed or sampled

    @property
    def mean(self) -> Tensor:
        return self.blocks.mean(0)

    @property
    def squared_norm(self) -> float:
        """|g*|^2 without the noise of the blocks; an unbiased estimate, so it may be negative."""
        return float(square_of_mean(inner(self.blocks, self.blocks)))

    @property
    def relative_error(self) -> float:
        """Root of E|mean - g*|^2 over |g*|; infinite if |g*| cannot be distinguished from zero."""
        if len(self.blocks) == 1:
            return 0.0
        if self.squared_norm <= 0:
            return math.inf
        noise = float(inner(self.blocks, self.blocks).diagonal().mean()) - self.squared_norm
        return math.sqrt(max(noise, 0.0) / len(self.blocks) / self.squared_norm)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of a (n, p) and b (m, p), (n, m), float64."""
    return a.double() @ b.double().T


def square_of_mean(gram: Tensor) -> Tensor:
    """|E x|^2 from the inner products of n independent x: the mean over pairs of different ones."""
    n = len(gram)
    if n == 1:
        return gram[0, 0]
    return (gram.sum() - gram.diagonal().sum()) / (n * (n - 1))


def relative(own: float, along: float, variance: float, truth: float, rescaled: bool) -> Numbers:
    """All measures from |E g|^2, E g . g*, the trace of the covariance and |g*|^2.

    A `rescaled` estimator is first multiplied so that the component of its mean along g* is as
    long as g*: its scale is not compared, and its bias is the tangent of the angle between mean
    and truth, if that is below 90 degrees.
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


def known(mean: Tensor, square: float, rows: int, truth: Truth, rescaled: bool) -> Numbers:
    """The exact measures of an estimator that averages `rows` independent episodes.

    `mean` (parameters,) is the expectation of g over one episode, `square` that of |g|^2. Standard
    errors, `NAME_se`, are 0.
    """
    mean, true = mean.double(), truth.mean.double()
    own = float(mean @ mean)
    variance = max(square - own, 0.0) / rows
    result = relative(own, float(mean @ true), variance, float(true @ true), rescaled)
    return result | {f"{name}_se": 0.0 for name in result}


def measured(
    blocks: Tensor,
    squares: Tensor,
    truth: Truth,
    rescaled: bool,
    anchor: Tensor | None = None,
) -> Numbers:
    """The measures of a sampled estimator, and their standard errors, `NAME_se`.

    `blocks` (n, parameters) are means of equally many estimates, `squares` (n,) of their |g|^2.
    `anchor` (n, parameters) are those of an unbiased estimator u on the same batches, a control
    variate: E g is estimated by mean(g) - beta (mean(u) - g*), with the beta of least noise.
    """
    beta, factor = 0.0, 1.0
    if anchor is not None and rescaled:
        # Bring the estimator to the anchor's scale first: a control variate needs a common one.
        factor = float((blocks * anchor).sum() / (blocks**2).sum().clamp(min=1e-30))
    blocks, squares = blocks * factor, squares.double() * factor**2
    corrected = blocks
    if anchor is not None:
        beta = _control_coefficient(blocks, anchor, truth.blocks)
        corrected = blocks - beta * anchor
    own, apart = inner(blocks, blocks), inner(corrected, corrected)
    along, true = inner(corrected, truth.blocks), inner(truth.blocks, truth.blocks)

    def measures(rows: Tensor, columns: Tensor) -> Numbers:
        """From these blocks of the estimates and of the truth; E g = E corrected + beta g*."""
        variance = float(squares[rows].mean()) - float(square_of_mean(own[rows][:, rows]))
        product = float(along[rows][:, columns].mean())
        norm = float(square_of_mean(true[columns][:, columns]))
        mean_squared = float(square_of_mean(apart[rows][:, rows]))
        mean_squared += 2 * beta * product + beta**2 * norm
        return relative(mean_squared, product + beta * norm, variance, norm, rescaled)

    rows, columns = torch.arange(len(own)), torch.arange(len(true))
    result = measures(rows, columns)
    variances = _jackknife(lambda i: measures(rows[rows != i], columns), len(rows))
    if len(true) > 1:
        of_truth = _jackknife(lambda j: measures(rows, columns[columns != j]), len(columns))
        variances = {name: x + of_truth[name] for name, x in variances.items()}
    result["scale"] *= factor
    return result | {f"{name}_se": math.sqrt(x) for name, x in variances.items()}


def _control_coefficient(blocks: Tensor, anchor: Tensor, truth: Tensor) -> float:
    """The beta that minimises the noise of mean(g) - beta mean(u) - (1 - beta) g*."""
    g, u, t = (x - x.mean(0) for x in (blocks, anchor, truth))
    n, m = len(g) * (len(g) - 1), max(1, len(t) * (len(t) - 1))
    of_truth = float((t**2).sum()) / m  # 0 if exact
    common, whole = float((g * u).sum()) / n + of_truth, float((u**2).sum()) / n + of_truth
    return common / max(whole, 1e-30)


def _jackknife(without: Callable[[int], Numbers], n: int) -> Numbers:
    """The variance of each number, from its values with each of n blocks left out."""
    left_out = [without(i) for i in range(n)]
    variances = {}
    for name in left_out[0]:
        values = torch.tensor([numbers[name] for numbers in left_out], dtype=torch.float64)
        variances[name] = float((n - 1) * values.var(correction=0))
    return variances


def root(square: float, error: float) -> tuple[float, float]:
    """|bias| and its standard error, from the squared bias and its own.

    If the square is within noise, even negative, |bias| is at most about the returned value plus
    two errors.
    """
    value = math.sqrt(max(square, 0.0))
    return value, (math.sqrt(max(square, 0.0) + 2 * error) - value) / 2
