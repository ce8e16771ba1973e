"""The KL penalty with its sign turned."""

from torch import Tensor

from rlhf_pg.core import kl
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings
from rlhf_pg.study.bugs.small_table import PLAIN, SmallTable


def wrong(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return ref_logprobs - logprobs


def measure() -> Findings:
    task, swap = SmallTable(), (kl, "k1", wrong)
    first = task.policy(task.ref_logits)
    return Findings(
        [
            task.compare("a policy that has left the reference", task.policy(), PLAIN, swap),
            task.compare("the first update, policy = reference", first, PLAIN, swap),
        ],
        [task.curves("from the reference", PLAIN, swap)],
    )


LESSON = (
    "The first update is blameless, since the policy still is the reference; every later one is "
    "drawn away from it. The score rises all the same: only the objective tells."
)
EXHIBIT = Exhibit(
    name="kl-sign",
    what="The penalty for leaving the reference is paid out in place of charged.",
    origin="rlhf-book's k1 has its sign turned.",
    right=(kl.k1, "return"),
    wrong=wrong,
    effect="rewards leaving the reference",
    lesson=LESSON,
    measure=measure,
)
