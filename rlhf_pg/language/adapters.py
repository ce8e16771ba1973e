"""LoRA: train a few low-rank matrices beside frozen weights (Hu et al. 2021, arXiv 2106.09685).

With the adapters off, the model is the one it began as: the reference costs no memory.
"""

import copy
import warnings
from typing import Any

import torch

from rlhf_pg.core.learner import Evaluation, Rollout
from rlhf_pg.language.policy import LanguagePolicy


def with_lora(model: Any, rank: int) -> Any:
    """The model with an adapter of this rank on every linear layer, all else frozen.

    The adapters begin at zero, so nothing changes yet. Raises ValueError without `peft`.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError("lora_rank needs peft: pip install 'rlhf-pg[peft]'") from error
    # No dropout: old and new probabilities must be those of the same network.
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says which way a GPT-2's matrices lie, and minds that
        return peft.get_peft_model(model, config).eval()


def merged(model: Any) -> Any:
    """A plain model with the adapters added into its weights; `model` itself stays as it is.

    A model without adapters is returned as it is.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    return copy.deepcopy(model).merge_and_unload()


class AdaptersOff:
    """The reference that a policy with adapters carries in itself."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self.policy = policy

    @torch.no_grad()
    def evaluate(self, rollout: Rollout) -> Evaluation:
        """As the policy's, of the model without its adapters."""
        with self.policy.model.disable_adapter():
            return self.policy.evaluate(rollout)

    def distributions(self, rollout: Rollout) -> Any:
        """As the policy's, of the model without its adapters."""
        with self.policy.model.disable_adapter():
            return self.policy.distributions(rollout)
