"""The run folder: its files, and the meaning of every logged number.

runs/NAME/
  config.yaml     every option, resolved; `--config` on it repeats the run
  config.signature  marks config.yaml as written by you on this computer (see rlhf_pg.trust)
  training.actions, evaluation.actions   what was done to the environments of a control run, from
                  which `rlhf-pg resume` repeats it
  metrics.jsonl   one line per iteration, keys as in METRICS
  samples.jsonl   completions over time, append-only
  tokens.jsonl    completions of fixed prompts over time, token by token, keys as in EPISODE
  initial/        the model it started from (hard links); reference/ if that is another model
  checkpoints/    the last two states, to resume from (rlhf_pg/checkpoint.py)
  best/           the policy of the greatest eval_score so far; in text without eval_data, of the
                  best objective, a mean over samples_every iterations
  policy/         the trained model and its card (README.md); written at the end, or not at all
  tensorboard/    the metrics for tensorboard, if asked for (`--track`)
  evaluation.json result of `rlhf-pg evaluate`
  credit.jsonl    completions of the trained policy with each token's true advantage
  credit.json     agreement of the estimated advantages with it (`rlhf-pg study credit`)
  reward_credit.jsonl, reward_credit.html   what each token adds to a reward model's score
  estimators.json bias and variance of gradient estimates (`rlhf-pg study estimators`)
  report.html     the run's page (`rlhf-pg inspect`)
  curves.html     its curves and those of other runs (`rlhf-pg inspect RUN OTHER ...`)
  oracle.json, oracle.safetensors   exact results for a small task (`rlhf-pg study oracle`)
  bugs.json       effects of planted bugs (`rlhf-pg study bugs`)
"""

import json
import os
import shutil
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from reward_models import RewardError
from reward_models.files import saved_whole
from reward_models.loading import absolute
from reward_models.rules import FILM_NOTES
from rlhf_pg import trust
from rlhf_pg.reading import read_jsonl as read_jsonl  # where commands look for it
from rlhf_pg.reading import read_yaml

METRICS: dict[str, str] = {
    "iteration": "number of rollouts learned from",
    "seconds": "time since the run began",
    # text
    "score": "mean reward of a completion, before clipping, penalties and the KL",
    "score_std": "standard deviation of the score over the rollout",
    "score_std_within": "the same among the completions of one prompt, over all prompts, unbiased "
    "(n - 1); where a prompt has several",
    "gold": "mean gold score, which is never trained on",
    "kl": "KL(policy || reference): mean over completions of the summed k1, nats",
    "kl_k3": "the same estimated by k3, with less variance",
    "kl_exact": "the same computed over the whole vocabulary at every visited state; every "
    "samples_every iterations, for vocabularies up to 10,000",
    "kl_coef": "coefficient of the KL penalty",
    "objective": "what is maximised: score (clipped, minus the missing-EOS penalty) - kl_coef * kl",
    "reward/NAME": "mean of one component of a composed reward, over the rows it applies to",
    "log/NAME": "mean of what a reward logged as NAME by log_metric",
    "scored": "share of completions that are learned from, if it is below 1: with a score, and not "
    "masked as truncated; kl and objective are theirs",
    "redrawn": "groups drawn anew because their scores were equal, per group of the rollout",
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
    "sampling_gap": "with bf16: |log-probability when sampled - when scored|, nats per token",
    "clip_fraction": "share of actions whose ratio left the clip range",
    "grad_norm": "norm of the gradient before clipping",
    "advantage_std": "standard deviation of the advantages",
    "explained_variance": "1 - Var(target - V) / Var(target): 1 is perfect, below 0 V is harmful",
    "constant_baseline": "number subtracted from the returns, with baseline moving-average or "
    "optimal",
    "learning_rate": "Adam's learning rate in this update",
    "gradient_steps": "optimiser steps in this update",
    "skipped_steps": "steps of this update that were not taken, since the gradient was NaN or "
    "infinite",
    # control: score and length are those of the episodes that ended in the iteration
    "steps": "environment steps learned from so far, resets not counted",
    "training_seconds": "time spent collecting and learning, without evaluation",
    "eval_score": "mean score on held-out prompts (eval_data); control: of whole episodes in "
    "separate evaluation environments",
    "eval_gold": "mean gold score on held-out prompts",
    "eval_kl": "KL(policy || reference) on held-out prompts, as kl",
    "eval_score_std": "standard deviation of eval_score over the episodes",
    "entropy_temperature": "weight of the entropy in the reward, for the next rollout",
    "reward_scale": "factor of the rewards in this update, with normalise_rewards",
    "entropy_collapsed": "1 in the line where the entropy first fell too low too early",
    "score_constant": "1 in the line where scores had not differed for three rollouts",
    "all_truncated": "1 in the line where all completions of three rollouts had been cut",
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
    "reward_scale": "factor of the scores that the learner got (normalise_rewards, whiten_rewards)",
    "entropy_temperature": "weight of -logprob in the reward; 0 for text",
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
    "score": "reward before the KL penalty; for text the shaped score (clipped, minus the "
    "missing-EOS penalty) at the last token, or its share of the token if the reward gives such; "
    "for control the environment's own reward",
    "reward": "reward given to the learner: for text score - kl_coef * kl, or score if kl_in is "
    "loss (then whitened, if asked); for control score * reward_scale, clamped to 10, "
    "- entropy_temperature * logprob",
    "value": "the critic's V(s_t); 0 without a critic",
    "next_value": "V(s_{t+1}); 0 after a terminal step",
    "delta": "reward + gamma * next_value - value",
    "advantage": "the learner's estimate of A(s_t, a_t) with its own baseline, before whitening",
    "ratio": "pi(a_t|s_t) after the following update / before it",
    "clipped": "whether the ratio left the clip range in the direction of the advantage",
    "true_value": "V(s_t) of the same policy, by continuations from s_t or enumeration",
    "true_value_se": "its standard error; 0 if exact",
    "true_advantage": "reward + gamma * V(s_{t+1}) - V(s_t) by those true values",
    "true_advantage_se": "its standard error; 0 if exact",
}


