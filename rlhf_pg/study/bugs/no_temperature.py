"""Sampling at a temperature, scoring without."""

from dataclasses import replace

from torch import Tensor

from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.study.bugs import table_policy
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings
from rlhf_pg.study.bugs.small_table import PLAIN, SmallTable


def wrong(logits: Tensor, temperature: float) -> Tensor:
    return logits.log_softmax(-1)


def measure() -> Findings:
    swap, bare = (table_policy, "token_logprobs", wrong), replace(PLAIN, baseline="none")
    task, shifted, one = (
        SmallTable(temperature=0.7),
        SmallTable(temperature=0.7, shift=5.0),
        SmallTable(),
    )
    policy = task.policy()
    return Findings(
        [
            task.compare("temperature 0.7", policy, bare, swap),
            shifted.compare("temperature 0.7, every score 5 higher", policy, bare, swap),
            one.compare("temperature 1", one.policy(), bare, swap),
        ],
        [
            task.curves("temperature 0.7", PLAIN, swap),
            shifted.curves("temperature 0.7, every score 5 higher, no baseline", bare, swap),
        ],
    )


LESSON = (
    "The score function no longer averages to 0 over what is drawn, so a number added to all "
    "scores, which should change nothing, changes the gradient. At temperature 1 nothing is "
    "wrong."
)
EXHIBIT = Exhibit(
    name="no-temperature",
    what="Tokens are drawn from softmax(logits / T) and scored by softmax(logits).",
    origin="It comes of a temperature that only the sampler knows.",
    right=(LanguagePolicy.forward, r"self\.temperature\)"),
    wrong=wrong,
    effect="the score function is another's",
    lesson=LESSON,
    measure=measure,
)
