"""A causal LM as a policy over tokens, its critic, LoRA adapters, and the frozen reference."""

import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from reward_models.files import reward_model_folder
from reward_models.lora import with_lora
from reward_models.pretrained import quiet
from reward_models.reward_model import RewardModel
from rlhf_pg.core.rollout import Evaluation, Rollout
from rlhf_pg.language import models
from rlhf_pg.language.config import Critic, TrainConfig
from rlhf_pg.language.token_logprobs import token_logprobs

ACTIVATIONS = 2**30  # bytes kept for the backward pass of one part of a minibatch
GROUP_OVERHEAD = 256  # what one more forward pass costs, in tokens


class Reference(Protocol):
    """The model that the KL is measured to: it scores completions as a policy does."""

    def evaluate(self, rollout: Rollout) -> Evaluation: ...

    def distributions(self, rollout: Rollout) -> Tensor: ...


class LanguagePolicy(nn.Module):
    """pi(token | prompt and earlier tokens), and V of the same state.

    Logits are divided by `temperature` both in sampling and in scoring, so the distribution
    sampled from is the one scored. The critic is a linear head in fp32 that starts at zero. It
    reads the LM's last hidden state ("shared"), that state without passing gradients back
    ("detached"), or the hidden state of a model of its own ("separate": `separate_critic`, or a
    copy of the LM). With "none", values are 0. `bf16` computes in bfloat16 under autocast;
    parameters, softmax and values stay fp32.
    """

    def __init__(
        self,
        model: Any,
        temperature: float = 1.0,
        critic: Critic = "shared",
        separate_critic: "SeparateCritic | None" = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.model = model.eval()  # dropout would make old and new probabilities differ
        self.temperature, self.critic, self.bf16 = temperature, critic, bf16
        self.value_head = zero_head(model) if critic in ("shared", "detached") else None
        if critic == "separate":
            separate_critic = separate_critic or critic_like(model)
        self.separate_critic = separate_critic

    def train(self, mode: bool = True) -> "LanguagePolicy":
        """Keep evaluation mode: dropout stays off in the update too."""
        return super().train(False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, keep: int, cache: Any = None
    ) -> tuple[Tensor, Tensor, Any]:
        """fp32 log-probabilities (B, keep, V) and values (B, keep) of the last `keep` positions.

        `attention_mask` (B, past + new) covers the cache too. A separate critic has no cache: with
        `cache`, values are 0 here, and `state_values` computes them afterwards.
        """
        # Count positions from the first real token: left padding must not shift them.
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
        # Some models make the logits of all positions, whatever `logits_to_keep` is.
        logprobs = (out.logits[:, -keep:].float() / self.temperature).log_softmax(-1)
        values = torch.zeros(logprobs.shape[:2], device=logprobs.device)
        if self.value_head is not None:
            hidden = out.hidden_states[-1][:, -keep:].float()
            if self.critic == "detached":
                hidden = hidden.detach()
            values = self.value_head(hidden).squeeze(-1)
        elif self.separate_critic is not None and cache is None:
            values = self.state_values(input_ids, attention_mask, keep)
        if cache is not None and getattr(out, "past_key_values", None) is None:
            raise ValueError(f"{type(self.lm).__name__} returns no key-value cache")
        return logprobs, values, out.past_key_values if cache is not None else None

    @property
    def lm(self) -> Any:
        """The causal LM itself, without the LoRA model around it."""
        return models.without_adapters(self.model)

    def plain(self, input_ids: Tensor) -> Tensor:
        """fp32 log-probabilities (B, T, V) by a plain call: no mask, positions or cache."""
        with self._precision(input_ids.device):
            logits = self.model(input_ids=input_ids).logits
        return (logits.float() / self.temperature).log_softmax(-1)

    def state_values(self, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
        """V (B, keep) of the separate critic at the last `keep` positions."""
        assert self.separate_critic is not None
        with self._precision(input_ids.device):
            values: Tensor = self.separate_critic(input_ids, attention_mask, keep)
        return values.float()

    def _precision(self, device: torch.device) -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    @cached_property
    def plain_head(self) -> nn.Linear | None:
        """The output layer, if the logits are just that layer of the last hidden state.

        Some models scale or cap their logits: then None, and all logits are computed as they do.
        """
        lm = models.without_adapters(self.model)
        head = lm.get_output_embeddings() if isinstance(lm, PreTrainedModel) else None
        if not isinstance(head, nn.Linear) or lm.base_model is lm:
            return None
        if head.weight.dtype not in (torch.float32, torch.float64):
            return None
        ids = torch.arange(min(4, head.out_features), device=head.weight.device)[None]
        one = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        with torch.no_grad():
            hidden, logits = lm.base_model(**one).last_hidden_state, lm(**one).logits
            return head if torch.allclose(head(hidden), logits, atol=1e-5) else None

    def read(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """fp32 log-probabilities (B, V) and values (B,) from last hidden states (B, D)."""
        assert self.plain_head is not None
        logprobs = (self.plain_head(hidden.float()) / self.temperature).log_softmax(-1)
        if self.value_head is None:
            return logprobs, torch.zeros(len(hidden), device=hidden.device)
        return logprobs, self.value_head(hidden.float()).squeeze(-1)

    def evaluate(self, rollout: Rollout) -> Evaluation:
        """Log-probabilities, entropies and values (B, T) of the rollout's completions.

        `rollout.inputs` holds the prompts, left-padded: `input_ids` and `attention_mask` (B, P).
        Rows of similar length are computed together, so that little time goes into padding.
        """
        lengths = rollout.mask.sum(1).long().tolist()
        groups = similar_lengths(lengths, rollout.inputs["input_ids"].shape[1])
        if len(groups) == 1:
            logprobs, entropies, values = self._evaluate(rollout)
        else:
            device = rollout.mask.device
            parts = [self._evaluate(rollout[torch.tensor(rows, device=device)]) for rows in groups]
            place = torch.tensor(sum(groups, []), device=device).argsort()
            logprobs, entropies, values = (torch.cat(x)[place] for x in zip(*parts, strict=True))
        return Evaluation(logprobs, entropies, values if self.critic != "none" else None)

    def rows_at_once(self, rollout: Rollout) -> int:
        """Rows whose activations, kept for a backward pass, take about `ACTIVATIONS` bytes.

        About 20 numbers per layer and hidden dimension are kept for each token: inputs of the
        linear layers, queries, keys and values, norms and the feed-forward layer, 3 to 4 times as
        wide.
        """
        config = self.lm.config.get_text_config()
        trunks = 1 if self.separate_critic is None else 2
        layers = getattr(config, "num_hidden_layers", 12)
        numbers = 20 * config.hidden_size * layers * trunks
        width = rollout.inputs["input_ids"].shape[1] + rollout.mask.shape[1]
        return max(1, ACTIVATIONS // (4 * numbers * width))

    def _evaluate(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, each (B, T), 0 beyond the longest row."""
        ids, attention, actions = _without_padding(rollout)
        steps = actions.shape[1]
        if self.plain_head is None:
            logprobs, values, _ = self(ids, attention, keep=steps)
            chosen = logprobs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
            # A token of probability 0 adds nothing to the entropy, though its log may be -inf.
            finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)
            entropies = -(logprobs.exp() * finite).sum(-1)
        else:  # without the logits of all positions at once
            hidden = self._hidden(ids, attention)[:, -steps:].float()
            head, flat = self.plain_head, hidden.flatten(0, 1)
            flat_logprobs, flat_entropies = token_logprobs(
                flat, head.weight, head.bias, actions.flatten(), self.temperature
            )
            chosen, entropies = flat_logprobs.view_as(actions), flat_entropies.view_as(actions)
            values = torch.zeros_like(chosen)
            if self.value_head is not None:
                read = hidden.detach() if self.critic == "detached" else hidden
                values = self.value_head(read).squeeze(-1)
            elif self.separate_critic is not None:
                values = self.state_values(ids, attention, steps)
        missing = (0, rollout.mask.shape[1] - steps)
        return tuple(nn.functional.pad(x, missing) for x in (chosen, entropies, values))  # type: ignore[return-value]

    def _hidden(self, ids: Tensor, attention: Tensor) -> Tensor:
        """The last hidden states (B, T, D), after the final norm."""
        with self._precision(ids.device):
            out = models.without_adapters(self.model).base_model(
                input_ids=ids,
                attention_mask=attention,
                position_ids=(attention.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
            )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def distributions(self, rollout: Rollout) -> Tensor:
        """log pi of every token of the vocabulary at every step, (B, longest, V)."""
        ids, attention, actions = _without_padding(rollout)
        logprobs: Tensor = self(ids, attention, keep=actions.shape[1])[0]
        return logprobs

    def save_critic(self, folder: Path) -> None:
        """Write the critic beside the LM: value_head.safetensors, or the folder critic/."""
        if self.value_head is not None:
            save_file(self.value_head.state_dict(), folder / "value_head.safetensors")
        if self.separate_critic is not None:
            self.separate_critic.save(folder / "critic")

    def load_value_head(self, folder: Path) -> bool:
        """Load value_head.safetensors if the folder has one; returns whether it did."""
        path = folder / "value_head.safetensors"
        if self.value_head is None or not path.is_file():
            return False
        _load_head(self.value_head, path)
        return True


def _without_padding(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids and mask (B, P + L - 1) to feed, and the actions (B, L), L the longest row.

    V(s_t) and pi(a_t|s_t) are read one position before token t, so the last token is not fed.
    Columns that are padding in every row are cut off.
    """
    prompts, prompt_mask = rollout.inputs["input_ids"], rollout.inputs["attention_mask"]
    start = int(prompt_mask.any(0).float().argmax())
    steps = max(1, int(rollout.mask.bool().any(0).sum()))
    mask = rollout.mask[:, :steps].long()
    actions = rollout.actions[:, :steps] * mask  # any valid token will do for padding
    ids = torch.cat([prompts[:, start:], actions], dim=1)
    attention = torch.cat([prompt_mask[:, start:], mask], dim=1)
    return ids[:, :-1], attention[:, :-1], actions


def similar_lengths(lengths: list[int], prompt: int) -> list[list[int]]:
    """Rows in groups of similar length: one, or more if that saves padding worth their overhead.

    A group costs (prompt + its longest row) tokens for each of its rows, plus GROUP_OVERHEAD.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])

    def split(rows: list[int]) -> list[list[int]]:
        # Cutting before row i saves, for each row before it, the difference of the longest rows.
        longest = lengths[rows[-1]]
        saving, cut = max(
            (i * (longest - lengths[rows[i - 1]]), i) for i in range(1, len(rows) + 1)
        )
        return [rows] if saving <= GROUP_OVERHEAD else split(rows[:cut]) + split(rows[cut:])

    return split(order)


class SeparateCritic(nn.Module):
    """V of every state by a trunk of its own and a linear head in fp32.

    Doubles the parameters; neither loss changes the other's features.
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
        """Write the trunk as a Hugging Face folder, with value_head.safetensors beside it."""
        with quiet():
            self.trunk.save_pretrained(folder)
        save_file(self.head.state_dict(), folder / "value_head.safetensors")


def zero_head(model: Any) -> nn.Linear:
    """A linear head on the model's hidden state that starts at 0 everywhere."""
    head = nn.Linear(model.config.get_text_config().hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def critic_like(model: Any) -> SeparateCritic:
    """A critic whose trunk starts as a copy of the language model's, with a zero head."""
    return SeparateCritic(copy.deepcopy(model.base_model), zero_head(model))


def critic_from(name: str, tokenizer: Any) -> SeparateCritic:
    """A critic that starts as a reward model: V(s) is the score if the text ended at s.

    `name` is the folder of a reward model or of its run. Raises ValueError if there is none, or if
    its tokens are not the policy's.
    """
    folder = reward_model_folder(name)
    if folder is None:
        raise ValueError(
            f"critic_from: no trained reward model at {name!r}; `rlhf-pg reward` makes one"
        )
    trained = RewardModel.from_pretrained(folder, device="cpu")
    models.check_same_vocabulary(
        tokenizer, trained.tokenizer, f"critic_from: the reward model in {folder}"
    )
    head = zero_head(trained.model)
    with torch.no_grad():  # (w h - mean) / std, the reward model's own normalisation
        head.weight.copy_(trained.model.score.weight / trained.std)
        head.bias.fill_(-trained.mean / trained.std)
    return SeparateCritic(trained.model.base_model, head)


def load_critic(folder: Path) -> SeparateCritic:
    """The critic that `SeparateCritic.save` wrote; raises ValueError if the folder holds none."""
    path = folder / "value_head.safetensors"
    if not path.is_file():
        raise ValueError(f"no critic in {folder}: value_head.safetensors is missing")
    trunk = models.load_trunk(folder)
    head = zero_head(trunk)
    _load_head(head, path)
    return SeparateCritic(trunk, head)


def _load_head(head: nn.Linear, path: Path) -> None:
    """Load a value head; raises ValueError if the file is damaged or another model's."""
    try:
        head.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged, or the head of another model: {reason}") from error
    if not all(p.isfinite().all() for p in head.parameters()):
        raise ValueError(f"{path} holds numbers that are not finite")


class AdaptersOff:
    """The reference of a LoRA policy: the same model with its adapters off, at no memory cost."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self.policy = policy

    @torch.no_grad()
    def evaluate(self, rollout: Rollout) -> Evaluation:
        """As `LanguagePolicy.evaluate`, without the adapters."""
        with self.policy.model.disable_adapter():
            return self.policy.evaluate(rollout)

    def distributions(self, rollout: Rollout) -> Tensor:
        """As `LanguagePolicy.distributions`, without the adapters."""
        with self.policy.model.disable_adapter():
            return self.policy.distributions(rollout)


def make_policy_and_reference(
    config: TrainConfig, model: Any, tokenizer: Any, device: torch.device
) -> tuple[LanguagePolicy, Reference]:
    """The policy of `model` with its critic, and the reference of its KL penalty.

    The reference is `config.reference` if given; otherwise a frozen copy of the initial policy or,
    with LoRA, the policy with its adapters off. Raises ValueError if the device has no bfloat16
    for `bf16`, or a named model cannot be opened.
    """
    if config.bf16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("bf16: this GPU has no bfloat16; leave --bf16 out")
    critic = critic_from(config.critic_from, tokenizer) if config.critic_from else None
    frozen = models.load(config.reference)[0] if config.reference else None
    if frozen is None and config.lora_rank is None:
        frozen = copy.deepcopy(model)
    if critic is None and config.critic == "separate":
        critic = critic_like(model)  # before the adapters: all of its weights are trained
    if config.lora_rank is not None:
        model = with_lora(model, config.lora_rank)
    policy = LanguagePolicy(model, config.temperature, config.critic, critic, config.bf16)
    policy = policy.to(device)
    if frozen is None:
        return policy, AdaptersOff(policy)
    reference = LanguagePolicy(frozen, config.temperature, "none", bf16=config.bf16).to(device)
    reference.requires_grad_(False)
    return policy, reference


def policy_from_folder(model: Any, folder: Path, config: TrainConfig) -> LanguagePolicy:
    """The policy of a saved model with the critic saved beside it, or "none" without one."""
    separate = load_critic(folder / "critic") if (folder / "critic").is_dir() else None
    has_head = (folder / "value_head.safetensors").is_file()
    critic: Critic = "separate" if separate else config.critic if has_head else "none"
    policy = LanguagePolicy(model, config.temperature, critic, separate)
    policy.load_value_head(folder)
    return policy
