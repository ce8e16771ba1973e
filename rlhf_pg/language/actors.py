"""The policy, its critic and the reference, as a run asks for them."""

import copy
from typing import Any

import torch

from rlhf_pg.language import adapters, models
from rlhf_pg.language.critics import critic_from, critic_like
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reference
from rlhf_pg.language.settings import TrainConfig


def policy_and_reference(
    config: TrainConfig, model: Any, tokenizer: Any, device: torch.device
) -> tuple[LanguagePolicy, Reference]:
    """The policy of `model` with its critic, and what it is held near to.

    The reference is another model where one is named; else the policy as it began: a frozen copy,
    or, with LoRA, the policy itself with its adapters off. Raises ValueError where the device has
    no bfloat16 that was asked for, or a named model is none.
    """
    if config.bf16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("bf16: this GPU has no bfloat16; leave --bf16 out")
    own = critic_from(config.critic_from, tokenizer) if config.critic_from else None
    frozen = models.load(config.reference)[0] if config.reference else None
    if frozen is None and config.lora_rank is None:
        frozen = copy.deepcopy(model)
    if own is None and config.critic == "separate":
        own = critic_like(model)  # before the adapters: it learns with all its weights
    if config.lora_rank is not None:
        model = adapters.with_lora(model, config.lora_rank)
    policy = LanguagePolicy(model, config.temperature, config.critic, own, config.bf16).to(device)
    if frozen is None:
        return policy, adapters.AdaptersOff(policy)
    reference = LanguagePolicy(frozen, config.temperature, "none", bf16=config.bf16).to(device)
    reference.requires_grad_(False)
    return policy, reference
