"""Limits what a user's reward function can do to the training process that calls it.

A reward may raise, hang, exit, fork, change torch's settings or edit its arguments. None of this
may end a run without a message, change its numbers or start a second trainer.
"""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from reward_models import RewardError

GRACE = 10.0  # seconds after a time limit for code that has not returned to Python


class RewardTimeout(BaseException):
    """Raised inside a reward at its time limit; not an Exception, which rewards often catch."""


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """Run a reward: restore torch's global settings and the current folder after it.

    Restored are the default dtype and device, the grad mode, deterministic algorithms and the
    number of threads. A process that the reward forked and that returns from it is ended: it would
    go on as a second trainer.
    """
    process, settings = os.getpid(), _settings()
    before = [read() for read, _ in settings]
    try:
        yield
    finally:
        if os.getpid() != process:
            with suppress(OSError, ValueError):
                text = f"reward {name!r} forked a process that returned from it; it was ended\n"
                os.write(2, text.encode("utf-8", "replace"))
            os._exit(1)
        for (read, write), value in zip(settings, before, strict=True):
            if read() != value:
                write(value)


@contextmanager
def time_limit(seconds: float | None, option: str = "the time limit") -> Iterator[None]:
    """Raise RewardError if the block, which scores a rollout, runs for more than `seconds`.

    A Python function cannot be killed, so SIGALRM raises RewardTimeout in it, in the main thread
    of Linux and macOS. This interrupts Python code, sleeping, waiting, and regular expressions.
    Code that does not return to Python within `GRACE` seconds more, or that cannot be interrupted
    (other threads, Windows), is ended together with the process: faulthandler prints where every
    thread was, and exits with code 1. `option` is named in the error.
    """
    if seconds is None:
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    alarm = main and hasattr(signal, "setitimer")
    text = f"scoring a rollout took more than {option} {seconds:g} s"

    def interrupt(number: int, frame: Any) -> None:
        raise RewardTimeout(text)

    if sys.__stderr__ is not None:
        limit = seconds + (GRACE if alarm else 0)
        faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__)
    if alarm:
        handler = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, where the first was caught
    try:
        yield
    except RewardTimeout as error:  # it came between two rewards
        raise RewardError(str(error)) from error
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
        faulthandler.cancel_dump_traceback_later()


def copied(value: Any) -> Any:
    """A copy of nested lists and dicts, so that a reward cannot edit the caller's; all other
    values are shared."""
    if isinstance(value, list):
        flat = {list, dict}.isdisjoint(map(type, value))
        return value.copy() if flat else [copied(x) for x in value]
    if isinstance(value, dict):
        return {key: copied(x) for key, x in value.items()}
    return value


def _settings() -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """How to read and to set each setting that is restored: torch's if it has been imported."""
    settings: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [(_folder, os.chdir)]
    if (torch := sys.modules.get("torch")) is None:
        return settings
    default = torch.get_default_device()  # setting it, even to the default, slows torch down

    def set_deterministic(value: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(value[0], warn_only=value[1])

    return [
        *settings,
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (
            torch.get_default_device,
            lambda _: torch.set_default_device(None if default.type == "cpu" else default),
        ),
        (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            set_deterministic,
        ),
        (torch.get_num_threads, torch.set_num_threads),
    ]


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return os.sep
