"""Where commands write: tables and results to standard output, progress and remarks to standard error.

User text reaches both as it is: nothing in square brackets is markup, nothing between colons an emoji.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

from rich.console import Console
from rich.table import Table as Drawn

from skipopu.report import Table

NUMBER = re.compile(r"$|-$|[-+]?\d")  # what a column of numbers may hold: nothing, a dash, what starts like one


def _console(stream: TextIO, stderr: bool) -> Console:
    # Tables stay readable in logs, where there is no terminal to ask for its width.
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 118)


out, console = _console(sys.stdout, False), _console(sys.stderr, True)


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
