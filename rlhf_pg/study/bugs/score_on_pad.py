"""The score put on the padding after the end."""

import torch
from torch import Tensor

from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.rollout import language_rollout
from rlhf_pg.language.sampling import Completions
from rlhf_pg.study.bugs import small_table
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings
from rlhf_pg.study.bugs.small_table import PLAIN, SmallTable


def wrong(done: Completions, scores: Tensor, ref: Tensor, kl_coef: float) -> Rollout:
    rollout = language_rollout(done, torch.zeros_like(scores), ref, kl_coef)
    after = done.mask.sum(1).clamp(max=done.mask.shape[1] - 1)
    rollout.rewards[torch.arange(len(scores)), after] += scores
    return rollout


def measure() -> Findings:
    swap = (small_table, "language_rollout", wrong)
    task, wide = SmallTable(missing_eos_penalty=1.0), SmallTable(missing_eos_penalty=1.0, columns=4)
    policy = task.policy()
    return Findings(
        [
            wide.compare("a batch one column wider", policy, PLAIN, swap),
            task.compare("a batch as wide as its longest completion", policy, PLAIN, swap),
        ],
        [
            wide.curves("a batch one column wider", PLAIN, swap),
            task.curves("a batch as wide as its longest completion", PLAIN, swap),
        ],
    )


LESSON = (
    "Only completions without padding keep their score. Where few end early, that is hardly seen; "
    "where every row has padding, no score is left, and the KL is all that is learned from."
)
EXHIBIT = Exhibit(
    name="score-on-pad",
    what="The score lands one step behind the last token, where the mask takes it away.",
    origin="It comes of taking a length for an index.",
    right=(language_rollout, r"scores\[:, None\]"),
    wrong=wrong,
    effect="scores are lost",
    lesson=LESSON,
    measure=measure,
)
