"""Load a reward from its specification: text as on the command line and in YAML.

    length:target=20                         a rule, its parameters after a colon (commas between;
                                             several words with +: keyword:words=good+great)
    my_rewards.py:politeness                 a function in a file; or package.module:function
    runs/reward                              a folder with a trained reward model, or its run's
    folder#positive, owner/name#positive     a sequence classifier, folder or hub id, by label
    owner/name#positive:score=logprob        ... with score=logit (default), logprob or prob
    0.7*runs/my_run/reward + 0.3*length      a weighted sum; blanks around the plus
    mean(A, B)   worst(A, B)                 an ensemble: the mean, or the worst case
    clip(A, -3, 3)   normalise(A)            one reward, clipped, or normalised by running moments

The wrappers nest: `worst(runs/a, runs/b) + 0.1*clip(repetition, -0.5, 0)`. Where a text has commas,
brackets or " + " of its own (a regex), give a list: each item is one term, not split further.
"""

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal, NamedTuple

from reward_models import RewardError
from reward_models.calling import Reward, check_scores, reward_name, suggest
from reward_models.combine import Clip, Composed, Ensemble, Normalise, WeightedSum
from reward_models.files import reward_model_folder
from reward_models.guard import guarded
from reward_models.rules import RULES, make_rule

__all__ = ["RewardError", "check_scores", "load_reward"]

Spec = str | Reward
WRAPPERS = ("mean", "worst", "clip", "normalise")
# "head:key=value,key=value"; a comma parts two parameters only where a new "key=" begins.
PARAMETERS = re.compile(r"^(?P<head>.*?):(?P<parameters>[a-z_]+=.*)$", re.DOTALL)
MODULE = re.compile(r"[A-Za-z_]\w*(\.\w+)*:\w+")
WEIGHT = re.compile(r"^\s*(?P<weight>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*\*\s*(?P<rest>.+)$")


def load_reward(
    spec: Spec | Sequence[Spec] | Mapping[str, Spec],
    *,
    label: str | None = None,
    device: Any = None,
    batch_size: int | None = None,
) -> WeightedSum:
    """Load a reward from text (see this module's docstring), a list of terms, or a dict by name.

    A callable may replace any text. `label` is for classifiers whose text names none. The result
    is always a WeightedSum, whose `with_parts` returns every part by name: that of the rule, the
    function or the folder, numbered from the second of the same name on. A WeightedSum is returned
    as it is. Raises RewardError.
    """
    if isinstance(spec, WeightedSum):
        return spec
    options = {"label": label, "device": device, "batch_size": batch_size}
    options = {key: value for key, value in options.items() if value is not None}
    members: dict[str, Reward] = {}
    weights: dict[str, float] = {}
    for given, term in _terms(spec):
        weight, rest = _weight(term)
        name, reward = _load(rest, options)
        name = _unused(given or name, members)
        members[name], weights[name] = reward, weight
    return WeightedSum(members, weights)


class Reference(NamedTuple):
    """Something outside this package that a specification names."""

    kind: Literal["code", "path", "hub name"]
    name: str


def reference_to(name: str) -> Reference:
    """Return whether a name of a model or of data is a path here, or else a hub name."""
    is_path = name.startswith(("runs/", ".", "/", "~")) or Path(name).expanduser().exists()
    return Reference("path" if is_path else "hub name", name)


def references(spec: Spec | Sequence[Spec] | Mapping[str, Spec]) -> list[Reference]:
    """Return the code, paths and hub names that `load_reward` would open; nothing is loaded.

    Rules and callables refer to nothing. Raises RewardError for what cannot be parsed.
    """
    return [found for _, term in _terms(spec) for found in _references(_weight(term)[1])]


def absolute(spec: str) -> str:
    """Return a specification whose relative paths, of files with code too, are made absolute.

    Names of what is not here (rules, hub ids, modules) stay as they are.
    """
    for kind, name in references(spec):
        path = name.rpartition(":")[0] if kind == "code" else name
        if kind != "hub name" and Path(path).exists():
            whole = rf"(?<![\w./-]){re.escape(path)}(?![\w./-])"
            place = str(Path(path).absolute()).replace("\\", r"\\")  # no escape sequence
            spec = re.sub(whole, place, spec)
    return spec


