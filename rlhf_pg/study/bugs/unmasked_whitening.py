"""Whitening that takes padding for data."""

import torch
from torch import Tensor

from rlhf_pg.core import advantages, masked
from rlhf_pg.study.bugs import cartpole
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings
from rlhf_pg.study.bugs.small_table import WHITENED, SmallTable


def wrong(x: Tensor, mask: Tensor, shift_mean: bool = True, reduce: object = None) -> Tensor:
    mean, var = x.mean(), x.var(correction=0)
    whitened = (x - mean) * torch.rsqrt(var + 1e-8)
    return whitened if shift_mean else whitened + mean


SWAP = (advantages, "whiten", wrong)


def measure() -> Findings:
    task, wide = SmallTable(), SmallTable(columns=24)
    policy = task.policy()
    nine_tenths = "64 completions, nine tenths of it padding"
    return Findings(
        [
            wide.compare(nine_tenths, policy, WHITENED, SWAP, size=64),
            task.compare("64 completions, little padding", policy, WHITENED, SWAP, size=64),
            task.compare("batches of 2, all of them", policy, WHITENED, SWAP, size=2),
        ],
        [wide.curves(nine_tenths, WHITENED, SWAP)],
    )


LESSON = (
    "In a batch of some size, what is taken off all advantages and what divides them leaves the "
    "direction as it is. What is lost is the centring: padding draws the mean to 0, and noise "
    "grows."
)
EXHIBIT = Exhibit(
    name="unmasked-whitening",
    what="Mean and deviation of the advantages are taken over the padding, too.",
    origin="It comes of x.mean() where a masked mean is meant.",
    right=(masked.whiten, "mean"),
    wrong=wrong,
    effect="a direction kept, more noise",
    lesson=LESSON,
    measure=measure,
    cartpole=lambda: cartpole.learning_test("ppo", SWAP),
)
