"""Study ``speculation``: what several tokens at once are worth, at full size by acceptance, and with prompt lookup on the shipped model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sim.studies.speculation import full_size, shipped
from skipopu.report import Report


def report(model: Path, say: Callable[[str], None]) -> Report:
    """Raises SkipopuError where a token or a bit changes."""
    say("the shipped model")
    small = shipped.cases(model, say)
    return Report([full_size.table(model, small, say), full_size.published(), shipped.table(model, small)])
