"""`rlhf-pg study oracle`: the exact answers of a small task, printed and saved."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.text import Text
from safetensors.torch import save_file
from torch import Tensor

from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.prompts import check_prompt_lengths
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run, saved_text
from rlhf_pg.study import mdp
from rlhf_pg.study.oracle import Exact, check_enumerable, language_oracle
from rlhf_pg.study.oracle_display import show_completions, show_prefixes, show_summary, show_table
from rlhf_pg.study.tasks import SmallTask, small_task

LoadReward = Callable[[str], Any]


@dataclass
class OracleConfig:
    """Exact answers for a task small enough to write down."""

    model: str | None = None
    """A language model with a small vocabulary: a run, a folder, or a hub name; none: a random
    tiny one over eight words, with a reward of its own."""
    reference: str | None = None
    """The model to stay near; none: the small task's own, or the model itself."""
    reward: str | None = None
    """What to maximise, spelt as for `rlhf-pg train`."""
    prompt: str | list[str] | None = None
    """What is completed: a text, or a list of them ('[one, two]'), whose means are told, too."""
    max_new_tokens: int = 5
    """Longest completion, EOS included; the count of completions grows with its power."""
    kl_coef: float | None = None
    """Weight of KL(policy || reference); none: 0.5 for text, 0 for an MDP."""
    missing_eos_penalty: float = 0.0
    """Taken off the score of a completion cut at the length limit, usually 0 to 1."""
    temperature: float = 1.0
    """Of policy and reference, usually 0.7 to 1."""
    mdp: str | None = None
    """A table in place of a language model: two-state or gridworld, under a uniform policy."""
    show: int = 8
    """Completions and first tokens to print, usually 5 to 20."""
    most: int = 20_000
    """Refuse a prompt with more completions than this; 20,000 take seconds."""
    seed: int = 0
    """Of the small task's random model."""
    output: str | None = None
    """Run folder; none takes runs/oracle, or the next free number."""


def main(config: OracleConfig, load_reward: LoadReward) -> Run:
    """Compute, print and save the answers; returns the run."""
    if (config.kl_coef or 0) < 0:
        raise ValueError(f"kl_coef must not be below 0, but is {config.kl_coef}")
    if config.mdp is not None:
        return _table(config)
    kl_coef = 0.5 if config.kl_coef is None else config.kl_coef
    task, prompts = _task(config, load_reward)
    check_enumerable(task.policy, config.max_new_tokens, config.most)
    check_prompt_lengths(task.policy.model, task.tokenizer, prompts, config.max_new_tokens)
    models.suit_threads(task.policy.model)
    vocabulary = task.policy.model.config.get_text_config().vocab_size
    run = Run.create(config.output, "oracle", config)
    began, answers = time.perf_counter(), []
    with Progress(len(prompts), "prompts written down", shown=len(prompts) > 1) as progress:
        for prompt in prompts:
            answers.append(
                language_oracle(
                    task.policy, task.reference, task.tokenizer, prompt, task.reward,
                    config.max_new_tokens, kl_coef, config.missing_eos_penalty, limit=config.most,
                )
            )  # fmt: skip
            progress.update(len(answers))
    console.print(
        f"{len(answers[0].probs):,} completions of at most {config.max_new_tokens} out of "
        f"{vocabulary} tokens, all written down: {time.perf_counter() - began:.1f} s"
    )
    rows = [summary(answer, kl_coef) for answer in answers]
    show_summary(prompts, rows, answers, kl_coef)
    for prompt, answer in list(zip(prompts, answers, strict=True))[:3]:
        show_completions(prompt, answer, task.tokenizer, config.show)
        show_prefixes(prompt, answer, task.tokenizer, config.show)
    save(run, prompts, answers, rows, task)
    console.print(
        f"saved in {run.path}: oracle.json, oracle.safetensors (gradient; V, Q, A of all steps)",
        markup=False,
    )
    return run


