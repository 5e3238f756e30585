"""What the timing engine takes beside program and run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sim import engine
from sim.result import Routed
from sim.timeline import Span
from sim.timing.masks import Channels
from skipopu.arguments import output_file


@dataclass(frozen=True)
class Options(engine.Options):
    """Options of the timing engine.

    Attributes:
        routed: whose ``routing`` (layers, 2, positions) and number of ``tokens`` are timed: another engine's result for the same
            run, or any. None: the functional engine runs first.
        channels: which channels a program with masks leaves out, if ``routed`` is given.
        spans: receives what every unit did when. timeline: the same as a file for Perfetto.
        repeat: without it (and with spans, or in check mode) every instruction of every layer is walked through; no count depends
            on it.
    """

    FLAGS: ClassVar[tuple[str, ...]] = ("--timeline",)

    routed: Routed | None = None
    spans: list[Span] | None = None
    repeat: bool = True
    timeline: Path | None = None
    channels: Channels | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--timeline", type=output_file, metavar="FILE", help="units over time, for ui.perfetto.dev (timing)"
        )

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Self:
        return cls(timeline=args.timeline)
