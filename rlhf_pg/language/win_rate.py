"""How often one policy's completion is preferred to another's, and how sure that is."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass
class WinRate:
    """A share in [0, 1] with its 95 % interval, over so many prompts."""

    rate: float
    low: float
    high: float
    prompts: int


def win_rate(ours: Tensor, theirs: Tensor) -> WinRate:
    """P(our completion scores higher than theirs), from scores (P, K) and (P, L) of P prompts.

    Paired by prompt: within each, all K x L pairs are compared and a tie counts half. The interval
    is Wilson's (1927) with the prompts as trials, since completions of one prompt are no
    independent ones; ties and several samples make a prompt's share vary less than a single win
    or loss would, so it is rather too wide than too narrow.
    """
    difference = ours[:, :, None] - theirs[:, None, :]
    wins = (difference > 0).double() + 0.5 * (difference == 0).double()
    rate = float(wins.mean((1, 2)).mean())
    return WinRate(rate, *wilson(rate, len(ours)), prompts=len(ours))


def wilson(rate: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share; `z` 1.96 is 95 %. Not empty even at 0 and 1."""
    squeeze = 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / squeeze
    half = z / squeeze * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)
