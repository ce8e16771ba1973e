"""What the terminal shows of the laboratory: one table, and what it says in words."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from rlhf_pg.progress import console

WIDTH = 100
ZERO = 1e-4  # below it an exact bias is the rounding of 32 bits
SECTIONS = {
    "reinforce": "no baseline",
    "reward-to-go": "no baseline",
    "baseline": "baselines",
    "gae": "bootstrapped (GAE)",
    "group": "divided by deviation",
    "ppo": "PPO's habits",
}
Entry = Mapping[str, Any]


def show(result: Mapping[str, Any]) -> None:
    """Print the table, its notes, and two or three sentences."""
    console.print()
    console.print(table(result), width=WIDTH)
    for line in notes(result):
        console.print(Text(textwrap.fill(line, WIDTH), style="dim"))
    console.print()
    for line in findings(result):
        console.print(Text(textwrap.fill(line, WIDTH)))


def table(result: Mapping[str, Any]) -> Table:
    """A row for each estimator, in sections."""
    shown = Table(
        box=box.SIMPLE_HEAD, title=Text(f"Gradient estimators on {result['task']}"),
        title_justify="left", title_style="bold", padding=(0, 0, 0, 1), pad_edge=False, width=WIDTH,
    )  # fmt: skip
    shown.add_column("estimator", no_wrap=True)
    for name in ("bias", "variance", "MSE", "cosine", "one g", "SNR"):
        shown.add_column(name, justify="right", no_wrap=True)
    section = None
    for entry in result["methods"]:
        if SECTIONS[entry["family"]] != section:
            section = SECTIONS[entry["family"]]
            if shown.rows:
                shown.add_section()
            shown.add_row(Text(section, style="bold cyan"))
        shown.add_row(*_cells(entry))
    return shown


def _cells(entry: Entry) -> list[Text]:
    exact = entry["expected_exactly"]
    return [
        Text(f" {entry['name']}{' †' if entry['rescaled'] else ''}"),
        _bias(entry),
        _with_error(entry["variance"], None if exact else entry["variance_se"], number),
        Text(number(entry["mse"])),
        _with_error(entry["cosine"], None if exact else entry["cosine_se"], "{:.3f}".format),
        Text(f"{entry['cosine_single']:.3f}"),
        _snr(entry),
    ]


def within_noise(entry: Entry) -> bool:
    """Whether nothing shows that the estimator is biased."""
    if entry["expected_exactly"]:
        return bool(entry["bias"] < ZERO)
    return bool(entry["bias_squared"] < 2 * entry["bias_squared_se"])


def _bias(entry: Entry) -> Text:
    if entry["expected_exactly"]:
        return Text("0", style="green") if within_noise(entry) else Text(number(entry["bias"]))
    if within_noise(entry):
        return Text(f"< {number(entry['bias'] + 2 * entry['bias_se'])}", style="green")
    return _with_error(entry["bias"], entry["bias_se"], number)


def _snr(entry: Entry) -> Text:
    snr, error = entry["snr"], entry["snr_se"]
    if snr is not None and error is not None and snr < 2 * error:
        return Text(f"< {number(max(snr, 0.0) + 2 * error)}", style="dim")
    return Text(number(snr))


def _with_error(value: float | None, error: float | None, plain: Callable[[float], str]) -> Text:
    """A number and twice its standard error, dim; alone where it is exact."""
    if value is None:
        return Text("–", style="dim")
    shown = Text(plain(value))
    if error is not None:
        twice = plain(float(f"{2 * error:.2g}"))  # two digits are enough of an error
        shown.append(f" ±{twice.removeprefix('0')}", style="dim")
    return shown


def number(x: float | None) -> str:
    """Three significant digits, without an exponent where a person can do without."""
    if x is None:
        return "–"
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    return f"{x:.3g}" if abs(x) >= 1e-3 or x == 0 else f"{x:.1e}"


def notes(result: Mapping[str, Any]) -> list[str]:
    """How to read the table."""
    truth = result["truth"]
    if truth["how"] == "enumeration":
        known = f"Truth g*: exact, summed over all {truth['episodes']:,} episodes."
    else:
        known = (
            f"Truth g*: the mean over {truth['episodes']:,} other episodes, known to "
            f"{truth['relative_error']:.1%} of its length."
        )
    lines = [
        f"{known} An estimate is one batch of {result['batch']} episodes, "
        f"{result['samples_per_prompt']} from each start; {result['estimates']} estimates.",
        "bias |E g − g*|/|g*|; variance and mean squared error in |g*|²; cosine of E g, and the "
        "mean of one g's, with g*; SNR |E g|²/variance. ± is twice the standard error, none where "
        "every episode was summed; “< x” is within noise, and at most about x. Where sampled, the "
        "unbiased λ=1 on the same batches serves as a control variate.",
    ]
    if any(entry["rescaled"] for entry in result["methods"]):
        lines.append(
            "† has a scale of its own, so it is compared at the scale where its mean's component "
            "along g* is |g*|; its bias is then the tangent of the angle."
        )
    far = [(e["steps"], e["moved"]) for e in result["methods"] if e["steps"]]
    if far:
        distances = ", ".join(f"{number(moved)} at k={steps}" for steps, moved in far)
        lines.append(
            "k: the policy is k steps of PPO on one recorded batch away from the one that sampled "
            f"(KL, nats per action: {distances}), and the truth is that policy's own; the batches "
            "judged are new ones."
        )
    if result["gamma"] < 1:
        lines.append(
            "With γ < 1, g* is the sum over steps of E[∇log π(a_t|s_t) A(s_t, a_t)], without γ^t, "
            "as actor-critics follow it. Whoever weighs a step with the score of its whole episode "
            "(whole return, leave-one-out, group) has that γ^t in its mean, and so differs."
        )
    lines.append(f"Critics: {result['critic']}.")
    return lines


def findings(result: Mapping[str, Any]) -> list[str]:
    """What the numbers say, in two or three sentences."""
    entries = result["methods"]
    return [
        sentence
        for sentence in (_least_noise(entries), _bootstrapping(entries), _ppo(entries))
        if sentence
    ]


def _least_noise(entries: Sequence[Entry]) -> str:
    first = next(entry for entry in entries if entry["family"] == "reinforce")
    # The mean of a group or batch that holds the sample shrinks the gradient, and so its variance.
    fair = [e for e in entries if e["family"] in ("reinforce", "reward-to-go", "baseline")
            and e["name"] not in ("batch mean", "group mean") and within_noise(e)]  # fmt: skip
    if not fair:
        return ""
    best = min(fair, key=lambda entry: entry["variance"])
    if best is first:
        return "No baseline lowers the variance of REINFORCE here."
    times = first["variance"] / best["variance"] if best["variance"] else float("inf")
    return (
        f"Of the estimators without a bias to be seen, “{best['name']}” has the least variance, "
        f"{number(times)} times less than the whole return's."
    )


def _bootstrapping(entries: Sequence[Entry]) -> str:
    gae = [entry for entry in entries if entry["family"] == "gae"]
    grid = sorted((e for e in gae if e["critic"] == gae[0]["critic"]), key=lambda e: e["lam"])
    if len(grid) < 2:
        return ""
    low, high = grid[0], grid[-1]
    best = min(grid, key=lambda entry: entry["mse"])
    return (
        f"From λ={high['lam']:g} to λ={low['lam']:g} with the {low['critic']} critic the variance "
        f"goes from {number(high['variance'])} to {number(low['variance'])} and the bias from "
        f"{_bias(high).plain} to {_bias(low).plain}; for one batch of this size the least mean "
        f"squared error is at λ={best['lam']:g}."
    )


def _ppo(entries: Sequence[Entry]) -> str:
    steps = sorted((e for e in entries if e["steps"] is not None), key=lambda e: e["steps"])
    if len(steps) < 2:
        return ""
    first, last = steps[0], steps[-1]
    if first["cosine"] is None or last["cosine"] is None:
        return ""
    return (
        f"PPO's mean gradient has a cosine of {first['cosine']:.3f} with the truth before its "
        f"first step and of {last['cosine']:.3f} after {last['steps']}."
    )
