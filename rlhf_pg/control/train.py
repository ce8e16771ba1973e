"""The control loop: collect -> shape the rewards -> update -> evaluate -> log.

`Trainer.step` is one iteration, `learn` repeats it to the end of a run, and `train` gives the run a
folder. In order: collect.py (environments to a `Rollout`), normalise.py and entropy.py (rewards),
core/learner.py (the update), policy.py (what is updated).
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.state import random_state, set_random_state
from rlhf_pg import chart
from rlhf_pg.checkpoint import Checkpoints, newest, warn_of_other_versions
from rlhf_pg.collapse import CollapseMonitor
from rlhf_pg.control.a3c import AsynchronousTrainer
from rlhf_pg.control.collect import Collector, introduce, make_environments, own_threshold
from rlhf_pg.control.config import ControlConfig, read_config
from rlhf_pg.control.entropy import Temperature
from rlhf_pg.control.normalise import RewardScale
from rlhf_pg.control.policy import ActorCritic, make_policy, save_policy
from rlhf_pg.core.learner import Learner
from rlhf_pg.memory import check_fits
from rlhf_pg.progress import Progress, command, console
from rlhf_pg.runs import Run, discarded_if_empty

EVALUATION_SEED = 500_009  # added to the run's seed
DRAWN = ("steps", "score", "entropy", "eval_score")  # metrics in curve.svg
WORKER_SEED = 1_000_003  # times the worker's rank, added to the run's seed


class Trainer:
    """Everything that updates change: environments, policy, learner, moments, temperature, counts.

    `rank` separates the random streams of a3c's workers; `optimizer` makes their shared Adam.
    """

    def __init__(
        self,
        config: ControlConfig,
        rank: int = 0,
        optimizer: Callable[[ActorCritic], Any] | None = None,
    ) -> None:
        config.check()
        self.config = config
        # Observations, actions, rewards, values and masks of one rollout, each of at least 4 bytes.
        steps = config.environments * (config.rollout_steps or 1)
        check_fits(32 * steps, f"{steps:,} steps at once", "--environments or --rollout_steps")
        seed = config.seed + WORKER_SEED * rank
        environments = make_environments(config.env, config.environments, config.env_options)
        self.policy = make_policy(config, environments)
        self.learner = Learner(
            self.policy,
            replace(config.learner, seed=config.learner.seed + seed),
            optimizer=optimizer(self.policy) if optimizer else None,
        )
        self.collector = Collector(environments, self.policy, seed)
        self.reward_scale = RewardScale(config.environments, config.learner.gamma)
        self.temperature = Temperature(config.entropy_temperature, config.target_entropy)
        self.steps = 0  # environment steps learned from
        self.seconds = 0.0  # spent in `step`

    def pause(self) -> None:
        """Nothing changes between two steps, so there is nothing to do; unlike in a3c."""

    def close(self) -> None:
        """Release the environments."""
        self.collector.close()

    def step(self) -> dict[str, float]:
        """One iteration: one rollout and one update. Returns its metrics."""
        began = time.perf_counter()
        # Collect: a segment of every environment, or one whole episode of each.
        rollout = self.collector.collect(self.config.rollout_steps)
        self.steps += int(rollout.mask.sum())
        # Shape the rewards: divide by their running scale, add the entropy's part.
        scaled = self.reward_scale.shape(rollout) if self.config.normalise_rewards else rollout
        shaped = self.temperature.shape(scaled)
        # Update: advantages, then epochs of minibatches.
        metrics = self.learner.update(shaped)
        if self.config.normalise_rewards:
            metrics["reward_scale"] = float(self.reward_scale.moments.scale())
        # Observation moments and temperature change only here, between two rollouts, so that the
        # update scores actions with the policy that sampled them.
        if self.policy.normaliser is not None:
            self.policy.normaliser.update(rollout.inputs[rollout.mask])
        if self.config.entropy_temperature:
            if "entropy" in metrics:  # it is not where every step was skipped for a NaN
                self.temperature.update(metrics["entropy"])
            metrics["entropy_temperature"] = self.temperature.value
        self.seconds += time.perf_counter() - began
        return {"steps": self.steps, **self.collector.episode_metrics(), **metrics}

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on."""
        return {
            "policy": dict(self.policy.state_dict()),
            "learner": self.learner.state_dict(),
            "collector": self.collector.state_dict(),
            "reward_scale": dict(self.reward_scale.state_dict()),
            "temperature": self.temperature.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; raises ValueError if the environments cannot repeat."""
        self.policy.load_state_dict(state["policy"])
        self.learner.load_state_dict(state["learner"])
        self.collector.load_state_dict(state["collector"])
        self.reward_scale.load_state_dict(state["reward_scale"])
        self.temperature.load_state_dict(state["temperature"])
        self.steps, self.seconds = state["steps"], state["seconds"]


def learn(
    state: "RunState",
    log: Callable[[dict[str, float]], None] | None = None,
    after: Callable[[], None] | None = None,
) -> "Outcome":
    """Train from `state` to the threshold or the end of the steps, then close it.

    `log` is called with the metrics of every iteration, and may add to them; then `after`. Without
    `log`, the outcome has them.
    """
    config, trainer = state.config, state.trainer
    lines: list[dict[str, float]] = []
    try:
        while not state.done:
            state.iteration += 1
            # Collect, shape the rewards, update.
            metrics = trainer.step()
            metrics["training_seconds"] = round(trainer.seconds, 4)
            # Evaluate at intervals; stop if the score surely reaches the threshold.
            if trainer.steps >= state.next_evaluation:
                state.next_evaluation = trainer.steps + config.eval_interval
                scores = state.evaluate()
                metrics["eval_score"], metrics["eval_score_std"] = scores.mean(), scores.std()
                if config.stop_when_solved:
                    state.solved = surely_reaches(scores, config.threshold)
            # Log.
            if log:
                log(metrics)
            else:
                lines.append(metrics)
            # A checkpoint, if one is due.
            if after:
                after()
        # Evaluate on new episodes: those that ended the run were selected for their score.
        scores = state.evaluate()
    finally:
        state.close()
    mean, std = float(scores.mean()), float(scores.std())
    return Outcome(mean, std, trainer.steps, trainer.seconds, state.solved, lines)


class RunState:
    """Everything that a run changes, in one object: what a checkpoint has to hold."""

    def __init__(self, config: ControlConfig) -> None:
        self.config = config
        asynchronous = config.algorithm == "a3c"
        self.trainer = AsynchronousTrainer(config, Trainer) if asynchronous else Trainer(config)
        policy = self.trainer.policy
        # One episode in each environment, and environments that training never uses.
        environments = make_environments(config.env, config.eval_episodes, config.env_options)
        seed = config.seed + EVALUATION_SEED
        self.evaluation = Collector(environments, policy, seed, config.greedy)
        self.collapse = CollapseMonitor(
            getattr(policy.distribution, "dimensions", None),
            "raise --learner.entropy_coef or --entropy_temperature, or lower --learner.lr",
        )
        self.iteration = 0
        self.next_evaluation = config.eval_interval  # in environment steps
        self.solved = False  # whether an evaluation passed the threshold
        self.best: float | None = None  # greatest eval_score so far

    def evaluate(self) -> np.ndarray:
        """Undiscounted scores (eval_episodes,) of new episodes."""
        self.trainer.pause()
        return self.evaluation.play()

    def keep_logs(self, run: Path) -> None:
        """Log what is done to the environments in a run's folder (`Collector.keep_log`)."""
        if isinstance(self.trainer, Trainer):
            self.trainer.collector.keep_log(run / "training.actions")
        self.evaluation.keep_log(run / "evaluation.actions")

    def state_dict(self) -> dict[str, Any]:
        """All that the next iterations depend on, together with the logs."""
        return {
            "command": "control",
            "iteration": self.iteration,
            "trainer": self.trainer.state_dict(),
            "evaluation": self.evaluation.state_dict(),
            "collapse": self.collapse.state_dict(),
            "next_evaluation": self.next_evaluation,
            "solved": self.solved,
            "best": self.best,
            "random": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; raises ValueError if the environments cannot repeat."""
        warn_of_other_versions(state["versions"])
        self.trainer.load_state_dict(state["trainer"])
        self.evaluation.load_state_dict(state["evaluation"])
        self.collapse.load_state_dict(state["collapse"])
        self.iteration, self.solved = state["iteration"], state["solved"]
        self.next_evaluation, self.best = state["next_evaluation"], state["best"]
        set_random_state(state["random"])

    @property
    def done(self) -> bool:
        """Whether training is at its end: solved, or all steps taken."""
        return self.solved or self.trainer.steps >= self.config.total_steps

    def close(self) -> None:
        """Release the environments, and stop a3c's workers."""
        self.evaluation.close()
        self.trainer.close()


@dataclass
class Outcome:
    """The result of a run."""

    score: float  # mean of the last evaluation, whose episodes decided nothing
    score_std: float  # over its episodes
    steps: int
    seconds: float  # of training, evaluation left out
    solved: bool  # whether it stopped at the threshold
    # The metrics of each iteration; of a run with a folder, those that the curve shows.
    lines: list[dict[str, float]]
    path: Path | None = None  # the run's folder, if it has one

    def evaluations(self) -> dict[str, list[float]]:
        """Environment steps and mean scores of all evaluations, the last one included."""
        lines = [line for line in self.lines if "eval_score" in line]
        return {
            "steps": [*(float(line["steps"]) for line in lines), float(self.steps)],
            "scores": [*(float(line["eval_score"]) for line in lines), self.score],
        }


def surely_reaches(scores: np.ndarray, threshold: float | None) -> bool:
    """Whether the mean less two standard errors is at the threshold or above.

    Without the margin, a run that evaluates often would stop on a lucky sample.
    """
    if threshold is None:
        return False
    return bool(scores.mean() - 2 * scores.std() / len(scores) ** 0.5 >= threshold)


def train(config: ControlConfig, resume: Path | None = None, until: int | None = None) -> Outcome:
    """Train with live progress into a run folder: metrics, policy and curve.svg.

    `resume` is the folder of an interrupted run of this config; `until` an iteration to stop after.
    Raises ValueError for bad options, before anything is written, and FloatingPointError if
    training diverged.
    """
    introduce(config.env, config.env_options)
    state = RunState(config)
    if config.threshold is None:
        config = state.config = replace(config, threshold=own_threshold(config.env))
    title = f"{config.algorithm} on {config.env}"
    if resume is not None:
        saved = newest(resume)
        run = Run.resume(resume, saved["run"])
        state.keep_logs(run.path)
        try:
            state.load_state_dict(saved)
        except BaseException:
            state.close()
            raise
    else:
        run = Run.create(config.output, run_name(config.env, config.algorithm), config)
        state.keep_logs(run.path)
    checkpoints = Checkpoints(run.path, config.checkpoint_every, until)
    about = {"env": config.env, "env_options": config.env_options, "algorithm": config.algorithm}

    def save(folder: Path, **more: float) -> None:
        save_policy(state.trainer.policy, folder, {**about, **more})

    with checkpoints, discarded_if_empty(run), Progress(config.total_steps, title) as progress:

        def log(metrics: dict[str, float]) -> None:
            if "entropy" in metrics:
                share = metrics["steps"] / config.total_steps
                if warning := state.collapse.check(metrics["entropy"], share):
                    metrics["entropy_collapsed"] = 1.0
                    progress.say(f"warning: {warning}")
            run.log(state.iteration, metrics)
            score = metrics.get("eval_score")
            if score is not None and (state.best is None or score > state.best):
                state.best = score
                with run.saved("best") as folder:
                    save(folder, iteration=state.iteration, score=float(score))
            shown = ("score", "entropy", "eval_score")
            progress.update(
                min(int(metrics["steps"]), config.total_steps),
                **{key: metrics[key] for key in shown if key in metrics},
            )

        def after() -> None:
            last = state.iteration + (not state.done)
            checkpoints.after(
                state.iteration,
                last,
                lambda: state.state_dict() | {"run": run.state_dict()},
                lambda folder: save(folder, iteration=state.iteration),
            )

        outcome = learn(state, log, after)
    outcome.path = run.path
    outcome.lines = drawn_metrics(run.path / "metrics.jsonl")  # those before a resume, too
    with run.saved("policy") as folder:
        save(folder, score=outcome.score)
    (run.path / "curve.svg").write_text(learning_curve(outcome, title, config.threshold))
    print_outcome(config, outcome)
    return outcome


def drawn_metrics(path: Path) -> list[dict[str, float]]:
    """What `learning_curve` draws of every line of metrics.jsonl; a long run's whole lines would
    take many times the memory of the run."""
    with open(path, encoding="utf-8") as file:
        lines = map(json.loads, file)
        return [{key: line[key] for key in DRAWN if key in line} for line in lines]


def run_name(*parts: str) -> str:
    """The name of a run's folder, from an environment's id and others."""
    return "-".join(parts).replace("/", "-").replace(":", "-")


def resume(run: Path, until: int | None = None) -> Outcome:
    """Continue an interrupted run (`rlhf-pg resume`)."""
    # Whether to trust the run has been asked by then (rlhf_pg.resume).
    return train(read_config(run, trust=True), resume=run, until=until)


def print_outcome(config: ControlConfig, outcome: Outcome) -> None:
    """Print the score with its standard error, and the commands that show more of the run."""
    error = f" ± {outcome.score_std / config.eval_episodes**0.5:.1f}"
    console.print(
        f"{config.algorithm} on {config.env}: {outcome.score:.1f}"
        f"{error if config.eval_episodes > 1 else ''} over {config.eval_episodes} new "
        f"{'greedy' if config.greedy else 'sampled'} episodes, after {outcome.steps:,} steps and "
        f"{outcome.seconds:.1f} s of training"
    )
    if config.threshold is not None and outcome.solved:
        console.print(
            f"stopped: solved at {config.threshold:g}; --stop_when_solved false trains on to "
            f"{config.total_steps:,} steps"
        )
    elif config.threshold is not None and config.stop_when_solved:
        console.print(f"the threshold of {config.threshold:g} was not reached")
    console.print(f"saved in {outcome.path}; next: {command('inspect', outcome.path)}")


def learning_curve(outcome: Outcome, title: str, threshold: float | None) -> str:
    """Training and evaluation scores, and the entropy below, over environment steps (SVG)."""
    training, entropies = (
        [(line["steps"], line[key]) for line in outcome.lines if key in line]
        for key in ("score", "entropy")
    )
    evaluations = list(zip(*outcome.evaluations().values(), strict=True))
    ends = (0.0, float(outcome.steps))
    scores = [
        chart.Series(training, chart.BLUE, "training", kind="thin"),
        chart.Series(evaluations, chart.ORANGE, "evaluation"),
        chart.Series(evaluations, chart.ORANGE, kind="dots"),
    ]
    if threshold is not None:
        level = [(x, threshold) for x in ends]
        scores.append(chart.Series(level, chart.GREY, f"threshold {threshold:g}", kind="dashed"))
    entropy = [chart.Series(entropies, chart.GREEN)]
    panels = [
        chart.panel(f"{title}: score of an episode", scores, "", ends, width=640, height=290),
        chart.panel(
            "entropy, nats per action", entropy, "environment steps", ends, width=640, height=170
        ),
    ]
    return chart.picture(panels, f"Scores and entropy of {title} over steps", stacked=True)