class Run:
    """One run's folder, open for writing. Only one process can have it open."""

    def __init__(self, path: Path, lock: int | None = None, seconds: float = 0.0) -> None:
        self.path = path
        self.started = time.monotonic() - seconds  # `seconds` were spent before a resume
        if lock is not None:
            # A later run of this process may then open the folder. A process that a reward forks
            # must not hold the lock after this one has ended.
            release = weakref.finalize(self, os.close, lock)
            os.register_at_fork(after_in_child=release)

    @classmethod
    def create(cls, output: str | Path | None, name: str, config: Any) -> "Run":
        """Make the folder: `output`, or the first free of runs/NAME, runs/NAME-2, ...

        Raises ValueError if `output` is not empty, or another process is writing to it: no run
        overwrites another.
        """
        if output is not None:
            path = Path(output)
            if path.exists() and not path.is_dir():
                raise ValueError(f"{path} is a file; choose another --output")
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = _first_free(Path("runs"), name)
        if not (path / LOCK).exists():
            _check_free(path)  # before a file is put there
        lock = _lock(path)
        run = cls(path, lock)
        _remove_unfinished(path)
        _check_free(path)
        for file in appended(path):  # left by a run that was stopped before its first line
            file.unlink()
        values = asdict(config) if is_dataclass(config) else dict(config)  # type: ignore[arg-type]
        values.pop("output", None)  # repeating a run makes a new folder
        values = _with_absolute_paths(values)
        (path / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        trust.sign(path)
        return run

    @classmethod
    def resume(cls, path: Path, state: Mapping[str, Any]) -> "Run":
        """Open a folder as it was when `state_dict` was called: later lines are cut off.

        Raises ValueError if another process is writing to it.
        """
        lock = _lock(path)
        _remove_unfinished(path)
        for file in appended(path):
            if (length := state["bytes"].get(file.name, 0)) < file.stat().st_size:
                os.truncate(file, length)
        return cls(path, lock, state["seconds"])

    def state_dict(self) -> dict[str, Any]:
        """The time spent so far and the lengths of the logs, which are synced to disk."""
        lengths = {}
        for file in appended(self.path):
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
            lengths[file.name] = file.stat().st_size
        return {"seconds": time.monotonic() - self.started, "bytes": lengths}

    def keep_model(self, name: str, source: Path) -> None:
        """Keep a model that the run started from as the folder `name`.

        Files are hard links where possible: they cost no space, and stay when the source is
        replaced or removed.
        """
        with saved_whole(self.path / name) as folder:
            for file in source.iterdir():
                if not file.is_file():
                    continue
                try:
                    os.link(file.resolve(), folder / file.name)
                except OSError:  # another file system
                    shutil.copyfile(file, folder / file.name)

    @contextmanager
    def saved(self, name: str) -> Iterator[Path]:
        """Write the folder `name` of the run, whole or not at all (files.saved_whole).

        Raises FileNotFoundError if the run's folder was removed meanwhile.
        """
        check_is_there(self.path)
        with saved_whole(self.path / name) as folder:
            yield folder

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
        check_is_there(self.path)
        with open(self.path / name, "a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def appended(run: Path) -> list[Path]:
    """The files of a run that only grow, and are cut to their old length on resume."""
    return [file for kind in ("*.jsonl", "*.actions") for file in run.glob(kind)]


def check_is_there(run: Path) -> None:
    """Raise FileNotFoundError if a run's folder was removed."""
    if not (run / "config.yaml").is_file():
        raise FileNotFoundError(f"the run's folder {run} was removed while it ran")


@contextmanager
def discarded_if_empty(run: Run | None) -> Iterator[None]:
    """Remove the run's folder if the block fails before anything was logged or saved.

    What a failed command leaves behind would otherwise block the corrected one.
    """
    try:
        yield
    except BaseException:
        # Logs and checkpoints may also be those of runs inside it.
        begun = ("metrics.jsonl", "checkpoints")
        if run is not None and not any(any(run.path.rglob(name)) for name in begun):
            shutil.rmtree(run.path, ignore_errors=True)
        raise


DEEPEST, LARGEST_LEVEL = 8, 10_000  # levels of lists and mappings in a YAML file, values in one
LOCK = ".lock"  # held by the process that writes to the folder


def _lock(path: Path) -> int | None:
    """Lock a run's folder until the descriptor returned is closed or the process ends.

    Raises ValueError if another process holds it. Does nothing where there is no flock (Windows).
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ValueError(
            f"another process is writing to {path}; choose another --output"
        ) from error
    return descriptor


def _remove_unfinished(path: Path) -> None:
    """Remove what a killed process had not finished to write to a run's folder (saved_whole)."""
    if not (path / "config.yaml").is_file():
        return  # no run's
    for name in ("initial", "reference", "best", "policy", "reward_model", "checkpoints/[0-9]*"):
        parent, _, last = name.rpartition("/")
        for left in (path / parent).glob(f".{last}-????????"):
            shutil.rmtree(left, ignore_errors=True)
    with suppress(OSError):  # there are some
        (path / "checkpoints").rmdir()


def _check_free(path: Path) -> None:
    """Raise ValueError unless a folder is empty or left by a run that logged nothing."""
    left = {entry.name for entry in path.iterdir()} - {LOCK}
    kept = {"config.yaml", trust.SIGNATURE, "initial", "reference"}
    kept |= {file.name for file in path.glob("*.actions")}
    begun = left <= kept and "config.yaml" in left
    if left and not begun:
        raise ValueError(f"{path} already holds something; choose another --output")


def _with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The options with the paths that they name made absolute, so that a run opens from anywhere.

    Only what exists here is a path: hub names, rules and the shipped data stay as they are.
    """
    found = dict(values)
    for name in (*trust.PLACES, *trust.REWARDS):
        value = values.get(name)
        if not isinstance(value, str) or value == FILM_NOTES:
            continue
        if name in trust.REWARDS:
            with suppress(RewardError):  # "Python: f", a callable
                found[name] = absolute(value)
        elif Path(value).exists():
            found[name] = str(Path(value).absolute())
    return found


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
    return read_yaml(path) if path.is_file() else {}
