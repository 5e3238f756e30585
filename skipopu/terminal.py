"""Where commands write: tables and results to standard output, progress and remarks to standard error.

User text reaches both as it is: nothing in square brackets is markup, nothing between colons an emoji.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, TaskID
from rich.table import Table as Drawn
from rich.text import Text

from skipopu.report import Table

NUMBER = re.compile(r"$|-$|[-+]?\d")  # what a column of numbers may hold: nothing, a dash, what starts like one
T = TypeVar("T")
PAUSE, RARER = 15, 16  # seconds of work until a log is told of it, then twice as many, up to so many times as many


def _console(stream: TextIO, stderr: bool) -> Console:
    # Tables stay readable in logs, where there is no terminal to ask for its width.
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 118)


out, console = _console(sys.stdout, False), _console(sys.stderr, True)


class Pulse:
    """In a log, lines of what long work is at, rarer and rarer."""

    def __init__(self, text: Callable[[], str]) -> None:
        self.text = text
        self.over: threading.Event | None = None

    def tell(self, over: threading.Event) -> None:
        begin, pause = time.monotonic(), PAUSE
        while not over.wait(pause):
            pause = min(2 * pause, RARER * PAUSE)
            try:  # not by the console, which answers a pipe that is gone for the whole process
                print(f"{self.text()}, {time.monotonic() - begin:.0f} s", file=console.file, flush=True)
            except (OSError, ValueError):
                return

    def start(self) -> None:
        if self.over is None and not console.is_terminal:
            self.over = threading.Event()
            self.thread = threading.Thread(target=self.tell, args=(self.over,), daemon=True)
            self.thread.start()

    def stop(self) -> None:
        if self.over is not None:
            self.over.set()
            self.thread.join()
            self.over = None


@contextmanager
def doing(what: str) -> Iterator[Callable[[str], None]]:
    """Shows what is done, and what of it as the function is told: beside a spinner in a terminal, elsewhere as :class:`Pulse` does."""
    now = what
    pulse = Pulse(lambda: now)
    with console.status(escape(what)) as status:

        def say(text: str) -> None:
            nonlocal now
            now = text
            status.update(escape(text))

        pulse.start()
        try:
            yield say
        finally:
            pulse.stop()


class Following(Progress):
    """How far long work is: bars in a terminal, elsewhere as :class:`Pulse` does, of the task that began last and goes on.

    Descriptions are plain text.
    """

    def __init__(self, *columns: str | ProgressColumn) -> None:
        """``columns`` of the bars; rich's own if there are none."""
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.pulse = Pulse(self.far)

    def far(self) -> str:
        task = next((task for task in reversed(self.tasks) if not task.finished), None)
        if task is None:
            return "going on"
        what = Text.from_markup(task.description, emoji=False).plain or "going on"
        return f"{what}: {task.completed:,.0f} of {task.total:,.0f}" if task.total else what

    def add_task(self, description: str, *args: Any, **given: Any) -> TaskID:
        return super().add_task(escape(description), *args, **given)

    def update(self, task_id: TaskID, *, description: str | None = None, **given: Any) -> None:
        super().update(task_id, description=None if description is None else escape(description), **given)

    def follow(self, description: str, items: Iterable[T]) -> Generator[T]:
        """``items``, counted as they go by; rich's own way to do so counts nothing where no bar is drawn."""
        known = list(items)
        task = self.add_task(description, total=len(known))
        try:
            for item in known:
                yield item
                self.advance(task)
        finally:
            self.update(task, completed=len(known), total=len(known), visible=False)

    def start(self) -> None:
        super().start()
        self.pulse.start()

    def stop(self) -> None:
        self.pulse.stop()
        super().stop()


def show(table: Table) -> None:
    """A table on standard output; columns of numbers are aligned at their right."""
    kept = [k for k, name in enumerate(table.columns) if name not in table.aside]
    texts = [[row[k] for k in kept] for row in table.texts]
    drawn = Drawn(title=table.title or None, caption=table.note or None, caption_justify="left")
    for place, k in enumerate(kept):
        numbers = place > 0 and all(NUMBER.match(row[place]) for row in texts)
        drawn.add_column(table.columns[k], justify="right" if numbers else "left", overflow="fold")
    for k, row in enumerate(texts):
        drawn.add_row(*row, style="bold" if k in table.marked else "")
    out.print(drawn)
