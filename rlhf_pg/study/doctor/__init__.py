"""`rlhf-pg doctor`: checks of a model, its tokenizer, the data and the reward before training.

measure     one iteration of training at a learning rate of 0: gradient, seconds, memory
context     what the checks share, each part computed at its first use; the result of a check
model       checks of the policy and its reference
text        checks of the tokenizer and the prompts
reward      checks of the reward
step        checks of a gradient step
report      runs all checks, prints the results, writes doctor.json

To add a check, write a public function `name(context) -> Result` in the module of its subject. Its
name is printed, and its docstring explains it.
"""

from rlhf_pg.study.doctor.report import main

__all__ = ["main"]
