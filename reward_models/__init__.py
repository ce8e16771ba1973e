"""Texts in, scores out: rules, learned preferences, classifiers, and sums of them.

A reward is a callable, called by keyword, `reward(prompts=[...], completions=[...], **columns)`,
that returns one number per row, or None where it does not apply: the convention of TRL's GRPO and
RLOO. The text judged is prompt + completion. The column `finished` (list of bool) says which
completions ended by themselves; False was cut at the length limit.
"""

__all__ = ["RewardError"]


class RewardError(ValueError):
    """What a user can mend: one line that names the thing at fault and the remedy."""
