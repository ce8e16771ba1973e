"""Several training processes on one machine (`rlhf-pg train --processes N`).

Each is an ordinary run of `train` with the environment variables that accelerate, torchrun and
`accelerate launch` use, so those launchers work as well. One process's failure ends them all.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch
from torch import multiprocessing

from rlhf_pg.checkpoint import Stopped
from rlhf_pg.memory import out_of_memory

START_METHOD = "spawn"  # CUDA does not survive a fork
GRACE = 10.0  # seconds that the other processes get to end after one has failed


def launched() -> bool:
    """Whether this process was started by a launcher, as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(processes: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Run `function(*arguments)` in so many new processes, and wait for all of them.

    If one fails, the others are ended. Raises ChildProcessError, naming the first that failed and
    its error (RuntimeError with its traceback for an error that is not the user's). SIGINT and
    SIGTERM are left to the processes, which finish their iteration; then it raises `Stopped`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reports = multiprocessing.get_context(START_METHOD).SimpleQueue()
    started = multiprocessing.start_processes(
        _process,
        (processes, port, reports, function, arguments),
        nprocs=processes,
        join=False,
        start_method=START_METHOD,
    )
    assert started is not None
    workers: list[BaseProcess] = started.processes

    def forward(number: int, frame: FrameType | None) -> None:
        for worker in workers:
            if number == signal.SIGTERM and worker.pid and worker.is_alive():
                os.kill(worker.pid, number)  # SIGINT reaches them from the terminal

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        codes = _exit_codes(workers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _raise_first(codes, reports)


def _exit_codes(workers: Sequence[BaseProcess]) -> list[int]:
    """The exit code of every process; 0 of those that had to be ended because another failed."""
    deadline, ended = None, set()
    while running := [worker for worker in workers if worker.is_alive()]:
        failed = any(worker.exitcode for worker in workers)
        if deadline is None and failed:
            deadline = time.monotonic() + GRACE
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            for worker in running:
                ended.add(worker)
                worker.kill()  # SIGTERM would let it finish its iteration, for which it waits
                worker.join()
        else:
            wait([worker.sentinel for worker in running], left)
    return [0 if worker in ended else worker.exitcode or 0 for worker in workers]


def _raise_first(codes: Sequence[int], reports: Any) -> None:
    """Raise the error of the process that failed first, if any did."""
    said = []  # (time, rank, kind, text); a failure makes others lose their connection, later
    while not reports.empty():
        said.append(reports.get())
    silent = {rank for rank, code in enumerate(codes) if code} - {rank for _, rank, *_ in said}
    for rank in sorted(silent):  # those that were killed could not report
        code = codes[rank]
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        hint = " (by the system, if memory ran out)" if code == -signal.SIGKILL else ""
        raise ChildProcessError(f"process {rank} was {how}{hint}")
    for _, rank, kind, text in sorted(said):
        if kind == "error":
            raise ChildProcessError(f"process {rank}: {text}")
        if kind == "bug":
            raise RuntimeError(f"process {rank} failed:\n{text}")
        raise Stopped(text) if kind == "stopped" else KeyboardInterrupt


def _process(
    rank: int,
    processes: int,
    port: int,
    reports: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """One process; reports how it ended if it was not at the function's end."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))

    def report(kind: str, text: str) -> None:
        reports.put((time.monotonic(), rank, kind, text))

    try:
        function(*arguments)
    except Stopped as reason:  # after a checkpoint, in all processes alike
        if rank == 0:
            report("stopped", str(reason))
    except KeyboardInterrupt:
        report("interrupted", "")
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        report("error", str(error) or type(error).__name__)
        sys.exit(2)
    except Exception as error:
        message = out_of_memory(error, "train")
        report("error" if message else "bug", message or traceback.format_exc())
        sys.exit(2 if message else 1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
