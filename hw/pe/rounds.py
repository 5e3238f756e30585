"""What a sequencer tells the epilogue of accumulators that can be read."""

from __future__ import annotations

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Bundle, gives
from skipopu.machine.config import Machine


class Rounds(Bundle):
    """A round whose accumulators can be read, in a stationary array a tile of rounds."""

    def __init__(self, machine: Machine) -> None:
        self.done = gives(1, "a round is complete, for a cycle")
        self.bank = gives(1, "bank of its accumulators")
        self.ports = gives(machine.ports, "ports that took part")
        self.last = gives(1, "the product's last one")
        if machine.stationary:
            self.more = gives(bits_for_index(machine.channel_slots), "rounds of all ports before it in the same bank")
        super().__init__()
