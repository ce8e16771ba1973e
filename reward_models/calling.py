"""Calling a reward function and checking the scores that it returns."""

import difflib
import inspect
import math
import numbers
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from reward_models import RewardError
from reward_models.guard import copied, guarded

Score = float | None
Reward = Callable[..., Any]


class NonFiniteScoreError(RewardError, FloatingPointError):
    """A reward returned NaN or an infinity."""


def call_reward(
    reward: Reward, name: str, /, prompts: Sequence[str], completions: Sequence[str], **columns: Any
) -> list[Score]:
    """Call a reward with the columns its signature accepts, and check its scores.

    Returns one float or None per completion. The reward gets copies of the lists, and torch's
    settings are restored after it (see `guarded`). Raises RewardError if it needs a column that is
    not there, raises anything but KeyboardInterrupt (function, file:line and message are named), or
    returns anything but one finite number or None per row.
    """
    if inspect.iscoroutinefunction(reward):
        raise RewardError(f"reward {name!r} is asynchronous; write it as a plain `def`")
    offered = {"prompts": prompts, "completions": completions, **columns}
    accepted = _accepted(reward, name, offered)
    try:
        with guarded(name):
            scores = reward(**copied(accepted))
    except (RewardError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also SystemExit and RewardTimeout
        if str(getattr(reward, "__module__", "")).startswith("reward_models."):
            raise  # a bug of this package, not of the user: keep the whole traceback
        raise RewardError(f"reward {name!r} failed: {_where(reward, error)}") from error
    return check_scores(scores, len(completions), name, completions)


def call_with_parts(
    reward: Reward, name: str, /, prompts: Sequence[str], completions: Sequence[str], **columns: Any
) -> tuple[list[Score], dict[str, list[Score]]]:
    """Call a reward as `call_reward` does, and also return the parts of a composed one by name.

    A composed reward has a method `with_parts` (see `reward_models.combine`); any other has no
    parts.
    """
    if not hasattr(reward, "with_parts"):
        return call_reward(reward, name, prompts, completions, **columns), {}
    scores, parts = reward.with_parts(prompts=prompts, completions=completions, **columns)
    return check_scores(scores, len(completions), name, completions), parts


def reward_name(reward: Reward) -> str:
    """Return the name of a reward function, or of the class of a reward object."""
    return getattr(reward, "__name__", None) or type(reward).__name__


def check_scores(
    scores: Any, n: int, name: str, completions: Sequence[str] | None = None
) -> list[Score]:
    """Return n scores as floats (or None); tensors and arrays of shape (n,) are accepted too.

    Raises RewardError, naming the reward, the row and the beginning of its completion, for a wrong
    count or a score that is not a number; NonFiniteScoreError, which is also a FloatingPointError,
    for NaN and infinities.
    """
    if hasattr(scores, "tolist"):
        scores = scores.tolist()
    if not isinstance(scores, Sequence) or isinstance(scores, str):
        raise RewardError(
            f"reward {name!r} returned {type(scores).__name__}; it must return a list of {n} "
            "numbers, one per completion"
        )
    if len(scores) != n:
        raise RewardError(
            f"reward {name!r} returned {len(scores)} scores for {n} completions; it must return "
            "one per completion"
        )
    return [_number(score, row, name, completions) for row, score in enumerate(scores)]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name nearest to a misspelt one, or ""."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _number(score: Any, row: int, name: str, completions: Sequence[str] | None) -> Score:
    if score is None:
        return None
    if hasattr(score, "item") and getattr(score, "ndim", 0) == 0:
        score = score.item()  # a numpy or torch scalar
    if isinstance(score, numbers.Real) and math.isfinite(score):
        return float(score)
    start = f" ({completions[row][:40]!r})" if completions is not None else ""
    kind = NonFiniteScoreError if isinstance(score, numbers.Real) else RewardError
    raise kind(
        f"reward {name!r} gave {score!r} to row {row}{start}; a score is a finite number, or None "
        "where the reward does not apply"
    )


def _accepted(reward: Reward, name: str, offered: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that the reward's signature accepts: all of them if it has **kwargs."""
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return offered
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        accepted = {key: value for key, value in offered.items() if key in named}
    else:
        accepted = offered
    for p in parameters:
        optional = p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if not optional and (p.kind is p.POSITIONAL_ONLY or p.name not in offered):
            raise RewardError(
                f"reward {name!r} needs an argument {p.name!r}; rewards are called by keyword "
                f"with: {', '.join(offered)}.{suggest(p.name, offered)}"
            )
    return accepted


def _where(reward: Reward, error: BaseException) -> str:
    """Return function, file:line and message of an error.

    The line is the deepest one in the reward's own file.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:] or traceback.extract_tb(
        error.__traceback__
    )
    function = inspect.unwrap(reward)
    code = getattr(function, "__code__", None) or getattr(type(reward).__call__, "__code__", None)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    frame = (own or frames)[-1]
    message = " ".join(str(error).split())
    return f"{frame.name} at {frame.filename}:{frame.lineno}: {type(error).__name__}: {message}"
