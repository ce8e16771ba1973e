"""A run or a model opened again: its policy and critic, and the reward and prompts it had."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward_models.loading import load_reward
from reward_models.pretrained import context_length, limit_threads
from reward_models.rules import FILM_NOTES_GOLD
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language import data, models
from rlhf_pg.language.config import (
    FILM_NOTES,
    PYTHON_REWARD,
    TrainConfig,
    train_config,
    with_kept_models,
)
from rlhf_pg.language.policy import LanguagePolicy, Reference, policy_from_folder
from rlhf_pg.language.rollout import (
    Reward,
    Scores,
    language_rollout,
    reference_logprobs,
    score,
    unscored,
)
from rlhf_pg.language.sampling import Completions, encode, pad_left, pad_right, sample
from rlhf_pg.progress import console
from rlhf_pg.reading import METRICS_LINE, read_jsonl
from rlhf_pg.runs import options_of
from rlhf_pg.trust import check

# What commands take from the run of a model, if it is not given.
RUN_OPTIONS = ("data", "columns", "reward", "gold", "max_new_tokens", "temperature")


class LoadedRun:
    """The policy of a run, and, opened on first use, its reference, rewards and prompts.

    `path` is the run's folder, or the model's if it belongs to no run. Everything raises
    ValueError if a model, reward or data source that the run names cannot be opened, or may not
    be opened without `trust` (see rlhf_pg.trust).
    """

    def __init__(self, name: str, path: Path, config: TrainConfig, trust: bool = False) -> None:
        self.name, self.path, self.config, self.trust = name, path, config, trust
        model, self.tokenizer = models.load(name)
        limit_threads(model)
        self.policy = policy_from_folder(model, Path(models.model_folder(name)), config)

    @cached_property
    def reference(self) -> Reference:
        """The model that the KL is measured to."""
        origin = self.config.reference or self.config.model
        self._check("reference")
        try:
            model, other = models.load(origin)
        except ValueError as error:
            raise ValueError(
                f"the KL of {self.name} is measured to {origin}, which cannot be opened from this "
                f"folder: start from the folder it was trained in ({error})"
            ) from error
        models.check_same_vocabulary(self.tokenizer, other, f"the reference {origin}")
        return LanguagePolicy(model, self.config.temperature, "none").requires_grad_(False)

    @cached_property
    def reward(self) -> Reward:
        """The reward that the run maximised."""
        self._check("reward")
        return load_reward(self.config.reward)

    @cached_property
    def gold(self) -> Reward | None:
        """The gold reward, if there is one."""
        self._check("gold")
        film_notes = FILM_NOTES_GOLD if self.config.data == FILM_NOTES else None
        gold = self.config.gold or film_notes
        return load_reward(gold) if gold else None

    @cached_property
    def prompts(self) -> data.Rows:
        """The prompts it was trained on, with the data's other columns."""
        self._check("data")
        return data.read(
            self.config.data, "prompts", tokenizer=self.tokenizer, columns=self.config.columns
        )

    @cached_property
    def kl_coef(self) -> float:
        """The KL coefficient at the end of the run, adaptive ones included."""
        if self.config.kl_target is None:
            return self.config.kl_coef
        return self._last_metric("kl_coef", self.config.kl_coef)

    @cached_property
    def constant_baseline(self) -> float:
        """The number that the last update subtracted from returns; 0 with any other baseline."""
        return self._last_metric("constant_baseline", 0.0)

    def _last_metric(self, name: str, default: float) -> float:
        metrics = self.path / "metrics.jsonl"
        lines = read_jsonl(metrics, METRICS_LINE) if metrics.is_file() else []
        values = [x for line in lines if (x := line.get(name)) is not None]
        return float(values[-1]) if values else default

    def _check(self, name: str) -> None:
        check(self.path, {name: outside_names(self.config)[name]}, self.trust)

    def sample(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> Completions:
        """`n` completions of each prompt, in consecutive rows.

        Length limit (in tokens) and temperature default to those of the run. Raises ValueError for
        numbers out of range, and for prompts that are empty or too long for the model.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        limit = self.config.max_new_tokens if max_new_tokens is None else max_new_tokens
        for name, value in (("prompts", len(prompts)), ("n", n), ("max_new_tokens", limit)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        data.check_prompt_lengths(self.policy.model, self.tokenizer, prompts, limit)
        policy = copy.copy(self.policy)
        if temperature is not None:
            if not temperature > 0:
                raise ValueError(f"temperature must be above 0, not {temperature}")
            policy.temperature = temperature
        repeated = [prompt for prompt in prompts for _ in range(n)]
        generator = torch.Generator().manual_seed(seed)
        return sample(policy, self.tokenizer, repeated, limit, generator)

    @torch.no_grad()
    def completions(self, prompts: Sequence[str], texts: Sequence[str]) -> Completions:
        """Given texts as completions: tokenised, EOS appended, with this policy's log-probabilities
        and values. Raises ValueError for a different number of prompts and texts, for an empty
        prompt, and for texts too long for the model."""
        lists = not isinstance(prompts, str) and not isinstance(texts, str)
        if not lists or not prompts or len(prompts) != len(texts):
            raise ValueError("give a list of prompts and a list of as many texts")
        data.check_prompt_lengths(self.policy.model, self.tokenizer, list(prompts), 1)
        heads = encode(self.tokenizer, list(prompts))
        whole = encode(self.tokenizer, [p + t for p, t in zip(prompts, texts, strict=True)])
        eos = self.tokenizer.eos_token_id
        tails = []
        for head, row, prompt in zip(heads, whole, prompts, strict=True):
            if row[: len(head)] != head:
                raise ValueError(
                    f"the tokens of {prompt!r} change when its text is appended; put the boundary "
                    "between two words"
                )
            tails.append([*row[len(head) :], eos])
        limit = context_length(self.policy.model)
        longest = max(map(len, whole)) + 1
        if limit is not None and longest > limit:
            raise ValueError(
                f"a prompt and its text have {longest} tokens with EOS, more than the model's "
                f"context of {limit}"
            )
        device = next(self.policy.parameters()).device
        prompt_ids, prompt_mask = pad_left(heads, self.tokenizer.pad_token_id, device)
        ids, mask = pad_right(tails, self.tokenizer.pad_token_id, device)
        attention = torch.cat([prompt_mask, mask.long()], dim=1)
        steps = ids.shape[1]
        # Position t - 1 predicts token t, so one more position than tokens is read.
        logprobs, values, _ = self.policy(torch.cat([prompt_ids, ids], 1), attention, steps + 1)
        chosen = logprobs[:, :-1].gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        return Completions(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            ids=ids,
            mask=mask,
            logprobs=torch.where(mask, chosen, 0.0),
            values=values,
            finished=torch.ones(len(ids), dtype=torch.bool, device=device),
            prompts=list(prompts),
            texts=list(texts),
        )

    @torch.no_grad()
    def logprobs(
        self, completions: Completions | Sequence[str], texts: Sequence[str] | None = None
    ) -> Tensor:
        """log pi of every token, (B, T), nats, 0 on padding.

        Of sampled completions: `logprobs(completions)`; of texts: `logprobs(prompts, texts)`.
        """
        if not isinstance(completions, Completions):
            if texts is None:
                raise ValueError("give completions, or prompts and texts")
            return self.completions(completions, texts).logprobs
        logprobs = self.policy.evaluate(unscored(completions)).logprobs
        return torch.where(completions.mask, logprobs, 0.0)

    def advantages(
        self, completions: Completions, scores: Sequence[float | None] | Tensor
    ) -> Tensor:
        """Advantages (B, T) of completions with `scores` (B,), as the run's learner estimates them.

        Before whitening, and 0 on padding. The scores are taken as they are; the KL penalty is
        added. Without a critic, they are rewards-to-go, or what the run's baseline makes of them.
        Rows whose score is None have advantage 0.
        """
        if not isinstance(scores, Tensor):
            scores = torch.tensor([math.nan if score is None else score for score in scores])
        shaped = scores.to(completions.mask.device, torch.float32)
        if shaped.shape != completions.finished.shape:
            raise ValueError(
                f"scores is {tuple(shaped.shape)}, but there are {len(completions.texts)} "
                "completions"
            )
        learner = replace(self.config.learner, whiten_advantages=False)
        if learner.baseline == "critic" and self.policy.critic == "none":
            learner = replace(learner, baseline="none")
        rollout, _ = self.rollout(completions, shaped)
        return estimate_advantages(rollout, learner, self.constant_baseline)[0]

    def complete(self, columns: data.Rows, generator: torch.Generator) -> Completions:
        """One completion of each `prompt` in the columns."""
        limit = self.config.max_new_tokens
        return sample(self.policy, self.tokenizer, columns["prompt"], limit, generator)

    def score(self, completions: Completions, columns: data.Rows, with_gold: bool = True) -> Scores:
        """Scores of completions as the run's reward and gold give them."""
        gold = self.gold if with_gold else None
        clip, penalty = self.config.score_clip, self.config.missing_eos_penalty
        return score(self.reward, gold, completions, columns, clip, penalty)

    def rollout(
        self, completions: Completions, shaped: Tensor, kl_coef: float | None = None
    ) -> tuple[Rollout, Tensor]:
        """The rollout of completions with shaped scores (B,), and the reference's log-probabilities
        (B, T); `kl_coef` defaults to the run's last."""
        ref_logprobs = reference_logprobs(self.reference, completions)
        rollout = language_rollout(
            completions,
            shaped,
            ref_logprobs,
            self.kl_coef if kl_coef is None else kl_coef,
            self.config.learner.kl_in,
            self.config.bootstrap_truncated,
            self.config.samples_per_prompt,
        )
        return rollout, ref_logprobs


def open_run(name: str, trust: bool = False, **overrides: Any) -> LoadedRun:
    """The run at `name`, a model inside one, or any model if `reward` is given.

    `overrides` that are not None replace options of the run (reward, reference, data, ...). Raises
    ValueError if there is no model, no reward, an option is unknown to this version, or a run of
    unknown origin names something to load that is not replaced, unless `trust` is set.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    path = run_folder(name)
    if path is None and "reward" not in given:
        if not Path(name).exists():
            raise ValueError(f"no run at {name}; `rlhf-pg train` makes runs")
        raise ValueError(
            f"{name} is no run of `rlhf-pg train`, so its reward is not known: give --reward"
        )
    config = with_kept_models(train_config(path), path) if path else TrainConfig(model=name)
    if path is not None:
        named = {key: x for key, x in outside_names(config).items() if key not in given}
        check(path, named, trust, flags=tuple(overrides))
    return LoadedRun(name, path or Path(name), replace(config, **given), trust=True)


def open_model(name: str, trust: bool = False) -> LoadedRun:
    """As `open_run`, also for a model that belongs to no run: it has no reward of its own."""
    path = run_folder(name)
    config = with_kept_models(train_config(path), path) if path else TrainConfig(model=name)
    return LoadedRun(name, path or Path(name), config, trust or path is None)


def outside_names(config: TrainConfig) -> dict[str, str | None]:
    """What a run's options name that a LoadedRun opens."""
    return {
        "reward": config.reward,
        "gold": config.gold,
        "reference": config.reference or config.model,
        "data": config.data,
    }


def remembered(
    model: str, given: Mapping[str, Any], trust: bool, flags: Sequence[str]
) -> dict[str, Any]:
    """The given options, and as its run has them the others of RUN_OPTIONS, if `model` is of one.

    An option that is None is not given, and the reward "none" is no reward. The gold and the names
    of columns belong to the run's data, and are left out if other data are given. `flags` are the
    options by which a person can name their own. Raises ValueError if the run is of unknown origin
    and names something to load, unless `trust` is set.
    """
    given = {name: x for name, x in given.items() if x is not None}
    path = run_folder(model)
    own: dict[str, Any] = {}
    if path is not None:
        config = train_config(path)
        of_data = ("columns", "gold") if "data" in given else ()
        own = {
            name: getattr(config, name) for name in RUN_OPTIONS if name not in (*of_data, *given)
        }
        if str(own.get("reward")).startswith(PYTHON_REWARD):
            console.print(f"the reward of {path} is a function in Python: give --reward to score")
            own["reward"] = None
        check(path, {name: own.get(name) for name in ("reward", "gold", "data")}, trust, flags)
    options = own | given
    return options | ({"reward": None} if options.get("reward") == "none" else {})


def with_run_options(config: Any) -> Any:
    """Options of a command with those that are not given as the run of `config.model` has them, or
    as for film notes without one."""
    names = [item.name for item in fields(config) if item.name in RUN_OPTIONS]
    given = {name: getattr(config, name) for name in names}
    if getattr(config, "prompt", None) is not None:
        given["data"] = FILM_NOTES  # not read, so it need not be trusted
    found = remembered(config.model, given, config.trust, names)
    usual = {"data": FILM_NOTES, "max_new_tokens": 48, "temperature": 1.0}
    filled = {name: found.get(name, usual.get(name)) for name in names}
    return replace(config, **filled)


def run_folder(name: str) -> Path | None:
    """The folder of the text run that `name` is, or is inside of; None if there is none."""
    here = Path(name)

    def is_run(path: Path) -> bool:
        options = set(options_of(path))
        return (
            "algorithm" in options and "env" not in options and bool(options & {"rows", "reward"})
        )

    return next((path for path in (here, *here.parents[:2]) if is_run(path)), None)
