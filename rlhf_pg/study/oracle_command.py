"""`rlhf-pg study oracle`: the exact answers of a small task, printed and saved."""

import json
from dataclasses import asdict
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from safetensors.torch import save_file
from torch import Tensor

from reward_models.files import saved_text
from reward_models.loading import load_reward
from reward_models.pretrained import limit_threads
from rlhf_pg.language import models
from rlhf_pg.language.data import check_prompt_lengths
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.progress import console, number
from rlhf_pg.runs import Run
from rlhf_pg.study import mdp
from rlhf_pg.study.config import OracleConfig
from rlhf_pg.study.oracle import Exact, check_enumerable, language_oracle
from rlhf_pg.study.tasks import SmallTask, small_task

Numbers = dict[str, float]
COLUMNS = {  # of the printed table: key in oracle.json, heading
    "objective": "J",
    "score": "E[score]",
    "gradient_norm": "|∇J|",
    "kl": "KL to ref",
    "entropy": "entropy",
    "best_objective": "J*",
    "kl_to_best": "KL(π‖π*)",
}


def main(config: OracleConfig) -> Run:
    """Compute, print and save the exact answers; returns the run."""
    config.check()
    if config.mdp is not None:
        return _mdp(config)
    task, prompts = _task(config)
    kl_coef = 0.5 if config.kl_coef is None else config.kl_coef
    check_enumerable(task.policy, config.max_new_tokens, config.most)
    check_prompt_lengths(task.policy.model, task.tokenizer, prompts, config.max_new_tokens)
    limit_threads(task.policy.model)
    run = Run.create(config.output, "oracle", config)
    answers = [
        language_oracle(
            task.policy, task.reference, task.tokenizer, prompt, task.reward,
            config.max_new_tokens, kl_coef, config.missing_eos_penalty, limit=config.most,
        )
        for prompt in prompts
    ]  # fmt: skip
    rows = [summary(answer, kl_coef) for answer in answers]
    console.print(
        f"{len(answers[0].probs):,} completions of at most {config.max_new_tokens} tokens. "
        f"J = E[score] - {kl_coef:g} KL, in nats of whole completions.",
        markup=False,
    )
    console.print(_table(prompts, rows, answers))
    console.print("V(s) of a prefix; p, Q(s, a) and A(s, a) = Q - V of each next token:")
    for prompt, answer in list(zip(prompts, answers, strict=True))[:3]:
        console.print(_tree(prompt, answer, task, config.show))
    _save(run, prompts, rows, answers, task)
    console.print(f"saved in {run.path}: oracle.json, oracle.safetensors", markup=False)
    return run


def _task(config: OracleConfig) -> tuple[SmallTask, list[str]]:
    """The small task, or the models and reward of the options, and the prompts."""
    task = small_task(config.seed, config.max_new_tokens)
    if config.model is not None:
        model, task.tokenizer = models.load(config.model)
        task.policy = task.reference = LanguagePolicy(model, critic="none")
    if config.reference is not None:
        model, tokenizer = models.load(config.reference)
        if tokenizer.get_vocab() != task.tokenizer.get_vocab():
            raise ValueError(f"{config.reference} has another vocabulary than the policy")
        task.reference = LanguagePolicy(model, critic="none")
    task.policy.temperature = task.reference.temperature = config.temperature
    if config.reward is not None:
        task.reward = load_reward(config.reward)
    prompts = task.prompt if config.prompt is None else config.prompt
    return task, [prompts] if isinstance(prompts, str) else prompts


def summary(answer: Exact, kl_coef: float) -> Numbers:
    """The numbers of one prompt; `kl_to_best` is KL(policy || pi*), if pi* has a closed form."""
    numbers = {
        "objective": answer.objective,
        "score": answer.objective + kl_coef * answer.kl,
        "gradient_norm": float(answer.gradient.norm()),
        "kl": answer.kl,
        "entropy": answer.entropy,
        "length": float(answer.probs @ answer.episodes.mask.sum(1).to(answer.probs.dtype)),
    }
    if answer.best_objective is not None:
        numbers["best_objective"] = answer.best_objective
    if answer.best is not None:
        log_ratio = answer.logprobs.sum(1) - answer.best.log()
        numbers["kl_to_best"] = float((answer.probs * log_ratio)[answer.probs > 0].sum())
    return numbers


def _table(prompts: list[str], rows: list[Numbers], answers: list[Exact]) -> Table:
    """A row for each prompt, and one for the objective that is the mean of theirs."""
    names = [name for name in COLUMNS if name in rows[0]]
    table = Table("prompt")
    for name in names:
        table.add_column(Text(COLUMNS[name]), justify="right", no_wrap=True)
    for prompt, row in zip(prompts, rows, strict=True):
        shown = Text(prompt if len(prompt) <= 20 else f"…{prompt[-19:]}")
        table.add_row(shown, *(number(row[name], 4) for name in names))
    if len(rows) > 1:
        mean = {name: sum(row[name] for row in rows) / len(rows) for name in names}
        gradients = torch.stack([answer.gradient for answer in answers])
        mean["gradient_norm"] = float(gradients.mean(0).norm())
        table.add_row("mean", *(number(mean[name], 4) for name in names), style="bold")
    return table


