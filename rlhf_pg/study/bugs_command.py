"""`rlhf-pg study bugs`: a walk through the museum, or a visit to one room."""

import difflib
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run, saved_text
from rlhf_pg.study.bugs.display import show_museum, show_room
from rlhf_pg.study.bugs.exhibit import Exhibit, Findings, right_lines, wrong_lines
from rlhf_pg.study.bugs.museum import EXHIBITS


@dataclass
class BugsConfig:
    """What the classic silent bugs do to the gradient and to learning, measured."""

    bug: str = "all"
    """The name of one (see the table of all), or all."""
    cartpole: bool = True
    """Also train PPO on CartPole with each bug that can occur there, 3 seeds: would a learning test
    have noticed? About half of the time that all take."""
    output: str | None = None
    """Run folder; none takes runs/bugs, or the next free number."""


def main(config: BugsConfig) -> Run:
    """Measure, print and save; returns the run. Raises ValueError for an unknown name."""
    exhibits = list(EXHIBITS.values()) if config.bug == "all" else [_named(config.bug)]
    torch.set_num_threads(1)  # far too small to share
    run = Run.create(config.output, "bugs", config)
    began, found = time.perf_counter(), {}
    with Progress(len(exhibits), "rooms", shown=len(exhibits) > 1) as progress:
        for exhibit in exhibits:
            findings = exhibit.measure()
            if config.cartpole and exhibit.cartpole is not None:
                findings.cartpole = exhibit.cartpole()
            found[exhibit.name] = (exhibit, findings)
            progress.update(len(found))
    if config.bug == "all":
        show_museum(found)
        console.print(
            f"`rlhf-pg study bugs NAME` shows the code and every number; "
            f"{time.perf_counter() - began:.0f} s"
        )
    else:
        show_room(*found[config.bug])
    told = {name: told_of(*pair) for name, pair in found.items()}
    saved_text(run.path / "bugs.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    console.print(f"saved in {run.path}: bugs.json", markup=False)
    return run


def _named(name: str) -> Exhibit:
    if name not in EXHIBITS:
        near = difflib.get_close_matches(name, EXHIBITS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no bug {name!r}{hint}: choose among {', '.join(EXHIBITS)}, or all")
    return EXHIBITS[name]


def told_of(exhibit: Exhibit, findings: Findings) -> dict[str, Any]:
    """What bugs.json holds of a room."""
    measured = asdict(findings)
    if findings.cartpole is not None:
        measured["cartpole"]["notices"] = findings.cartpole.notices
    return {
        "what": exhibit.what,
        "origin": exhibit.origin,
        "effect": exhibit.effect,
        "lesson": exhibit.lesson,
        "right": right_lines(exhibit),
        "right_in": f"{exhibit.right[0].__module__}.{exhibit.right[0].__qualname__}",
        "wrong": wrong_lines(exhibit),
        **measured,
    }
