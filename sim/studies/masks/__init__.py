"""Study ``masks``: what leaving out input channels is worth, at full size and on the shipped model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sim.studies.masks import full_size, shipped
from skipopu.report import Report


def report(model: Path, say: Callable[[str], None]) -> Report:
    return Report([*full_size.tables(say), shipped.table(model, say)])
