"""Checkpoints of a run: when to write one, which to keep, and what happens on a signal.

runs/NAME/checkpoints/000040/   the state after iteration 40 (reward_models/state.py)
  policy/                       the policy as a plain folder (language runs)

A checkpoint falls between two iterations. Work since the last one is repeated after a crash, and
because all random generators are part of the state, the result is the same bit for bit (on the same
machine, with the same number of threads).
"""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from reward_models.state import load_state, save_state
from rlhf_pg.progress import command, console
from rlhf_pg.runs import check_is_there

KEPT = 2  # checkpoints of a run that stay on disk
SHARE = 0.05  # of the run's time, at most, spent on checkpoints when their interval is automatic
LEAST_SECONDS = 10.0  # between two automatic checkpoints
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A run was interrupted after a checkpoint; the text is the command that resumes it."""


class Checkpoints:
    """Writes checkpoints between the iterations of a run; use it as a context manager.

    `every` is the interval in iterations; None writes as often as costs under `SHARE` of the time,
    0 only before stopping. Within the block SIGINT and SIGTERM let the iteration finish; a second
    signal interrupts at once. `until` is an iteration to stop after, as if interrupted. `run` is
    None in processes that write nothing, and `any_process` says whether a flag is set in any
    process, so that all of them decide alike.
    """

    def __init__(
        self,
        run: Path | None,
        every: int | None = None,
        until: int | None = None,
        any_process: Callable[[bool], bool] = bool,
    ) -> None:
        self.run, self.every, self.until, self.any_process = run, every, until, any_process
        self.interrupted = False
        self.last = time.monotonic()
        self.cost = 0.0  # seconds that the last checkpoint took
        self.handlers: dict[int, Any] = {}

    def after(
        self,
        iteration: int,
        last: int,
        state: Callable[[], dict[str, Any]],
        save_policy: Callable[[Path], None] | None = None,
    ) -> None:
        """Write a checkpoint if one is due; raise `Stopped` after one if a signal came.

        Call it at the end of every iteration; `last` is the run's last one. `state` returns all
        that the next iterations depend on, `save_policy` writes the policy's folder.
        """
        stop = self.any_process(self.interrupted) or iteration == self.until
        if stop or self.any_process(self._due(iteration)):
            content = state()  # in every process: it may collect from all of them
            if self.run is not None:
                self._save(iteration, content, save_policy)
        if iteration == self.until:
            raise Stopped
        if stop and iteration < last:
            text = f"stopped; continue with: {command('resume', self.run)}" if self.run else ""
            raise Stopped(text)

    def _due(self, iteration: int) -> bool:
        if self.run is None:
            return False
        if self.every is not None:
            return self.every > 0 and iteration % self.every == 0
        return time.monotonic() - self.last >= max(LEAST_SECONDS, self.cost / SHARE)

    def _save(
        self, iteration: int, state: dict[str, Any], save_policy: Callable[[Path], None] | None
    ) -> None:
        assert self.run is not None
        check_is_there(self.run)
        began = time.monotonic()
        write = None if save_policy is None else (lambda folder: save_policy(folder / "policy"))
        folder = self.run / "checkpoints" / f"{iteration:06d}"
        save_state(folder, state | {"versions": versions()}, write)
        # Only now, with a newer one complete, are older ones removed.
        for old in checkpoint_folders(self.run)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        self.last = time.monotonic()
        self.cost = self.last - began

    def __enter__(self) -> "Checkpoints":
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.run is None or not isinstance(error, Exception):
            return
        if folders := checkpoint_folders(self.run):
            text = f"the checkpoint of iteration {int(folders[0].name)} is kept; continue with: "
            console.print(text + command("resume", self.run), markup=False)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if self.run is not None:
            console.print("\nfinishing this iteration, then stopping (again: stop at once)")


def checkpoint_folders(run: Path) -> list[Path]:
    """Folders of a run's checkpoints, the newest first; they may be damaged."""
    found = (run / "checkpoints").glob("[0-9]*")
    return sorted((p for p in found if p.is_dir()), key=lambda p: int(p.name), reverse=True)


def newest(run: Path, quiet: bool = False) -> dict[str, Any]:
    """The state of the newest checkpoint of a run that is not damaged.

    Damaged ones are named in the terminal unless `quiet`. Raises ValueError if none can be used.
    """
    if not run.is_dir():
        raise ValueError(f"no run at {run}")
    problems = []
    for folder in checkpoint_folders(run):
        try:
            return load_state(folder)
        except ValueError as error:
            problems.append(str(error))
            if not quiet:
                console.print(f"warning: {error}; trying the one before", markup=False)
    if problems:
        raise ValueError(f"no checkpoint of {run} can be used: {problems[0]}")
    finished = any((run / name).is_dir() for name in ("policy", "reward_model"))
    why = ": it is finished" if finished else ""
    raise ValueError(f"{run} has no checkpoints to resume from{why}")


def versions() -> dict[str, Any]:
    """What the last digits of a run depend on beside its state."""
    names = ("rlhf-pg", "torch", "transformers", "numpy")
    return {name: version(name) for name in names} | {"threads": torch.get_num_threads()}


def warn_of_other_versions(before: dict[str, Any]) -> None:
    """Print a warning if versions or the number of threads differ from those of a checkpoint."""
    now = versions()
    changed = [f"{name} {x} → {now.get(name)}" for name, x in before.items() if x != now.get(name)]
    if changed:
        console.print(
            f"warning: {', '.join(changed)} since the checkpoint: results may differ in the last "
            "digits from an uninterrupted run",
            markup=False,
        )
