"""A run's metrics in tensorboard or trackio, through accelerate's trackers (`--track`).

tensorboard  RUN/tensorboard/; see it with `tensorboard --logdir runs`
trackio      the project "rlhf-pg" in trackio's own folder; see it with `trackio show`
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator, tracking

from rlhf_pg.core.options import flat
from rlhf_pg.language.config import TrainConfig
from rlhf_pg.runs import Run

PROJECTS = {"tensorboard": "tensorboard", "trackio": "rlhf-pg"}  # tensorboard's is a folder


def check_installed(track: str | None) -> None:
    """Raise ValueError, with the remedy, if the package of a tracker is missing."""
    if track and track not in map(str, tracking.get_available_trackers()):
        raise ValueError(
            f"--track {track} needs the package {track}: pip install {track} (extra: track)"
        )


@contextmanager
def tracked(
    accelerator: Accelerator, run: Run | None, config: TrainConfig, done: int
) -> Iterator[None]:
    """Open the tracker that the accelerator was made with, and close it after the block.

    A run that is resumed after `done` iterations continues its tracker's curves. Without a tracker,
    and in processes without a run, nothing is opened.
    """
    if run is None or not accelerator.log_with:
        yield
        return
    # tensorboard drops what it has of the iterations that are repeated after a crash.
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": done + 1} if done else {},
        "trackio": {"name": run.path.name, "resume": "allow"},
    }
    accelerator.project_configuration.logging_dir = str(run.path)
    values = None if done else loggable(config)
    accelerator.init_trackers(PROJECTS[str(config.track)], values, options)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # end_training() would also part the processes
            tracker.finish()


def loggable(config: TrainConfig) -> dict[str, Any]:
    """All options by full name ("learner.lr"), lists and None as text."""
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in flat(asdict(config)).items()
    }
