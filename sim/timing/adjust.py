"""Cycles of ADJUST, word by word with the beats of its gains and biases: ``hw/vector/adjust.py``."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from sim.timing.reader import NOTHING, READABLE, Reader
from skipopu.isa.spec import ADDRESS_UNIT, BUFFER_UNIT
from skipopu.layout import round_up
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.adjust import PARTIALS

READ = 2  # a word's read until the lanes have it
WRITTEN = READ + pipeline.ADJUST + 3  # to its place in the buffer, and no word on its way any more
SQUARES = 2  # the states before a part's squares, and the last square until the lanes have it


class Slot(NamedTuple):
    """Cycles of a slot up to its last word's read; those in which it waited for memory."""

    cycles: int
    waits: int


class Shape(NamedTuple):
    """What a slot's cycles depend on. part: elements normalised at once, 0 for none. twice: a word takes two cycles. row: beats of
    a rotary row."""

    elements: int
    part: int
    twice: bool
    row: int


def beats(machine: Machine, elements: int) -> int:
    """Of gains and biases."""
    return elements // BUFFER_UNIT * ADDRESS_UNIT // machine.beat_bytes


def busy(machine: Machine, shape: Shape) -> int:
    """Cycles in which a slot's words are read."""
    words = shape.elements // pipeline.adjust_lanes(machine)
    return words * (1 + shape.twice + (shape.part != 0))


@lru_cache(maxsize=1024)
def slot(machine: Machine, shape: Shape) -> Slot:
    """A slot that is listed."""
    lanes = pipeline.adjust_lanes(machine)
    depth, per_block = 2 * machine.burst, ADDRESS_UNIT // machine.beat_bytes
    reader, takes = Reader(machine, machine.memory.rate, NOTHING, None, depth, depth), []

    def bring(count: int, asked: int) -> list[int]:
        """When the next beats can be taken: a burst's."""
        return [push + READABLE for push in reader.bring(min(machine.burst, count), asked + 1, takes)]

    asked = 1
    for left in range(shape.row, 0, -machine.burst):
        takes += bring(left, asked)
    asked = max(asked + (shape.row > 0), reader.asked + 1 if shape.row > machine.burst else 0)
    part = shape.part or shape.elements
    fixed = 1
    if shape.part:
        fixed = 2 * SQUARES + round_up(part, PARTIALS) // lanes + pipeline.adjust_reduce(machine)
    now, waits, before = asked + 1 + fixed, 0, 0  # when the next word can be read
    come: list[int] = []
    moved = ended = 0
    total = left = beats(machine, shape.elements)
    for block in range(total // per_block):
        for _ in range(per_block):
            if not come:
                come = bring(left, asked)
                left -= len(come)
            takes.append(max(come.pop(0), takes[-1] + 1 if takes else 0, moved))
        moved = max(takes[-1] + 1, ended)
        waits += max(0, moved + 1 - now)
        now = max(now, moved + 1)
        for word in range(BUFFER_UNIT // lanes):
            now += 1 + shape.twice
            ended = now - 1
            before += lanes
            if before == part and not (block + 1 == total // per_block and word + 1 == BUFFER_UNIT // lanes):
                before = 0
                now += fixed
    trips = math.ceil(total / machine.burst / 2) + math.ceil(shape.row / machine.burst / 2)
    refreshes = round(trips * machine.memory.refresh_wait)
    return Slot(ended + 1 + refreshes, waits + refreshes)
