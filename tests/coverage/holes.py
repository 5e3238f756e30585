"""What was reached of each unit, and what was not: its holes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tests.coverage.points import Point

KINDS = ("branch", "toggle", "state", "change")
EDGES = ("0->1", "1->0")


@dataclass(frozen=True, order=True)
class Hole:
    """Something of a unit that no simulation reached.

    Attributes:
        unit: file below ``hw/`` and class, as in ``control/dispatch.py Dispatcher``.
        kind, name: as a point's.
        bits: of a toggle's signal, neighbours that kept their value.
    """

    unit: str
    kind: str
    name: str
    bits: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Points of it."""
        return len(self.bits) if self.kind == "toggle" else 1

    @property
    def text(self) -> str:
        """As the page shows it: a signal with a range of bits, conditions, a state's number."""
        if self.kind != "toggle":
            return self.name
        first, last = min(self.bits), max(self.bits)
        return f"{self.name}[{last}:{first}]" if last > first else f"{self.name}[{last}]"


def runs(bits: list[int]) -> list[tuple[int, ...]]:
    """``bits``, in runs of neighbours."""
    found: list[list[int]] = []
    for bit in sorted(bits):
        if found and found[-1][-1] == bit - 1:
            found[-1].append(bit)
        else:
            found.append([bit])
    return [tuple(run) for run in found]


@dataclass
class Score:
    """Points of a unit by kind, those reached and all."""

    reached: Counter[str] = field(default_factory=Counter)
    every: Counter[str] = field(default_factory=Counter)


def merged(seen: Mapping[Point, int], units: Mapping[str, str]) -> dict[Point, int]:
    """Counts with classes in place of modules: what modules of one class have in common counts once; the library's FIFOs are left out."""
    counts = Counter[Point]()
    for point, count in seen.items():
        if point.unit in units:
            counts[Point(units[point.unit], point.kind, point.name, point.bit, point.edge)] += count
    return counts


def measure(counts: Mapping[Point, int]) -> tuple[dict[str, Score], list[Hole]]:
    """Scores by class, and the holes; a bit is reached if it rose or fell."""
    scores: defaultdict[str, Score] = defaultdict(Score)
    holes: list[Hole] = []
    missing: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for point in sorted(counts):
        if point.edge == EDGES[1]:
            continue  # told with the other one
        score = scores[point.unit]
        score.every[point.kind] += 1
        if counts[point] or (point.edge and counts.get(replace(point, edge=EDGES[1]), 0)):
            score.reached[point.kind] += 1
        elif point.kind == "toggle":
            missing[point.unit, point.name].append(point.bit)
        else:
            holes.append(Hole(point.unit, point.kind, point.name))
    holes += [Hole(unit, "toggle", name, run) for (unit, name), bits in missing.items() for run in runs(bits)]
    return dict(scores), sorted(holes)
