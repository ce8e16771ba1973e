"""A run folder: what was asked for, what happened, and what came out.

runs/NAME/
  config.yaml     every option, resolved; `--config` on it repeats the run
  metrics.jsonl   one line per iteration, keys as in METRICS
  samples.jsonl   completions over time, only ever appended to
  tokens.jsonl    the watched prompts' completions over time, token by token, keys as in EPISODE
  policy/         the trained model, there only when it is whole
  evaluation.json what `rlhf-pg evaluate` measured
  credit.jsonl    the trained policy's completions with the true advantage of each token, likewise
  credit.json     how well the critic's estimates agree with it (`rlhf-pg study credit`)
  estimators.json bias and variance of gradient estimates (`rlhf-pg study estimators`)
  report.html     all of it as a page (`rlhf-pg inspect`)
  oracle.json     exact answers of a small task, its tables in oracle.safetensors, and bugs.json
                  what the museum measured (`rlhf-pg study oracle`, `rlhf-pg study bugs`)
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml

METRICS: dict[str, str] = {
    "iteration": "rollouts learned from so far",
    "seconds": "time since the run began",
    # text
    "score": "mean reward of a completion, before the KL penalty",
    "score_std": "standard deviation of that over the rollout",
    "gold": "mean gold score, which the policy is not trained on",
    "kl": "mean over completions of the summed k1: KL(policy || reference) in nats",
    "kl_k3": "the same by k3, which has less variance",
    "kl_exact": "the same summed over the whole vocabulary at every state visited; every "
    "samples_every iterations, for vocabularies up to 10,000",
    "kl_coef": "coefficient of the KL penalty",
    "objective": "score as paid (clipped, less the missing-EOS penalty) - kl_coef * kl: what is "
    "maximised",
    "reward/NAME": "mean of one part of a composed reward, over the rows it applies to",
    "length": "mean tokens of a completion, EOS included",
    "eos_rate": "share of completions that ended by themselves",
    "tokens_per_second": "tokens sampled and learned from, per second of the iteration",
    "ref_perplexity": "the base's perplexity per token of what the policy writes",
    "distinct_1": "share of words that differ, over all completions together",
    "distinct_2": "the same of pairs of words",
    "repetition": "mean share of a completion's 4-grams that it has had before",
    "win_rate/NAME": "share of completions that score higher than the base's; a tie counts half",
    "kl_bound": "log n - (n-1)/n: the KL of best-of-n where scores never tie",
    "loss": "next-token cross-entropy, nats per token",
    "held_out_loss": "the same on held-out text",
    "accuracy": "share of held-out pairs whose chosen completion scores higher",
    "batch_accuracy": "the same of a batch in training",
    # the learner
    "policy_loss": "what is minimised; about 0 for centred on-policy advantages, and rightly so",
    "value_loss": "half the critic's mean squared error",
    "kl_loss": "k2 of whole completions, where the KL stands in the loss",
    "entropy": "mean entropy of the policy, nats per action",
    "update_kl": "k3 estimate of KL(policy before || after) within the update",
    "ratio_drift": "mean |new/old probability - 1| of the actions",
    "first_ratio_drift": "the same in the first minibatch: above 1e-5, sampling is not scoring",
    "clip_fraction": "share of actions whose ratio left the clip range",
    "grad_norm": "norm of the gradient before clipping",
    "advantage_std": "standard deviation of the advantages",
    "explained_variance": "1 - Var(target - V) / Var(target): 1 is a perfect critic, below 0 harms",
    "learning_rate": "Adam's learning rate in this update",
    "gradient_steps": "optimiser steps in this update",
    # control, where score and length are those of the episodes that ended in the iteration
    "steps": "environment steps learned from so far, resets not counted",
    "training_seconds": "time spent collecting and learning, evaluation left out",
    "eval_score": "mean score of whole episodes in environments kept for evaluation",
    "eval_score_std": "standard deviation of that over the episodes",
    "entropy_temperature": "weight of the entropy in the reward",
    "entropy_collapsed": "1 in the one line where the entropy fell too low too early",
}

# A line of tokens.jsonl and credit.jsonl: a completion, or an episode of an environment.
EPISODE: dict[str, str] = {
    "iteration": "rollouts learned from before it was drawn, plus one; null after training",
    "prompt": "what was completed, or the environment and the seed it was reset with",
    "completion": "the text, or the episode in words",
    "score": "reward of the whole, before the KL penalty",
    "gold": "gold score, where there is one",
    "finished": "ended by EOS (or terminated), not by the length (or time) limit",
    "gamma": "discount",
    "lam": "GAE's lambda",
    "kl_coef": "coefficient of the KL penalty at that time",
    "kl_in": '"reward" where each token pays kl_coef * kl, "loss" where the loss does',
    "baseline": "what the learner subtracts, as in LearnerConfig",
    "clip": "PPO's clip range; null without",
    "tokens": "its tokens or steps in order, keys as in TOKEN",
}

# Of a token, all in nats or units of reward. Null where it was not measured.
TOKEN: dict[str, str] = {
    "token": "its text, or the action's name",
    "id": "its number in the vocabulary, or the action",
    "state": "of an environment: the observation before the step",
    "logprob": "log pi(a_t|s_t) when it was drawn",
    "ref_logprob": "the same of the reference",
    "entropy": "of pi(.|s_t)",
    "top": "the five likeliest alternatives, [text, probability]",
    "kl": "k1 = logprob - ref_logprob",
    "score": "what is paid here before the KL penalty: for text, all of it at the last token, "
    "clipped and less the missing-EOS penalty",
    "reward": "what the learner is paid: score - kl_coef * kl, or score where kl_in is loss",
    "value": "the critic's V(s_t); 0 without a critic",
    "next_value": "V(s_{t+1}); 0 after a terminal step",
    "delta": "reward + gamma * next_value - value",
    "advantage": "the learner's estimate of A(s_t, a_t), before whitening",
    "ratio": "pi(a_t|s_t) after the update that followed / before it",
    "clipped": "whether that ratio left the clip range in the direction that the advantage pushes",
    "true_value": "V(s_t) of the same policy, by continuations from s_t or enumeration",
    "true_value_se": "its standard error; 0 where exact",
    "true_advantage": "reward + gamma * V(s_{t+1}) - V(s_t) by those true values",
    "true_advantage_se": "its standard error; 0 where exact",
}


class Run:
    """One run's folder, open for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()

    @classmethod
    def create(cls, output: str | Path | None, name: str, config: Any) -> "Run":
        """Make the folder: `output`, or the first free of runs/NAME, runs/NAME-2, ...

        Raises ValueError where `output` already holds something: no run overwrites another.
        """
        if output is not None:
            path = Path(output)
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise ValueError(f"{path} already holds something; choose another --output")
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = _first_free(Path("runs"), name)
        values = asdict(config) if is_dataclass(config) else dict(config)  # type: ignore[arg-type]
        values.pop("output", None)  # repeating a run makes a new folder
        (path / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return cls(path)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Append a line to metrics.jsonl and return it."""
        seconds = round(time.monotonic() - self.started, 3)
        line = {"iteration": iteration, "seconds": seconds, **metrics}
        self._append("metrics.jsonl", [line])
        return line

    def samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to samples.jsonl."""
        self._append("samples.jsonl", rows)

    def tokens(self, episodes: Iterable[Mapping[str, Any]]) -> None:
        """Append records of completions, token by token, to tokens.jsonl."""
        self._append("tokens.jsonl", episodes)

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        with open(self.path / name, "a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _first_free(parent: Path, name: str) -> Path:
    """Make parent/name, or parent/name-2, ...: the first that nobody else has made."""
    path, number = parent / name, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not parent.is_dir():
                raise
            number += 1
            path = parent / f"{name}-{number}"


def options_of(folder: str | Path) -> dict[str, Any]:
    """What a run was asked for (its config.yaml); nothing where `folder` is no run."""
    path = Path(folder) / "config.yaml"
    options = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return options if isinstance(options, dict) else {}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
