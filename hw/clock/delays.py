"""Delays of cells and wires, in ns, each low, likely and high, with where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CORNERS = ("low", "likely", "high")

Range = tuple[float, float, float]
NOTHING: Range = (0.0, 0.0, 0.0)


def times(factor: float, *delays: float) -> Range:
    """Three delays, each longer or shorter by ``factor``."""
    low, likely, high = (round(factor * delay, 4) for delay in delays)
    return low, likely, high


@dataclass(frozen=True)
class Family:
    """Of one family and speed grade.

    Attributes:
        cells: by kind of way. wire: to a net's only load, to one of several, and more with each doubling of these. near: to an only load in
            the same place. block: more of a wire from or to a block, which stand in columns of their own.
        border: more of a wire that leaves its die, each time.
        inside: kinds of ways whose pins are reached without a wire, near_kinds: over a near one, if they are the net's only load.
        uncertainty: of the clock, its skew included.
    """

    cells: dict[str, Range]
    wire: tuple[Range, Range, Range]
    near: Range
    block: Range
    border: Range
    inside: frozenset[str]
    near_kinds: frozenset[str]
    uncertainty: Range


@dataclass(frozen=True)
class Delays:
    """Those of one corner, low, likely or high."""

    family: Family
    corner: int

    @property
    def register(self) -> float:
        """From the clock to a register's output."""
        return self.family.cells["register"][self.corner]

    @property
    def border(self) -> float:
        """Of a wire to the next die, what it takes more."""
        return self.family.border[self.corner]

    @property
    def uncertainty(self) -> float:
        return self.family.uncertainty[self.corner]

    def of(self, kinds: Sequence[str]) -> NDArray[np.float64]:
        """(kinds,): a kind of several parts takes as long as these; a block's has what wires there take more."""
        cells, block = self.family.cells, self.family.block[self.corner]
        ends = [sum(kind.startswith(name) for name in BLOCKS) * (2 if kind in THROUGH else 1) for kind in kinds]
        parts = [sum(cells[part][self.corner] for part in kind.split(" + ")) for kind in kinds]
        return np.array(parts, np.float64) + block * np.array(ends, np.float64)

    def wire(self, loads: NDArray[np.int64], kinds: NDArray[np.int32], names: Sequence[str]) -> NDArray[np.float64]:
        """(pins,): of wires with so many ``loads`` to pins of ways of so many ``kinds``, numbers among ``names``."""
        family = self.family
        only, first, doubled = (part[self.corner] for part in family.wire)
        inside = np.array([name.split(" + ")[0] in family.inside for name in names], bool)[kinds]
        near = np.array([name in family.near_kinds for name in names], bool)[kinds] & (loads <= 1)
        far = np.where(loads <= 1, only, first + doubled * np.log2(np.maximum(loads, 2) / 2))
        return np.where(inside, 0.0, np.where(near, family.near[self.corner], far))


BLOCKS = ("DSP", "block RAM", "UltraRAM", "multiplier")
THROUGH = frozenset({"multiplier", "DSP operands + DSP multiplier + DSP adder", "DSP adder"})  # with a wire at both ends
INSIDE = frozenset({"inverter", "multiplexer", "carry to sum", "carry to carry", "DSP cascade"})
NEAR = frozenset({"data", "carry in to sum", "carry in to carry"})

