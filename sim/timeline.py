"""Units over time: a trace for Perfetto (https://ui.perfetto.dev) and a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipopu.errors import ProgramError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.picture import Picture

TRACKS = ("weights", "array", "attention", "vector")
COLOURS = {"weights": "#9aa5b1", "array": "#2f6f9f", "attention": "#c8553d", "vector": "#588157"}


@dataclass(frozen=True)
class Span:
    """An instruction on its unit, or a weight stream on its way: cycles ``start`` to ``end``."""

    track: str
    name: str
    start: int
    end: int
    layer: int
    position: int


def write_perfetto(path: Path, spans: Sequence[Span], clock_mhz: float) -> None:
    """Chrome trace events; times are microseconds at ``clock_mhz``."""
    events: list[dict[str, object]] = [
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": TRACKS.index(track), "args": {"name": track}} for track in TRACKS
    ]
    for span in spans:
        events.append(
            {
                "ph": "X",
                "name": span.name,
                "pid": 0,
                "tid": TRACKS.index(span.track),
                "ts": span.start / clock_mhz,
                "dur": (span.end - span.start) / clock_mhz,
                "args": {"cycle": span.start, "cycles": span.end - span.start, "layer": span.layer, "position": span.position},
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"displayTimeUnit": "ns", "traceEvents": events}) + "\n")


def figure(panels: Sequence[tuple[str, Sequence[Span]]]) -> Picture:
    """:func:`draw` in a picture of its own.

    Raises:
        ProgramError: a panel has no spans.
    """
    from sim.picture import Picture

    for title, spans in panels:
        if not spans:
            raise ProgramError(f"timeline {title!r} has no spans; `spans` of the timing engine's options receives them")
    drawn = Picture(figsize=(11, 1.9 * len(panels)))
    draw(drawn, panels)
    return drawn


def draw(figure: Figure, panels: Sequence[tuple[str, Sequence[Span]]]) -> None:
    """One panel per (title, spans), a row per unit, all on one scale of cycles from each panel's first span."""
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for (title, spans), axis in zip(panels, axes[:, 0], strict=True):
        zero = min(span.start for span in spans)
        for row, track in enumerate(reversed(TRACKS)):
            bars = [(span.start - zero, max(1, span.end - span.start)) for span in spans if span.track == track]
            axis.broken_barh(bars, (row - 0.38, 0.76), facecolors=COLOURS[track], edgecolor="white", linewidth=0.4)
        longest = max(span.end for span in spans) - zero
        for span in spans:
            label = re.sub(r"self_attn\.|mlp\.|_proj| \+ residual|, activation", "", span.name)
            if span.track != "weights" and span.end - span.start > 0.009 * len(label) * longest:
                middle = (span.start + span.end) / 2 - zero
                row = len(TRACKS) - 1 - TRACKS.index(span.track)
                axis.text(middle, row, label, ha="center", va="center", fontsize=7, color="white")
        axis.set_yticks(range(len(TRACKS)), tuple(reversed(TRACKS)), fontsize=8)
        axis.set_title(title, fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("cycles", fontsize=8)
    axes[-1, 0].tick_params(axis="x", labelsize=8)
    figure.tight_layout()
