"""Text rewards: rules, learned preferences, classifiers, and sums of them.

A reward is a callable, called by keyword, `reward(prompts=[...], completions=[...], **columns)`,
that returns one number per row, or None where it does not apply: the convention of TRL's GRPO and
RLOO; or a list of one number per token. All arguments are in `reward_models.calling`. The scored
text is prompt + completion. The column `finished` (list of bool) says which completions ended with
EOS; the others were cut at the length limit.
"""

import os

# Nothing is sent but what reading a hub name that the user gave needs: no telemetry in its
# requests, and no count of local files read, which `datasets` else reports. Set before any import
# of these libraries, unless the user has set them.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")

__all__ = ["RewardError"]


class RewardError(ValueError):
    """An error that the user can correct: one line that names the cause and the remedy."""
