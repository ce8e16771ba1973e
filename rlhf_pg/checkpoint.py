"""Checkpoints: everything that changes during a run, written whole, checked, and read back.

runs/NAME/checkpoints/
  000040/           state after iteration 40
    state.json        numbers, lists and text; tensors are named by "tensor:N"
    tensors.safetensors
    policy/           the policy as a plain Hugging Face folder (language runs)
    checksums.json    SHA-256 of every file above

A checkpoint falls between two iterations. Interrupted work since the last one is repeated, and
because all random generators are part of the state, the result is the same bit for bit (on the same
machine, with the same number of threads).
"""

import hashlib
import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reward_models.files import saved_whole
from rlhf_pg.progress import command, console

KEPT = 2  # checkpoints of a run that stay on disk
SHARE = 0.05  # of the run's time, at most, spent on checkpoints when their interval is automatic
LEAST_SECONDS = 10.0  # between two automatic checkpoints
CHECKSUMS = "checksums.json"

Writer = Callable[[Path], None]  # writes further files into a checkpoint's folder


class Checkpoints:
    """The checkpoints of one run: when to write one, and which to keep.

    `every` is the interval in iterations; None writes as often as costs under `SHARE` of the time,
    and 0 never.
    """

    def __init__(self, run: Path, every: int | None = None) -> None:
        self.folder, self.every = run / "checkpoints", every
        self.last = time.monotonic()
        self.cost = 0.0  # seconds that the last one took

    def due(self, iteration: int) -> bool:
        """Whether to write one after this iteration."""
        if self.every is not None:
            return self.every > 0 and iteration % self.every == 0
        elapsed = time.monotonic() - self.last
        return elapsed >= max(LEAST_SECONDS, self.cost / SHARE)

    def save(self, iteration: int, state: dict[str, Any], write: Writer | None = None) -> None:
        """Write a checkpoint; older ones than the last `KEPT` are removed after it is complete."""
        began = time.monotonic()
        save_state(self.folder / f"{iteration:06d}", state, write)
        for old in checkpoint_folders(self.folder.parent)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        self.last = time.monotonic()
        self.cost = self.last - began


def checkpoint_folders(run: Path) -> list[Path]:
    """Folders of a run's checkpoints, the newest first; they may be damaged."""
    found = (run / "checkpoints").glob("[0-9]*")
    return sorted((p for p in found if p.is_dir()), key=lambda p: int(p.name), reverse=True)


def newest(run: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run that is not damaged, and its state.

    Damaged ones are named in the terminal. Raises ValueError if none can be used.
    """
    problems = []
    for folder in checkpoint_folders(run):
        try:
            return folder, load_state(folder)
        except ValueError as error:
            problems.append(str(error))
            console.print(f"warning: {error}; trying the one before", markup=False)
    if problems:
        raise ValueError(f"no checkpoint of {run} can be used: {problems[0]}")
    raise ValueError(f"{run} has no checkpoints to resume from")


def save_state(folder: Path, state: dict[str, Any], write: Writer | None = None) -> None:
    """Write a nested state of dicts, lists, numbers, text and tensors as a folder.

    It is written to a temporary name, synced and then renamed, so that a crash leaves either no
    folder or a whole one. `write` adds files of its own.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(state, tensors))
    with saved_whole(folder) as filling:
        (filling / "state.json").write_text(text, encoding="utf-8")
        save_file(tensors, filling / "tensors.safetensors")
        if write:
            write(filling)
        sums = {str(p.relative_to(filling)): _sha256(p) for p in sorted(filling.rglob("*")) if
                p.is_file()}  # fmt: skip
        (filling / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def load_state(folder: Path) -> dict[str, Any]:
    """The state that `save_state` wrote; raises ValueError, naming the file, if it is damaged."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        names = {"state.json", "tensors.safetensors"}
        if not isinstance(sums, dict) or not names <= set(sums):
            raise ValueError(f"{CHECKSUMS} does not name its files")
        for name, expected in sums.items():
            if _sha256(folder / name) != expected:
                raise ValueError(f"{name} is not what was written")
        tensors = load_file(folder / "tensors.safetensors")
        text = (folder / "state.json").read_text(encoding="utf-8")
        state: dict[str, Any] = _decode(json.loads(text), tensors)
        return state
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"the checkpoint {folder} is damaged ({error})") from error


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON of a nested value; tensors go to `tensors`, and leave their names.

    A dict with keys that are not text becomes {"pairs": [[key, value], ...]}, other dicts
    {"dict": {...}}, so that what is read back has the same types.
    """
    if isinstance(value, Tensor):
        name = f"tensor:{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return name
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {"dict": {key: _encode(x, tensors) for key, x in value.items()}}
        return {"pairs": [[key, _encode(x, tensors)] for key, x in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(x, tensors) for x in value]}
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, str):
        return tensors[value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: _decode(x, tensors) for key, x in content.items()}
    if kind == "pairs":
        return {key: _decode(x, tensors) for key, x in content}
    if kind == "list":
        return [_decode(x, tensors) for x in content]
    if kind == "tuple":
        return tuple(_decode(x, tensors) for x in content)
    if kind == "text":
        return content
    raise ValueError(f"unknown kind {kind!r} in state.json")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*values: Any) -> str:
    """A short hash of texts, numbers, lists of them, and tensors: to notice that data changed."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(json.dumps(value, default=str, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators, which a user's reward may
    use."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    random.setstate(state["python"])
    numpy_state = dict(state["numpy"])
    key = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    numpy_state["state"] = {**numpy_state["state"], "key": key}
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


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


class Stopped(KeyboardInterrupt):
    """A run was interrupted and has written a checkpoint; the text is the command that resumes.

    `run` is None in processes that write nothing.
    """

    def __init__(self, run: Path | None) -> None:
        super().__init__(f"stopped; continue with: {command('resume', run)}" if run else "")


class Interrupts:
    """Within the block, SIGINT and SIGTERM set `requested`, so that the iteration is finished
    first; a second signal interrupts at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        console.print("\nfinishing this iteration, then stopping (press again to stop at once)")
