"""Where the cycles go: busy and stall cycles per unit, from the counters of the RTL or of the timing engine alike."""

from __future__ import annotations

from dataclasses import dataclass

CAUSES = ("memory", "drain", "edge", "wait")
# Counter of each unit's cause; what a unit does not have stays empty.
_COUNTERS = {
    "array": ("ARRAY_WEIGHTS", "ARRAY_DRAIN", "ARRAY_EDGE", "ARRAY_WAIT"),
    "attention": ("ATTENTION_MEMORY", None, "ATTENTION_EDGE", "ATTENTION_WAIT"),
    "vector": ("VECTOR_MEMORY", None, "VECTOR_EDGE", "VECTOR_WAIT"),
    "epilogue": (None, None, None, None),
    "align": (None, None, None, None),
}


@dataclass(frozen=True)
class UnitCycles:
    """Cycles of one unit; they add up to the run's.

    Attributes:
        busy: it handled data.
        stalls: by cause. memory: waited for beats. drain: for its accumulators. edge: filling, emptying, lists and alignment
            of a running instruction. wait: an instruction was queued and waited for another unit. None: not a cause here.
        idle: nothing was queued.
    """

    unit: str
    busy: int
    stalls: tuple[int | None, ...]
    idle: int


def profile(counters: dict[str, int]) -> list[UnitCycles]:
    """The units of one run."""
    rows = []
    for unit, names in _COUNTERS.items():
        busy = counters[f"{unit.upper()}_BUSY"]
        stalls = tuple(None if name is None else counters[name] for name in names)
        rows.append(UnitCycles(unit, busy, stalls, counters["CYCLES"] - busy - sum(s or 0 for s in stalls)))
    return rows


def exposed(counters: dict[str, int]) -> int:
    """Cycles in which neither array nor attention multiplied or waited for memory: what everything else costs."""
    used = ("ARRAY_BUSY", "ARRAY_WEIGHTS", "ATTENTION_BUSY", "ATTENTION_MEMORY")
    return counters["CYCLES"] - sum(counters[name] for name in used)
