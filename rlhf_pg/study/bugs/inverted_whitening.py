"""Whitening that multiplies by the deviation."""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf_pg.core import advantages, masked
from rlhf_pg.core.masked import masked_mean, masked_var, zero_padding
from rlhf_pg.study.bugs import cartpole
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings
from rlhf_pg.study.bugs.small_table import WHITENED, SmallTable


def wrong(x: Tensor, mask: Tensor, shift_mean: bool = True, reduce: object = None) -> Tensor:
    mean, var = masked_mean(x, mask), masked_var(x, mask)
    whitened = (x - mean) * torch.sqrt(var + 1e-8)
    return zero_padding(whitened if shift_mean else whitened + mean, mask)


SWAP = (advantages, "whiten", wrong)


def measure() -> Findings:
    task, large = SmallTable(), SmallTable(scale=10.0)
    policy, times_ten = task.policy(), "64 completions, scores ten times as large"
    return Findings(
        [
            large.compare(times_ten, policy, WHITENED, SWAP, size=64),
            task.compare("64 completions", policy, WHITENED, SWAP, size=64),
            task.compare("batches of 2, all of them", policy, WHITENED, SWAP, size=2),
        ],
        [
            task.curves("Adam", WHITENED, SWAP),
            large.curves("plain gradient ascent, scores ten times as large", SGD, SWAP, sgd=True),
        ],
    )


SGD = replace(WHITENED, lr=2.0)
LESSON = (
    "A factor for the whole batch: the direction stays, in pairs here even nearer than by the "
    "right code, and Adam forgives the length. Without Adam, steps grow with the square of the "
    "scores."
)
EXHIBIT = Exhibit(
    name="inverted-whitening",
    what="Advantages are multiplied by their deviation in place of divided.",
    origin="torchtune's whiten, whose own test it passes.",
    right=(masked.whiten, "rsqrt"),
    wrong=wrong,
    effect="a direction kept, another step size",
    lesson=LESSON,
    measure=measure,
    cartpole=lambda: cartpole.learning_test("ppo", SWAP),
)