def _task(config: OracleConfig, load_reward: LoadReward) -> tuple[SmallTask, list[str]]:
    """The task asked for, and its prompts; ValueError for what is missing or cannot be."""
    if config.max_new_tokens < 1 or config.show < 1:
        raise ValueError("max_new_tokens and show must be at least 1")
    if config.temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {config.temperature}")
    task = small_task(config.seed, config.max_new_tokens)
    if config.model is not None:
        for name in ("reward", "prompt"):
            if getattr(config, name) is None:
                raise ValueError(f"a model of yours needs a --{name}, too")
        model, task.tokenizer = models.load(config.model)
        task.policy = LanguagePolicy(model, critic="none")
        task.reference = task.policy
    if config.reference is not None:
        model, tokenizer = models.load(config.reference)
        if tokenizer.get_vocab() != task.tokenizer.get_vocab():
            raise ValueError(f"{config.reference} has another vocabulary than the policy")
        task.reference = LanguagePolicy(model, critic="none")
    for policy in (task.policy, task.reference):
        policy.temperature = config.temperature
    if config.reward is not None:
        task.reward = load_reward(config.reward)
    asked = task.prompt if config.prompt is None else config.prompt
    prompts = [asked] if isinstance(asked, str) else list(asked)
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("prompt: give at least one, and none that is empty")
    return task, prompts


def summary(answer: Exact, kl_coef: float) -> dict[str, float]:
    """The numbers of one prompt; `kl_to_best` is KL(policy || pi*), where there is a pi*."""
    lengths = answer.episodes.mask.sum(1).to(answer.probs.dtype)
    numbers = {
        "objective": answer.objective,
        "score": answer.objective + kl_coef * answer.kl,
        "gradient_norm": float(answer.gradient.norm()),
        "kl": answer.kl,
        "entropy": answer.entropy,
        "length": float(answer.probs @ lengths),
    }
    if answer.best_objective is not None:
        numbers["best_objective"] = answer.best_objective
    if answer.best is not None:
        log_ratio = answer.logprobs.sum(1) - answer.best.log()
        numbers["kl_to_best"] = float((answer.probs * log_ratio)[answer.probs > 0].sum())
    return numbers


def save(
    run: Run,
    prompts: list[str],
    answers: list[Exact],
    rows: list[dict[str, float]],
    task: SmallTask,
) -> None:
    """Write oracle.json, and oracle.safetensors with the tensors of Exact, prompt by prompt."""
    told: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    names = [name for name, p in task.policy.model.named_parameters() if p.requires_grad]
    for i, (prompt, answer, row) in enumerate(zip(prompts, answers, rows, strict=True)):
        ids, mask = answer.episodes.actions, answer.episodes.mask.bool()
        score = answer.episodes.rewards.sum(1)
        best = [None] * len(ids) if answer.best is None else answer.best.tolist()
        completions = [
            {"text": task.tokenizer.decode(a[m].tolist()), "score": s, "p": p, "best": b}
            for a, m, s, p, b in zip(
                ids, mask, score.tolist(), answer.probs.tolist(), best, strict=True
            )
        ]
        told.append({"prompt": prompt, **row, "completions": completions})
        found = {
            name: x
            for name, x in vars(answer).items()
            if isinstance(x, Tensor) and name != "episodes"
        }
        found |= {"actions": ids, "mask": mask, "scores": score}
        tensors |= {f"{i}.{name}": x.contiguous() for name, x in found.items()}
    saved_text(run.path / "oracle.json", json.dumps({"prompts": told, "gradient_of": names}))
    save_file(tensors, run.path / "oracle.safetensors")


# Tables in place of language models


def _table(config: OracleConfig) -> Run:
    """The same for one of the shipped MDPs, under a uniform policy, which is the reference too."""
    if config.mdp not in mdp.EXAMPLES:
        raise ValueError(f"no MDP {config.mdp!r}: choose among {', '.join(mdp.EXAMPLES)}")
    if config.model is not None:
        raise ValueError("--mdp and --model are two tasks: choose one")
    kl_coef = config.kl_coef or 0.0
    task = mdp.EXAMPLES[config.mdp]()
    run = Run.create(config.output, "oracle", config)
    uniform = torch.zeros_like(task.rewards)
    answer, best = task.exact(uniform, uniform, kl_coef), task.optimum(uniform, kl_coef)
    console.print(Text((mdp.EXAMPLES[config.mdp].__doc__ or "").replace("\n    ", "\n")))
    console.print(
        f"A uniform policy, gamma {task.gamma:g}, KL coefficient {kl_coef:g}:  "
        f"J {answer.objective:.3f}  |∇J| {float(answer.gradient.norm()):.3f}  "
        f"J* {best.objective:.3f}  steps {float(answer.occupancy.sum()):.2f}"
    )
    show_table(task, answer, best)
    saved = {**asdict(task), **vars(answer), "best": best._asdict()}
    as_lists = json.dumps(saved, default=lambda x: x.tolist(), indent=1)
    saved_text(run.path / "oracle.json", as_lists + "\n")
    console.print(f"saved in {run.path}: oracle.json", markup=False)
    return run
