"""Long work, seen: a live bar on a terminal, a plain line now and then elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

console = Console(highlight=False, soft_wrap=True)


class Progress:
    """`with Progress(total, title) as progress: progress.update(done, score=1.2, kl=0.3)`."""

    def __init__(
        self, total: int, title: str, every_seconds: float = 10.0, shown: bool = True
    ) -> None:
        self.total, self.title, self.every, self.shown = total, title, every_seconds, shown
        self.bar: RichProgress | None = None
        self.last = time.monotonic()
        if shown and console.is_terminal:
            self.bar = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn() if total < 100_000 else TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("[cyan]{task.fields[numbers]}"),
                console=console,
            )
            self.task = self.bar.add_task(title, total=total, numbers="")

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: int, **numbers: float) -> None:
        """So many of `total` are done; `numbers` are shown beside the bar."""
        text = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in numbers.items())
        if self.bar:
            self.bar.update(self.task, completed=done, numbers=text)
            return
        now = time.monotonic()
        if self.shown and (done >= self.total or now - self.last >= self.every):
            self.last = now
            console.print(f"{self.title}  {done}/{self.total}  {text}".rstrip(), markup=False)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.shown:
            (self.bar.console if self.bar else console).print(text, markup=False)
