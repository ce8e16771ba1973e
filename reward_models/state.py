"""The state of a training run as a folder: written whole, checksummed, and read back exactly.

state.json            numbers, lists and text; tensors are named by "tensor:N"
tensors.safetensors   the tensors
checksums.json        SHA-256 of every other file of the folder
"""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reward_models.files import saved_whole

CHECKSUMS = "checksums.json"

Writer = Callable[[Path], None]  # writes further files into a checkpoint's folder


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
