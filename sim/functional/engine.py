"""The functional engine: executes a program on a memory image with every rounding of the hardware."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.engine import QUIET, Watch
from sim.functional import adjust, array, kv, vector
from sim.functional.options import Options as Options
from sim.functional.state import State
from sim.result import Computed, Retired
from sim.walk import CONTROL, Fields, Walk
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
        self.check, self.watch = run.check, watch
        self.predicted = program.regions["predicted"].address
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
        address = self.predicted + 4 * (self.walk.position + self.walk.asked[:, None])
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
            kv_entries=state.pool.entries,
            channels=(int(state.channels[0]), int(state.channels[1])),
        )


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Computed:
    """Executes ``program`` with every rounding of the hardware.

    Raises:
        ProgramError: the run does not fit the program.
        MachineHalt: the machine would stop with an error code.
    """
    run.require_beginning("functional engine without a session")
    return Functional(program, run, options or Options(), watch).execute()
