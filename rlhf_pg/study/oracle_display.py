"""How the oracle's answers look in a terminal."""

from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from torch import Tensor

from rlhf_pg.progress import console
from rlhf_pg.study import mdp
from rlhf_pg.study.oracle import Exact


def show_summary(
    prompts: list[str], rows: list[dict[str, float]], answers: list[Exact], kl_coef: float
) -> None:
    heads = {
        "objective": "J",
        "score": "E\\[score]",
        "gradient_norm": "|∇J|",
        "kl": "KL to ref",
        "entropy": "entropy",
        "best_objective": "J*",
        "kl_to_best": "KL(π‖π*)",
    }
    heads = {key: head for key, head in heads.items() if key in rows[0]}
    table = Table(title=f"J = E\\[score] - {kl_coef:g} KL", title_justify="left")
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", max_width=20)
    for head in heads.values():
        table.add_column(head, justify="right", no_wrap=True, min_width=7)
    for prompt, row in zip(prompts, rows, strict=True):
        table.add_row(Text(prompt), *(f"{row[key]:.3f}" for key in heads))
    if len(rows) > 1:
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in heads}
        together = torch.stack([answer.gradient for answer in answers]).mean(0)
        mean["gradient_norm"] = float(together.norm())
        table.add_row("their mean", *(f"{mean[key]:.3f}" for key in heads), style="bold")
    console.print(table)
    if "kl_to_best" in rows[0]:
        gap = rows[0]["best_objective"] - rows[0]["objective"]
        beta = f"{kl_coef:g}"
        console.print(
            f"π* = ref · exp(score / {beta}) / Z is the best there is: J* = {beta} log Z, and\n"
            f"J* - J = {beta} · KL(π‖π*), here {gap:.3f}. Nats are of whole completions.\n"
        )


def show_completions(prompt: str, answer: Exact, tokenizer: Any, count: int) -> None:
    """The completions that the policy, and then pi* (or the score), puts first."""
    score = answer.episodes.rewards.sum(1)
    ref = None if answer.ref_logprobs is None else answer.ref_logprobs.sum(1).exp()
    _ranked(
        prompt, "likeliest under the policy", answer.probs, score, ref, answer, tokenizer, count
    )
    best = answer.best
    title = "best by score" if best is None else "likeliest under π*"
    _ranked(prompt, title, score if best is None else best, score, ref, answer, tokenizer, count)


def _ranked(
    prompt: str,
    title: str,
    order: Tensor,
    score: Tensor,
    ref: Tensor | None,
    answer: Exact,
    tokenizer: Any,
    count: int,
) -> None:
    table = Table(title=title, title_justify="left", show_footer=True)
    shown = order.argsort(descending=True, stable=True)[:count]
    head = prompt if len(prompt) <= 30 else f"… {prompt[-28:]}"
    table.add_column(Text(f"{head} …"), footer="together", min_width=34)
    table.add_column("score", justify="right")
    all_of_them = {"ref": ref, "π": answer.probs, "π*": answer.best}
    columns = {head: x for head, x in all_of_them.items() if x is not None}
    for head, x in columns.items():
        table.add_column(head, share(float(x[shown].sum())), justify="right", min_width=8)
    for row in shown.tolist():
        text = Text(" ").join(_words(tokenizer, answer, row))
        shares = [share(float(x[row])) for x in columns.values()]
        table.add_row(text, f"{float(score[row]):+.2f}", *shares)
    console.print(table)


def show_prefixes(prompt: str, answer: Exact, tokenizer: Any, count: int) -> None:
    """V of the first prefixes, and p, Q and A of every token that may follow, as a small tree."""
    console.print("\nCredit: V(s) of a prefix, and of each next token p, Q(s, a), A(s, a) = Q - V")
    tokens = answer.episodes.actions
    tree = Tree(Text.assemble((prompt, "bold"), f"   V {float(answer.values[0, 0]):+.3f}"))
    everything = torch.ones(len(tokens), dtype=torch.bool)
    followed = _branches(tree, answer, tokenizer, everything, 0, count)
    for branch, rows in followed[:2]:
        _branches(branch, answer, tokenizer, rows, 1, min(count, 5))
    console.print(tree)


def _branches(
    tree: Tree, answer: Exact, tokenizer: Any, rows: Tensor, step: int, count: int
) -> list[tuple[Tree, Tensor]]:
    """Add the likeliest tokens at `step` of `rows`; returns those that lead on, with their rows."""
    actions = answer.episodes.actions[:, step]
    first = {int(actions[i]): i for i in rows.nonzero()[:, 0].flip(0).tolist()}
    order = sorted(first, key=lambda a: -float(answer.logprobs[first[a], step]))
    leads = []
    for action in order[:count]:
        row = first[action]
        advantage = float(answer.advantages[row, step])
        line = Text.assemble(
            f"{tokenizer.decode([action]).strip() or repr(tokenizer.decode([action])):<{10}}",
            (f"p {float(answer.logprobs[row, step].exp()):.3f}   ", "dim"),
            f"Q {float(answer.q_values[row, step]):+.3f}   ",
            (f"A {advantage:+.3f} {bar(advantage)}", "green" if advantage >= 0 else "magenta"),
        )
        branch = tree.add(line)
        through = rows & (actions == action) & answer.episodes.mask[:, step]
        if step + 1 < answer.episodes.mask.shape[1] and answer.episodes.mask[row, step + 1]:
            leads.append((branch, through))
    if len(order) > count:
        tree.add(Text(f"… {len(order) - count} more", "dim"))
    return leads


def bar(x: float, scale: float = 4.0) -> str:
    """A short bar, `scale` blocks to the unit, at most 16."""
    return "█" * min(16, round(abs(x) * scale))


def share(p: float) -> str:
    """A probability, however small."""
    return f"{p:.4f}" if p >= 5e-5 else f"{p:.0e}" if p else "0"


def _words(tokenizer: Any, answer: Exact, row: int) -> list[Text]:
    mask = answer.episodes.mask[row].bool()
    special = set(tokenizer.all_special_ids)
    return [
        Text(tokenizer.decode([i]).strip(), "dim" if i in special else "")
        for i in answer.episodes.actions[row][mask].tolist()
    ]


def show_table(task: mdp.TabularMDP, answer: mdp.ExactMDP, best: mdp.BestPolicy) -> None:
    """A row for each state: how often it is met, V and V*, Q and A of each action, and pi*."""
    table = Table("state", show_lines=True)
    for name in ("visits", "V", "V*"):
        table.add_column(name, justify="right")
    for action in task.actions:
        table.add_column(escape(action), min_width=9)
    table.add_column("π*")
    for s, state in enumerate(task.states):
        cells = [
            Text.assemble(f"Q {q:+.3f}\n", (f"A {a:+.3f}", "green" if a >= 0 else "magenta"))
            for q, a in zip(answer.q_values[s].tolist(), answer.advantages[s].tolist(), strict=True)
        ]
        chances = sorted(zip(best.probs[s].tolist(), task.actions, strict=True), reverse=True)
        chosen = "\n".join(f"{name} {p:.2f}" for p, name in chances[:2] if p >= 0.005)
        numbers = (answer.occupancy[s], answer.values[s], best.values[s])
        table.add_row(
            Text(state), *(f"{float(x):.3f}" for x in numbers), *cells, Text(chosen, "bold")
        )
    console.print(table)
    console.print("visits: how often a state is met, discounted; A = Q - V; π*: the best policy")
