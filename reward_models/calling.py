"""Calling reward functions as TRL's GRPO and RLOO call theirs, and checking what they return.

A reward gets, by keyword, those of these arguments that its signature accepts (all if it has
`**kwargs`), one value per row where they are lists:

    prompts, completions    texts; lists of messages where the data's prompts are
    completion_ids          the tokens of each completion, its EOS included
    finished                whether it ended by EOS (ours; TRL has no such argument)
    ...                     the data's other columns, by name
    trainer_state           the run's progress: global_step and max_steps
    log_metric(name, x)     logs a number, log_extra(column, values) a value per row

It returns one score per row: a number, None if the reward does not apply to the row, or a list of
numbers, one for each of the row's completion_ids, whose sum is the score (a process reward). An
`async def` is awaited, together with the other asynchronous parts of a composed reward.
"""

import asyncio
import difflib
import inspect
import math
import numbers
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reward_models import RewardError
from reward_models.guard import copied, guarded

Score = float | list[float] | None  # of a row; a list holds one number per token
Reward = Callable[..., Any]
Answer = tuple[list[Score], dict[str, list[Score]]]  # scores, and those of each part by name

MESSAGES = "prompt_messages"  # column with the prompts as lists of messages, beside their texts
ARGUMENTS = (  # besides the data's columns
    "prompts", "completions", "completion_ids", "finished", "trainer_state", "log_metric",
    "log_extra",
)  # fmt: skip


class NonFiniteScoreError(RewardError, FloatingPointError):
    """A reward returned NaN or an infinity."""


@dataclass(frozen=True)
class TrainerState:
    """The progress of training, with the names of transformers.TrainerState."""

    global_step: int = 0  # iterations done; 0 outside of training
    max_steps: int = 0  # iterations of the whole run


