"""What the units of the vector queue share: the side towards the queue, and a port of the buffer."""

from __future__ import annotations

from hw.component import Bundle, given, gives
from hw.control.issue import Issue
from hw.memory.buffer import ELEMENT_ADDRESS_BITS
from skipopu.machine.config import Machine


class Task(Bundle):
    """An instruction that a unit executes, and what the counters ask, seen from the queue."""

    def __init__(self, machine: Machine) -> None:
        self.active = gives(1, "the instruction is to be executed, until it is done")
        self.instruction = gives(Issue(machine), "the instruction, stable while active")
        self.done = given(1, "for one cycle: it is executed")
        self.digest = given(32, "with done: signature of what the unit itself wrote, without the aligner's share")
        self.working = given(1, "numbers move")
        self.waiting = given(1, "memory keeps the unit waiting")
        super().__init__()


class BufferRead(Bundle):
    """A read port of the buffer, seen from its reader."""

    def __init__(self, machine: Machine) -> None:
        self.address = gives(ELEMENT_ADDRESS_BITS, "index of an element of the word to read")
        self.enable = gives(1, "read now")
        self.data = given(32 * machine.vector_lanes, "the whole word, a cycle later")
        super().__init__()
