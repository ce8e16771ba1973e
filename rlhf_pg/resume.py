"""`rlhf-pg resume` continues an interrupted run; `rlhf-pg verify` repeats part of one."""

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rlhf_pg.core.options import Options
from rlhf_pg.progress import console
from rlhf_pg.runs import options_of, read_jsonl
from rlhf_pg.trust import check

# command of a run -> module with `resume(run, until=None)`, which continues it
MODULES = {
    "train": "rlhf_pg.language.train",
    "finetune": "rlhf_pg.language.finetune",
    "reward": "rlhf_pg.commands",
    "control": "rlhf_pg.control.train",
}
TIMES = ("seconds", "tokens_per_second", "training_seconds")  # metrics that may differ


@dataclass
class ResumeConfig(Options):
    """Continue an interrupted run from its newest checkpoint."""

    run: str = "runs/ppo"
    """Folder of the run."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


@dataclass
class VerifyConfig(Options):
    """Repeat a run's last interval between checkpoints and compare it bit for bit."""

    run: str = "runs/ppo"
    """Folder of a run with two checkpoints, or one and a finished policy."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


def resume(config: ResumeConfig) -> Any:
    """Continue a run. Raises ValueError if it has no usable checkpoint, or is of unknown origin
    and names something to load."""
    from rlhf_pg.checkpoint import newest  # imports torch, which help does not need

    run = Path(config.run)
    _check_origin(run, config.trust)
    return _resumer(newest(run, quiet=True))(run)


def _check_origin(run: Path, trust: bool) -> None:
    options = options_of(run)
    for option, kept in (("model", "initial"), ("reference", "reference")):
        if (run / kept).is_dir():
            options[option] = str(run / kept)
    check(run, options, trust)


def _resumer(state: dict[str, Any]) -> Callable[..., Any]:
    return import_module(MODULES[state["command"]]).resume  # type: ignore[no-any-return]


def verify(config: VerifyConfig) -> bool:
    """Repeat the iterations after the older checkpoint in a copy of the run; exit 1 if they differ.

    Compares the lines of metrics.jsonl, times left out, and every number of the state. Raises
    ValueError if there are not two checkpoints.
    """
    from reward_models.state import load_state
    from rlhf_pg.checkpoint import Stopped, checkpoint_folders

    run = Path(config.run)
    _check_origin(run, config.trust)
    folders = checkpoint_folders(run)
    if len(folders) < 2:
        raise ValueError(f"verify needs two checkpoints; {run} has {len(folders)}")
    after, before = folders[:2]
    expected = load_state(after)
    with tempfile.TemporaryDirectory(prefix="rlhf-pg-verify-") as temporary:
        copy = Path(temporary) / run.name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("policy", "best", after.name))
        shutil.copytree(before, copy / "checkpoints" / before.name, dirs_exist_ok=True)
        state = load_state(before)
        last = int(expected["iteration"])
        console.print(f"repeating iterations {state['iteration'] + 1} to {last} of {run}")
        with suppress(Stopped):
            _resumer(state)(copy, until=last)
        repeated = load_state(copy / "checkpoints" / after.name)
        differences = _differences(expected, repeated)
        lines = [_without_times(read_jsonl(folder / "metrics.jsonl")) for folder in (run, copy)]
    first, second = ([line for line in part if line["iteration"] <= last] for part in lines)
    if first != second:
        differences.append("metrics.jsonl")
    if differences:
        console.print(f"NOT reproduced: {', '.join(differences[:5])} differ", markup=False)
        raise SystemExit(1)
    console.print(
        f"reproduced bit for bit: weights, optimiser, random generators and metrics of iterations "
        f"{state['iteration'] + 1} to {last}",
        markup=False,
    )
    return True


def _without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: x for key, x in row.items() if key not in TIMES} for row in rows]


def _differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Names of the entries in which two states differ, the time spent left out."""
    if name in (".run", ".versions") or name.endswith(".seconds"):
        return []
    if hasattr(a, "equal"):  # a tensor
        return [] if a.equal(b) else [name]
    if isinstance(a, dict) and a.keys() == b.keys():
        return [d for key in a for d in _differences(a[key], b[key], f"{name}.{key}")]
    if isinstance(a, list | tuple) and len(a) == len(b):
        return [
            d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in _differences(x, y, name)
        ]
    return [] if json.dumps(a) == json.dumps(b) else [name]
