"""The table of faults as a page."""

from __future__ import annotations

from collections.abc import Iterator

from skipopu.report import Table
from tests.mutations.faults import FAULTS, Fault

PAGE = "docs/mutations.md"
HEAD = f"""# Faults that tests notice

Each row is a fault of one line in the hardware, and a test that fails in an assertion when the line is changed so, and passes
when it is not. `python -m tests.mutations -o {PAGE}` tries all of them, each in a copy of the tree, and writes this page;
`--only TEXT` tries those that have a text in them, `--sample N --seed S` some. What was tried is kept in the cache until hardware or
test change.
"""


def markdown() -> str:
    """docs/mutations.md: a table per folder of ``hw/``."""
    rooms = dict.fromkeys(_room(fault) for fault in FAULTS)
    return f"{HEAD}\n{len(FAULTS)} faults.\n" + "".join(_section(room) for room in rooms)


def _room(fault: Fault) -> str:
    return fault.file.rpartition("/")[0]


def _section(room: str) -> str:
    rows = [list(_cells(fault)) for fault in FAULTS if _room(fault) == room]
    return f"\n## {room}\n\n{Table('', ['file', 'line', 'changed to', 'what breaks', 'noticed by'], rows).markdown}\n"


def _cells(fault: Fault) -> Iterator[str]:
    yield f"`{fault.file.rpartition('/')[2]}`"
    for line in (fault.before, fault.after):
        yield f"`{line.replace('|', chr(92) + '|')}`"
    yield fault.breaks
    yield f"`{fault.test.removeprefix('tests/hw/')}`".replace("|", chr(92) + "|")
