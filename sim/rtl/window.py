"""What part of a simulation is recorded as waves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipopu.errors import ProgramError
from skipopu.program.program import Program
from skipopu.program.run import Run

TOP = "bench"  # the module above the overlay
# Kind of waves, by the file's suffix: Verilator's flag, its class, source of the runtime, libraries.
WAVES = {
    ".vcd": ("--trace-vcd", "VerilatedVcdC", None, []),
    ".fst": ("--trace-fst", "VerilatedFstC", "verilated_fst_c", ["-llz4", "-lz"]),
}


@dataclass(frozen=True)
class Window:
    """Cycles to record as waves: positions (tokens) or dispatched instructions from ``start`` up to ``stop``.

    Attributes:
        path: .vcd or .fst.
        scope: the unit below which signals are recorded.
        depth: levels below ``scope``; 0 for all.
        limit: bytes of the file at which the run is ended.

    Raises:
        ProgramError: an empty or negative window, or a file that cannot be written.
    """

    path: Path
    start: int
    stop: int
    instructions: bool = False
    scope: str = TOP
    depth: int = 0
    limit: int = 4 << 30

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop < 1 << 32:
            raise ProgramError(f"the window of waves is {self.start}:{self.stop}; accepted: A:B with 0 <= A < B")
        if self.depth < 0 or self.limit <= 0:
            raise ProgramError(f"waves of depth {self.depth} and at most {self.limit} bytes; accepted: 0 or more, more than 0")
        if self.path.suffix not in WAVES:
            raise ProgramError(f"waves go to {self.path}; accepted suffixes: {', '.join(WAVES)}")
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise ProgramError(
                f"waves cannot go to {self.path}: {'it' if self.path.is_dir() else self.path.parent} is "
                + ("a directory" if self.path.is_dir() else "no directory")
            )

    def check(self, program: Program, options: Run) -> None:
        """Raises ProgramError for what is known to fail before the run: a window behind its end, a scope that is not there."""
        end = len(options.prompt) + max(options.max_new, 1) - 1
        if not self.instructions and self.start >= end:
            raise ProgramError(f"the window of waves is {self.start}:{self.stop}; the run has the positions 0 to {end - 1}")
        if self.scope != TOP:
            from sim.rtl.build import require_scope  # needs the generator

            require_scope(program.machine, self.scope)

    def arguments(self) -> list[str]:
        """Of the simulation's command line."""
        # Everything is depth 0 for Verilator, whatever the scope.
        whole = self.scope == TOP and not self.depth
        scope = self.scope.replace("overlay", f"{TOP}.dut", 1)
        return [f"+WAVES={self.path.resolve()}", f"+SCOPE={scope}", f"+DEPTH={0 if whole else self.depth or 1000}"]
