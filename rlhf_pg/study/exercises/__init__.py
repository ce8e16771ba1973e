"""Exercises: a function to write, graded by hand values and exact expectations.

An exercise is a module here with the same name as the function to write. The module holds

- the right function, whose signature and docstring are the template that a learner gets;
- WRONG, functions with usual mistakes; the docstring of each completes "behaves like: ...";
- CHECKS, whose truth does not come from the right function: values calculated by hand, and
  expectations over all episodes of a small task.

To add one, write the module and add it below. Right and wrong functions use torch alone, so that
the source of each is a solution by itself. Nothing in this file imports torch: `grade` runs in a
process of its own, which can be stopped.
"""

from typing import NamedTuple


class Exercise(NamedTuple):
    """What the list of exercises shows."""

    lesson: int  # of docs/learn.md
    task: str


EXERCISES = {
    "reinforce_loss": Exercise(2, "the loss whose gradient is REINFORCE's"),
    "rewards_to_go": Exercise(3, "the discounted return from every step on"),
    "optimal_baseline": Exercise(4, "the baseline of least variance, in every state"),
    "gae": Exercise(5, "TD errors, and their sum weighted by lambda"),
    "value_loss": Exercise(6, "the critic's squared error"),
    "ppo_clip_loss": Exercise(9, "PPO's clipped loss"),
    "bradley_terry_loss": Exercise(10, "the loss of a reward model on pairs"),
    "kl_estimators": Exercise(10, "k1 and k3, two estimates of the KL"),
    "token_rewards": Exercise(10, "the score and the KL penalty as rewards of tokens"),
    "sample_tokens": Exercise(10, "sample completions, with their mask and log-probabilities"),
    "leave_one_out": Exercise(11, "each score beside the prompt's other samples"),
}
