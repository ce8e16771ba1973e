"""A3C: worker processes update shared parameters without waiting for each other (Mnih et al. 2016).

Each worker copies the parameters, collects a segment, and applies its gradient with an Adam whose
moments are shared too, without a lock. A worker runs the `Trainer` of every other algorithm; only
its optimiser differs. No worker outlives the parent: the parent stops them however it ends, and a
worker whose parent is gone stops by itself.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import multiprocessing as processes

from rlhf_pg.control.collect import make_environments
from rlhf_pg.control.config import ControlConfig
from rlhf_pg.control.policy import ActorCritic, make_policy
from rlhf_pg.core.learner import LearnerConfig, adam
from rlhf_pg.progress import console

RUN, PAUSE, STOP = 0, 1, 2  # the workers' state that the parent wants, in shared memory


# (config, rank, optimiser of a policy) -> `train.Trainer`, which this module must not import.
MakeTrainer = Callable[[ControlConfig, int, Callable[[ActorCritic], Any]], Any]


class SharedState:
    """Parameters and Adam's moments in shared memory, sent to every worker."""

    def __init__(self, policy: ActorCritic) -> None:
        self.parameters = [p.detach().clone().share_memory_() for p in policy.parameters()]
        self.moments: list[dict[str, Tensor]] = [
            {
                "step": torch.zeros(()).share_memory_(),
                "exp_avg": torch.zeros_like(p).share_memory_(),
                "exp_avg_sq": torch.zeros_like(p).share_memory_(),
            }
            for p in self.parameters
        ]
        # A plain number instead of a lock, which a killed worker could hold for ever.
        self.wanted = torch.tensor(PAUSE).share_memory_()

    @torch.no_grad()
    def copy_to(self, policy: ActorCritic) -> None:
        """Copy the shared parameters into a policy."""
        for parameter, shared in zip(policy.parameters(), self.parameters, strict=True):
            parameter.copy_(shared)


class SharedAdam:
    """An optimiser that steps the shared parameters by the gradients of one worker's policy."""

    def __init__(self, policy: ActorCritic, shared: SharedState, config: LearnerConfig) -> None:
        self.policy, self.shared = policy, shared
        self.parameters = [nn.Parameter(p) for p in shared.parameters]
        self.inner = adam(self.parameters, config)
        for parameter, moments in zip(self.parameters, shared.moments, strict=True):
            self.inner.state[parameter] = moments
        self.param_groups = self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the worker's policy."""
        self.policy.zero_grad(set_to_none)

    def step(self) -> None:
        """Step the shared parameters, and copy them into the worker's policy."""
        for shared, own in zip(self.parameters, self.policy.parameters(), strict=True):
            shared.grad = own.grad
        self.inner.step()
        self.shared.copy_to(self.policy)


def work(
    rank: int,
    config: ControlConfig,
    make_trainer: MakeTrainer,
    shared: SharedState,
    out: Connection,
    parent: int,
) -> None:
    """A worker process. It sends "ready", then metrics, or a traceback if it fails."""
    torch.set_num_threads(1)
    try:
        trainer = make_trainer(config, rank, lambda p: SharedAdam(p, shared, config.learner))
        out.send("ready")
        while (wanted := int(shared.wanted)) != STOP and os.getppid() == parent:
            if wanted == PAUSE:
                time.sleep(0.001)
                continue
            shared.copy_to(trainer.policy)
            before = trainer.steps
            metrics = trainer.step()
            out.send({**metrics, "new_steps": trainer.steps - before})
        trainer.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except (ValueError, FloatingPointError) as error:  # its text is enough
        out.send(str(error))
        raise SystemExit(1) from None
    except Exception:
        out.send(traceback.format_exc())
        raise SystemExit(1) from None


