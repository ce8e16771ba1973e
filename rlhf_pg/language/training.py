"""The RLHF loop: sample, score, learn.

for each iteration:
    completions = sample(policy, prompts)
    scores      = reward(prompts, completions)
    rollout     = language_rollout(completions, scores, reference, KL)
    learner.update(rollout)
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_pg.core import kl
from rlhf_pg.core.algorithms import ALGORITHMS, LearnerConfig, algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language import data, models
from rlhf_pg.language.evaluation import sample_rows
from rlhf_pg.language.policy import Critic, LanguagePolicy
from rlhf_pg.language.rollout import (
    Reward,
    language_rollout,
    reference_logprobs,
    score_completions,
)
from rlhf_pg.language.sampling import Completions, sample
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run, saved_whole

COMPARING = ("leave-one-out", "group", "group-centred")  # baselines that need K > 1 samples


@dataclass
class TrainConfig:
    """Train a language model toward a reward."""

    algorithm: str = "ppo"
    """A named choice of the learner's options: reinforce, reinforce-baseline, actor-critic, a2c,
    ppo, rloo or grpo."""
    model: str = "runs/base"
    """The policy to begin with: a run, a folder, or a hub name."""
    reward: str = "runs/reward"
    """What to maximise: a rule's name, file.py:function, a folder with a reward model, a hub name
    of a classifier (name#label), or a weighted sum of them: "runs/reward + 0.1*length"."""
    data: str = "film-notes"
    """Prompts: a file, folder or hub name with a `prompt` column; others reach the reward."""
    gold: str | None = None
    """A second reward, measured and never trained on; film-notes has its own."""
    reference: str | None = None
    """The model to stay near; None is the policy as it began."""
    iterations: int = 100
    """Rollouts to learn from, usually 50 to 1,000."""
    rows: int = 64
    """Completions in a rollout, over all processes; usually 32 to 512."""
    samples_per_prompt: int = 1
    """Completions of each prompt, usually 2 to 8 for rloo and grpo."""
    max_new_tokens: int = 48
    """Longest completion, EOS included."""
    temperature: float = 1.0
    """Of sampling, and so of scoring, for policy and reference; usually 0.7 to 1."""
    kl_coef: float = 0.2
    """Weight of KL(policy || reference), usually 0.02 to 0.2; 0 leaves the policy free."""
    kl_target: float | None = None
    """Adapt the weight to hold the KL near this many nats per completion, usually 3 to 10."""
    kl_horizon: float = 10_000.0
    """Episodes over which the adaptive weight may move far; smaller is faster."""
    missing_eos_penalty: float = 1.0
    """Taken off the score of a completion cut at the length limit, usually 0 to 1."""
    score_clip: float | None = None
    """Hold scores within plus or minus this, before the KL is added; usually 5."""
    bootstrap_truncated: bool = False
    """Let the critic stand in for what a cut completion might still earn; else it is terminal."""
    critic: Critic = "shared"
    """Where V reads the state: the policy's own trunk, that trunk without gradient, or nowhere."""
    samples_every: int = 10
    """Iterations between entries of samples.jsonl."""
    samples_kept: int = 4
    """Completions in such an entry."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto" takes an accelerator where there is one; "cpu" does not."""
    seed: int = 0
    """Of sampling, the order of prompts and of minibatches."""
    output: str | None = None
    """Run folder; None takes runs/ALGORITHM, or the next free number."""
    learner: LearnerConfig = field(default_factory=lambda: LearnerConfig())
    """How a rollout becomes gradient steps; the algorithm sets these, and each can be changed."""


def preset(algorithm_name: str) -> TrainConfig:
    """The settings of a named algorithm for text; raises ValueError for an unknown name."""
    learner = algorithm(algorithm_name, lr=5e-4, gamma=1.0)
    if algorithm_name == "ppo":
        learner.epochs = 2
    compares = learner.baseline in COMPARING
    return TrainConfig(
        algorithm=algorithm_name,
        samples_per_prompt=4 if compares else 1,
        critic="shared" if learner.baseline == "critic" else "none",
        learner=learner,
    )


def train(config: TrainConfig, reward: Reward, gold: Reward | None = None) -> Run | None:
    """Fine-tune the policy toward the reward; returns the finished run (on the main process)."""
    _check(config)
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
    policy = LanguagePolicy(model, config.temperature, config.critic).to(accelerator.device)
    origin = models.load(config.reference)[0] if config.reference else copy.deepcopy(model)
    reference = LanguagePolicy(origin, config.temperature, "none").to(accelerator.device)
    reference.requires_grad_(False)
    loop = Loop(config, policy, reference, tokenizer, rows, reward, gold, accelerator)

    main = accelerator.is_main_process  # the others sample and learn, and write nothing
    run = Run.create(config.output, config.algorithm, config) if main else None
    if run:
        console.print(f"{config.algorithm} toward {config.reward} → {run.path}", markup=False)
    with Progress(config.iterations, config.algorithm, shown=main) as progress:
        for iteration in range(1, config.iterations + 1):
            metrics, samples = loop.step()
            if not run:
                continue
            line = run.log(iteration, metrics)
            if iteration == 1 or iteration % config.samples_every == 0:
                run.samples({"iteration": iteration, **row} for row in samples)
            shown = ("score", "gold", "kl", "entropy")
            progress.update(iteration, **{k: line[k] for k in shown if k in line})
    if run:
        with saved_whole(run.path / "policy") as folder:
            models.save(folder, policy.model, tokenizer)
            policy.save_value_head(folder)
        console.print(f"policy in {run.path / 'policy'}", markup=False)
    return run


class Loop:
    """What one iteration needs and changes: policy, learner, KL coefficient, generator, prompts."""

    def __init__(
        self,
        config: TrainConfig,
        policy: LanguagePolicy,
        reference: LanguagePolicy,
        tokenizer: Any,
        rows: data.Rows,
        reward: Reward,
        gold: Reward | None,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.policy, self.reference = config, policy, reference
        self.tokenizer, self.reward, self.gold = tokenizer, reward, gold
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

    def step(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """One iteration: metrics over all processes, and a few of its completions."""
        began = time.perf_counter()
        config = self.config
        columns = next(self.batches)
        prompts = columns.pop("prompt")
        done = sample(self.policy, self.tokenizer, prompts, config.max_new_tokens, self.generator)
        scores, parts = score_completions(self.reward, done, columns)
        ref_logprobs = reference_logprobs(self.reference, done)
        paid = self.penalised(scores, done)
        rollout = language_rollout(
            done,
            paid,
            ref_logprobs,
            self.kl.coef,
            config.learner.kl_in,
            config.bootstrap_truncated,
            config.samples_per_prompt,
        )
        measured = {"score": scores, "paid": paid, **_parts(parts)}
        if self.gold is not None:
            measured["gold"] = score_completions(self.gold, done, columns)[0]
        averages = self.average(self.measure(done, measured, ref_logprobs))
        metrics = {name: x for name, x in averages.items() if not math.isnan(x)}  # see _parts
        metrics |= {
            "kl_coef": self.kl.coef,
            "objective": metrics.pop("paid") - self.kl.coef * metrics["kl"],
        }
        metrics |= self.learner.update(rollout)
        self.kl.update(metrics["kl"], config.rows)
        tokens = metrics["length"] * config.rows
        metrics["tokens_per_second"] = tokens / (time.perf_counter() - began)
        drift = zero_padding(done.logprobs - ref_logprobs, done.mask).sum(1)
        shown = {name: x for name, x in measured.items() if name in ("score", "gold")}
        return metrics, sample_rows(done, shown, drift)[: config.samples_kept]

    def penalised(self, scores: Tensor, done: Completions) -> Tensor:
        """Scores as the policy is paid them: clipped, less the price of a missing EOS."""
        limit = self.config.score_clip
        if limit is not None:
            scores = scores.clamp(-limit, limit)
        return scores - self.config.missing_eos_penalty * (~done.finished).to(scores.dtype)

    def measure(
        self, done: Completions, measured: dict[str, Tensor], ref_logprobs: Tensor
    ) -> dict[str, float]:
        """Means over this process's completions."""
        per_row = {
            "kl": zero_padding(kl.k1(done.logprobs, ref_logprobs), done.mask).sum(1),
            "kl_k3": zero_padding(kl.k3(done.logprobs, ref_logprobs), done.mask).sum(1),
            "length": done.mask.sum(1).float(),
            "eos_rate": done.finished.float(),
        }
        means = {name: float(x.mean()) for name, x in {**measured, **per_row}.items()}
        return means | {"score_std": float(measured["score"].std(correction=0))}

    def average(self, metrics: dict[str, float]) -> dict[str, float]:
        """The mean over processes, which all have as many rows."""
        if self.accelerator.num_processes == 1:
            return metrics
        values = torch.tensor(list(metrics.values()), device=self.accelerator.device)
        mean: Tensor = self.accelerator.reduce(values, reduction="mean")
        return dict(zip(metrics, mean.tolist(), strict=True))


def prompt_batches(
    rows: data.Rows, config: TrainConfig, rank: int, processes: int
) -> Iterator[data.Rows]:
    """Batches of prompts with their columns, K of each in a row, for ever; shuffled each pass."""
    generator = torch.Generator().manual_seed(config.seed)
    wanted = config.rows // config.samples_per_prompt
    queue: list[int] = []
    while True:
        while len(queue) < wanted:
            queue += torch.randperm(len(rows["prompt"]), generator=generator).tolist()
        batch, queue = queue[:wanted], queue[wanted:]
        mine = batch[rank * wanted // processes : (rank + 1) * wanted // processes]
        repeated = [i for i in mine for _ in range(config.samples_per_prompt)]
        yield {name: [values[i] for i in repeated] for name, values in rows.items()}


def check_prompt_lengths(
    model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int
) -> None:
    """Raise ValueError where a prompt and its completion do not fit the model's context."""
    limit = models.context_length(model)
    lengths = [len(ids) for ids in models.encode(tokenizer, prompts)]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if limit is not None and lengths[longest] + max_new_tokens > limit:
        raise ValueError(
            f"prompt {longest} has {lengths[longest]} tokens ({prompts[longest][:40]!r}...); with "
            f"max_new_tokens {max_new_tokens} that is more than the model's context of "
            f"{limit}. Shorten the prompts or lower --max_new_tokens"
        )
    if not all(lengths):
        raise ValueError(f"prompt {lengths.index(0)} has no tokens: {prompts[lengths.index(0)]!r}")


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


def _check(config: TrainConfig) -> None:
    if config.algorithm not in ALGORITHMS:
        algorithm(config.algorithm)  # raises, naming the nearest
    for name in ("iterations", "rows", "samples_per_prompt", "max_new_tokens", "samples_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")
    if config.rows % config.samples_per_prompt:
        raise ValueError(
            f"rows ({config.rows}) must be a multiple of samples_per_prompt "
            f"({config.samples_per_prompt})"
        )
    baseline = config.learner.baseline
    if baseline in COMPARING and config.samples_per_prompt < 2:
        raise ValueError(f"baseline {baseline!r} compares samples of a prompt: "
                         "set --samples_per_prompt to 2 or more")  # fmt: skip
    if baseline == "critic" and config.critic == "none":
        raise ValueError('baseline "critic" needs a critic: set --critic shared, or another '
                         "--learner.baseline")  # fmt: skip
