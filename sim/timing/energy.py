"""Energy of a run, estimated: events that the timing engine counts, each times an energy.

No board was measured. Every energy is a range, and totals carry the ranges' ends, all lines at their least or at their largest at
once. Two lines have a source (memory, and the card at rest); the others are guesses, wide on purpose, and say so. A total says more about how a
change shifts it than about a board's meter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from skipopu.machine.config import QUERY_LANES, Machine

GUESS = "no source, a guess: "


@dataclass(frozen=True)
class Range:
    """A quantity's least, likely and largest value."""

    low: float
    likely: float
    high: float

    @staticmethod
    def between(low: float, high: float) -> Range:
        """Where only the ends are known, or guessed: likely is their geometric mean."""
        return Range(low, math.sqrt(low * high), high)

    def __mul__(self, factor: float) -> Range:
        return Range(self.low * factor, self.likely * factor, self.high * factor)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)


@dataclass(frozen=True)
class Event:
    """What one of something costs; ``energy`` in pJ. ``source`` begins with GUESS where there is none."""

    name: str
    unit: str
    energy: Range
    source: str


MEMORY = {
    "hbm2": Event(
        "HBM2 read or written",
        "bit",
        Range(3.5, 3.92, 7.0),
        "3.92 pJ/bit: O'Connor et al., MICRO 2017, an access with its share of activations, read in quotations of it. The ends are"
        " guesses: fewer activations, and the FPGA's controllers and switch",
    ),
    "ddr4-2400": Event("DDR4 read or written", "bit", Range.between(12.0, 25.0), GUESS + "DDR4 with interface and activations"),
}
OTHER_MEMORY = Event("memory read or written", "bit", Range.between(1.0, 25.0), GUESS + "unknown device, on chip to DDR4")
PRODUCT = Event(
    "multiplier working for a cycle",
    "multiplier cycle",
    Range.between(5.0, 20.0),
    GUESS + "a DSP48E2 at 16 nm with operand registers and its share of the adder tree",
)
FIFO = Event("bit through an on-chip FIFO", "bit", Range.between(0.1, 0.5), GUESS + "a write and a read of block RAM")
HISTORY = Event("bit read from the history buffer", "bit", Range.between(0.1, 0.4), GUESS + "a read of UltraRAM")
ELEMENT = Event("FP32 element through a vector unit", "element", Range.between(20.0, 100.0), GUESS + "a few FP32 operations")
CLOCK = Event(
    "clock tree and idle registers, per bit of port width",
    "bit cycle",
    Range.between(0.7, 2.8),
    GUESS + "2.6 to 10 W at 225 MHz for 0.8 M flip-flops and those inside the multipliers, behind 16,384 port bits",
)
# Watts at rest: leakage, memory refresh, host link, fans' and regulators' share. By the memory's device.
STATIC = {
    "hbm2": (
        Range.between(14.5, 41.4),
        "cards' own meters, read in the documentation of Paderborn's computing centre: U55C 14.5 and 15.0 W, U280 39.2, 41.4 and"
        " 58.3 W, what they were doing not stated; 58.3 W is taken for a card at work. Likely is the geometric mean",
    ),
    "ddr4-2400": (Range.between(2.5, 8.0), GUESS + "an idle Zynq UltraScale+ module"),
}
REST = "at rest"
OTHER_STATIC = (Range.between(0.2, 3.0), GUESS + "unknown device")


@dataclass(frozen=True)
class Part:
    """One line of the estimate: how many events, joules in all."""

    event: Event
    count: float
    joules: Range


def array_multipliers(machine: Machine) -> int:
    """Multipliers of the array. Where they keep their rows every two have a third one for what their registers have no room for."""
    lanes = machine.ports * machine.weight_lanes
    return lanes * 3 // 2 if machine.stationary else lanes


def estimate(machine: Machine, counters: dict[str, int]) -> list[Part]:
    """Joules of a run (or of a difference of two runs' counters), by event; a cycle of ADJUST counts as one of the whole vector unit.

    A stationary array's multipliers of a second token work where there is none, too, and its codes go through a buffer behind the FIFOs.
    """
    memory = MEMORY.get(machine.memory.device, OTHER_MEMORY)
    static, why = STATIC.get(machine.memory.device, OTHER_STATIC)
    beat = 8 * machine.beat_bytes
    moved = (counters["READ_BEATS"] + counters["WRITE_BEATS"]) * beat
    buffered = counters["ARRAY_BUSY"] * machine.ports if machine.stationary else 0
    attention = machine.ports * machine.kv_lanes * QUERY_LANES
    cycles = counters["CYCLES"]
    elements = counters["VECTOR_BUSY"] + counters["EPILOGUE_BUSY"] + counters["ALIGN_BUSY"]
    seconds = cycles / (machine.clock_mhz * 1e6)
    watt = Event(REST, "second", static * 1e12, why)
    counts = [
        (memory, moved),
        (PRODUCT, counters["ARRAY_BUSY"] * array_multipliers(machine) + counters["ATTENTION_BUSY"] * attention),
        (FIFO, (counters["READ_BEATS"] + buffered) * beat),
        (HISTORY, counters["HISTORY_BEATS"] * beat),
        (ELEMENT, elements * machine.vector_lanes),
        (CLOCK, cycles * machine.ports * machine.port_bits),
        (watt, seconds),
    ]
    return [Part(event, count, event.energy * (count * 1e-12)) for event, count in counts]


def total(parts: list[Part]) -> Range:
    """Joules of all parts."""
    result = Range(0.0, 0.0, 0.0)
    for part in parts:
        result = result + part.joules
    return result


def share_at_rest(parts: list[Part]) -> Range:
    """Of the total: this line at its least with all others at their largest, and the other way round."""
    rest = total([part for part in parts if part.event.name == REST])
    others = total([part for part in parts if part.event.name != REST])
    return Range(
        rest.low / (rest.low + others.high), rest.likely / (rest.likely + others.likely), rest.high / (rest.high + others.low)
    )
