"""What processes started by a test run; a module of its own, so that they import little."""

import os
import signal
import time

from torch import distributed

from rlhf_pg.checkpoint import Stopped


def together(end):
    """Join the other process; the second calls `end` while the first waits for it."""
    distributed.init_process_group("gloo")
    if distributed.get_rank() == 1:
        end()
    distributed.barrier()


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def left():
    os._exit(3)


def refused():
    raise ValueError("no such thing")


def broken():
    return [][1]


def apart(end):
    """The second process calls `end`; the first would take a minute and does not notice."""
    if os.environ["RANK"] == "1":
        end()
    time.sleep(60)


def stopped():
    """Both stop after a checkpoint, as after a signal."""
    raise Stopped(f"continue with: resume {os.environ['WORLD_SIZE']}")


def interrupted():
    raise KeyboardInterrupt
