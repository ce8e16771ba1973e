"""The RLHF loop: sample, score, learn.

for each iteration:
    completions = sample(policy, prompts)
    scores      = reward(prompts, completions)
    rollout     = language_rollout(completions, scores, reference, KL)
    learner.update(rollout)
"""

import math
import time
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_pg.core import kl
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language import adapters, data, models, settings
from rlhf_pg.language import tokens as token_records
from rlhf_pg.language.actors import policy_and_reference
from rlhf_pg.language.answers import Answers, Task
from rlhf_pg.language.evaluation import sample_rows
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.prompts import check_prompt_lengths, prompt_batches, watched_prompts
from rlhf_pg.language.rollout import Reference, Reward, exact_kl
from rlhf_pg.language.settings import TrainConfig
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run, saved_whole

EXACT_KL_VOCABULARY = 10_000  # beyond it, logging the exact KL would take more than it tells


def train(config: TrainConfig, reward: Reward, gold: Reward | None = None) -> Run | None:
    """Fine-tune the policy toward the reward; returns the finished run (on the main process)."""
    settings.check(config)
    accelerator = Accelerator(cpu=config.device == "cpu")
    prompts = config.rows // config.samples_per_prompt
    if prompts % accelerator.num_processes:
        raise ValueError(
            f"rows / samples_per_prompt ({prompts}) must be a multiple of the number of processes "
            f"({accelerator.num_processes})"
        )
    model, tokenizer = models.load(config.model)
    models.suit_threads(model)
    rows = data.read(config.data, "prompts", tokenizer=tokenizer)
    check_prompt_lengths(model, tokenizer, rows["prompt"], config.max_new_tokens)
    torch.manual_seed(config.seed)
    policy, reference = policy_and_reference(config, model, tokenizer, accelerator.device)
    loop = Loop(config, policy, reference, tokenizer, rows, reward, gold, accelerator)

    main = accelerator.is_main_process  # the others sample and learn, and write nothing
    run = Run.create(config.output, config.algorithm, config) if main else None
    if run:
        console.print(f"{config.algorithm} toward {config.reward} → {run.path}", markup=False)
    with Progress(config.iterations, config.algorithm, shown=main) as progress:
        for iteration in range(1, config.iterations + 1):
            shown_now = iteration == 1 or iteration % config.samples_every == 0
            watched = loop.watch() if run and shown_now and config.samples_kept else None
            metrics, samples = loop.step()
            if not run:
                continue
            line = run.log(iteration, metrics)
            if shown_now:
                run.samples({"iteration": iteration, **row} for row in samples)
            if watched:
                run.tokens(token_records.after_update(*watched, policy))
            shown = ("score", "gold", "kl", "entropy")
            progress.update(iteration, **{k: line[k] for k in shown if k in line})
    if run:
        with saved_whole(run.path / "policy") as folder:
            models.save(folder, adapters.merged(policy.model), tokenizer)
            policy.save_value_head(folder)
        console.print(f"policy in {run.path / 'policy'}", markup=False)
    return run


class Loop:
    """What one iteration needs and changes: policy, learner, KL coefficient, generator, prompts."""

    def __init__(
        self,
        config: TrainConfig,
        policy: LanguagePolicy,
        reference: Reference,
        tokenizer: Any,
        rows: data.Rows,
        reward: Reward,
        gold: Reward | None,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.policy = config, policy
        self.task = Task(config, tokenizer, reference, reward, gold)
        self.accelerator = accelerator
        rank = accelerator.process_index
        seed = config.seed + rank * 1_000_003  # no two processes, nor seeds, share a stream
        options = replace(config.learner, seed=config.learner.seed + seed)
        self.learner = Learner(policy, options, accelerator)
        self.kl = (
            kl.FixedKL(config.kl_coef)
            if config.kl_target is None
            else kl.AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon)
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = prompt_batches(rows, config, rank, accelerator.num_processes)
        self.watched = watched_prompts(rows, config)

    def step(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """One iteration: metrics over all processes, and a few of its completions."""
        began = time.perf_counter()
        config = self.config
        answers = self.task.answer(self.policy, next(self.batches), self.generator, self.kl.coef)
        averages = self.average(self.measure(answers))
        metrics = {name: x for name, x in averages.items() if not math.isnan(x)}  # see _parts
        metrics |= {
            "kl_coef": self.kl.coef,
            "objective": metrics.pop("paid") - self.kl.coef * metrics["kl"],
        }
        metrics |= self.learner.update(answers.rollout)
        self.kl.update(metrics["kl"], config.rows)
        tokens = metrics["length"] * config.rows
        metrics["tokens_per_second"] = tokens / (time.perf_counter() - began)
        shown = {"score": answers.scores}
        if answers.gold is not None:
            shown["gold"] = answers.gold
        rows = sample_rows(answers.done, shown, answers.drift.sum(1))
        return metrics, rows[: config.samples_kept]

    def watch(self) -> tuple[list[dict[str, Any]], Answers]:
        """Records of the watched prompts' completions, by the same random numbers each time.

        Nothing that the run remembers changes, nor the running moments of a reward that has some.
        """
        generator = torch.Generator().manual_seed(self.config.seed)
        reward: Any = self.task.reward
        moments = reward.state_dict() if hasattr(reward, "state_dict") else None
        answers = self.task.answer(self.policy, self.watched, generator, self.kl.coef)
        if moments is not None:
            reward.load_state_dict(moments)
        records = token_records.episodes(
            self.policy,
            self.task.tokenizer,
            answers,
            self.config.learner,
            self.learner.average.value,
            self.learner.updates + 1,
        )
        return records, answers

    def measure(self, answers: Answers) -> dict[str, float]:
        """Means over this process's completions."""
        done = answers.done
        measured = {"score": answers.scores, "paid": answers.paid, **_parts(answers.parts)}
        if answers.gold is not None:
            measured["gold"] = answers.gold
        small = self.policy.model.config.get_text_config().vocab_size <= EXACT_KL_VOCABULARY
        if small and self.learner.updates % self.config.samples_every == 0:
            measured["kl_exact"] = exact_kl(self.policy, self.task.reference, done)
        measured |= {
            "kl": answers.drift.sum(1),
            "kl_k3": zero_padding(kl.k3(done.logprobs, answers.ref_logprobs), done.mask).sum(1),
            "length": done.mask.sum(1).float(),
            "eos_rate": done.finished.float(),
        }
        means = {name: float(x.mean()) for name, x in measured.items()}
        return means | {"score_std": float(answers.scores.std(correction=0))}

    def average(self, metrics: dict[str, float]) -> dict[str, float]:
        """The mean over processes, which all have as many rows."""
        if self.accelerator.num_processes == 1:
            return metrics
        values = torch.tensor(list(metrics.values()), device=self.accelerator.device)
        mean: Tensor = self.accelerator.reduce(values, reduction="mean")
        return dict(zip(metrics, mean.tolist(), strict=True))


def _parts(parts: dict[str, list[float | None]]) -> dict[str, Tensor]:
    """The parts of a composed reward where they apply, when there is more than one.

    One that applies to no row is NaN here, and left out of the log.
    """
    if len(parts) < 2:
        return {}
    return {
        f"reward/{name}": torch.tensor([s for s in scores if s is not None] or [float("nan")])
        for name, scores in parts.items()
    }
