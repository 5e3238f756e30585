"""The walk through a program: what words say and what the control instructions mean, for every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine import QUIET, Watch
from skipopu.errors import MachineHalt, ProgramError
from skipopu.isa.fields import Instruction
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import CHUNK, END, EXTEND, HALT, LOOP, MATMUL, NEXT, SET, TokenList, instruction_of
from skipopu.machine.limits import ranges, registers_of
from skipopu.policy import Phase
from skipopu.program.program import Program
from skipopu.program.run import Run

Fields = dict[str, int]
UNKNOWN = Instruction("UNKNOWN", -1, "control", "A word that is no instruction.", ())


class Step(NamedTuple):
    """A word of a program: its index, its instruction, the values of its fields."""

    pc: int
    instruction: Instruction
    fields: Fields


def decode(program: Program) -> list[Step]:
    """The program's words.

    Raises:
        ProgramError: LOOP and END do not take turns.
    """
    steps = []
    for pc, word in enumerate(program.instructions):
        instruction = instruction_of(word) or UNKNOWN
        steps.append(Step(pc, instruction, instruction.decode(word)))
    begun: int | None = None
    for step in steps:
        if step.instruction is (LOOP if begun is not None else END):
            raise ProgramError(f"instruction {step.pc} is {step.instruction.name}; accepted: a LOOP and its END in turn")
        if step.instruction in (LOOP, END):
            begun = step.pc if begun is None else None
    if begun is not None:
        raise ProgramError(f"instruction {begun} is LOOP; accepted: with an END behind it")
    return steps


class Walk:
    """Steps through a program in the order of dispatch; what the control unit knows is up to date at each.

    A step is given out before its control instruction takes effect. Unit instructions are the caller's, and the lists that ROUTE
    sets.

    Attributes:
        steps: all of the program's. pc: of the present one.
        config: values of the configuration registers.
        position: of the chunk's first token. count: its tokens. decoding: it lies behind the prompt. lists: of them, by TokenList, those that instructions work on.
        ends: no known token follows the chunk. asked: slots whose argmax is wanted all the same.
        layer, layer_base: of the present pass through the loop's body.
        generated: tokens so far.
        mask: address of the next product's thresholds, 0: none.
    """

    def __init__(
        self,
        program: Program,
        run: Run,
        choose: Callable[[], int | None],
        watch: Watch = QUIET,
    ) -> None:
        """``choose`` gives the next token of ``run``, None where ids are not known."""
        self.steps, self.machine = decode(program), program.machine
        self.registers, self.ranges = registers_of(program.machine), ranges(program.machine)
        self.run, self.choose, self.watch = run, choose, watch
        self.config = [0] * 64
        self.lists: dict[int, NDArray[np.int64]] = {}
        self.position, self.ends = run.first, False
        self.asked: NDArray[np.int64] = np.arange(0)
        self.pc = self.count = self.layer = self.layer_base = self.generated = 0
        self.decoding = False
        self.mask = 0
        self._following = 0  # the instruction behind the present one
        self._loop = 0  # the present LOOP

    def __iter__(self) -> Iterator[Step]:
        """All steps, HALT the last.

        Raises:
            MachineHalt: a word is no instruction, a context is full, or the program ends without HALT.
        """
        while True:
            if self.pc >= len(self.steps):
                raise self.halt(Error.PROGRAM_RANGE, f"the program has {len(self.steps)} instructions")
            step = self.steps[self.pc]
            self._following = self.pc + 1
            yield step
            if step.instruction is HALT:
                return
            if step.instruction is MATMUL:
                self.mask = 0
            if step.instruction in CONTROL:
                CONTROL[step.instruction](self, step.fields)
            self.pc = self._following

    def halt(self, code: Error, text: str) -> MachineHalt:
        """The error with which the present instruction stops the machine."""
        return MachineHalt(code, self.pc, f"instruction {self.pc}: {text} (error {code.name})")

    @property
    def phase(self) -> Phase:
        """Of the chunk's tokens."""
        return Phase.DECODE if self.decoding else Phase.PREFILL

    def body(self) -> range:
        """The instructions between the present LOOP and its END."""
        return range(self.pc + 1, next(step.pc for step in self.steps[self.pc :] if step.instruction is END))

    def layers(self) -> Iterator[int]:
        """The present LOOP's layers, for a caller that does itself what stands in its body: the walk goes on behind its END."""
        loop = self.steps[self.pc].fields
        self.layer_base = 0
        for self.layer in range(max(1, loop["count"])):  # the body comes before END counts
            yield self.layer
            self.layer_base += loop["advance"]
        self.layer = loop["count"]
        self._following = self.body().stop + 1

    # What control instructions do

    def _set(self, f: Fields) -> None:
        if f["register"] not in self.registers:
            accepted = f"0 to {max(self.registers)}"
            raise self.halt(Error.CONFIGURATION, f"configuration register {f['register']} does not exist; accepted: {accepted}")
        allowed = self.ranges.get(Config(f["register"]))
        if allowed is not None and f["value"] not in allowed:
            name = Config(f["register"]).name
            raise self.halt(Error.CONFIGURATION, f"{name} is {f['value']}; accepted: {allowed}")
        self.config[f["register"]] = f["value"]

    def _chunk(self, f: Fields) -> None:
        wanted = self.run.predict_from
        self.decoding = self.position >= len(self.run.prompt)
        self.count = self.run.chunk(self.position, self.machine.tokens)
        self.ends = self.position + self.count >= len(self.run.known)
        if self.position + self.count > self.config[Config.CONTEXT]:
            raise self.halt(Error.CONTEXT_FULL, f"context of {self.config[Config.CONTEXT]} tokens is full")
        slots = np.arange(self.count)
        self.asked = slots[:0] if wanted is None else slots[max(0, wanted - self.position) :]
        last = np.union1d(self.asked, slots[-1:] if self.ends else slots[:0])
        self.lists = {TokenList.ALL: slots, TokenList.ATTENTION: slots, TokenList.FFN: slots, TokenList.LAST: last}

    def _begin(self, f: Fields) -> None:
        if self._following == self.pc + 1:  # nobody took the layers
            self.layer = self.layer_base = 0
            self._loop = self.pc

    def _end(self, f: Fields) -> None:
        loop = self.steps[self._loop].fields
        self.layer += 1
        self.layer_base += loop["advance"]
        if self.layer < loop["count"]:
            self._following = self._loop + 1

    def _next(self, f: Fields) -> None:
        self.position += self.count
        self.watch.positions(self.position)
        if self.ends:
            if self.generated >= self.run.max_new:
                return
            token = self.choose()
            self.generated += 1
            if self.generated >= self.run.max_new or token in self.config[Config.EOS0 : Config.EOS3 + 1]:
                return
        self._following = f["target"]

    def _extend(self, f: Fields) -> None:
        if operands := [name for name, value in f.items() if value and not (name == "mask" and self.machine.masks)]:
            raise self.halt(
                Error.ILLEGAL_INSTRUCTION, f"machine {self.machine.name} has no unit for {', '.join(operands)} of EXTEND"
            )
        self.mask = f["mask"]

    def _illegal(self, f: Fields) -> None:
        raise self.halt(
            Error.ILLEGAL_INSTRUCTION, "the word is no instruction: its opcode is not known, or it has bits that no field has"
        )


CONTROL: dict[Instruction, Callable[[Walk, Fields], None]] = {
    SET: Walk._set,
    CHUNK: Walk._chunk,
    LOOP: Walk._begin,
    END: Walk._end,
    NEXT: Walk._next,
    EXTEND: Walk._extend,
    UNKNOWN: Walk._illegal,
}
