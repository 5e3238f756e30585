"""Energy of a run, estimated: events that the timing engine counts, each times an energy.

No board was measured. Every energy is a range; the totals carry the ranges' ends. The energies are typical values of 16 nm
devices and their memories, written down from memory and not looked up again, so a total says more about how a change shifts it than
about a board's meter.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipopu.machine.config import QUERY_LANES, Machine


@dataclass(frozen=True)
class Range:
    """A quantity's least, likely and largest value."""

    low: float
    likely: float
    high: float

    def __mul__(self, factor: float) -> Range:
        return Range(self.low * factor, self.likely * factor, self.high * factor)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)


@dataclass(frozen=True)
class Event:
    """What one of something costs; ``energy`` in pJ."""

    name: str
    unit: str
    energy: Range
    source: str


MEMORY = {
    "hbm2": Event(
        "HBM2 read or written",
        "bit",
        Range(3.5, 3.9, 7.0),
        "3.9 pJ/bit: O'Connor et al., MICRO 2017, stack and its interface; 7 pJ/bit with controllers, as vendors state",
    ),
    "ddr4-2400": Event(
        "DDR4 read or written", "bit", Range(12.0, 18.0, 25.0), "typical of DDR4 with its interface and activations"
    ),
}
OTHER_MEMORY = Event("memory read or written", "bit", Range(1.0, 10.0, 25.0), "unknown device: on chip to DDR4")
PRODUCT = Event(
    "multiplier working for a cycle",
    "multiplier cycle",
    Range(5.0, 10.0, 20.0),
    "typical of a DSP48E2 at 16 nm with operand registers and its share of the adder tree",
)
FIFO = Event("bit through an on-chip FIFO", "bit", Range(0.1, 0.25, 0.5), "typical of a block RAM: a write and a read")
HISTORY = Event("bit read from the history buffer", "bit", Range(0.1, 0.2, 0.4), "typical of an UltraRAM read")
ELEMENT = Event("FP32 element through a vector unit", "element", Range(20.0, 50.0, 100.0), "a few FP32 operations in fabric")
CLOCK = Event(
    "clock tree and idle registers, per bit of port width",
    "bit cycle",
    Range(0.7, 1.4, 2.8),
    "5 W at 225 MHz for a design of 1.25 M flip-flops behind 16,384 port bits",
)
# Watts at rest: leakage, memory refresh, host link. By the memory's device.
STATIC = {
    "hbm2": (Range(20.0, 26.0, 32.0), "typical idle of an Alveo card with HBM"),
    "ddr4-2400": (Range(2.5, 4.0, 8.0), "typical idle of a Zynq UltraScale+ module"),
}
OTHER_STATIC = (Range(0.2, 1.0, 3.0), "unknown device")


@dataclass(frozen=True)
class Part:
    """One line of the estimate: how many events, joules in all."""

    event: Event
    count: float
    joules: Range


def estimate(machine: Machine, counters: dict[str, int]) -> list[Part]:
    """Joules of a run (or of a difference of two runs' counters), by event."""
    memory = MEMORY.get(machine.memory.device, OTHER_MEMORY)
    static, why = STATIC.get(machine.memory.device, OTHER_STATIC)
    beat = 8 * machine.beat_bytes
    moved = (counters["READ_BEATS"] + counters["WRITE_BEATS"]) * beat
    multipliers = machine.ports * machine.weight_lanes
    attention = machine.ports * machine.kv_lanes * QUERY_LANES
    cycles = counters["CYCLES"]
    elements = counters["VECTOR_BUSY"] + counters["EPILOGUE_BUSY"] + counters["ALIGN_BUSY"]
    seconds = cycles / (machine.clock_mhz * 1e6)
    watt = Event("at rest", "second", static * 1e12, why)
    counts = [
        (memory, moved),
        (PRODUCT, counters["ARRAY_BUSY"] * multipliers + counters["ATTENTION_BUSY"] * attention),
        (FIFO, counters["READ_BEATS"] * beat),
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