def _references(term: Spec) -> list[Reference]:
    if not isinstance(term, str):
        return []
    parsed = _parse(term)
    if parsed.kind == "wrapper":
        return [found for member in _members(parsed)[0] for found in _references(member)]
    if parsed.kind == "rule":
        return []
    if parsed.kind == "code":
        return [Reference("code", parsed.head)]
    name = parsed.head
    if "#" in name and not reward_model_folder(name):
        name = name.rpartition("#")[0]
    return [reference_to(name)]


def code_file(name: str) -> str:
    """Return the file of `file.py:function` or `module:function`, found without importing it.

    A module that is not found is returned as it is spelt.
    """
    source = name.rpartition(":")[0]
    if source.endswith(".py"):
        return str(Path(source).expanduser().absolute())
    top, *inner = source.split(".")
    found = PathFinder.find_spec(top, [*sys.path, str(Path.cwd())])
    files = [Path(found.origin)] if found and found.origin and not inner else []
    for folder in (found and found.submodule_search_locations) or ():
        files += [Path(folder, *inner, "__init__.py"), Path(folder, *inner).with_suffix(".py")]
    return next((str(file.absolute()) for file in files if file.is_file()), source)


def _terms(
    spec: Spec | Sequence[Spec] | Mapping[str, Spec],
) -> list[tuple[str | None, Spec]]:
    """The terms of a sum, each with the name it was given, if any."""
    if isinstance(spec, Mapping):
        return list(spec.items())
    if isinstance(spec, str):
        return [(None, term) for term in _split(spec, r"\s\+\s")]
    if callable(spec):
        return [(None, spec)]
    if not isinstance(spec, Sequence):
        raise RewardError(f"a reward must be text or a callable, not {type(spec).__name__}")
    return [(None, term) for term in spec]


def _weight(term: Spec) -> tuple[float, Spec]:
    match = WEIGHT.match(term) if isinstance(term, str) else None
    return (float(match["weight"]), match["rest"]) if match else (1.0, term)


def _load(term: Spec, options: dict[str, Any]) -> tuple[str, Reward]:
    """Return the name and the reward of one term without a weight."""
    if not isinstance(term, str):
        if not callable(term):
            raise RewardError(f"a reward must be text or a callable, not {type(term).__name__}")
        return reward_name(term), term
    parsed = _parse(term)
    if parsed.kind == "wrapper":
        return parsed.head, _wrap(parsed, options)
    if parsed.kind == "rule":
        return parsed.head, make_rule(parsed.head, parsed.parameters)
    if parsed.kind == "code":
        if parsed.parameters:
            raise RewardError(f"{term!r}: a user-defined function takes no parameters here")
        return parsed.head.rpartition(":")[2], load_function(parsed.head)
    return _load_model(parsed.head, parsed.parameters, options)


class _Term(NamedTuple):
    """One term without a weight, parsed and not loaded."""

    kind: Literal["wrapper", "rule", "code", "model"]
    head: str
    parameters: dict[str, str] = {}
    inside: str = ""  # of a wrapper's brackets


def _parse(term: str) -> _Term:
    term = term.strip()
    if not term:
        raise RewardError("an empty reward; " + _choices())
    wrapper = re.match(r"^(\w+)\((.*)\)$", term, re.DOTALL)
    if wrapper and wrapper[1] in WRAPPERS:
        return _Term("wrapper", wrapper[1], inside=wrapper[2])
    match = None if Path(term).exists() else PARAMETERS.match(term)
    head, parameters = (match["head"], _parameters(match)) if match else (term, {})
    if head in RULES:
        return _Term("rule", head, parameters)
    if Path(head).is_dir() or ":" not in head:
        return _Term("model", head, parameters)
    if not head.rpartition(":")[0].endswith(".py") and not MODULE.fullmatch(head):
        raise RewardError(f"unknown reward {head!r}.{suggest(head, RULES)} {_choices()}")
    return _Term("code", head, parameters)


def _members(wrapper: _Term) -> tuple[list[str], list[float]]:
    """The rewards inside a wrapper, and the bounds of clip."""
    *terms, last = _split(wrapper.inside, r",\s*(?![a-z_]+=)")
    if wrapper.head != "clip":
        terms = [*terms, last]
    bounds: list[float] = []
    if wrapper.head == "clip":
        try:
            bounds = [float(terms.pop()), float(last)]
        except (ValueError, IndexError):
            raise RewardError(f"clip({wrapper.inside}): write clip(REWARD, LOW, HIGH)") from None
    if wrapper.head in ("clip", "normalise") and len(terms) != 1:
        raise RewardError(f"{wrapper.head}({wrapper.inside}): it takes one reward")
    return terms, bounds


