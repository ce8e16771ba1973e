"""A causal LM as a policy over tokens, with a critic that reads the same states."""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_pg.core.learner import Evaluation, Rollout
from rlhf_pg.language.critics import SeparateCritic, critic_like, zero_head

Critic = Literal["shared", "detached", "separate", "none"]


class LanguagePolicy(nn.Module):
    """pi(token | prompt + tokens before it), and V of the same state.

    Logits are divided by `temperature` wherever they are used, sampling and scoring alike, so the
    distribution sampled from is the one scored. The critic is a linear head in fp32 that starts at
    zero: on the LM's own last hidden state ("shared"), on that state without passing gradients
    back ("detached"), on a model of its own ("separate": `own_critic`, or a copy of the LM), or
    absent ("none": values are 0). `bf16` computes in bfloat16 what bears it; parameters, softmax
    and values stay fp32.
    """

    def __init__(
        self,
        model: Any,
        temperature: float = 1.0,
        critic: Critic = "shared",
        own_critic: SeparateCritic | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.model = model.eval()  # dropout would make old and new probabilities differ
        self.temperature, self.critic, self.bf16 = temperature, critic, bf16
        self.value_head = zero_head(model) if critic in ("shared", "detached") else None
        if critic == "separate":
            own_critic = own_critic or critic_like(model)
        self.own_critic = own_critic

    def train(self, mode: bool = True) -> "LanguagePolicy":
        """Dropout stays off: a policy is only ever evaluated."""
        return super().train(False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, keep: int, cache: Any = None
    ) -> tuple[Tensor, Tensor, Any]:
        """fp32 log-probabilities (B, keep, V) and values (B, keep) of the last `keep` positions.

        `attention_mask` (B, past + new) covers the cache too; positions are counted from the first
        real token, since left padding must not shift them. A separate critic keeps no cache: with
        one, values are 0 here, and `state_values` gives them afterwards.
        """
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        with self._precision(input_ids.device):
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
        elif self.own_critic is not None and cache is None:
            values = self.state_values(input_ids, attention_mask, keep)
        return logprobs, values, out.past_key_values

    def state_values(self, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
        """The separate critic's V (B, keep) at the last `keep` positions."""
        assert self.own_critic is not None
        with self._precision(input_ids.device):
            values: Tensor = self.own_critic(input_ids, attention_mask, keep)
        return values.float()

    def _precision(self, device: torch.device) -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def evaluate(self, rollout: Rollout) -> Evaluation:
        """Log-probabilities, entropies and values (B, T) of the rollout's completions.

        `rollout.inputs` holds the prompts, left-padded: `input_ids` and `attention_mask` (B, P).
        Columns that are padding in every row are left out of the work.
        """
        logprobs, values, actions = self._read(rollout)
        chosen = logprobs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        # A token of probability 0 adds nothing, though its log-probability may be -inf.
        finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)
        entropies = -(logprobs.exp() * finite).sum(-1)
        wide = rollout.mask.shape[1] - actions.shape[1]
        chosen, entropies, values = (
            nn.functional.pad(x, (0, wide)) for x in (chosen, entropies, values)
        )
        return Evaluation(chosen, entropies, values if self.critic != "none" else None)

    def distributions(self, rollout: Rollout) -> Tensor:
        """log pi of every token at every step, (B, longest, V)."""
        return self._read(rollout)[0]

    def _read(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (B, L, V), values (B, L) and actions (B, L), L the longest row."""
        prompts, prompt_mask = rollout.inputs["input_ids"], rollout.inputs["attention_mask"]
        start = int(prompt_mask.any(0).float().argmax())
        steps = max(1, int(rollout.mask.bool().any(0).sum()))
        mask = rollout.mask[:, :steps].long()
        actions = rollout.actions[:, :steps] * mask  # any valid token will do for padding
        ids = torch.cat([prompts[:, start:], actions], dim=1)
        seen = torch.cat([prompt_mask[:, start:], mask], dim=1)
        # V(s_t) and pi(a_t|s_t) are read one position before token t, so the last is not fed.
        logprobs, values, _ = self(ids[:, :-1], seen[:, :-1], keep=steps)
        return logprobs, values, actions

    def save_value_head(self, folder: Path) -> None:
        """Write the critic beside the LM: value_head.safetensors, or critic/ where it is apart."""
        if self.value_head is not None:
            save_file(self.value_head.state_dict(), folder / "value_head.safetensors")
        if self.own_critic is not None:
            self.own_critic.save(folder / "critic")

    def load_value_head(self, folder: Path) -> bool:
        """Read a shared trunk's head back where it is there; says whether it was."""
        path = folder / "value_head.safetensors"
        if self.value_head is None or not path.is_file():
            return False
        self.value_head.load_state_dict(load_file(path))
        return True
