"""A mask made of `ids != pad` where the pad token is the EOS."""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.rollout import language_rollout
from rlhf_pg.language.sampling import Completions, draw
from rlhf_pg.study.bugs import small_table
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings, Swap
from rlhf_pg.study.bugs.small_table import PLAIN, SmallTable


def wrong(ids: Tensor, pad: int) -> Tensor:
    return ids != pad


def rollout_with(pad: int) -> Swap:
    """The rollout under that mask: the score moves to the last token that is left."""

    def make(done: Completions, scores: Tensor, ref: Tensor, kl_coef: float) -> Rollout:
        mask = wrong(done.ids, pad) & done.mask
        some = mask.any(1, keepdim=True)  # a row of nothing but EOS is left empty
        first = torch.zeros_like(mask)
        first[:, 0] = True
        kept = replace(done, mask=torch.where(some, mask, first))
        rollout = language_rollout(kept, scores, ref, kl_coef)
        return replace(rollout, mask=mask)

    return (small_table, "language_rollout", make)


def measure() -> Findings:
    task = SmallTable(missing_eos_penalty=1.0)
    eos, pad = task.eos, task.pad
    policy, swap = task.policy(), rollout_with(eos)
    return Findings(
        [
            task.compare("pad = EOS", policy, PLAIN, swap),
            task.compare(
                "a pad of its own, which is never written", policy, PLAIN, rollout_with(-1)
            ),
            task.compare(
                "a pad of its own, written now and then", policy, PLAIN, rollout_with(pad)
            ),
        ],
        [task.curves("pad = EOS, a missing end costs 1", PLAIN, swap)],
    )


LESSON = (
    "The EOS is an action that is never credited. The policy ends less and less, since other "
    "tokens gain what it loses. A pad of its own does no harm as long as it is never written."
)
EXHIBIT = Exhibit(
    name="pad-is-eos",
    what="Real tokens are told from padding by `ids != pad`, and the pad token is the EOS.",
    origin="It comes of tokenizer.pad_token = tokenizer.eos_token, the usual line for a GPT-2.",
    right=(draw, "mask = torch.arange"),
    wrong=wrong,
    effect="ending is never learned",
    lesson=LESSON,
    measure=measure,
)
