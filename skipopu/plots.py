"""Plots of a report as files: the same bytes for the same data."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from skipopu.report import Plot

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

GREY = "#555555"
PAGE: dict[RcKeyType, object] = {  # of a plot that is part of a page
    "svg.hashsalt": "skipopu",
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
}


@contextmanager
def _drawn(plot: Plot, style: dict[RcKeyType, object]) -> Iterator[Figure]:
    with matplotlib.rc_context(style):
        figure = Figure(figsize=plot.size, layout="constrained" if plot.constrained else None)
        plot.draw(figure)
        yield figure


def png(plot: Plot, directory: Path) -> Path:
    """Writes NAME.png."""
    path = directory / f"{plot.name}.png"
    directory.mkdir(parents=True, exist_ok=True)
    with _drawn(plot, {}) as figure:
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def svg(plot: Plot) -> str:
    """The element, without a header, so that it can stand in a page, whose business its size is."""
    text = io.StringIO()
    with _drawn(plot, PAGE) as figure:
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    body = text.getvalue()[text.getvalue().index("<svg") :]
    return re.sub(r'<svg ([^>]*?)width="[\d.]+pt" height="[\d.]+pt"', r"<svg \1", body.replace("\n   ", " "), count=1)
