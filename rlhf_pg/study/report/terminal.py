"""A run in the terminal: metrics as sparklines, tokens coloured by one of their numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_pg.progress import number, plain
from rlhf_pg.study.report.page import headline, is_number

CHANNELS = "advantage true_advantage delta reward kl logprob value entropy ratio".split()
CURVES = "score gold eval_score objective kl entropy length explained_variance grad_norm".split()
BLOCKS = "▁▂▃▄▅▆▇█"
COMPLETIONS, TOKENS = 6, 150  # printed at most


def show(data: Mapping[str, Any], channel: str, console: Console) -> None:
    """Print a run; raises ValueError if `channel` is unknown or was not measured in it."""
    if channel not in CHANNELS:
        raise ValueError(f"no channel {channel!r}: choose among {', '.join(CHANNELS)}")
    measured = [e for e in data["episodes"] if any(is_number(t.get(channel)) for t in e["tokens"])]
    if data["episodes"] and not measured:
        raise ValueError(f"{channel} was not measured in this run: choose another --channel")
    console.print(Text(plain(data["title"]), "bold"), Text(headline(data)), sep="\n")
    if data["metrics"]:
        console.print(_curves(data["metrics"], max(8, console.width - 60)))
    if not measured:
        return
    # The completions after training, or else those recorded last, are the last ones.
    last = [e for e in measured if e["iteration"] == measured[-1]["iteration"]][:COMPLETIONS]
    centre = 1.0 if channel == "ratio" else 0.0
    values = [t[channel] for e in last for t in e["tokens"] if is_number(t.get(channel))]
    scale = max(abs(x - centre) for x in values) or 1.0
    for episode in last:
        unit = "tokens" if data["kind"] == "language" else "steps"
        facts = f"  score {number(episode['score'])}, {len(episode['tokens'])} {unit}"
        console.print(Text(f"\n{plain(episode['prompt'])}", "bold").append(facts, "dim"))
        spaced = any(token["token"].startswith(" ") for token in episode["tokens"])
        parts = [_token(t, t.get(channel), centre, scale) for t in episode["tokens"][:TOKENS]]
        console.print(Text("" if spaced else " ").join(parts), soft_wrap=False)
    ends = f"{number(min(values))} (orange, ⁻) to {number(max(values))} (blue, ⁺)"
    console.print(Text(f"\n{channel}: from {ends}", "dim"))


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as at most `width` blocks, each the mean of its share of them."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round(7 * (m - low) / ((high - low) or 1))] for m in means)


def _curves(metrics: Sequence[Mapping[str, Any]], width: int) -> Table:
    table = Table("metric", f"{len(metrics)} iterations", "first", "last", box=None, pad_edge=False)
    for name in CURVES:
        values = [line[name] for line in metrics if is_number(line.get(name))]
        if len(values) > 1:
            table.add_row(name, sparkline(values, width), number(values[0]), number(values[-1]))
    return table


def _token(token: Mapping[str, Any], value: Any, centre: float, scale: float) -> Text:
    """A token, blue above the centre and orange below; signs say the same without colour."""
    size = (value - centre) / scale if is_number(value) else 0.0
    sign = "" if abs(size) < 0.1 else ("⁺" if size > 0 else "⁻") * (2 if abs(size) > 0.6 else 1)
    colour = ("#0072b2" if size > 0 else "#b84f00") if sign else ""
    return Text(plain(token["token"]) + sign, f"white on {colour}" if colour else "")
