"""A scalar reward model: a plain Hugging Face sequence classifier with one label.

Its input is prompt + completion, then EOS if the completion is finished. Its score is the head's
output at the last token, normalised to mean 0 and standard deviation 1 on reference samples
(Ziegler et al. 2019, arXiv 1909.08593; Stiennon et al. 2020, arXiv 2009.01325).

Rows are padded on the right, and the last token is found from the row's length, never from
`ids != pad`: neither the rest of a batch nor a pad token inside a text can change a score.
"""

import copy
import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from reward_models import RewardError
from reward_models.files import SIDECAR, reward_model_folder, saved_whole
from reward_models.lora import with_lora
from reward_models.pretrained import (
    add_padding,
    batches_by_length,
    context_length,
    note_truncation,
    open_classifier,
    open_pretrained,
    pad_problem,
    quiet,
    save_vocabulary,
    usable_device,
)


class RewardModel:
    """Scores texts by (raw - mean) / std.

    Args:
        model: a decoder with a one-label `score` head, as AutoModelForSequenceClassification makes.
        tokenizer: its tokenizer, with an EOS and a pad token that are not the same.
        mean, std: of the raw scores of the reference samples.
        report: JSON values to keep beside the model: accuracy, calibration, ...
        batch_size: texts per forward when scoring, usually 32 to 256.
        max_length: tokens of a text that are read; by default as many as the context holds.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        mean: float = 0.0,
        std: float = 1.0,
        report: dict[str, Any] | None = None,
        batch_size: int = 64,
        max_length: int | None = None,
    ) -> None:
        problem = pad_problem(tokenizer)
        if tokenizer.eos_token_id is None:
            problem = "the tokenizer has no EOS token"
        if getattr(getattr(model, "score", None), "out_features", None) != 1:
            problem = f"{type(model).__name__} has no `score` head with one label"
        if problem:
            raise RewardError(
                f"not usable as a reward model: {problem}; RewardModel.from_base makes one from "
                "any decoder-only language model whose tokenizer has an EOS token"
            )
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.mean, self.std, self.report = mean, std, dict(report or {})
        self.max_length, self.bf16 = max_length, False
        self.limit = min(context_length(model, tokenizer) or 10**9, max_length or 10**9)
        self._positions = "position_ids" in inspect.signature(model.base_model.forward).parameters

    @classmethod
    def from_base(
        cls,
        base: Any,
        tokenizer: Any = None,
        *,
        seed: int = 0,
        device: Any = None,
        lora_rank: int | None = None,
        freeze_trunk: bool = False,
        bf16: bool = False,
        max_length: int | None = None,
    ) -> "RewardModel":
        """Make a reward model from a language model, with a head initialised to N(0, 1/(d + 1)).

        `base` is a folder or hub id, a causal LM in memory (its trunk is copied), or a config (for
        a randomly initialised model); the latter two need a `tokenizer`. A pad token is added if
        there is none or it is EOS. With `lora_rank` training changes adapters on the trunk, with
        `freeze_trunk` the head alone; `bf16` trains under autocast (parameters and scores stay
        fp32). Raises RewardError for a base that cannot be used.
        """
        if tokenizer is None and not isinstance(base, str | Path):
            raise RewardError("a base that is not a folder or hub id needs a tokenizer")
        tokenizer = copy.deepcopy(tokenizer or open_pretrained(AutoTokenizer, base))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _classifier_from(base).float()
            if not hasattr(model, "score") or tokenizer.eos_token_id is None:
                raise RewardError(
                    f"{type(model).__name__} cannot become a reward model: it takes a "
                    "decoder-only model, and a tokenizer with an EOS token"
                )
            add_padding(tokenizer, model)
            torch.nn.init.normal_(model.score.weight, std=(model.score.in_features + 1) ** -0.5)
            made = cls(model.to(usable_device(device)), tokenizer, max_length=max_length)
            if lora_rank is not None:
                made._set_trunk(with_lora(model.base_model, lora_rank))
        if freeze_trunk and lora_rank is None:
            model.base_model.requires_grad_(False)
        if bf16 and made.device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise RewardError("bf16: this GPU has no bfloat16; leave --bf16 out")
        made.bf16 = bf16
        return made

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: Any = None, batch_size: int = 64
    ) -> "RewardModel":
        """Open the folder that `save_pretrained` wrote, or its run's; RewardError for any other."""
        folder = reward_model_folder(name) or name
        try:
            stored = json.loads((Path(folder) / SIDECAR).read_text(encoding="utf-8"))
            mean, std = float(stored.pop("mean")), float(stored.pop("std"))
            max_length = stored.pop("max_length", None)
            max_length = None if max_length is None else max(1, int(max_length))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RewardError(
                f"{str(name)!r} is no trained reward model: cannot read {SIDECAR} in it "
                f"({type(error).__name__}: {error})"
            ) from error
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise RewardError(f"{str(folder)!r}: {SIDECAR} has mean {mean}, std {std}")
        tokenizer = open_pretrained(AutoTokenizer, folder)
        model = open_classifier(folder, dtype=torch.float32)
        model = model.to(usable_device(device))
        return cls(model, tokenizer, mean, std, stored, batch_size, max_length)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder that also holds `reward_model.json`, atomically.

        An earlier reward model there is replaced. Raises RewardError if the folder holds anything
        else.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / SIDECAR).exists() and any(folder.iterdir()):
            raise RewardError(f"{str(folder)!r} holds something else; choose another folder")
        sidecar = {"mean": self.mean, "std": self.std, **self.report}
        if self.max_length is not None:
            sidecar["max_length"] = self.max_length
        text = json.dumps(sidecar, indent=1, allow_nan=False) + "\n"
        with saved_whole(folder) as temporary, quiet():
            self.model.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            save_vocabulary(temporary, self.tokenizer)
            (temporary / SIDECAR).write_text(text, encoding="utf-8")

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return torch.device(self.model.score.weight.device)

    def finish_training(self) -> None:
        """Add LoRA adapters to the trunk's weights, in place, and score in fp32 from now on."""
        self.bf16 = False
        self.model.requires_grad_(True)
        trunk = self.model.base_model
        if hasattr(trunk, "merge_and_unload"):
            self._set_trunk(trunk.merge_and_unload())

    def _set_trunk(self, trunk: Any) -> None:
        setattr(self.model, self.model.base_model_prefix, trunk)

    def encode(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[list[int]]:
        """Return token rows: prompt + completion as one text, then EOS if finished (the default).

        A row longer than the limit is cut on the left, with a warning in the log.
        """
        rows = self.encode_whole(prompts, completions, finished)
        if cut := sum(len(row) > self.limit for row in rows):
            note_truncation("reward model", cut, self.limit)
        return [self.cut(row) for row in rows]

    def encode_whole(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[list[int]]:
        """Return the token rows of `encode` before any is cut."""
        if not prompts:
            return []
        ended = [True] * len(prompts) if finished is None else finished
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        eos, rows = self.tokenizer.eos_token_id, []
        for row, end in zip(self.tokenizer(texts, verbose=False)["input_ids"], ended, strict=True):
            row = row[:-1] if row and row[-1] == eos else row  # some tokenizers append it always
            rows.append(row + [eos] if end or not row else row)  # it is read at its last token
        return rows

    def cut(self, row: list[int]) -> list[int]:
        """Return the last `limit` tokens: the prompt loses its beginning first, EOS stays."""
        return row[-self.limit :]

    def raw_scores(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the head's outputs (B,) for one batch of token rows, with gradients."""
        ids, lengths = pad_right(rows, self.tokenizer.pad_token_id, self.device)
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        inputs: dict[str, Any] = {"attention_mask": (positions < lengths[:, None]).long()}
        if self._positions:
            inputs["position_ids"] = positions
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self.model.base_model(ids, use_cache=False, **inputs).last_hidden_state
        last = hidden[torch.arange(len(rows), device=ids.device), lengths - 1]
        scores: torch.Tensor = self.model.score(last.float())
        return scores.squeeze(-1)

    @torch.inference_mode()
    def score_rows(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return raw scores (N,) of any number of token rows, dropout off, on the CPU."""
        self.model.eval()
        scores = torch.empty(len(rows))
        for batch in batches_by_length([len(row) for row in rows], self.batch_size):
            scores[batch] = self.raw_scores([rows[i] for i in batch]).cpu()
        return scores

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        finished: Sequence[bool] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Return normalised scores; without `finished`, every completion counts as finished."""
        raw = self.score_rows(self.encode(prompts, completions, finished))
        return ((raw.double() - self.mean) / self.std).tolist()


def _classifier_from(base: Any) -> Any:
    """Return a one-label classifier with the trunk of `base`: a name, a config or a causal LM."""
    if isinstance(base, str | Path):
        return open_classifier(base, new_head=True, num_labels=1)
    config = copy.deepcopy(base if isinstance(base, PreTrainedConfig) else base.config)
    config.num_labels = 1
    auto_class: Any = AutoModelForSequenceClassification
    try:
        model = auto_class.from_config(config)
    except ValueError as error:
        raise RewardError(f"no sequence classifier for {type(config).__name__}") from error
    if not isinstance(base, PreTrainedConfig):
        model.base_model.load_state_dict(base.base_model.state_dict())
    return model


def pad_right(
    rows: Sequence[Sequence[int]], pad: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (B, T) padded on the right, and lengths (B,)."""
    lengths = [len(row) for row in rows]
    width = max(lengths)
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    return ids, torch.tensor(lengths, device=device)
