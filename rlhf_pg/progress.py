"""What every command prints with: the console, a progress bar, numbers, and the next command.

The progress bar is live on a terminal; elsewhere (a log file) it is a plain line now and then.
"""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.segment import Segment

# Control characters (C0, DEL and C1, so every escape sequence), characters that turn the reading
# direction, line and paragraph separators, halves of surrogate pairs, and invisible tags.
CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def plain(text: str) -> str:
    """Text on one line that cannot move the cursor, write to the clipboard, colour the terminal or
    turn the reading direction: a new line becomes ⏎, a tab a blank, all others a sign each."""
    text = text.replace("\n", "⏎").replace("\t", " ")
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class PlainConsole(Console):
    """A console that prints text from models, data and files as it is: neither markup, emoji codes
    nor control characters in it have any effect. New lines stay; `plain` removes these too."""

    def on_broken_pipe(self) -> None:
        """Let the error through, where rich would exit with code 1."""
        raise BrokenPipeError

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of a renderable; only those that rich itself makes hold control codes."""
        for segment in super().render(renderable, options):
            if segment.control or not CONTROL.search(segment.text):
                yield segment
            else:
                lines = "\n".join(plain(line) for line in segment.text.split("\n"))
                yield Segment(lines, segment.style)


console = PlainConsole(soft_wrap=True)


def number(x: float | None, digits: int = 3) -> str:
    """`digits` significant digits for a table: "−0.12", "12,345", "–" for None.

    An exponent is used only below 0.001, and a number that rounds to zero has no sign.
    """
    if x is None:
        return "–"
    if abs(float(f"{x:.{digits}g}")) >= 10**digits:
        text = f"{x:,.0f}"
    elif abs(x) >= 1e-3 or x == 0:
        text = f"{x:.{digits}g}"
    else:
        text = f"{x:.{max(0, digits - 2)}e}"
    return text.replace("-", "−") if float(text.replace(",", "")) else "0"


def command(*words: object) -> str:
    """`rlhf-pg WORDS` spelt so that it works when pasted into the shell this process came from.

    A console script that is not on the PATH (an environment that is not activated) is named by
    its path, relative to the current folder where it is inside.
    """
    program = Path(sys.argv[0])
    name = "rlhf-pg"
    if program.name == name and shutil.which(name) is None:
        name = os.path.relpath(program)
        name = str(program) if name.startswith("..") else name
    return " ".join([shlex.quote(name), *(shlex.quote(str(word)) for word in words)])


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
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn() if total < 100_000 else TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}", style="cyan", markup=False),
                console=console,
            )
            self.task = self.bar.add_task(plain(title), total=total, numbers="")

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
        shown = (f"{plain(name).replace('_', ' ')} {value:.3g}" for name, value in numbers.items())
        text = "  ".join(shown)
        if self.bar:
            self.bar.update(self.task, completed=done, numbers=text)
            return
        now = time.monotonic()
        if self.shown and (done >= self.total or now - self.last >= self.every):
            self.last = now
            line = f"{plain(self.title)}  {done}/{self.total}  {text}"
            console.print(line.rstrip(), markup=False)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.shown:
            (self.bar.console if self.bar else console).print(text, markup=False)
