"""A3C: worker processes on shared parameters, none of them waiting for another (Mnih et al. 2016).

Each worker copies the parameters, collects a segment, and hands its gradient to an Adam whose
moments are shared too, without a lock. It learns by the same `Learner` as everybody; only the
optimiser is another. No worker outlives its parent: the parent stops them on any way out, and one
whose parent is gone stops by itself.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import multiprocessing as processes

from rlhf_pg.control.environments import make_environments
from rlhf_pg.control.policies import ActorCritic
from rlhf_pg.control.presets import ControlConfig
from rlhf_pg.control.synchronous import Synchronous, make_policy
from rlhf_pg.core.learner import LearnerConfig, adam

RUN, PAUSE, STOP = 0, 1, 2  # what the parent wants of the workers, a number in shared memory


class SharedState:
    """Parameters and Adam's statistics in shared memory; what is sent to every worker."""

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
        # A plain number rather than a lock: a worker killed at any moment can block nobody.
        self.wanted = torch.tensor(PAUSE).share_memory_()

    @torch.no_grad()
    def copy_to(self, policy: ActorCritic) -> None:
        """Bring a policy up to date."""
        for mine, ours in zip(policy.parameters(), self.parameters, strict=True):
            mine.copy_(ours)


class SharedAdam:
    """An optimiser that steps the shared parameters by the gradients of a policy of its own."""

    def __init__(self, policy: ActorCritic, shared: SharedState, config: LearnerConfig) -> None:
        self.policy, self.shared = policy, shared
        self.ours = [nn.Parameter(p) for p in shared.parameters]
        self.inner = adam(self.ours, config)
        for parameter, moments in zip(self.ours, shared.moments, strict=True):
            self.inner.state[parameter] = moments
        self.param_groups = self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the policy's own gradients."""
        self.policy.zero_grad(set_to_none)

    def step(self) -> None:
        """Step everybody's parameters, and take them over."""
        for mine, ours in zip(self.policy.parameters(), self.ours, strict=True):
            ours.grad = mine.grad
        self.inner.step()
        self.shared.copy_to(self.policy)


def work(
    rank: int, config: ControlConfig, shared: SharedState, out: Connection, parent: int
) -> None:
    """A worker's whole life. What it sends is a line to log, or, last of all, why it died."""
    torch.set_num_threads(1)
    try:
        training = Synchronous(config, rank, lambda p: SharedAdam(p, shared, config.learner))
        out.send("ready")
        while (wanted := int(shared.wanted)) != STOP and os.getppid() == parent:
            if wanted == PAUSE:
                time.sleep(0.001)
                continue
            shared.copy_to(training.policy)
            before = training.steps
            line = training.iterate()
            out.send({**line, "new_steps": training.steps - before})
        training.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except Exception:
        out.send(traceback.format_exc())
        raise SystemExit(1) from None


class Asynchronous:
    """The parent of a3c's workers; it learns nothing itself."""

    LISTEN = 0.1  # seconds of the workers' lines in one iteration

    def __init__(self, config: ControlConfig) -> None:
        config.check()
        _check_shareable(config)
        environments = make_environments(config.env, 1, config.env_options)
        self.policy = make_policy(config, environments)  # a copy, for evaluation
        environments.close()
        self.shared = SharedState(self.policy)
        self.steps, self.seconds = 0, 0.0
        context = processes.get_context("spawn")
        self.workers: list[Any] = []
        self.pipes: list[Connection] = []
        try:
            for rank in range(config.workers):
                ours, theirs = context.Pipe(duplex=False)
                job = (rank, config, self.shared, theirs, os.getpid())
                worker = context.Process(target=work, args=job, daemon=True)
                with _interrupts_ignored():  # which the worker inherits: the parent decides
                    worker.start()
                theirs.close()  # so that a dead worker's pipe ends
                self.workers.append(worker)
                self.pipes.append(ours)
            for pipe in self.pipes:
                self._receive(pipe)
        except BaseException:
            self.close()
            raise

    def iterate(self) -> dict[str, float]:
        """Let the workers learn for a moment. Returns the means of what they report.

        Raises ChildProcessError where a worker has died, with its last words.
        """
        began = time.perf_counter()
        self.shared.wanted.fill_(RUN)
        lines: list[dict[str, float]] = []
        while not lines or time.perf_counter() - began < self.LISTEN:
            ready: list[Any] = wait(self.pipes, timeout=self.LISTEN)
            lines += [self._receive(pipe) for pipe in ready]
        self.seconds += time.perf_counter() - began
        return self._summary(lines)

    def _summary(self, lines: list[dict[str, float]]) -> dict[str, float]:
        self.steps += sum(int(line.pop("new_steps")) for line in lines)
        names = {name for line in lines for name in line}
        means = {
            name: float(np.mean([line[name] for line in lines if name in line])) for name in names
        }
        return {**means, "steps": self.steps, "gradient_steps": float(len(lines))}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Workers hold still, and `policy` is what they have come to."""
        self.shared.wanted.fill_(PAUSE)
        self.shared.copy_to(self.policy)
        yield

    def _receive(self, pipe: Connection) -> Any:
        worker = self.workers[self.pipes.index(pipe)]
        try:
            message = pipe.recv()
        except EOFError:
            worker.join(1)
            message = f"it ended with exit code {worker.exitcode}"
        if isinstance(message, str) and message != "ready":
            name = f"a3c worker {self.pipes.index(pipe)} (process {worker.pid})"
            raise ChildProcessError(f"{name} died: {message.strip()}")
        return message

    def close(self) -> None:
        """Stop every worker: by asking, then by force. Returns when none is left."""
        self.shared.wanted.fill_(STOP)
        for pipe in self.pipes:
            pipe.close()  # frees one that waits for its line to be read
        for worker in self.workers:
            worker.join(2)
            if worker.is_alive():
                worker.kill()
                worker.join()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_shareable(config: ControlConfig) -> None:
    for name, asked in (
        ("policy.normalise", config.policy.normalise),
        ("normalise_rewards", config.normalise_rewards),
        ("target_entropy", config.target_entropy is not None),
    ):
        if asked:
            raise ValueError(
                f"a3c shares parameters but no running state: unset {name}, or use a2c"
            )
