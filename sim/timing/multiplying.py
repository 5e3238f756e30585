"""How a stationary array multiplies what its buffer is filled with: ``hw/pe/stationary/sequencer.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.timing.reader import FIRST
from skipopu.machine import pipeline
from skipopu.machine.config import TOKENS_AT_ONCE, Machine

if TYPE_CHECKING:
    from sim.timing.stationary import Tile, Tiles

PUT_ASIDE = pipeline.PUT_ASIDE  # a part's last step to its first sum; two last steps are no closer


class Multiplying:
    """The array behind its filling: parts, however many beats each has, and tiles.

    Attributes:
        takes: when beats were taken, the latest one at ``take``. opened: when the present part's first one was.
        last: the latest step. spaced: no part's last step before. free: of each half of the buffer, its last part's last step.
        before, drained: ends of the latest two drains.
        stalled, held: cycles that steps waited for a bank, and for sums to be taken out.
    """

    def __init__(self, machine: Machine, shape: Tiles, begin: int, takes: list[int]) -> None:
        self.again = shape.passes - 1
        self.of_last = shape.slots - TOKENS_AT_ONCE * self.again  # tokens of the last pass
        self.accumulated = pipeline.accumulated(machine)
        self.takes, self.take, self.opened = takes, begin - 1, 0
        self.last = self.before = self.drained = self.spaced = FIRST
        self.free, self.half = [FIRST, FIRST], 0
        self.stalled = self.held = 0

    def multiply(self, beats: int, first: bool, sums: int) -> None:
        """A part with all tokens, its tile's ``first`` or not: what is behind the first pass waits for no beat."""
        step = max(self.opened, self.last) + 1
        if first and step <= self.before:
            self.stalled += self.before + 1 - step
            step = self.before + 1
        last = max(self.take + 1, step + beats - 1)
        between = max(PUT_ASIDE, TOKENS_AT_ONCE * sums)
        later = max(0, self.spaced - last)
        self.held += later + self.again * max(0, between - beats)
        self.last = last + later + self.again * max(between, beats)
        self.spaced = self.last + max(PUT_ASIDE, self.of_last * sums)
        self.free[self.half] = self.last + 1
        self.half ^= 1

    def drain(self, tile: Tile) -> None:
        """The tile's last part is multiplied."""
        complete = self.last + PUT_ASIDE + (self.of_last - 1) * tile.sums + tile.drained + self.accumulated
        self.before, self.drained = self.drained, max(complete - 1, self.drained) + tile.drain
