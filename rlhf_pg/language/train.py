"""The RLHF loop: sample, score, make a rollout, learn, log."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import AutoTokenizer

from reward_models.calling import Log, TrainerState, reward_name
from reward_models.combine import alone
from reward_models.guard import time_limit
from reward_models.loading import code_file, load_reward, references
from reward_models.lora import merged
from reward_models.pretrained import limit_threads, open_pretrained
from reward_models.rules import FILM_NOTES_GOLD
from reward_models.state import fingerprint, random_state, set_random_state
from rlhf_pg.checkpoint import Checkpoints, newest, warn_of_other_versions
from rlhf_pg.core import kl
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language import data, models, token_records, tracking
from rlhf_pg.language.advice import TrainingMonitor, first_rollout, std_within
from rlhf_pg.language.check import check_model
from rlhf_pg.language.config import (
    FILM_NOTES,
    PYTHON_REWARD,
    TrainConfig,
    check,
    train_config,
    with_kept_models,
)
from rlhf_pg.language.evaluate import Bench, evaluate
from rlhf_pg.language.launch import launch, launched
from rlhf_pg.language.model_card import save_card
from rlhf_pg.language.policy import LanguagePolicy, make_policy_and_reference
from rlhf_pg.language.rollout import (
    Scores,
    completion_rows,
    differing_groups,
    exact_kl,
    kl_per_token,
    language_rollout,
    reference_logprobs,
    rescore,
    score,
)
from rlhf_pg.language.sampling import Completions, check_rows_fit, concatenated, sample
from rlhf_pg.memory import keep_freed_memory
from rlhf_pg.progress import Progress, command, console, plain
from rlhf_pg.runs import Run, discarded_if_empty

EXACT_KL_VOCABULARY = 10_000  # a larger vocabulary makes the logged exact KL too slow
# A reward as a config spells it, a Python callable, or a sum of these by name.
Spec = str | Callable[..., Any] | Mapping[str, Any]


def train(
    config: TrainConfig,
    reward: Spec | None = None,
    gold: Spec | None = None,
    resume: Path | None = None,
    until: int | None = None,
) -> Run | None:
    """Fine-tune a policy toward a reward; returns the finished run on the main process, else None.

    `reward` and `gold` replace the config's: a spelling, a Python callable, or several of these by
    name, which are added up. `resume` is the folder of an interrupted run of this config, continued
    from its newest checkpoint, `until` the iteration after which to stop with a checkpoint. Raises
    ValueError for bad options, models, data or rewards, before the run folder is made, and
    `Stopped` after SIGINT or SIGTERM, when a checkpoint has been written. With `config.processes`
    above 1 it starts them, and returns None.
    """
    if config.processes > 1 and not launched():
        if not all(spec is None or isinstance(spec, str) for spec in (reward, gold)):
            raise ValueError("a Python function as reward needs one process, or torchrun")
        launch(config.processes, train, config, reward, gold, resume, until)
        return None
    if until is not None:  # to repeat what is tracked already, or a part of it
        config = replace(config, track=None)
    tracking.check_installed(config.track)
    trainer = Trainer(config, reward, gold, resume)
    run, done = trainer.open_run(resume)  # no run in other processes than the first
    checkpoints = Checkpoints(
        run.path if run else None, config.checkpoint_every, until, trainer.any_process
    )
    title, shown = config.algorithm, ("score", "gold", "kl", "entropy")
    with (
        checkpoints,
        discarded_if_empty(run),
        tracking.tracked(trainer.accelerator, run, trainer.config, done),
        Progress(config.iterations, title, shown=run is not None) as progress,
    ):
        for iteration in range(done + 1, config.iterations + 1):
            log_samples = iteration == 1 or iteration % config.samples_every == 0
            # Before the update: the fixed prompts' completions, to see how the policy changes.
            fixed = trainer.fixed_records() if run is not None and log_samples else None

            metrics, samples = trainer.step()  # sample, score, rollout, update
            for remark in trainer.remarks(metrics):
                progress.say(remark)

            if run is not None:
                metrics |= trainer.held_out(iteration)
                line = run.log(iteration, metrics)
                trainer.accelerator.log(line, step=iteration)  # to the tracker, if there is one
                if log_samples:
                    run.samples({"iteration": iteration, **row} for row in samples)
                if fixed:  # after the update: how far it moved the probability of each token
                    learner = config.learner
                    run.tokens(token_records.after_update(*fixed, trainer.policy, learner))
                progress.update(iteration, **{k: line[k] for k in shown if k in line})
            trainer.keep_best(run, iteration, metrics)
            state = partial(trainer.state_dict, run, iteration)
            checkpoints.after(iteration, config.iterations, state, trainer.save_policy)
    if run is not None:
        with run.saved("policy") as folder:
            trainer.save_policy(folder)
            save_card(folder, run.path)
        console.print(f"policy in {run.path / 'policy'}", markup=False)
        console.print(f"read completions: {command('sample', run.path)}", markup=False)
        console.print(f"see every token's advantage: {command('inspect', run.path)}", markup=False)
    return run


def resume(run: Path, until: int | None = None) -> Run | None:
    """Continue an interrupted run (`rlhf-pg resume`); `until` as in `train`."""
    return train(train_config(run), resume=run, until=until)


class Trainer:
    """Everything that one iteration reads and changes."""

    def __init__(
        self,
        config: TrainConfig,
        reward: Spec | None = None,
        gold: Spec | None = None,
        resume: Path | None = None,
    ) -> None:
        """Open model, data and rewards; raises ValueError for any that cannot be used.

        A run to `resume` has its initial model and reference in its folder.
        """
        check(config)
        if resume is not None:
            config = with_kept_models(config, resume)
        # Without a GPU, only cpu=True makes accelerate join several processes.
        cpu = config.device == "cpu" or not torch.cuda.is_available()
        # The tracker writes to the run's folder, which is made later.
        self.accelerator = Accelerator(cpu=cpu, log_with=config.track, project_dir="runs")
        config = replace(config, processes=self.accelerator.num_processes)
        self.config = config
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        _check_shares(config, processes)
        if reward is not None and not isinstance(reward, str):  # config.yaml names no other reward
            named = reward if isinstance(reward, Mapping) else [reward_name(reward)]
            self.config = config = replace(config, reward=f"{PYTHON_REWARD}{', '.join(named)}")
        gold = gold or config.gold or (FILM_NOTES_GOLD if config.data == FILM_NOTES else None)
        for spec in (reward or config.reward, gold):
            if self.accelerator.is_main_process and spec:
                name_code(spec)
        self.reward = load_reward(reward or config.reward)
        self.reward.gather = self.gather  # running moments count the rows of all processes
        self.gold = load_reward(gold) if gold else None
        model, self.tokenizer = models.load(config.model)
        limit_threads(model)
        keep_freed_memory()
        rows = data.read(config.data, "prompts", "train", self.tokenizer, config.columns)
        self.data_fingerprint = fingerprint(rows)
        data.check_prompt_lengths(model, self.tokenizer, rows["prompt"], config.max_new_tokens)
        share, device = config.rows // processes, self.accelerator.device
        check_rows_fit(model, share, config.max_new_tokens, "--rows or --max_new_tokens", device)
        torch.manual_seed(config.seed)
        self.policy, self.reference = make_policy_and_reference(
            config, model, self.tokenizer, device
        )
        seed = config.seed + rank * 1_000_003  # no two processes, nor seeds, share a stream
        learner = replace(config.learner, seed=config.learner.seed + seed)
        self.learner = Learner(self.policy, learner, self.accelerator)
        self.kl: kl.FixedKL | kl.AdaptiveKL = kl.FixedKL(config.kl_coef)
        if config.kl_target is not None:
            self.kl = kl.AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon)
        self.generator = torch.Generator().manual_seed(seed)
        self.prompts = data.PromptBatches(
            rows, config.rows, config.samples_per_prompt, config.seed, rank, processes
        )
        count = max(1, config.samples_kept // config.samples_per_prompt)
        self.fixed_prompts = data.spread(rows, count, config.samples_per_prompt)
        self.eval_prompts = self.read_eval_prompts(model) if config.eval_data else None
        self.sampling_gap = 0.0  # of the last rollout, with bf16
        self.stage_seconds: dict[str, float] = {}  # of the last step
        self.objectives: list[float] = []  # of the iterations since the last comparison
        self.best: float | None = None  # greatest mean of those so far
        self.iteration = 0  # iterations done
        self.redrawn = 0  # groups drawn anew in the last one, over all processes
        self.monitor = TrainingMonitor(config)

    def step(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """One iteration. Returns its metrics over all processes, and a few of its completions."""
        began = time.perf_counter()
        batch = next(self.prompts)
        completions, scores, ref_logprobs, rollout = self.collect(
            batch, self.generator, self.config.dynamic_sampling
        )

        # Learn: epochs of minibatches, each a gradient step.
        coefficient = self.kl.coef
        metrics = self.average(self.measure(completions, scores, ref_logprobs))
        metrics |= self.logged_by_rewards(scores.log)
        metrics["kl_coef"] = coefficient
        if self.config.dynamic_sampling:
            groups = self.config.rows // self.config.samples_per_prompt
            metrics["redrawn"] = self.redrawn / groups
        if "score" in metrics:
            every = torch.tensor(sum(self.gather(scores.scores.tolist()), []))
            metrics["score_std"] = float(every[~every.isnan()].std(correction=0))
            if (within := std_within(every, self.config.samples_per_prompt)) is not None:
                metrics["score_std_within"] = within
        if "shaped_score" in metrics:  # else there is nothing to learn from
            metrics["objective"] = metrics.pop("shaped_score") - coefficient * metrics["kl"]
            with self.timed("update"):
                if self.config.learner.micro_rows is None:
                    self.learner.micro_rows = self.policy.rows_at_once(rollout)
                metrics |= self.learner.update(rollout)
            self.kl.update(metrics["kl"], self.config.rows)
        self.iteration += 1
        tokens = metrics["length"] * self.config.rows
        metrics["tokens_per_second"] = tokens / (time.perf_counter() - began)
        measured = {"score": scores.scores}
        if scores.gold is not None:
            measured["gold"] = scores.gold
        measured["kl"] = kl_per_token(completions, ref_logprobs).sum(1)
        rows = completion_rows(completions, measured)[: self.config.samples_kept]
        for i, row in enumerate(rows):
            row |= {f"extra/{name}": values[i] for name, values in scores.log.extra.items()}
        return metrics, rows

    def collect(
        self, batch: data.Rows, generator: torch.Generator, redraws: int = 0
    ) -> tuple[Completions, Scores, Tensor, Rollout]:
        """Completions of a batch of prompts, their scores, reference log-probabilities, rollout.

        Groups of equal scores are replaced in at most `redraws` rounds.
        """
        config = self.config
        completions, scores = self.sample_and_score(batch, generator)
        if redraws:
            completions, scores = self.with_differing_scores(completions, scores, redraws)
        with self.timed("reference"):
            ref_logprobs = reference_logprobs(self.reference, completions)
        # A completion is an episode: the score on its last token, -beta * k1 on every token.
        rollout = language_rollout(
            completions,
            scores.rewards,
            ref_logprobs,
            self.kl.coef,
            config.learner.kl_in,
            config.bootstrap_truncated,
            config.samples_per_prompt,
        )
        return completions, scores, ref_logprobs, rollout

    def sample_and_score(
        self, batch: data.Rows, generator: torch.Generator
    ) -> tuple[Completions, Scores]:
        """Completions of a batch of prompts and their scores."""
        config = self.config
        # Sample: one completion per row, with the log-probability and value of every token.
        with self.timed("sampling"):
            completions = sample(
                self.policy, self.tokenizer, batch["prompt"], config.max_new_tokens, generator
            )
            if config.bf16:
                self.sampling_gap = rescore(self.policy, completions)
        # Score: rewards read whole texts; clipping and the missing-EOS penalty follow.
        with self.timed("reward"):
            with time_limit(config.reward_timeout, "--reward_timeout"):
                scores = score(
                    self.reward,
                    self.gold,
                    completions,
                    batch,
                    config.score_clip,
                    config.missing_eos_penalty,
                    config.mask_truncated,
                    TrainerState(self.iteration, config.iterations),
                )
        return completions, scores

    def with_differing_scores(
        self, completions: Completions, scores: Scores, rounds: int
    ) -> tuple[Completions, Scores]:
        """The batch with groups of equal scores replaced by groups of new prompts.

        What is still missing after `rounds` keeps its equal scores. Adds to `redrawn`.
        """
        group, processes = self.config.samples_per_prompt, self.accelerator.num_processes
        self.redrawn = 0
        for _ in range(rounds):
            differ = differing_groups(scores.shaped, group)
            # As many in every process, since a reward may exchange moments with the others.
            most = max(self.gather(int((~differ).sum())))
            if not most:
                break
            self.redrawn += most * processes
            more, others = self.sample_and_score(
                self.prompts.draw(most * processes), self.generator
            )
            useful = differing_groups(others.shaped, group).nonzero().squeeze(1)
            replaced = (~differ).nonzero().squeeze(1)[: len(useful)]
            chosen = torch.arange(len(differ), device=differ.device)
            chosen[replaced] = len(differ) + useful[: len(replaced)]
            rows = (chosen[:, None] * group + torch.arange(group, device=differ.device)).flatten()
            completions = concatenated(completions, more)[rows]
            scores = scores.chosen(others, rows)
        return completions, scores

    def measure(
        self, completions: Completions, scores: Scores, ref_logprobs: Tensor
    ) -> dict[str, Tensor]:
        """Values of this process's completions, keys as in runs.METRICS; NaN has no part in means.

        The KL is that of the completions that are learned from.
        """
        values = {"score": scores.scores, "shaped_score": scores.shaped, **_parts(scores)}
        if scores.gold is not None:
            values["gold"] = scores.gold
        small = self.policy.model.config.get_text_config().vocab_size <= EXACT_KL_VOCABULARY
        if small and self.learner.updates % self.config.samples_every == 0:
            values["kl_exact"] = exact_kl(self.policy, self.reference, completions)
        k3 = kl.k3(completions.logprobs, ref_logprobs)
        values |= {
            "kl": kl_per_token(completions, ref_logprobs).sum(1),
            "kl_k3": zero_padding(k3, completions.mask).sum(1),
        }
        if self.config.bf16:
            values["sampling_gap"] = values["kl"].new_tensor([self.sampling_gap])
        learned = ~scores.shaped.isnan()
        for name in ("kl", "kl_k3", "kl_exact"):
            if name in values:
                values[name] = torch.where(learned, values[name], torch.nan)
        return values | {
            "length": completions.mask.sum(1).float(),
            "eos_rate": completions.finished.float(),
            "scored": learned.float(),
        }

    def average(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Means over the rows of all processes, NaN left out; no mean where all are NaN."""
        real = {name: x[~x.isnan()] for name, x in values.items()}
        sums = torch.stack(
            [torch.stack([x.sum(), x.new_tensor(float(len(x)))]) for x in real.values()]
        )
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        means = {
            name: float(total / count)
            for name, (total, count) in zip(real, sums, strict=True)
            if count
        }
        if means["scored"] == 1:
            del means["scored"]
        return means

    def logged_by_rewards(self, log: Log) -> dict[str, float]:
        """Means over calls and processes of what rewards logged by `log_metric`."""
        every: dict[str, list[float]] = defaultdict(list)
        for own in self.gather(log.metrics):
            for name, values in own.items():
                every[f"log/{name}"] += values
        return {name: sum(values) / len(values) for name, values in every.items()}

    def fixed_records(self) -> tuple[list[dict[str, Any]], Completions, Rollout] | None:
        """Token records of the fixed prompts' completions, by the same random numbers each time.

        Neither the run's generators nor the running moments of a reward change. None if no
        completions are to be kept.
        """
        if not self.config.samples_kept:
            return None
        generator = torch.Generator().manual_seed(self.config.seed)
        with self.undisturbed():
            completions, scores, ref_logprobs, rollout = self.collect(self.fixed_prompts, generator)
        records = token_records.episodes(
            self.policy,
            self.tokenizer,
            completions,
            scores,
            ref_logprobs,
            rollout,
            self.config.learner,
            self.kl.coef,
            self.learner.average.value,
            self.learner.updates + 1,
        )
        return records, completions, rollout

    def read_eval_prompts(self, model: Any) -> data.Rows:
        """The held-out prompts; raises ValueError if they cannot be read or are too long."""
        config = self.config
        assert config.eval_data
        rows = data.read(config.eval_data, "prompts", "test", self.tokenizer, config.columns)
        rows = data.spread(rows, config.eval_prompts)
        data.check_prompt_lengths(model, self.tokenizer, rows["prompt"], config.max_new_tokens)
        return rows

    def held_out(self, iteration: int) -> dict[str, float]:
        """eval_score, eval_gold and eval_kl, if this iteration is one to measure them.

        By the same random numbers each time; no generator changes, nor the running moments of the
        rewards. Call it in one process only.
        """
        config = self.config
        due = iteration % config.eval_every == 0 or iteration == config.iterations
        if self.eval_prompts is None or not due:
            return {}
        rewards = {"score": self.reward} | ({"gold": self.gold} if self.gold else {})
        bench = Bench(
            self.reference,
            self.tokenizer,
            self.eval_prompts,
            dict(rewards),
            config.max_new_tokens,
            config.reward_timeout,
        )
        with self.undisturbed():
            means, rows = evaluate(bench, self.policy, self.eval_prompts, config.seed, config.rows)
        scored = [name for name in rewards if any(row[name] is not None for row in rows)]
        return {f"eval_{name}": means[name] for name in (*scored, "kl")}

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Score beside the training, in this process only: it leaves no trace in what follows.

        Restores the running moments of the rewards, and the global generators that they may use.
        """
        rewards = [self.reward, *([self.gold] if self.gold else [])]
        moments, random = [reward.state_dict() for reward in rewards], random_state()
        self.reward.gather = alone
        try:
            yield
        finally:
            self.reward.gather = self.gather
            for reward, state in zip(rewards, moments, strict=True):
                reward.load_state_dict(state)
            set_random_state(random)

    def open_run(self, resume: Path | None) -> tuple[Run | None, int]:
        """The run's folder, new or resumed, and how many iterations are done already.

        No folder (None) in other processes than the first.
        """
        config, main = self.config, self.accelerator.is_main_process
        # Before anything is written: sampling, scoring and a row alone must agree.
        data_and_limit = self.prompts.rows["prompt"], config.max_new_tokens
        check_model(self.policy, self.tokenizer, *data_and_limit, config.model)
        if config.reference is not None:
            other = open_pretrained(AutoTokenizer, models.model_folder(config.reference))
            models.check_same_vocabulary(self.tokenizer, other, f"the reference {config.reference}")
            assert isinstance(self.reference, LanguagePolicy)
            check_model(self.reference, self.tokenizer, *data_and_limit, config.reference)
        if resume is None:
            if not main:
                return None, 0
            run = Run.create(config.output, config.algorithm, config)
            console.print(f"{config.algorithm} toward {config.reward} → {run.path}", markup=False)
            run.keep_model("initial", models.local_folder(config.model))
            if config.reference:
                run.keep_model("reference", models.local_folder(config.reference))
            return run, 0
        state = newest(resume)
        done = int(state["iteration"])
        if main:
            text = f"{config.algorithm} toward {config.reward} → {resume}, from iteration {done}"
            console.print(text, markup=False)
        self.load_state_dict(state)
        return Run.resume(resume, state["run"]) if main else None, done

    def state_dict(self, run: Run | None, iteration: int) -> dict[str, Any]:
        """All that the next iterations depend on. Collects the states of all processes."""
        own = {
            "generator": self.generator.get_state(),
            "minibatches": self.learner.generator.get_state(),
            "reward": self.reward.state_dict(),
            "gold": self.gold.state_dict() if self.gold else {},
            "random": random_state(),
        }
        return {
            "command": "train",
            "iteration": iteration,
            "run": run.state_dict() if run else {},
            "processes": self.gather(own),
            "parameters": {n: p for n, p in self.policy.named_parameters() if p.requires_grad},
            "learner": self.learner.state_dict(),
            "kl": self.kl.state_dict(),
            "prompts": self.prompts.state_dict(),
            "objectives": self.objectives,
            "best": self.best,
            "monitor": self.monitor.state_dict(),
            "data": self.data_fingerprint,
            "eval_data": fingerprint(self.eval_prompts) if self.eval_prompts else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Raises ValueError if data or processes are not the same."""
        if state["data"] != self.data_fingerprint:
            raise ValueError(
                f"the prompts in {self.config.data} have changed since the run began; it can only "
                "be resumed with the same data"
            )
        now = fingerprint(self.eval_prompts) if self.eval_prompts else None
        if state.get("eval_data") != now:
            raise ValueError(
                f"the prompts in {self.config.eval_data} have changed since the run began; it can "
                "only be resumed with the same eval_data"
            )
        processes = len(state["processes"])
        if processes != self.accelerator.num_processes:
            raise ValueError(
                f"the run had {processes} processes, not {self.accelerator.num_processes}; resume "
                "it with as many"
            )
        warn_of_other_versions(state["versions"])
        self.iteration = int(state["iteration"])
        parameters = dict(self.policy.named_parameters())
        with torch.no_grad():
            for name, value in state["parameters"].items():
                parameters[name].copy_(value)
        self.learner.load_state_dict(state["learner"])
        self.kl.load_state_dict(state["kl"])
        self.prompts.load_state_dict(state["prompts"])
        self.objectives, self.best = list(state["objectives"]), state["best"]
        if "monitor" in state:  # not in checkpoints of earlier versions
            self.monitor.load_state_dict(state["monitor"])
        own = state["processes"][self.accelerator.process_index]
        self.generator.set_state(own["generator"])
        self.learner.generator.set_state(own["minibatches"])
        self.reward.load_state_dict(own["reward"])
        if self.gold:
            self.gold.load_state_dict(own["gold"])
        set_random_state(own["random"])

    def remarks(self, metrics: dict[str, float]) -> list[str]:
        """What to print about an iteration: starting values after the first, and warnings.

        A warning is also marked in the metrics, by its name.
        """
        lines = []
        if self.iteration == 1:
            trained = sum(p.numel() for p in self.policy.parameters() if p.requires_grad)
            lines = first_rollout(metrics, self.config, trained)
        warnings = self.monitor.check(metrics, self.iteration)
        metrics |= dict.fromkeys(warnings, 1.0)
        return lines + [f"warning: {text}" for text in warnings.values()]

    def save_policy(self, folder: Path) -> None:
        """Write the policy as a plain Hugging Face folder, adapters merged, with its critic."""
        models.save(folder, merged(self.policy.model), self.tokenizer)
        self.policy.save_critic(folder)

    def keep_best(self, run: Run | None, iteration: int, metrics: dict[str, float]) -> None:
        """Save the policy if it is the best so far: by eval_score with held-out prompts, else by
        the mean objective of the last `samples_every` iterations."""
        if self.eval_prompts is not None:
            name, value = "eval_score", metrics.get("eval_score")
        else:
            name, value = "objective", self.mean_objective(metrics.get("objective"))
        if value is None or (self.best is not None and value <= self.best):
            return
        self.best = value
        if run is not None:
            with run.saved("best") as folder:
                self.save_policy(folder)
                save_card(folder, run.path)
                about = {"iteration": iteration, name: value}
                (folder / "best.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

    def mean_objective(self, objective: float | None) -> float | None:
        """The mean objective of the last `samples_every` iterations, once in so many.

        There is no objective where no completion has a score.
        """
        if objective is not None:
            self.objectives.append(objective)
        if objective is None or len(self.objectives) < self.config.samples_every:
            return None
        mean = sum(self.objectives) / len(self.objectives)
        self.objectives = []
        return mean

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks."""
        return gather_object([value]) if self.accelerator.num_processes > 1 else [value]

    def any_process(self, value: bool) -> bool:
        """Whether the value is true in any process."""
        if self.accelerator.num_processes == 1:
            return value
        flag = torch.tensor(float(value), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the seconds of a stage, including the accelerator's queued work."""
        began = time.perf_counter()
        yield
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)
        self.stage_seconds[stage] = time.perf_counter() - began


def name_code(spec: Spec) -> None:
    """Print the file of every function that a reward loads, before it runs."""
    for reference in references(spec):
        file = Path(code_file(reference.name)) if reference.kind == "code" else None
        if file and file.is_file():
            console.print(plain(f"loading code: {reference.name} from {file}"), markup=False)


def _check_shares(config: TrainConfig, processes: int) -> None:
    """Raise ValueError if the prompts of a rollout cannot be shared out equally."""
    prompts = config.rows // config.samples_per_prompt
    if prompts % processes:
        raise ValueError(
            f"rows / samples_per_prompt ({prompts}) must be a multiple of the number of processes "
            f"({processes})"
        )


def _parts(scores: Scores) -> dict[str, Tensor]:
    """Scores of each component of a composed reward, when there is more than one.

    NaN where a component does not apply.
    """
    if len(scores.parts) < 2:
        return {}
    device = scores.scores.device
    return {
        f"reward/{name}": torch.tensor([math.nan if s is None else s for s in each], device=device)
        for name, each in scores.parts.items()
    }
