"""A board that keeps what a run leaves for the next one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boards.host.device import Device
from sim.engine import QUIET, Watch
from sim.result import Counted, logits_at, logits_place
from skipopu.program.program import Program
from skipopu.program.run import Run


class Instance:
    """A board's machine with a program, which was loaded or will be; for a :class:`sim.session.Session`.

    Raises, in every method:
        SkipopuError: the board stopped answering.
    """

    def __init__(self, device: Device, program: Program, seconds: float = 600.0) -> None:
        """``seconds``: longest wait for a run."""
        self.device, self.program, self.seconds = device, program, seconds
        self.memory = program.memory[0].copy()
        self.kept = 0

    def run(self, run: Run, watch: Watch = QUIET) -> Counted:
        """Executes a run; the machine counts what executes and does not list it.

        Raises:
            ProgramError: the run does not fit the program.
            MachineHalt: the machine stopped with an error code.
            SkipopuError: it did not stop in time.

        Behind an error, and behind an interrupt, the next run has to begin at position 0.
        """
        run.validate(self.program)
        run.require_kept(self.kept, "board")
        self.kept = 0
        result = self.device.execute(self.program, run, self.memory, watch, self.seconds)
        self.kept = run.processed(len(result.tokens))
        return result

    def logits(self, position: int) -> NDArray[np.float32]:
        """(vocab,) of a token that the last run computed.

        Raises:
            ProgramError: the program stores none.
        """
        self.device.fetch(self.memory, logits_place(self.program, position))
        return logits_at(self.program, self.memory, position)

    def close(self) -> None:
        """The program stays on the board, and the link open."""
