"""What the units of the vector queue share."""

from __future__ import annotations

from hw.component import Bundle, given, gives
from hw.control.issue import Issue
from skipopu.machine.config import Machine


class Task(Bundle):
    """An instruction that a unit executes, and what the counters ask, seen from the queue."""

    def __init__(self, machine: Machine) -> None:
        self.active = gives(1, "the instruction is to be executed, until it is done")
        self.instruction = gives(Issue(machine), "the instruction, from a cycle before active until done")
        self.done = given(1, "for one cycle: it is executed")
        self.digest = given(32, "with done: signature of what the unit itself wrote, without the aligner's share")
        self.working = given(1, "numbers move")
        self.waiting = given(1, "memory keeps the unit waiting")
        super().__init__()
