"""What processes started by a test run; a module of its own, so that they import little."""

import os
import signal

from torch import distributed


def killed():
    """The second process is killed while the first waits for it."""
    distributed.init_process_group("gloo")
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()
