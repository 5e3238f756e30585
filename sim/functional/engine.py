"""The functional engine: executes a program on a memory image with every rounding of the hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.engine import QUIET, Watch
from sim.functional import adjust, array, kv, vector
from sim.functional.options import Options as Options
from sim.functional.state import State
from sim.result import Computed, Retired, capped
from sim.walk import CONTROL, Fields, Walk
from skipopu.errors import ProgramError
from skipopu.isa.fields import Instruction
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import ADDRESS_UNIT, ADJUST, ALIGN, ATTEND, CHUNK, EMBED, HALT, KVWRITE, MATMUL, NEXT, ROUTE, STORE
from skipopu.numerics.fp32 import Saturation
from skipopu.program.program import Program
from skipopu.program.run import Run

name = "functional"
HANDLERS: dict[Instruction, Callable[[State, Fields], None]] = {
    EMBED: vector.embed,
    ALIGN: vector.align,
    ADJUST: adjust.adjust,
    MATMUL: array.matmul,
    ROUTE: vector.route,
    KVWRITE: kv.kvwrite,
    ATTEND: kv.attend,
    STORE: vector.store,
}


class Functional:
    """One run, in a state of its own or in that which another one left."""

    def __init__(self, program: Program, run: Run, options: Options, watch: Watch = QUIET, state: State | None = None) -> None:
        self.program, self.run, self.check, self.watch = program, run, run.check, watch
        self.walk = Walk(program, run, self.emit, watch)
        if state is None:
            state = State(program, run, options, self.walk)
        else:
            state.go_on(program, run, self.walk)
        self.state = state
        self.tokens: list[int] = []
        self.trace: list[Retired] = []

    def emit(self) -> int:
        """Writes the argmax of the chunk's last token behind the tokens before it."""
        state, walk = self.state, self.walk
        token = int(state.best[walk.count - 1])
        address = walk.config[Config.TOKENS] * ADDRESS_UNIT + 4 * walk.position
        state.memory[0][address : address + 4] = np.array([token], "<u4").view(np.uint8)
        self.tokens.append(token)
        self.watch.token(token)
        return token

    def predict(self) -> None:
        """Writes the chunk's argmax tokens that are wanted."""
        address = self.program.regions["predicted"].address + 4 * (self.walk.position + self.walk.asked[:, None])
        tokens = self.state.best[self.walk.asked].astype("<u4")
        self.state.memory[0][address + np.arange(4)] = tokens.view(np.uint8).reshape(-1, 4)

    def execute(self) -> Computed:
        """Walks through the whole program."""
        state, walk = self.state, self.walk
        with Saturation() as saturation:
            for step in walk:
                if step.instruction is CHUNK:
                    state.largest[:] = -np.inf
                elif step.instruction is NEXT:
                    self.predict()
                handler = HANDLERS.get(step.instruction)
                if handler is None:
                    if step.instruction is HALT or step.instruction in CONTROL:
                        continue
                    raise walk.halt(Error.ILLEGAL_INSTRUCTION, f"{step.instruction.name} has no handler")
                handler(state, step.fields)
                if self.check:
                    self.trace.append(Retired(step.pc, state.writes.take(), 0, walk.layer, walk.position))
        return Computed(
            tokens=self.tokens,
            routing=state.routing[..., : walk.position],
            memory=state.memory,
            trace=self.trace,
            saturated=saturation.seen,
            predicted=self.run.predicted(self.program, state.memory[0]),
            kv_entries=state.pool.entries,
            channels=(int(state.channels[0]), int(state.channels[1])),
        )


class Instance:
    """One machine with a program, which keeps what a run leaves for the next one."""

    def __init__(self, program: Program, options: Options | None = None) -> None:
        self.program, self.options = program, options or Options()
        self.state: State | None = None
        self.scores: dict[int, NDArray[np.float32]] = {}

    def close(self) -> None:
        """Forgets everything."""
        self.state = None

    def run(self, run: Run, watch: Watch = QUIET) -> Computed:
        """Executes a run. ``memory`` of the result is the machine's: the next run changes it.

        Raises:
            ProgramError: the run does not fit the program.
            MachineHalt: the machine would stop with an error code. Nothing is kept then.
        """
        run.validate(self.program)
        run.require_kept(0 if self.state is None else self.state.walk.position, "functional engine's machine")
        state, self.state, self.scores = self.state, None, {}
        done = Functional(self.program, run, replace(self.options, scores=self._see), watch, state)
        result = done.execute()
        self.state = done.state
        return replace(result, routing=result.routing.copy())

    def logits(self, position: int) -> NDArray[np.float32]:
        """(vocab,) of a token that the last run computed, of which it was asked what follows.

        Raises:
            ProgramError: it was not.
        """
        if position not in self.scores:
            known = f"{min(self.scores)} to {max(self.scores)}" if self.scores else "none, nothing was run"
            raise ProgramError(f"logits of position {position!r} were not asked for; accepted: {known}")
        return capped(self.scores[position], self.program.model.logit_cap)

    def _see(self, positions: NDArray[np.int64], first: int, scores: NDArray[np.float32]) -> None:
        if self.options.scores is not None:
            self.options.scores(positions, first, scores)
        for position, row in zip(positions.tolist(), scores, strict=True):
            own = self.scores.setdefault(position, np.zeros(self.program.model.vocab_size, np.float32))
            own[first : first + len(row)] = row


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Computed:
    """Executes ``program`` with every rounding of the hardware.

    Raises:
        ProgramError: the run does not fit the program.
        MachineHalt: the machine would stop with an error code.
    """
    run.require_kept(0, "functional engine without a session")
    return Functional(program, run, options or Options(), watch).execute()
