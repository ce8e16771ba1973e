"""The page's twin in the terminal: curves as sparklines, and tokens coloured by a channel.

Signs stand as text too, so that nothing is lost without colour. Text from models is only text.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeGuard

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from rlhf_pg.chart import signed
from rlhf_pg.study.report.page import headline

CHANNELS = {
    "advantage": "the learner's estimate of how much better than expected",
    "true_advantage": "the same, measured by continuing many times",
    "delta": "reward + gamma V' - V",
    "reward": "what the learner is paid",
    "kl": "log pi - log reference",
    "logprob": "log pi(a|s)",
    "value": "the critic's V(s)",
    "entropy": "of pi(.|s), nats",
    "ratio": "pi after the update / before it",
}
SHORT = {"advantage": "A", "true_advantage": "true A", "delta": "δ", "value": "V", "kl": "KL",
         "logprob": "log π"}  # fmt: skip
CURVES = (
    "score gold eval_score objective kl entropy length eos_rate policy_loss value_loss "
    "explained_variance clip_fraction grad_norm"
).split()
BLOCKS = "▁▂▃▄▅▆▇█"
# Light to strong, and what is read on them; blue is above, orange below.
BLACK, WHITE = "#000000", "#ffffff"
BLUES = [("#d6e8f4", BLACK), ("#9cc8e6", BLACK), ("#5aa5d6", BLACK), ("#0072b2", WHITE)]
ORANGES = [("#fbe3d2", BLACK), ("#f5bd94", BLACK), ("#e58b48", BLACK), ("#b84f00", WHITE)]
SHOWN, LONG, STRIP = 6, 120, 76  # completions; tokens that are too many for words; columns
SPECIAL = re.compile(r"<.*>|\[.*\]")  # <eos> and its like, which no space sets apart


def show(data: Mapping[str, Any], console: Console, channel: str = "advantage") -> None:
    """Print a run, its tokens coloured by `channel`; raises ValueError for an unknown one."""
    if channel not in CHANNELS:
        raise ValueError(f"no channel {channel!r}: choose among {', '.join(CHANNELS)}")
    chosen = _chosen(data["episodes"], channel)
    if data["episodes"] and not chosen:
        raise ValueError(f"{channel} was not measured in this run: choose another --channel")
    say = partial(console.print, soft_wrap=False)  # words stay whole, whatever the console's habit
    say(Text(plain(data["title"]), style="bold"))
    say(Text(headline(data)))
    if len(data["metrics"]) > 1:
        say(_curves(data["metrics"], max(8, min(36, console.width - 64))))
    if not chosen:
        say("No tokens were recorded in this run.")
        return
    middle = 1.0 if channel == "ratio" else 0.0
    sizes = sorted(abs(token[channel] - middle) for _, token in _measured(chosen, channel))
    scale = sizes[int(0.95 * (len(sizes) - 1))] or 1.0
    say(_legend(channel, middle, scale))
    for episode in chosen:
        say(_heading(episode))
        long = len(episode["tokens"]) > LONG or data["kind"] == "control"
        draw = _strip if long else _words
        say(draw(episode["tokens"], channel, middle, scale))
    say(_extremes(chosen, channel, middle, max(8, min(30, console.width - 70))))
    rest = len(data["episodes"]) - len(chosen)
    if rest:
        say(Text(f"{rest} more are on the page (without --terminal).", style="dim"))
    if data["agreement"]:
        say(Text(_agreement(data["agreement"])))


def plain(text: str) -> str:
    """Text that cannot move the cursor, colour the terminal or turn the direction of reading."""
    text = text.replace("\n", "⏎")
    return re.sub("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", "�", text)


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of at most `width` blocks; each is the mean of its share."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round(7 * (m - low) / ((high - low) or 1))] for m in means)


def _curves(lines: Sequence[Mapping[str, Any]], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column(f"over {len(lines)} iterations")
    for name in ("first", "last", "least", "most"):
        table.add_column(name, justify="right")
    for name in CURVES:
        values = [line[name] for line in lines if _is_number(line.get(name))]
        if len(values) > 1 and max(values) > min(values):
            numbers = (values[0], values[-1], min(values), max(values))
            row = [Text(name), Text(sparkline(values, width), style="#3d8fc4")]
            table.add_row(*row, *(_number(value) for value in numbers))
    return table


def _chosen(episodes: Sequence[Mapping[str, Any]], channel: str) -> list[Mapping[str, Any]]:
    """Those after training, or of the last iteration recorded, where the channel was measured."""
    known = [e for e in episodes if next(_measured([e], channel), None)]
    final = [e for e in known if e["iteration"] is None]
    last = max((e["iteration"] for e in known if e["iteration"] is not None), default=0)
    return (final or [e for e in known if e["iteration"] == last])[:SHOWN]


def _measured(
    episodes: Sequence[Mapping[str, Any]], channel: str
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for episode in episodes:
        for token in episode["tokens"]:
            if _is_number(token.get(channel)):
                yield episode, token


def _legend(channel: str, middle: float, scale: float) -> Text:
    text = Text(f"\n{channel}: {CHANNELS[channel]}\n")
    for name, m in (("−−", -0.8), ("−", -0.4), (" 0 ", 0.0), ("+", 0.4), ("++", 0.8)):
        text.append(f" {name} ", _style(m))
    ends = (f"{middle + side * scale:.2g}".replace("-", "−") for side in (-1, 1))
    return text.append("  from {} to {}".format(*ends), "dim")


def _heading(episode: Mapping[str, Any]) -> Text:
    after = episode["iteration"]
    facts = ["after training" if after is None else f"iteration {after}"]
    facts += [f"{name} {signed(episode[name], 2)}" for name in ("score", "gold")
              if _is_number(episode[name])]  # fmt: skip
    facts += [] if episode["finished"] else ["cut at the limit"]
    text = Text("\n").append(plain(episode["prompt"]), "bold")
    return text.append(f"  {', '.join(facts)}", "dim")


def _words(tokens: Sequence[Mapping[str, Any]], channel: str, middle: float, scale: float) -> Text:
    spaced = any(token["token"][:1].isspace() for token in tokens)
    text = Text()
    for t, token in enumerate(tokens):
        m = _place(token, channel, middle, scale)
        word = plain(token["token"].lstrip(" ")) or "␣"
        apart = not spaced or token["token"][:1].isspace() or SPECIAL.fullmatch(word)
        if t and apart:
            text.append(" ")
        text.append(f"{word}{_sign(m)}", _style(m))
    return text


def _strip(tokens: Sequence[Mapping[str, Any]], channel: str, middle: float, scale: float) -> Text:
    """A long episode: V as a sparkline, and the channel as a line of signs, of at most STRIP."""
    count = min(STRIP, len(tokens))
    edges = [round(i * len(tokens) / count) for i in range(count + 1)]
    text = Text("V  ").append(sparkline([t.get("value") or 0.0 for t in tokens], count), "dim")
    text.append("\n±  ")
    for a, b in zip(edges, edges[1:], strict=False):
        m = sum(_place(token, channel, middle, scale) for token in tokens[a:b]) / (b - a)
        text.append({"⁺": "+", "⁻": "−", "": "·"}[_sign(m)[:1]], _style(m))
    return text


def _extremes(
    episodes: Sequence[Mapping[str, Any]], channel: str, middle: float, room: int
) -> Table:
    """The five highest and the five lowest tokens, with their numbers; `room` is the prompt's."""
    found = sorted(_measured(episodes, channel), key=lambda pair: -pair[1][channel])
    ends = found[:5] + found[max(5, len(found) - 5) :]
    keys = [k for k in ("advantage", "true_advantage", "delta", "value", "kl", "logprob", "ratio")
            if any(_is_number(token.get(k)) for _, token in ends)]  # fmt: skip
    keys = [channel, *(key for key in keys if key != channel)]
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    table.title = Text("\nThe highest and the lowest", style="bold")
    table.add_column("token", max_width=14, no_wrap=True)
    table.add_column("of", max_width=room, no_wrap=True)
    digits = {key: _digits([token.get(key) for _, token in ends]) for key in keys}
    for key in keys:
        table.add_column(SHORT.get(key, key), justify="right", no_wrap=True)
    for episode, token in ends:
        m = 0.8 if token[channel] > middle else -0.8
        cells = [_with_error(token, key, digits[key]) for key in keys]
        word = Text(plain(token["token"]).strip() or "␣", style=_style(m))
        table.add_row(word, Text(plain(episode["prompt"]), style="dim"), *cells)
    return table


