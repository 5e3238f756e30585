"""docs/formal.md names what is proven, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from tests.formal.__main__ import BLOCK, heading, row
from tests.formal.units import UNITS

PAGE = Path(__file__).parents[2] / "docs" / "formal.md"


def test_page_names_every_claim() -> None:
    match = BLOCK.search(PAGE.read_text())
    assert match, "the page lost its tables"
    # Nor are seconds compared, nor cycles in which examples were found.
    without_seconds = re.sub(r"\| [\d.]+ \|$", "|", match[1], flags=re.MULTILINE)
    without_cycles = re.sub(r"\| example \| \d+ ", "| example | some ", without_seconds)
    named = "".join(heading(unit) + "".join(f"{row(claim)}|\n" for claim in unit.build().claims) for unit in UNITS)
    assert without_cycles == f"{named}\n", "run `python -m tests.formal`"
