"""What ``skipopu host`` says of runs on a board."""

from __future__ import annotations

from dataclasses import dataclass

from sim.command.common import console
from skipopu.program.program import Program
from skipopu.report import Keys, Record


@dataclass(frozen=True)
class Figures:
    """Says them, and gives them as records.

    Attributes:
        board: its name. simulated: it is no real one.
    """

    program: Program
    board: str
    simulated: bool

    @property
    def kind(self) -> str:
        """Of records that are the board's own."""
        return "simulated" if self.simulated else "measured"

    @property
    def source(self) -> str:
        """Where they are from."""
        return f"skipopu host, {self.board}"

    @property
    def keys(self) -> Keys:
        """What they are of."""
        program = self.program
        return {"target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}

    def took(self, prompt: str, tokens: int, cycles: int, seconds: float) -> list[Record]:
        """What ``tokens`` behind a ``prompt`` took."""
        clock = self.program.machine.clock_mhz
        rate = tokens / (cycles / (clock * 1e6)) if cycles else 0.0
        console.print(
            f"{prompt} + {tokens} new tokens, {cycles:,} cycles: {rate:.1f} tokens/s at {clock:g} MHz, prompt included;"
            f" {seconds:.2f} s with the link"
        )
        return [
            Record("cycles", cycles, "cycle", self.kind, self.source, **self.keys),
            Record("wall_s", round(seconds, 3), "s", "measured", self.source, **self.keys),
        ]

    def compared(self, agrees: bool) -> list[Record]:
        """Whether the functional engine has the same tokens."""
        console.print("tokens equal to the functional engine's" if agrees else "tokens differ from the functional engine's")
        return [Record("tokens_equal", int(agrees), "ratio", self.kind, self.source, **self.keys)]
