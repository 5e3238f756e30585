"""Ways to leave out single input channels: what one port's multipliers take, today's and those that could."""

from __future__ import annotations

from collections.abc import Callable

from hw.emit import elaboratable_verilog
from hw.pe.variants import AlignedDot, Stationary, Transposing
from hw.pe.variants.variant import Variant
from hw.synthesis import Design, Resources
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.report import Cell, Record, Table, shown

ROWS = 128  # of a beat of 512 bits
TOKENS = 2
COLUMNS = ("multipliers of a port", "LUT", "FF", "DSP", "LUT levels", "activation bits to every port")


def synthesised(*units: Variant) -> Resources:
    """The units beside one another on UltraScale+."""
    total = Resources()
    for unit in units:
        ports = [*unit.inputs.values(), *unit.outputs.values()]
        total += Design(elaboratable_verilog(unit, "unit", ports)).synthesise("unit", "ultrascale+")
    return total


def table(say: Callable[[str], None]) -> Table:
    """Rounding of two results, operands of attention and its sums are in all of them."""
    across, along = ROWS * ALIGNED_BITS, TOKENS * ALIGNED_BITS
    ways: dict[str, tuple[tuple[Variant, ...], int]] = {
        "a row's channels side by side (today's)": ((AlignedDot(ROWS),), across),
        "today's behind a transposing buffer": ((AlignedDot(ROWS), Transposing(ROWS)), across),
        "a channel's rows side by side, sums beside in LUTs": ((Stationary(ROWS),), along),
        "a channel's rows side by side, sums beside in a third multiplier": ((Stationary(ROWS, beside=True),), along),
    }
    rows: list[list[Cell]] = []
    for name, (units, wires) in ways.items():
        say(f"{name}: synthesis")
        found = synthesised(*units)
        cells: list[Cell] = [name]
        for key in ("lut", "ff", "dsp", "levels"):
            value = Record(f"channels.{key}", getattr(found, key), key, "synthesised", "skipopu study pe", system=name)
            cells.append(shown("{:,.0f}", value))
        cells.append(shown("{:,}", Record("channels.wires", wires, "bit", "derived", "skipopu study pe", system=name)))
        rows.append(cells)
    return Table("Leaving out channels: 128 multipliers of a 512-bit port, UltraScale+", COLUMNS, rows, marked=[3])
