"""A causal LM as a policy over tokens, with a critic that reads the same states."""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_pg.core.learner import Evaluation, Rollout

Critic = Literal["shared", "detached", "none"]


class LanguagePolicy(nn.Module):
    """pi(token | prompt + tokens before it), and V of the same state.

    Logits are divided by `temperature` wherever they are used, sampling and scoring alike, so the
    distribution sampled from is the one scored. The critic is a linear head in fp32 that starts at
    zero: on the LM's own last hidden state ("shared"), on that state without passing gradients
    back ("detached"), or absent ("none": values are 0).
    """

    def __init__(self, model: Any, temperature: float = 1.0, critic: Critic = "shared") -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.model = model.eval()  # dropout would make old and new probabilities differ
        self.temperature, self.critic = temperature, critic
        width = model.config.get_text_config().hidden_size
        self.value_head = nn.Linear(width, 1) if critic != "none" else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def train(self, mode: bool = True) -> "LanguagePolicy":
        """Dropout stays off: a policy is only ever evaluated."""
        return super().train(False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, keep: int, cache: Any = None
    ) -> tuple[Tensor, Tensor, Any]:
        """fp32 log-probabilities (B, keep, V) and values (B, keep) of the last `keep` positions.

        `attention_mask` (B, past + new) covers the cache too; positions are counted from the first
        real token, since left padding must not shift them.
        """
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
            output_hidden_states=self.value_head is not None,
        )
        logprobs = (out.logits.float() / self.temperature).log_softmax(-1)
        values = torch.zeros(logprobs.shape[:2], device=logprobs.device)
        if self.value_head is not None:
            hidden = out.hidden_states[-1][:, -keep:].float()
            if self.critic == "detached":
                hidden = hidden.detach()
            values = self.value_head(hidden).squeeze(-1)
        return logprobs, values, out.past_key_values

    def evaluate(self, rollout: Rollout) -> Evaluation:
        """Log-probabilities, entropies and values (B, T) of the rollout's completions.

        `rollout.inputs` holds the prompts, left-padded: `input_ids` and `attention_mask` (B, P).
        Columns that are padding in every row are left out of the work.
        """
        prompts, prompt_mask = rollout.inputs["input_ids"], rollout.inputs["attention_mask"]
        start = int(prompt_mask.any(0).float().argmax())
        steps = max(1, int(rollout.mask.bool().any(0).sum()))
        mask = rollout.mask[:, :steps].long()
        actions = rollout.actions[:, :steps] * mask  # any valid token will do for padding
        ids = torch.cat([prompts[:, start:], actions], dim=1)
        seen = torch.cat([prompt_mask[:, start:], mask], dim=1)
        # V(s_t) and pi(a_t|s_t) are read one position before token t, so the last is not fed.
        logprobs, values, _ = self(ids[:, :-1], seen[:, :-1], keep=steps)
        chosen = logprobs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        # A token of probability 0 adds nothing, though its log-probability may be -inf.
        finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)
        entropies = -(logprobs.exp() * finite).sum(-1)
        wide = rollout.mask.shape[1] - steps
        chosen, entropies, values = (
            nn.functional.pad(x, (0, wide)) for x in (chosen, entropies, values)
        )
        return Evaluation(chosen, entropies, values if self.value_head is not None else None)

    def save_value_head(self, folder: Path) -> None:
        """Write value_head.safetensors beside the LM, where there is a critic."""
        if self.value_head is not None:
            save_file(self.value_head.state_dict(), folder / "value_head.safetensors")

    def load_value_head(self, folder: Path) -> bool:
        """Read it back where it is there; says whether it was."""
        path = folder / "value_head.safetensors"
        if self.value_head is None or not path.is_file():
            return False
        self.value_head.load_state_dict(load_file(path))
        return True