class AsynchronousTrainer:
    """The parent of a3c's workers, with the interface of `train.Trainer`; it makes no update."""

    LISTEN = 0.1  # seconds of the workers' metrics in one step

    def __init__(self, config: ControlConfig, make_trainer: MakeTrainer) -> None:
        config.check()
        environments = make_environments(config.env, 1, config.env_options)
        self.policy = make_policy(config, environments)  # a copy, for evaluation
        environments.close()
        self.shared = SharedState(self.policy)
        self.steps, self.seconds = 0, 0.0
        self.workers: list[Any] = []
        self.pipes: list[Connection] = []
        try:
            for rank in range(config.workers):
                self._start(rank, config, make_trainer)
            for pipe in self.pipes:
                self._receive(pipe)
        except BaseException:
            self.close()
            raise

    def _start(self, rank: int, config: ControlConfig, make_trainer: MakeTrainer) -> None:
        context = processes.get_context("spawn")
        pipe, workers_end = context.Pipe(duplex=False)
        job = (rank, config, make_trainer, self.shared, workers_end, os.getpid())
        worker = context.Process(target=work, args=job, daemon=True)
        # The worker inherits that interrupts are ignored: the parent decides when it stops.
        with _interrupts_ignored():
            worker.start()
        # Only the worker may hold its end, so that the pipe ends when the worker dies.
        workers_end.close()
        self.workers.append(worker)
        self.pipes.append(pipe)

    def step(self) -> dict[str, float]:
        """Let the workers train for a moment. Returns the means of their metrics.

        Raises ChildProcessError, with the worker's traceback, if a worker died.
        """
        began = time.perf_counter()
        self.shared.wanted.fill_(RUN)
        lines: list[dict[str, float]] = []
        while not lines or time.perf_counter() - began < self.LISTEN:
            ready: list[Any] = wait(self.pipes, timeout=self.LISTEN)
            lines += [self._receive(pipe) for pipe in ready]
        self.seconds += time.perf_counter() - began
        self.steps += sum(int(line.pop("new_steps")) for line in lines)
        names = {name for line in lines for name in line}
        means = {
            name: float(np.mean([line[name] for line in lines if name in line])) for name in names
        }
        return {**means, "steps": self.steps, "gradient_steps": float(len(lines))}

    def pause(self) -> None:
        """Make the workers wait until the next step, and copy the shared parameters to `policy`."""
        self.shared.wanted.fill_(PAUSE)
        self.shared.copy_to(self.policy)

    def state_dict(self) -> dict[str, Any]:
        """Shared parameters and moments. The workers' environments are not part of it: a3c is not
        repeatable, and resumes without repeating bit for bit."""
        self.pause()
        return {
            "parameters": list(self.shared.parameters),
            "moments": self.shared.moments,
            "steps": self.steps,
            "seconds": self.seconds,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the workers begin new episodes."""
        for shared, value in zip(self.shared.parameters, state["parameters"], strict=True):
            shared.copy_(value)
        for moments, values in zip(self.shared.moments, state["moments"], strict=True):
            for name, value in values.items():
                moments[name].copy_(value)
        self.steps, self.seconds = state["steps"], state["seconds"]
        console.print("a3c is not repeatable: the resumed run differs from an uninterrupted one")

    def _receive(self, pipe: Connection) -> Any:
        rank = self.pipes.index(pipe)
        worker = self.workers[rank]
        try:
            message = pipe.recv()
        except EOFError:
            worker.join(1)
            message = f"it ended with exit code {worker.exitcode}"
        if isinstance(message, str) and message != "ready":
            raise ChildProcessError(
                f"a3c worker {rank} (process {worker.pid}) died: {message.strip()}"
            )
        return message

    def close(self) -> None:
        """Stop every worker, by force after two seconds. Returns when none is left."""
        self.shared.wanted.fill_(STOP)
        for pipe in self.pipes:
            pipe.close()  # frees a worker that waits for its metrics to be read
        for worker in self.workers:
            worker.join(2)
            if worker.is_alive():
                worker.kill()
                worker.join()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    # Signal handlers can only be set in the main thread.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