# -2 at 0.85 V. Lookup tables, registers and carry chains: twelve paths of routed designs of that grade, and as many of grade -1 times 0.84
# (registers' ratio, and that of DS923's rates), which tools of the vendor report; by the pin a lookup table takes 0.04 to 0.12.
# Multipliers: the parts of a DSP48E2 in such a report, times 0.84; DS923 has 544 MHz for operands to the result with registers at both
# ends (1.84) and 410 MHz with the pre-adder in front (2.44). Block RAM: a routed path of a -2 device. UltraRAM, distributed RAM's writes
# and shift registers: assumed, as is the set-up of memories.
# Wires: the same paths' 42 connections by their loads, fitted, of designs that leave most of their device empty. Their median is the low
# one; a design that fills its device has longer ones, so that their 80th percentile is the likely one, the 95th the high one.
# A border between dies: about a nanosecond without the registers that stand at it (what the authors of AutoBridge give), the rest assumed.
ULTRASCALE = Family(
    {
        "register": (0.078, 0.08, 0.081),
        "data": (-0.025, -0.025, 0.0),
        "enable": (0.04, 0.061, 0.08),
        "reset": (0.04, 0.061, 0.08),
        "LUT": (0.05, 0.09, 0.124),
        "inverter": (0.0, 0.0, 0.0),
        "multiplexer": (0.05, 0.06, 0.08),
        "multiplexer select": (0.06, 0.08, 0.1),
        "carry in to sum": (0.15, 0.18, 0.21),
        "carry in to carry": (0.12, 0.14, 0.16),
        "carry to sum": (0.06, 0.08, 0.12),
        "carry to carry": (0.01, 0.024, 0.03),
        "shift register": (0.33, 0.4, 0.5),
        "shift register data": (0.05, 0.1, 0.15),
        "LUT RAM": (0.09, 0.12, 0.16),
        "LUT RAM write": (0.45, 0.55, 0.65),
        "LUT RAM data": (0.05, 0.1, 0.15),
        "DSP operands": times(0.84, 0.287, 0.287, 0.287),
        "DSP multiplier": times(0.84, 0.796, 0.796, 0.796),
        "DSP adder": times(0.84, 0.84, 0.84, 0.84),
        "DSP cascade": times(0.84, 0.839, 0.839, 0.839),
        "DSP register": times(0.84, 0.263, 0.263, 0.263),
        "DSP data": (0.15, 0.2, 0.25),
        "block RAM": (0.8, 0.83, 0.9),
        "block RAM, registered": (0.22, 0.26, 0.3),
        "block RAM address": (0.25, 0.3, 0.35),
        "block RAM data": (0.2, 0.25, 0.3),
        "UltraRAM": (0.9, 1.1, 1.3),
        "UltraRAM, registered": (0.3, 0.35, 0.4),
        "UltraRAM address": (0.25, 0.3, 0.4),
        "UltraRAM data": (0.2, 0.25, 0.3),
    },
    wire=((0.19, 0.31, 0.45), (0.21, 0.33, 0.47), (0.02, 0.02, 0.02)),
    near=(0.01, 0.03, 0.06),
    block=(0.0, 0.05, 0.1),
    border=(0.7, 1.0, 1.5),
    inside=INSIDE,
    near_kinds=NEAR,
    uncertainty=(0.035, 0.085, 0.135),
)

# Speed grade 6, as nextpnr knows the device; wires as it routed nine units, which are not those that the method is held against.
ECP5 = Family(
    {
        "register": times(1, 0.525, 0.525, 0.525),
        "data": (0.0, 0.0, 0.0),
        "enable": (0.0, 0.0, 0.0),
        "reset": (0.0, 0.42, 0.42),
        "LUT": times(1, 0.236, 0.236, 0.236),
        "multiplexer": times(1, 0.165, 0.2, 0.242),
        "multiplexer select": times(1, 0.25, 0.256, 0.256),
        "carry in to sum": times(1, 0.85, 0.85, 0.89),
        "carry in to carry": times(1, 0.447, 0.447, 0.447),
        "carry to sum": times(1, 0.403, 0.443, 0.443),
        "carry to carry": times(1, 0.071, 0.071, 0.071),
        "LUT RAM": (0.236, 0.236, 0.24),
        "LUT RAM write": (1.0, 1.1, 1.2),
        "LUT RAM data": (0.0, 0.0, 0.1),
        "multiplier": times(1, 3.927, 3.927, 3.927),
        "multiplier data": (0.3, 0.4, 0.5),
        "multiplier, operands registered": (4.0, 4.2, 4.4),
        "multiplier, product registered": (3.0, 3.2, 3.4),
        "multiplier, registered": (0.5, 0.6, 0.7),
        "block RAM": (5.4, 5.6, 5.8),
        "block RAM, registered": (0.5, 0.6, 0.7),
        "block RAM data": (0.0, 0.1, 0.2),
    },
    wire=((0.65, 0.77, 1.1), (0.8, 0.95, 1.25), (0.01, 0.015, 0.02)),
    near=(0.0, 0.1, 0.45),
    block=(0.2, 0.4, 0.6),
    border=NOTHING,
    inside=INSIDE,
    near_kinds=NEAR - {"carry in to sum", "carry in to carry"},
    uncertainty=(0.0, 0.0, 0.0),
)
FAMILIES = {"ultrascale+": ULTRASCALE, "ecp5": ECP5}


def corner(family: str, name: str) -> Delays:
    return Delays(FAMILIES[family], CORNERS.index(name))
