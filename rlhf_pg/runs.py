"""The run folder: its files, and the meaning of every logged number.

runs/NAME/
  config.yaml     every option, resolved; `--config` on it repeats the run
  metrics.jsonl   one line per iteration, keys as in METRICS
  samples.jsonl   completions over time, append-only
  tokens.jsonl    completions of fixed prompts over time, token by token, keys as in EPISODE
  policy/         the trained model; written at the end, whole or not at all
  evaluation.json result of `rlhf-pg evaluate`
  credit.jsonl    completions of the trained policy with each token's true advantage
  credit.json     agreement of the estimated advantages with it (`rlhf-pg study credit`)
  estimators.json bias and variance of gradient estimates (`rlhf-pg study estimators`)
  report.html     the run's page (`rlhf-pg inspect`)
  oracle.json, oracle.safetensors   exact results for a small task (`rlhf-pg study oracle`)
  bugs.json       effects of planted bugs (`rlhf-pg study bugs`)
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml

METRICS: dict[str, str] = {
    "iteration": "number of rollouts learned from",
    "seconds": "time since the run began",
    # text
    "score": "mean reward of a completion, before clipping, penalties and the KL",
    "score_std": "standard deviation of the score over the rollout",
    "gold": "mean gold score, which is never trained on",
    "kl": "KL(policy || reference): mean over completions of the summed k1, nats",
    "kl_k3": "the same estimated by k3, with less variance",
    "kl_exact": "the same computed over the whole vocabulary at every visited state; every "
    "samples_every iterations, for vocabularies up to 10,000",
    "kl_coef": "coefficient of the KL penalty",
    "objective": "what is maximised: score (clipped, minus the missing-EOS penalty) - kl_coef * kl",
    "reward/NAME": "mean of one component of a composed reward, over the rows it applies to",
    "length": "mean tokens of a completion, EOS included",
    "eos_rate": "share of completions that ended with EOS",
    "tokens_per_second": "tokens sampled and learned from, per second of the iteration",
    "ref_perplexity": "perplexity per token of the policy's completions under the base model",
    "distinct_1": "share of distinct words, over all completions together",
    "distinct_2": "the same for pairs of words",
    "repetition": "mean share of a completion's 4-grams that occurred before in it",
    "win_rate/NAME": "share of completions that score higher than the base's; ties count half",
    "kl_bound": "log n - (n-1)/n: the KL of best-of-n without ties",
    "loss": "next-token cross-entropy, nats per token",
    "held_out_loss": "the same on held-out text",
    "accuracy": "share of held-out pairs whose chosen completion scores higher",
    "batch_accuracy": "the same on a training batch",
    # the learner
    "policy_loss": "the policy's loss; about 0 for centred on-policy advantages, as it should be",
    "value_loss": "half the critic's mean squared error",
    "kl_loss": "k2 of whole completions, if the KL is in the loss",
    "entropy": "mean entropy of the policy, nats per action",
    "update_kl": "k3 estimate of KL(policy before || after) within the update",
    "ratio_drift": "mean |new/old probability - 1| of the actions",
    "first_ratio_drift": "the same in the first minibatch; above 1e-5, sampling and scoring differ",
    "clip_fraction": "share of actions whose ratio left the clip range",
    "grad_norm": "norm of the gradient before clipping",
    "advantage_std": "standard deviation of the advantages",
    "explained_variance": "1 - Var(target - V) / Var(target): 1 is perfect, below 0 V is harmful",
    "learning_rate": "Adam's learning rate in this update",
    "gradient_steps": "optimiser steps in this update",
    # control: score and length are those of the episodes that ended in the iteration
    "steps": "environment steps learned from so far, resets not counted",
    "training_seconds": "time spent collecting and learning, without evaluation",
    "eval_score": "mean score of whole episodes in separate evaluation environments",
    "eval_score_std": "standard deviation of eval_score over the episodes",
    "entropy_temperature": "weight of the entropy in the reward",
    "entropy_collapsed": "1 in the line where the entropy first fell too low too early",
}

# A line of tokens.jsonl and credit.jsonl: a completion, or an episode of an environment.
EPISODE: dict[str, str] = {
    "iteration": "iteration before whose update it was sampled; null after training",
    "prompt": "the prompt, or the environment and its reset seed",
    "completion": "the completion's text, or a summary of the episode",
    "score": "reward of the whole, before clipping, penalties and the KL",
    "gold": "gold score, if there is one",
    "finished": "ended by EOS (or terminated), not by the length (or time) limit",
    "gamma": "discount",
    "lam": "GAE's lambda",
    "kl_coef": "coefficient of the KL penalty at that time",
    "kl_in": 'where the KL is added: "reward" or "loss"',
    "baseline": "the learner's baseline, as in LearnerConfig",
    "clip": "PPO's clip range; null without clipping",
    "tokens": "its tokens or steps in order, keys as in TOKEN",
}

# Keys of a token or step, in nats or units of reward. Null if not measured.
TOKEN: dict[str, str] = {
    "token": "its text, or the action's name",
    "id": "its number in the vocabulary, or the action",
    "state": "control: the observation before the step",
    "logprob": "log pi(a_t|s_t) when it was sampled",
    "ref_logprob": "the same under the reference",
    "entropy": "of pi(.|s_t)",
    "top": "the five likeliest alternatives, [text, probability]",
    "kl": "k1 = logprob - ref_logprob",
    "score": "reward before the KL penalty; for text the whole shaped score (clipped, minus the "
    "missing-EOS penalty) at the last token",
    "reward": "reward given to the learner: score - kl_coef * kl, or score if kl_in is loss",
    "value": "the critic's V(s_t); 0 without a critic",
    "next_value": "V(s_{t+1}); 0 after a terminal step",
    "delta": "reward + gamma * next_value - value",
    "advantage": "the learner's estimate of A(s_t, a_t), before whitening",
    "ratio": "pi(a_t|s_t) after the following update / before it",
    "clipped": "whether the ratio left the clip range in the direction of the advantage",
    "true_value": "V(s_t) of the same policy, by continuations from s_t or enumeration",
    "true_value_se": "its standard error; 0 if exact",
    "true_advantage": "reward + gamma * V(s_{t+1}) - V(s_t) by those true values",
    "true_advantage_se": "its standard error; 0 if exact",
}


class Run:
    """One run's folder, open for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()

    @classmethod
    def create(cls, output: str | Path | None, name: str, config: Any) -> "Run":
        """Make the folder: `output`, or the first free of runs/NAME, runs/NAME-2, ...

        Raises ValueError if `output` is not empty: no run overwrites another.
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
    """Make parent/name, or parent/name-2, ...: the first that does not exist yet."""
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
    """The options of a run (its config.yaml); empty if `folder` is no run."""
    path = Path(folder) / "config.yaml"
    options = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return options if isinstance(options, dict) else {}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
