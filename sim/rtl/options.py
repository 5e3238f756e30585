"""What the RTL engine takes beside program and run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import ClassVar, Self

from sim import engine
from sim.rtl.verilate import OPTIMISE
from sim.rtl.window import Window
from skipopu.arguments import integer, natural, output_file, positive, refuse
from skipopu.errors import ProgramError


@dataclass(frozen=True)
class Memory:
    """How the simulated memories behave.

    Attributes:
        latency, beats_per_256_cycles: None takes the machine's own timing.
        stall: chance of 256 that a channel holds back in a cycle.
        reorder: responses of different IDs overtake and interleave.
        bad_port, bad_read, bad_write: which port answers which read or write burst (from 1; 0 none) with an error.
    """

    latency: int | None = None
    beats_per_256_cycles: int | None = None
    stall: int = 0
    seed: int = 1
    reorder: bool = False
    bad_port: int = 0
    bad_read: int = 0
    bad_write: int = 0


@dataclass(frozen=True)
class Options(engine.Options):
    """Options of the RTL engine.

    Attributes:
        memory: how the memories behind the ports behave; None: like the machine's.
        waves: what is recorded on the way; a window that is not reached is an error.
        verilog: replaces the generated overlay (tests alter it).
        cycle_limit: the run is an error when the machine does not stop within it.
        icarus: Icarus Verilog and the generated overlay instead of Verilator.
        optimise: the C++ compiler's level, see :func:`sim.rtl.build.build`.
    """

    FLAGS: ClassVar[tuple[str, ...]] = ("--waves", "--latency", "--bandwidth")

    memory: Memory | None = None
    waves: Window | None = None
    verilog: str | None = None
    cycle_limit: int = 1 << 31
    icarus: bool = False
    optimise: int = OPTIMISE

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--waves", type=output_file, metavar="FILE", help="waves of the RTL engine: .vcd or .fst")
        add("--scope", metavar="UNIT", help="what --waves records: a unit, as overlay.dispatch; default all")
        add("--depth", type=natural, default=0, metavar="N", help="levels below --scope that --waves records; default all")
        add("--waves-limit", type=positive, default=4000, metavar="MB", help="ends a run with larger waves; default 4000")
        add("--window", default="0:4", metavar="A:B", help="what --waves records: token positions A to B-1; default 0:4")
        add("--window-instructions", action="store_true", help="the window counts dispatched instructions instead")
        # Ranges as in a machine's description, see skipopu.machine.memory.
        add(
            "--latency",
            type=integer(1, 1000),
            metavar="N",
            help="cycles to the first beat of a read (rtl); default the machine's",
        )
        add(
            "--bandwidth",
            type=integer(1, 256),
            metavar="N",
            help="beats per 256 cycles and port (rtl); default the machine's",
        )

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Self:
        memory = Memory(args.latency, args.bandwidth)
        if args.waves is None:
            of_waves = ["--window", "--window-instructions", "--scope", "--depth", "--waves-limit"]
            refuse(args, of_waves, "is of --waves, which was not given")
            return cls(memory)
        try:
            start, stop = (int(part) for part in args.window.split(":"))
        except ValueError:
            raise ProgramError(f"--window is {args.window!r}; accepted: A:B") from None
        scope = {} if args.scope is None else {"scope": args.scope}
        limit = args.waves_limit * 1_000_000
        return cls(memory, Window(args.waves, start, stop, args.window_instructions, depth=args.depth, limit=limit, **scope))
