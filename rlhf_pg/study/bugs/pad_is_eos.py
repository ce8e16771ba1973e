"""A mask made of `ids != pad` where the pad token is the EOS."""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.rollout import language_rollout
from rlhf_pg.language.sampling import Completions, draw
from rlhf_pg.study.bugs import small_table
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings, Swap, both
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


def ending(task: SmallTable, updates: int = 60) -> float:
    """The chance that a completion ends by itself, after learning from the reference."""
    policy = task.policy(task.ref_logits)
    task.train(policy, PLAIN, updates, 64, seed=0)
    probs = task.logprobs(policy.logits).detach().exp()
    return float(probs[task.done.finished].sum())


def measure() -> Findings:
    task = SmallTable(missing_eos_penalty=1.0)
    policy, swap, of_its_own = task.policy(), rollout_with(task.eos), "a pad of its own"
    often = rollout_with(task.pad)
    best = task.exact(policy).best
    assert best is not None
    share = float(best[task.done.finished].sum())
    return Findings(
        [
            task.compare("pad = EOS", policy, PLAIN, swap),
            task.compare(f"{of_its_own}, never written", policy, PLAIN, rollout_with(-1)),
            task.compare(f"{of_its_own}, written now and then", policy, PLAIN, often),
        ],
        [task.curves("pad = EOS, a missing end costs 1", PLAIN, swap)],
        {f"share that ends by itself, after learning (pi*: {share:.3f})":
         both(lambda: ending(task), swap)},
    )  # fmt: skip


LESSON = (
    "The EOS is an action that is neither credited nor blamed. Its chance drifts: up where the "
    "other tokens do worse than the baseline, down where they do better. A pad of its own does no "
    "harm, as long as it is never written."
)
EXHIBIT = Exhibit(
    name="pad-is-eos",
    what="Real tokens are told from padding by `ids != pad`, and the pad token is the EOS.",
    origin="It comes of tokenizer.pad_token = tokenizer.eos_token, the usual line for a GPT-2.",
    right=(draw, "mask = torch.arange"),
    wrong=wrong,
    effect="the end is never credited",
    lesson=LESSON,
    measure=measure,
)