def _tree(prompt: str, answer: Exact, task: SmallTask, count: int) -> Tree:
    """The likeliest next tokens of the prompt, and those that follow the first two of them."""
    tree = Tree(Text.assemble((prompt, "bold"), f"   V {float(answer.values[0, 0]):+.3f}"))
    rows = torch.ones(len(answer.probs), dtype=torch.bool)
    prefixes = _add_tokens(tree, answer, task, rows, 0, count)
    for branch, rows in prefixes[:2]:
        _add_tokens(branch, answer, task, rows, 1, min(count, 5))
    return tree


def _add_tokens(
    tree: Tree, answer: Exact, task: SmallTask, rows: Tensor, step: int, count: int
) -> list[tuple[Tree, Tensor]]:
    """Add the tokens at `step` of `rows`; returns branches that go on, with their rows (N,)."""
    actions, mask = answer.episodes.actions[:, step], answer.episodes.mask
    first = {int(actions[i]): i for i in rows.nonzero()[:, 0].flip(0).tolist()}
    order = sorted(first, key=lambda a: -float(answer.logprobs[first[a], step]))
    prefixes = []
    for action in order[:count]:
        row, text = first[action], task.tokenizer.decode([action])
        p, q, a = (x[row, step] for x in (answer.logprobs, answer.q_values, answer.advantages))
        branch = tree.add(_line(text.strip() or repr(text), float(p.exp()), float(q), float(a)))
        if step + 1 < mask.shape[1] and mask[row, step + 1]:
            prefixes.append((branch, rows & (actions == action) & mask[:, step]))
    if len(order) > count:
        tree.add(Text(f"… {len(order) - count} more", "dim"))
    return prefixes


def _line(action: str, p: float, q: float, advantage: float) -> Text:
    """An action with its probability, Q and A, and a bar of four blocks to the unit of |A|."""
    return Text.assemble(
        (f"{action:<10}p {p:.3f}   Q {q:+.3f}   A {advantage:+.3f} "),
        ("█" * min(16, round(4 * abs(advantage))), "green" if advantage >= 0 else "magenta"),
    )


def _save(
    run: Run, prompts: list[str], rows: list[Numbers], answers: list[Exact], task: SmallTask
) -> None:
    """Write oracle.json, and oracle.safetensors with the tensors of Exact as "PROMPT.FIELD".

    The completions are texts in oracle.json, in the order of the tensors' rows.
    """
    saved: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for i, (prompt, row, answer) in enumerate(zip(prompts, rows, answers, strict=True)):
        ids, mask = answer.episodes.actions, answer.episodes.mask.bool()
        texts = [task.tokenizer.decode(a[m].tolist()) for a, m in zip(ids, mask, strict=True)]
        saved.append({"prompt": prompt, **row, "completions": texts})
        fields = {name: x for name, x in vars(answer).items() if isinstance(x, Tensor)}
        fields |= {"actions": ids, "mask": mask, "scores": answer.episodes.rewards.sum(1)}
        tensors |= {f"{i}.{name}": x.contiguous() for name, x in fields.items()}
    names = [name for name, p in task.policy.model.named_parameters() if p.requires_grad]
    saved_text(run.path / "oracle.json", json.dumps({"prompts": saved, "gradient_of": names}))
    save_file(tensors, run.path / "oracle.safetensors")


def _mdp(config: OracleConfig) -> Run:
    """The same for a tabular MDP, under the uniform policy, which is also the reference."""
    if config.mdp not in mdp.EXAMPLES:
        raise ValueError(f"no MDP {config.mdp!r}: choose among {', '.join(mdp.EXAMPLES)}")
    kl_coef, task = config.kl_coef or 0.0, mdp.EXAMPLES[config.mdp]()
    run = Run.create(config.output, "oracle", config)
    uniform = torch.zeros_like(task.rewards)
    answer, best = task.exact(uniform, uniform, kl_coef), task.optimum(uniform, kl_coef)
    tree = Tree(
        f"{config.mdp}, uniform policy, γ {task.gamma:g}, KL coefficient {kl_coef:g}: "
        f"J {number(answer.objective)}, |∇J| {number(float(answer.gradient.norm()))}, "
        f"J* {number(best.objective)}, {number(float(answer.occupancy.sum()))} steps"
    )
    for s, state in enumerate(task.states):
        v, optimum, visits = (x[s] for x in (answer.values, best.values, answer.occupancy))
        chosen = f"{task.actions[int(best.probs[s].argmax())]} {float(best.probs[s].max()):.2f}"
        branch = tree.add(
            Text(f"{state:<10}V {v:+.3f}   V* {optimum:+.3f}   π* {chosen}   visits {visits:.2f}")
        )
        columns = (answer.probs[s], answer.q_values[s], answer.advantages[s])
        for name, *numbers in zip(task.actions, *(x.tolist() for x in columns), strict=True):
            branch.add(_line(name, *numbers))
    console.print(
        tree, "V*, π*: of the best policy; visits and steps: expected, discounted", sep="\n"
    )
    saved = {**asdict(task), **vars(answer), "best": best._asdict()}
    as_lists = json.dumps(saved, default=lambda x: x.tolist(), indent=1)
    saved_text(run.path / "oracle.json", as_lists + "\n")
    console.print(f"saved in {run.path}: oracle.json", markup=False)
    return run
