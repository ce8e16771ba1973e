"""A critic with a model of its own, begun from the policy's or from a trained reward model."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification

SIDECAR = "reward_model.json"  # what a trained reward model keeps beside its weights


class SeparateCritic(nn.Module):
    """V of every state by a trunk and a linear head in fp32, apart from the policy.

    Twice the parameters of a shared trunk, and neither loss disturbs the other's features.
    """

    def __init__(self, trunk: Any, head: nn.Linear) -> None:
        super().__init__()
        self.trunk, self.head = trunk.eval(), head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
        """V (B, keep) at the last `keep` positions of rows that may be padded on either side."""
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        out = self.trunk(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            use_cache=False,
        )
        values: Tensor = self.head(out.last_hidden_state[:, -keep:].float()).squeeze(-1)
        return values

    def save(self, folder: Path) -> None:
        """Write the trunk as a Hugging Face folder, with its head beside it."""
        self.trunk.save_pretrained(folder)
        save_file(self.head.state_dict(), folder / "value_head.safetensors")


def zero_head(model: Any) -> nn.Linear:
    """A linear head on the model's hidden state, which says 0 of every state."""
    head = nn.Linear(model.config.get_text_config().hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def critic_like(model: Any) -> SeparateCritic:
    """A critic whose trunk begins as a copy of the language model's, and whose head at zero."""
    return SeparateCritic(copy.deepcopy(model.base_model), zero_head(model))


def load_critic(folder: Path) -> SeparateCritic:
    """The critic that `SeparateCritic.save` wrote; ValueError where the folder holds none."""
    path = folder / "value_head.safetensors"
    if not path.is_file():
        raise ValueError(f"no critic in {folder}: value_head.safetensors is missing")
    trunk = AutoModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    head = zero_head(trunk)
    head.load_state_dict(load_file(path))
    return SeparateCritic(trunk, head)


def critic_from(name: str, tokenizer: Any) -> SeparateCritic:
    """A critic that begins as a reward model: at every state, the score if the text ended there.

    `name` is the folder of a reward model or its run's. Raises ValueError where it is none, or
    where its tokens are not the policy's.
    """
    folder = Path(name)
    if (folder / "reward_model" / SIDECAR).is_file():
        folder = folder / "reward_model"
    if not (folder / SIDECAR).is_file():
        raise ValueError(
            f"critic_from: no trained reward model at {name!r}; `rlhf-pg reward` makes one"
        )
    moments = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    mean, std = float(moments["mean"]), float(moments["std"])
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    _same_tokens(folder, tokenizer)
    head = zero_head(model)
    with torch.no_grad():  # (w h - mean) / std, the reward model's own normalisation
        head.weight.copy_(model.score.weight / std)
        head.bias.fill_(-mean / std)
    return SeparateCritic(model.base_model, head)


def _same_tokens(folder: Path, tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab()
    ours = tokenizer.get_vocab()
    if any(theirs.get(token) != number for token, number in ours.items()):
        raise ValueError(
            f"critic_from: the reward model in {folder} reads other tokens than the policy; "
            "train one from the same base, with `rlhf-pg reward --model`"
        )
