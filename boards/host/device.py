"""A machine behind a link: its identity, programs, runs."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from boards.host.transport import OnBytes, Transport, nothing
from sim.engine import QUIET, Watch
from sim.result import Counted
from skipopu.errors import MachineHalt, ProgramError, SkipopuError
from skipopu.isa.registers import (
    CONTROL_ABORT,
    CONTROL_START,
    HOST_REGISTERS,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_OWED,
    STATUS_RUNNING,
    STATUS_SATURATED,
    Error,
    counted,
    identity,
)
from skipopu.isa.registers import MAGIC as MACHINE_MAGIC
from skipopu.isa.spec import WORD_BYTES
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.records import ROUTER_RECORD

SAMPLE = 64  # bytes of each matrix that are read back
RUN_TIME = ("kv", "ring", "logits", "predicted")  # regions that a program writes before it reads them


class Device:
    """Loads programs and runs them, over any :class:`boards.host.transport.Transport`.

    Attributes:
        aborted: a run was under way, which ended here.

    Raises, in every method:
        SkipopuError: the board stopped answering.
    """

    def __init__(self, transport: Transport, seconds: float = 60.0) -> None:
        self.transport = transport
        self.aborted = self._reset(seconds)

    def _reset(self, seconds: float) -> bool:
        """Resets the machine once it stands still: in the middle of a burst, memory would wait for the rest of it, and late answers would
        reach the next run. Whether a run was under way.
        """
        running = self.abort(seconds)
        self.transport.reset()
        return running

    def abort(self, seconds: float = 60.0) -> bool:
        """Ends a run that is under way, this host's or another's, and says whether there was one; without one nothing changes.

        Raises:
            SkipopuError: memory has not given all answers within ``seconds``.
        """
        board = self.transport
        if running := bool(board.register("STATUS") & STATUS_RUNNING):
            board.set_register("CONTROL", CONTROL_ABORT)
        deadline = time.monotonic() + seconds
        while board.register("STATUS") & (STATUS_RUNNING | STATUS_OWED):
            if time.monotonic() > deadline:
                raise SkipopuError(
                    f"{board.name}: memory still owes answers to an earlier run after {seconds:g} s; configure the board anew"
                )
        return running

    def require(self, program: Program) -> None:
        """Raises SkipopuError unless the board's machine, numerics and memory are the program's."""
        name = self.transport.name
        if (magic := self.transport.register("MAGIC")) != MACHINE_MAGIC:
            raise ProgramError(f"{name}: no skipopu machine behind the link (magic {magic:#010x})")
        numerics = program.machine.numerics_fingerprint(program.numerics)
        for register, known in (("MACHINE", identity(program.machine.fingerprint)), ("NUMERICS", identity(numerics))):
            if (value := self.transport.register(register)) != known:
                raise ProgramError(
                    f"{name}: the board's {register} register is {value:08x}; the program, compiled for machine"
                    f" {program.machine.name}, needs {known:08x}"
                )
        self.transport.reserve(program.machine.ports, program.port_bytes)

    def load(self, program: Program, on_bytes: OnBytes = nothing, on_total: OnBytes = nothing) -> None:
        """Writes what the program does not write itself; ``on_total`` is told how much that is, ``on_bytes`` what more arrived.

        Raises:
            ProgramError: the program is for another machine or larger than the board's memory.
        """
        self.require(program)
        loaded = [region for name, region in program.regions.items() if name not in RUN_TIME]
        on_total(sum(region.size for region in loaded) * len(program.memory))
        for region in loaded:
            for port, image in enumerate(program.memory):
                data = image[region.address : region.address + region.size].tobytes()
                self.transport.write(port, region.address, data, on_bytes)

    def verify(self, program: Program) -> None:
        """Reads back the program's instructions and the start of every matrix, which differ from any other program's.

        Raises:
            ProgramError: the board's memory holds something else, where, and what.
        """
        code = program.regions["program"]
        places = [(0, code.address, WORD_BYTES * len(program.instructions))]
        for matrix in program.matrices.values():
            layers = program.model.num_layers if matrix["layer_stride"] else 1
            for layer in range(layers):
                address = matrix["address"] + layer * matrix["layer_stride"]
                places += [(port, address, SAMPLE) for port in range(len(program.memory))]
        for port, address, size in places:
            expected = program.memory[port][address : address + size].tobytes()
            held = self.transport.read(port, address, len(expected))
            if held != expected:
                first = next(n for n, (a, b) in enumerate(zip(held, expected, strict=True)) if a != b)
                raise ProgramError(
                    f"{self.transport.name}: memory of port {port} holds {held[first]:#04x} at {address + first:#x}, the program"
                    f" {expected[first]:#04x}: it is not loaded; leave --no-load out"
                )

    def run(self, program: Program, run: Run, watch: Watch = QUIET, seconds: float = 600.0) -> Counted:
        """Runs a program that was loaded, on a machine that has nothing of runs before; ``watch`` is told tokens as they come.

        Raises:
            ProgramError: the run does not fit the program.
            MachineHalt, SkipopuError: see :meth:`execute`.
        """
        run.require_kept(0, "board without a session")
        return self.execute(program, run, program.memory[0].copy(), watch, seconds)

    def execute(
        self, program: Program, run: Run, memory: NDArray[np.uint8], watch: Watch = QUIET, seconds: float = 600.0
    ) -> Counted:
        """The same of a run that begins anywhere: from position 0 after a reset, else on what the machine kept.

        ``memory`` is port 0's, as it was loaded or as another run left it: what the run needs there, and what it predicts, goes into it.

        Raises:
            ProgramError: the run does not fit the program.
            MachineHalt: the machine stopped with an error code; the tokens before that are in it.
            SkipopuError: it did not stop within ``seconds``, or memory owes answers to the run before it, or that is another host's and
                still goes on, so that nothing is kept.

        Whatever ends the wait for the machine, an interrupt too, ends the run.
        """
        run.validate(program)
        run.place(program, memory)
        board = self.transport
        if run.first:  # a reset would give back what is kept
            if board.register("STATUS") & STATUS_RUNNING:
                raise SkipopuError(f"{board.name}: another host's run is under way, nothing is kept; begin at position 0")
        else:
            self._reset(seconds)
        regions = program.regions
        changed = [(regions["tokens"].address, 4 * len(run.known))]
        if run.check:
            changed.append((regions["ring"].address, regions["ring"].size))
        if not isinstance(run.routing, str):
            changed.append((regions["trace"].address, regions["trace"].size))
        # The modes of every layer, always: the run before may have left others.
        first, stride = program.router_record
        changed += [(first + layer * stride, ROUTER_RECORD.size) for layer in range(program.model.num_layers)]
        for address, size in changed:
            board.write(0, address, memory[address : address + size].tobytes())
        for name, value in run.registers(program).items():
            board.set_register(name, value)
        try:
            board.set_register("CONTROL", CONTROL_START)
            status, tokens = self._wait(program, run, watch, seconds)
        except BaseException:
            with suppress(SkipopuError):
                self.abort()
            raise
        values = board.registers("MAGIC", HOST_REGISTERS[-1].name)
        if status & STATUS_ERROR:
            code, pc = Error(values["ERROR"]), values["ERROR_PC"]
            raise MachineHalt(code, pc, f"{board.name}: instruction {pc}: the machine halted with {code.name}", tokens)
        self.fetch(memory, run.predicting(program))
        return Counted(
            tokens=tokens,
            counters=counted(values),
            saturated=bool(status & STATUS_SATURATED),
            predicted=run.predicted(program, memory),
            kv_entries=values["KV_ENTRIES"],
        )

    def _wait(self, program: Program, run: Run, watch: Watch, seconds: float) -> tuple[int, list[int]]:
        """STATUS at the end of a run, and what it generated.

        Raises:
            SkipopuError: it did not stop within ``seconds``.
        """
        board, tokens = self.transport, list[int]()
        first = program.regions["tokens"].address + 4 * len(run.known)
        deadline = time.monotonic() + seconds
        while True:
            seen = board.registers("STATUS", "GENERATED")
            status, generated = seen["STATUS"], seen["GENERATED"]
            if generated > len(tokens):
                data = board.read(0, first + 4 * len(tokens), 4 * (generated - len(tokens)))
                for token in np.frombuffer(data, "<u4").tolist():
                    tokens.append(token)
                    watch.token(token)
            if status & (STATUS_DONE | STATUS_ERROR):
                return status, tokens
            if time.monotonic() > deadline:
                raise SkipopuError(f"{board.name}: the machine did not stop within {seconds:g} s, {generated} tokens came")

    def fetch(self, memory: NDArray[np.uint8], place: slice) -> None:
        """Reads bytes of port 0 into ``memory``, its image."""
        if size := place.stop - place.start:
            memory[place] = np.frombuffer(self.transport.read(0, place.start, size), np.uint8)
