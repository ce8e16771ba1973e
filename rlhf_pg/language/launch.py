"""Several training processes on one machine (`rlhf-pg train --processes N`).

Each is an ordinary run of `train` with the environment variables that accelerate, torchrun and
`accelerate launch` use, so those launchers work as well. One process's failure ends them all.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import multiprocessing

from rlhf_pg.checkpoint import Stopped
from rlhf_pg.memory import out_of_memory
from rlhf_pg.progress import plain


def launched() -> bool:
    """Whether this process was started by a launcher, as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(processes: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Run `function(*arguments)` in so many new processes, and wait for all of them.

    Raises SystemExit with the code of the first process that fails; the others are ended. SIGINT
    and SIGTERM are left to the processes, which finish their iteration; then it raises `Stopped`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stopped = multiprocessing.get_context("spawn").SimpleQueue()
    context = multiprocessing.spawn(
        _process, (processes, port, stopped, function, arguments), nprocs=processes, join=False
    )
    assert context is not None

    def forward(number: int, frame: FrameType | None) -> None:
        for process in context.processes:
            if number == signal.SIGTERM and process.pid and process.is_alive():
                os.kill(process.pid, number)  # SIGINT reaches them from the terminal

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not context.join():
            pass
    except multiprocessing.ProcessExitedException as error:
        raise SystemExit(error.exit_code) from None  # the process has printed why
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not stopped.empty():
        raise Stopped(stopped.get())


def _process(
    rank: int,
    processes: int,
    port: int,
    stopped: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """One process; prints a failure in one line and exits with 2, or 130 after an interrupt."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        function(*arguments)
    except Stopped as reason:  # after a checkpoint, in all processes alike
        if rank == 0:
            stopped.put(str(reason))
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"rlhf-pg: process {rank}: {plain(line)}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        message = out_of_memory(error, "train")
        if message is None:
            raise
        print(f"rlhf-pg: process {rank}: {plain(message)}", file=sys.stderr)
        sys.exit(2)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
