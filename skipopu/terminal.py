"""Where commands write: tables and results to standard output, progress and remarks to standard error.

User text reaches both as it is: nothing in square brackets is markup, nothing between colons an emoji.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table as Drawn

from skipopu.report import Table

NUMBER = re.compile(r"$|-$|[-+]?\d")  # what a column of numbers may hold: nothing, a dash, what starts like one
PAUSE = 15  # seconds between a task's lines in a log


def _console(stream: TextIO, stderr: bool) -> Console:
    # Tables stay readable in logs, where there is no terminal to ask for its width.
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 118)


out, console = _console(sys.stdout, False), _console(sys.stderr, True)


class Following(Progress):
    """How far long work is: bars in a terminal, elsewhere a line about the task that went on, :data:`PAUSE` seconds apart at least."""

    def __init__(self) -> None:
        super().__init__(console=console, transient=True, disable=not console.is_terminal)
        self.begin = self.told = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self.tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self.tell(task_id)

    def tell(self, task_id: TaskID) -> None:
        now, task = time.monotonic(), next(task for task in self.tasks if task.id == task_id)
        if console.is_terminal or now - self.told < PAUSE:
            return
        self.told = now
        far = f"{task.completed:g}" + (f" of {task.total:g}" if task.total else "")
        console.print(f"{task.description or 'done'}: {far}, {now - self.begin:.0f} s")


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
