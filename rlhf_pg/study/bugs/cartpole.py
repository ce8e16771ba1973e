"""Would a learning test have noticed? CartPole to a mean of 475, with either variant."""

from functools import cache

from rlhf_pg.control.config import preset, tuned
from rlhf_pg.control.train import RunState, learn
from rlhf_pg.study.bugs.exhibit import LearningTest, Swap, swapped

STEPS = 100_000  # two to three times what the right code needs


def learning_test(algorithm: str, *swaps: Swap, seeds: int = 3) -> LearningTest:
    """Train an algorithm with its preset on CartPole-v1, right and with the functions swapped."""
    right = runs(algorithm, seeds)
    with swapped(*swaps):
        wrong = runs.__wrapped__(algorithm, seeds)
    return LearningTest(
        runs=seeds,
        right_solved=sum(solved for solved, _ in right),
        wrong_solved=sum(solved for solved, _ in wrong),
        right_steps=[steps for _, steps in right],
        wrong_steps=[steps for _, steps in wrong],
    )


@cache
def runs(algorithm: str, seeds: int) -> list[tuple[bool, int]]:
    """Whether each seed was solved, and when; the right code's runs serve every room."""
    found = []
    for seed in range(seeds):
        config = preset(algorithm, "CartPole-v1")
        config = tuned(config, seed=seed, total_steps=STEPS, threshold=475.0, eval_interval=5_000)
        outcome = learn(RunState(config))
        found.append((outcome.solved, outcome.steps))
    return found
