"""Hugging Face sequence classifiers as rewards: the score of one label, chosen by its name."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax, logsigmoid
from transformers import AutoTokenizer

from reward_models import RewardError
from reward_models.calling import suggest
from reward_models.pretrained import (
    batches_by_length,
    context_length,
    note_truncation,
    open_classifier,
    open_pretrained,
    pad_problem,
    usable_device,
)

SCORES = ("logit", "logprob", "prob")


class Classifier:
    """Scores prompt + completion by one label of a sequence classifier.

    Args:
        name: a folder or hub id, `#label` may follow; the label may be left out if there is one.
        label: the label's name (any case) or its number.
        score: "logit" (unbounded, the usual choice), "logprob" or "prob"; probabilities are a
            softmax over the labels, or a sigmoid where labels do not exclude each other.
        batch_size: texts per forward, usually 8 to 128.

    Texts are tokenised as the classifier's tokenizer does by default, so scores do not depend on
    `finished`. A text longer than the context is cut on the left, with a warning in the log.
    """

    def __init__(
        self,
        name: str,
        label: str | None = None,
        score: str = "logit",
        device: Any = None,
        batch_size: int = 32,
    ) -> None:
        if "#" in name:
            name, _, label = name.rpartition("#")
        if score not in SCORES:
            raise RewardError(f"unknown score {score!r}; it is one of {', '.join(SCORES)}")
        self.name, self.score = name, score
        self.tokenizer = open_pretrained(
            AutoTokenizer, name, wanted="reward model or sequence classifier"
        )
        self.model = open_classifier(name).to(usable_device(device))
        self.label = choose_label(name, self.model.config.id2label, label)
        self.limit = context_length(self.model, self.tokenizer) or 10**9
        self.tokenizer.padding_side = "right"
        self.tokenizer.truncation_side = "left"  # keeps the completion
        self.batch_size = self._fit_padding(batch_size)

    def _fit_padding(self, batch_size: int) -> int:
        """Return the batch size that the pad token allows; RewardError if scores would be wrong.

        A decoder reads its score at the last token that is not pad, so its pad token must not be
        a token of the text. Encoders need no such check.
        """
        problem = pad_problem(self.tokenizer) if hasattr(self.model, "score") else None
        if self.tokenizer.pad_token_id is None:
            return 1  # no padding: one text at a time
        if problem:
            raise RewardError(
                f"{self.name!r}: {problem}; give its tokenizer a pad token of its own "
                "(tokenizer.pad_token = ..., model.config.pad_token_id = ...) and save it"
            )
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        return batch_size

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Any
    ) -> list[float]:
        """Return one score per row."""
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        if not texts:
            return []
        lengths = [len(row) for row in self.tokenizer(texts, verbose=False)["input_ids"]]
        if cut := sum(length > self.limit for length in lengths):
            note_truncation(repr(self.name), cut, self.limit)
        scores = torch.empty(len(texts))
        for batch in batches_by_length(lengths, self.batch_size):
            scores[batch] = self._score([texts[i] for i in batch])
        return scores.tolist()

    def _score(self, texts: list[str]) -> torch.Tensor:
        inputs = self.tokenizer(
            texts,
            padding=self.tokenizer.pad_token_id is not None,
            truncation=True,
            max_length=self.limit,
            return_tensors="pt",
        )
        logits: torch.Tensor = self.model(**inputs.to(self.model.device)).logits.float()
        if self.score != "logit":
            config = self.model.config
            multi_label = config.problem_type == "multi_label_classification"
            independent = multi_label or config.num_labels == 1
            logits = logsigmoid(logits) if independent else log_softmax(logits, -1)
        chosen = logits[:, self.label]
        return (chosen.exp() if self.score == "prob" else chosen).cpu()


def choose_label(name: str, labels: dict[int, str], wanted: str | None) -> int:
    """Return the number of a label by its name (any case) or number.

    Raises RewardError, listing the labels, if it is unknown, or missing where there are several.
    """
    known = ", ".join(labels.values())
    if wanted is None:
        if len(labels) == 1:
            return 0
        raise RewardError(f"{name!r} has several labels; choose one: {name}#LABEL with {known}")
    for number, label in labels.items():
        if label == wanted:
            return number
    for number, label in labels.items():
        if label.lower() == wanted.lower() or str(number) == wanted:
            return number
    raise RewardError(
        f"{name!r} has no label {wanted!r}.{suggest(wanted, labels.values())} Labels: {known}"
    )
