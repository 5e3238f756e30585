"""Study ``masks``: what leaving out input channels is worth, at full size and on shipped models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sim.studies.masks import full_size, shipped
from skipopu.report import Report
from skipopu.shipped import HELD_OUT, MASKED


def report(model: Path, say: Callable[[str], None]) -> Report:
    """The shipped model's beside that of the one that was trained with masks; of another one its own."""
    models = (model, MASKED) if model.resolve() == HELD_OUT.parent else (model,)
    return Report([*full_size.tables(say), *(shipped.table(one, say) for one in models)])