def _digits(values: Sequence[Any]) -> int:
    """Decimals for a column: two, or as many as show two figures of its largest number."""
    most = max((abs(value) for value in values if _is_number(value)), default=0.0)
    return min(7, max(2, 1 - math.floor(math.log10(most)))) if most else 2


def _with_error(token: Mapping[str, Any], key: str, digits: int) -> str:
    value, error = token.get(key), token.get(f"{key}_se")
    if not _is_number(value):
        return "–"
    return signed(value, digits) + (f" ± {error:.{digits}f}" if error else "")


def _agreement(measured: Mapping[str, Any]) -> str:
    row = next((r for r in measured["gae"] if r["lam"] == measured["lam"]), None)
    if row is None:
        return ""
    return (
        f"\nGAE({row['lam']:g}) against the truth on {measured['tokens']} tokens: correlation "
        f"{row['correlation']:.2f}, same sign {row['sign_agreement']:.1%}, rmse {row['rmse']:.2f}."
    )


def _place(token: Mapping[str, Any], channel: str, middle: float, scale: float) -> float:
    """Where the token's number lies, from -1 to 1; 0 where it was not measured."""
    value = token.get(channel)
    return max(-1.0, min(1.0, (value - middle) / scale)) if _is_number(value) else 0.0


def _sign(m: float) -> str:
    return "" if abs(m) < 0.1 else ("⁺" if m > 0 else "⁻") * (2 if abs(m) > 0.6 else 1)


def _style(m: float) -> Style:
    if abs(m) < 0.1:
        return Style()
    ground, ink = (BLUES if m > 0 else ORANGES)[min(3, int(abs(m) * 4))]
    return Style(color=ink, bgcolor=ground)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