def _wrap(wrapper: _Term, options: dict[str, Any]) -> Composed:
    terms, bounds = _members(wrapper)
    members: dict[str, Reward] = {}
    for term in terms:
        name, reward = _load(term, options)
        members[_unused(name, members)] = reward
    if wrapper.head == "clip":
        return Clip(members, *bounds)
    return Normalise(members) if wrapper.head == "normalise" else Ensemble(members, wrapper.head)


def _load_model(
    head: str, parameters: dict[str, str], options: dict[str, Any]
) -> tuple[str, Reward]:
    """Load a folder with a reward model, or a classifier from a folder or the hub."""
    if "/" not in head.partition("#")[0] and not Path(head.partition("#")[0]).is_dir():
        raise RewardError(f"unknown reward {head!r}.{suggest(head, RULES)} {_choices()}")
    options = {**options, **parameters}
    if "batch_size" in options:
        options["batch_size"] = _whole(options["batch_size"])
    known = ("label", "score", "batch_size", "device")
    for key in options:
        if key not in known:
            raise RewardError(f"{head!r} has no parameter {key!r}; it has: {', '.join(known)}")
    if folder := reward_model_folder(head):
        from reward_models.reward_model import RewardModel

        options = {key: options[key] for key in ("device", "batch_size") if key in options}
        return Path(head).name or head, RewardModel.from_pretrained(folder, **options)
    if head.startswith("runs/") and not Path(head).exists():
        raise RewardError(f"no reward model at {head}; `rlhf-pg reward` makes one")
    if (Path(head) / "config.yaml").is_file() and not (Path(head) / "config.json").is_file():
        raise RewardError(
            f"{head} is a run without a trained reward model: unfinished (`rlhf-pg resume {head}` "
            "continues it), or a run of another command"
        )
    from reward_models.classifier import Classifier

    name = head.rstrip("/").rpartition("/")[2]
    return name, Classifier(str(Path(head).expanduser()), **options)


def load_function(spec: str) -> Reward:
    """Import the function `file.py:function` or `package.module:function`.

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
    sys.modules[name] = module  # dataclasses look up a class's module there
    loader = found.loader
    _run(lambda: loader.exec_module(module), source)
    return module


def _import_module(source: str) -> Any:
    with current_folder_importable():
        return _run(lambda: importlib.import_module(source), source)


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Let imports find modules in the current folder, which a console script's path lacks."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _run(load: Callable[[], Any], source: str) -> Any:
    """Import a user's code; an exception becomes a RewardError of one line that names the file."""
    try:
        with guarded(source):
            return load()
    except (Exception, SystemExit) as error:
        hint = suggest(source, RULES) if isinstance(error, ModuleNotFoundError) else ""
        raise RewardError(
            f"cannot import {source!r}: {_error_line(error, source)}.{hint}"
        ) from error


def _error_line(error: BaseException, source: str) -> str:
    """Return the type and message of an error, with the line of the user's file that raised it."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(source)]
    where = f" at line {lines[-1].lineno}" if lines else ""
    return f"{type(error).__name__}{where}: {' '.join(str(error).split())}"


def _whole(text: Any) -> int:
    try:
        return max(1, int(text))
    except ValueError:
        raise RewardError(f"batch_size is {text!r}; it must be a whole number") from None


def _parameters(match: re.Match[str]) -> dict[str, str]:
    items = re.split(r",\s*(?=[a-z_]+=)", match["parameters"])
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def _unused(name: str, members: Mapping[str, Any]) -> str:
    names = (name if n == 1 else f"{name}-{n}" for n in range(1, len(members) + 2))
    return next(candidate for candidate in names if candidate not in members)


def _split(text: str, separator: str) -> list[str]:
    """Split text at a separator (a regular expression) wherever no bracket is open."""
    pieces, start, depth, i = [], 0, 0, 0
    while i < len(text):
        depth += (text[i] == "(") - (text[i] == ")")
        match = re.compile(separator).match(text, i) if depth == 0 else None
        if match:
            pieces.append(text[start:i])
            start = i = match.end()
        else:
            i += 1
    if depth:
        raise RewardError(f"brackets do not match in the reward {text!r}; or give it in a list")
    return [*pieces, text[start:]]


def _choices() -> str:
    return (
        f"A reward is a rule ({', '.join(RULES)}), file.py:function, a folder with a trained "
        "reward model, or a classifier folder or hub id owner/name#label"
    )
