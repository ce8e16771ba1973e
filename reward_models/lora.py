"""LoRA: low-rank adapters beside frozen weights (Hu et al. 2021, arXiv 2106.09685)."""

import copy
import warnings
from typing import Any

from reward_models import RewardError


def with_lora(model: Any, rank: int) -> Any:
    """The model with a LoRA adapter of this rank on every linear layer, all else frozen.

    Adapters start at zero, so the outputs do not change yet. Raises RewardError (a ValueError)
    without `peft`.
    """
    try:
        import peft
    except ImportError as error:
        raise RewardError("lora_rank needs peft: pip install 'rlhf-pg[peft]'") from error
    # No dropout: old and new probabilities must be those of the same network.
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the layout of GPT-2's Conv1D, which is handled
        return peft.get_peft_model(model, config).eval()


def merged(model: Any) -> Any:
    """A plain model with the adapters added to its weights; a model without adapters as it is."""
    if not hasattr(model, "merge_and_unload"):
        return model
    return copy.deepcopy(model).merge_and_unload()
