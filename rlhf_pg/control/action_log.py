"""What was done to environments, in a file, from which a resumed run repeats it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

CHUNK = 4096  # records in memory while reading


class ActionLog:
    """The actions and restarts of N environments since their first reset.

    They reproduce the state of environments, which cannot be stored. On disk, they take no memory
    however long the run. A record is a flag, 1 for a restart of all environments, and their N
    actions, as sampled; `kind` is the type of one action.
    """

    def __init__(self, path: Path, kind: np.dtype, environments: int) -> None:
        self.path = path
        self.record = np.zeros(1, [("restart", "?"), ("actions", kind, (environments,))])
        self.file = open(path, "ab")  # noqa: SIM115 (until `close`)

    def step(self, actions: np.ndarray) -> None:
        """Append a step."""
        self.record["restart"], self.record["actions"] = False, actions
        self.file.write(self.record.tobytes())

    def restart(self) -> None:
        """Append a restart of all environments, without a seed."""
        self.record["restart"], self.record["actions"] = True, 0
        self.file.write(self.record.tobytes())

    def flush(self) -> int:
        """Write what is buffered; returns the bytes in the file."""
        self.file.flush()
        return self.file.tell()

    def read(self, length: int) -> Iterator[np.ndarray | None]:
        """The actions of every step in order, and None for a restart.

        Raises ValueError unless the file has `length` bytes.
        """
        if self.path.stat().st_size != length:
            raise ValueError(
                f"{self.path} is missing or cut short, and without it the environments cannot be "
                "brought to where they were: the run cannot be resumed"
            )
        with open(self.path, "rb") as file:
            while len(part := np.fromfile(file, self.record.dtype, CHUNK)):
                for restart, actions in part:
                    yield None if restart else actions

    def close(self) -> None:
        """Close the file."""
        self.file.close()