@dataclass
class Log:
    """What rewards log while they score the rows of one batch."""

    rows: int
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)  # one value per row

    def log_metric(self, name: str, value: float) -> None:
        """Log a number; those of one name are averaged. Raises RewardError if it is none."""
        if not isinstance(value := _scalar(value), numbers.Real):
            raise RewardError(f"log_metric({name!r}, ...) got {value!r}; give a number")
        self.metrics.setdefault(str(name), []).append(float(value))

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Log a value of every row. Raises RewardError for another number of values."""
        if len(values) != self.rows:
            raise RewardError(
                f"log_extra({column!r}, ...) got {len(values)} values for {self.rows} completions"
            )
        self.extra[str(column)] = [_scalar(value) for value in values]


def call_reward(
    reward: Reward, name: str, /, prompts: Sequence[str], completions: Sequence[str], **columns: Any
) -> list[Score]:
    """Call a reward with the columns its signature accepts, and check its scores.

    Returns one score per completion. The reward gets copies of the lists, and torch's settings are
    restored after it (see `guarded`). Raises RewardError if the reward needs a column that is not
    there, raises anything but KeyboardInterrupt (function, file:line and message are named), or
    returns anything but one finite number, list of them, or None per row.
    """
    return call_rewards({name: reward}, prompts, completions, **columns)[name][0]


def call_with_parts(
    reward: Reward, name: str, /, prompts: Sequence[str], completions: Sequence[str], **columns: Any
) -> Answer:
    """Call a reward as `call_reward` does, and also return the parts of a composed one by name.

    A composed reward has a method `with_parts` (see `reward_models.combine`); any other has no
    parts.
    """
    return call_rewards({name: reward}, prompts, completions, **columns)[name]


def call_rewards(
    rewards: Mapping[str, Reward],
    /,
    prompts: Sequence[str],
    completions: Sequence[str],
    **columns: Any,
) -> dict[str, Answer]:
    """Call several rewards, in this order, as `call_with_parts` does; async ones run together."""
    log = Log(len(completions))
    defaults = {
        "trainer_state": TrainerState(),
        "log_metric": log.log_metric,
        "log_extra": log.log_extra,
    }
    columns = defaults | columns
    offered = {"prompts": prompts, "completions": completions, **columns}
    answers: dict[str, Any] = {}
    try:
        for name, reward in rewards.items():
            if hasattr(reward, "with_parts"):
                answers[name] = reward.with_parts(**offered)
            else:
                arguments = _accepted(reward, name, _as_trl(offered, reward))
                with _user_code(reward, name), guarded(name):
                    answers[name] = reward(**copied(arguments))
        waiting = {name: x for name, x in answers.items() if inspect.isawaitable(x)}
        with guarded(", ".join(waiting)):
            answers |= _awaited(waiting)
    finally:
        for answer in answers.values():
            if inspect.iscoroutine(answer):
                answer.close()
    ids: Any = columns.get("completion_ids")
    checked: dict[str, Answer] = {}
    for name, answer in answers.items():
        if isinstance(answer, BaseException):
            with _user_code(rewards[name], name):
                raise answer
        scores, parts = answer if hasattr(rewards[name], "with_parts") else (answer, {})
        checked[name] = (check_scores(scores, len(completions), name, completions, ids), parts)
    return checked


def _as_trl(offered: dict[str, Any], reward: Reward) -> dict[str, Any]:
    """The arguments with lists of messages for texts, if the prompts are; ours read the texts."""
    arguments = {key: value for key, value in offered.items() if key != MESSAGES}
    if MESSAGES not in offered or _ours(reward):
        return arguments
    answers = [[{"role": "assistant", "content": text}] for text in offered["completions"]]
    return arguments | {"prompts": offered[MESSAGES], "completions": answers}


@contextmanager
def _user_code(reward: Reward, name: str) -> Iterator[None]:
    """What the block raises becomes a RewardError of one line."""
    try:
        yield
    except (RewardError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also SystemExit and RewardTimeout
        if _ours(reward):
            raise  # a bug of this package, not of the user: keep the whole traceback
        raise RewardError(f"reward {name!r} failed: {_where(reward, error)}") from error


def _ours(reward: Reward) -> bool:
    return str(getattr(reward, "__module__", "")).startswith("reward_models.")


def _awaited(waiting: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
    """The results by name, or the exceptions, of awaitables that run at the same time."""
    if not waiting:
        return {}

    async def outcome(answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except (Exception, SystemExit) as error:
            return error

    async def together() -> list[Any]:
        return await asyncio.gather(*map(outcome, waiting.values()))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        results = asyncio.run(together())
    else:  # in a notebook: the loop that runs here cannot be waited for in its own thread
        with ThreadPoolExecutor(1) as thread:
            results = thread.submit(lambda: asyncio.run(together())).result()
    return dict(zip(waiting, results, strict=True))


def reward_name(reward: Reward) -> str:
    """Return the name of a reward function, or of the class of a reward object."""
    return getattr(reward, "__name__", None) or type(reward).__name__


def check_scores(
    scores: Any,
    n: int,
    name: str,
    completions: Sequence[str] | None = None,
    completion_ids: Sequence[Sequence[int]] | None = None,
) -> list[Score]:
    """Return n scores as floats, lists of them, or None; tensors and arrays are accepted too.

    Raises RewardError, naming the reward, the row and the beginning of its completion, for a wrong
    count, a score that is not a number, or a list of another length than the row's
    `completion_ids`; NonFiniteScoreError, which is also a FloatingPointError, for NaN and
    infinities.
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
    checked: list[Score] = []
    for row, score in enumerate(scores):
        start = f" ({completions[row][:40]!r})" if completions is not None else ""
        where = f"row {row}{start}"
        if hasattr(score, "tolist"):
            score = score.tolist()  # a numpy or torch scalar, or a row of them
        if isinstance(score, list | tuple) and completion_ids is not None:
            if len(score) != len(completion_ids[row]):
                raise RewardError(
                    f"reward {name!r} gave {len(score)} numbers to {where}, which has "
                    f"{len(completion_ids[row])} completion_ids; give one for each of them, or "
                    "one number for the row"
                )
            checked.append([_number(_scalar(x), name, where) for x in score])
        else:
            checked.append(None if score is None else _number(score, name, where))
    return checked


def total(score: Score) -> float | None:
    """The score of a row as one number: the sum of a list."""
    return math.fsum(score) if isinstance(score, list) else score


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name nearest to a misspelt one, or ""."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _scalar(x: Any) -> Any:
    """A numpy or torch scalar as a Python number; anything else as it is."""
    return x.item() if hasattr(x, "item") and getattr(x, "ndim", 0) == 0 else x


def _number(score: Any, name: str, where: str) -> float:
    if isinstance(score, numbers.Real) and math.isfinite(score):
        return float(score)
    kind = NonFiniteScoreError if isinstance(score, numbers.Real) else RewardError
    raise kind(
        f"reward {name!r} gave {score!r} to {where}; a score is a finite number, or None where the "
        "reward does not apply"
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
