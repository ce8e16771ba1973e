"""The step that only resets, learned from as a transition."""

import numpy as np
import torch
from torch import Tensor

from rlhf_pg.control.collect import Collector, Step
from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.study.bugs import cartpole, limited
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings, both
from rlhf_pg.study.bugs.limited import TRUTH, Limited, Walks
from rlhf_pg.study.mdp import two_state


def wrong(real: np.ndarray) -> np.ndarray:
    return np.ones_like(real)


def unmasked(walks: Walks, values: Tensor) -> tuple[Tensor, Tensor]:
    """All steps, the reset too."""
    real = torch.from_numpy(wrong((~walks.resetting).numpy()))
    return real, values[walks.next_states]


OUTCOME = Collector._outcome


def outcome(
    collector: Collector, steps: list[Step]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the collector is told, with every step a real one."""
    return OUTCOME(collector, [step._replace(real=wrong(step.real)) for step in steps])


def measure() -> Findings:
    task, swap = Limited(two_state(), limit=3), (limited, "segment", unmasked)
    uniform = torch.zeros(2, 2).double()
    config = algorithm("a2c", gamma=0.9, lr=0.1)
    true = task.mdp.exact(uniform).values
    settled = both(lambda: float(task.critic(uniform, config, true, 300)[1]), swap)
    return Findings(
        [
            task.compare("the critic its targets lead to", uniform, config, swap, fitted=True),
            task.compare("the true V as critic", uniform, config, swap, fitted=False),
        ],
        [task.curves("two states, cut after 3 steps", config, swap, updates=100)],
        {f"the critic's V(rich); {float(true[1]):.2f} is true": settled},
        truth=TRUTH,
    )


LESSON = (
    "The ignored action is credited with what it did not do, but with the same whichever it was, "
    "and that averages to nothing. What is spoilt is the critic, and through it a little of the "
    "rest."
)
EXHIBIT = Exhibit(
    name="reset-step",
    what="The step after an end, whose action the environment ignores, is learned as a transition.",
    origin="Gymnasium's vector environments reset by such a step unless asked otherwise.",
    right=(Collector._walk, "real = "),
    wrong=wrong,
    effect="spoils the critic alone",
    lesson=LESSON,
    measure=measure,
    cartpole=lambda: cartpole.learning_test("ppo", (Collector, "_outcome", outcome)),
)
