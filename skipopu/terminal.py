"""Where commands write: tables and results to standard output, progress and remarks to standard error.

User text reaches both as it is: nothing in square brackets is markup, nothing between colons an emoji.
"""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console


def _console(stream: TextIO, stderr: bool) -> Console:
    # Tables stay readable in logs, where there is no terminal to ask for its width.
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 118)


out, console = _console(sys.stdout, False), _console(sys.stderr, True)
