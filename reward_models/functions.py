"""A user's own reward function, from a file or an installed module."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reward_models import RewardError
from reward_models.calling import Reward, suggest
from reward_models.rules import RULES


def load_function(spec: str) -> Reward:
    """Return what `file.py:function` or `package.module:function` names.

    Raises RewardError for a missing file or function, or code that cannot be imported.
    """
    source, _, function = spec.rpartition(":")
    module = _import_file(source, spec) if source.endswith(".py") else _import_module(source)
    found = getattr(module, function, None)
    if not callable(found):
        members = vars(module).items()
        own = [name for name, it in members if getattr(it, "__module__", "") == module.__name__]
        raise RewardError(
            f"{source!r} has no function {function!r}.{suggest(function, own)} "
            f"It has: {', '.join(own) or 'none'}"
        )
    reward: Reward = found
    return reward


def _import_file(source: str, spec: str) -> Any:
    path = Path(source).expanduser()
    if not path.is_file():
        raise RewardError(f"no such file: {source!r} (from the reward {spec!r})")
    name = f"reward_file_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up there
    loader = found.loader
    _run(lambda: loader.exec_module(module), source)
    return module


def _import_module(source: str) -> Any:
    sys.path.append(".")  # a console script's path lacks the folder it is started in
    try:
        return _run(lambda: importlib.import_module(source), source)
    finally:
        sys.path.remove(".")


def _run(load: Callable[[], Any], source: str) -> Any:
    """Import a user's code; what it raises becomes one line that names its file."""
    try:
        return load()
    except Exception as error:
        hint = suggest(source, RULES) if isinstance(error, ModuleNotFoundError) else ""
        raise RewardError(f"cannot import {source!r}: {located(error, source)}.{hint}") from error


def located(error: Exception, source: str) -> str:
    """The kind and message of an error, with the line of the user's file it came from."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(source)]
    where = f" at line {lines[-1].lineno}" if lines else ""
    return f"{type(error).__name__}{where}: {' '.join(str(error).split())}"
