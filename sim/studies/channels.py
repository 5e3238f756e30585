"""Ways to leave out single input channels: what one port's multipliers take, today's and those that could."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hw.arithmetic.fp32 import FromInteger
from hw.component import Component
from hw.emit import component_verilog, elaboratable_verilog, library_verilog
from hw.library import Library
from hw.pe.stationary.lanes import Lanes
from hw.pe.variants import AlignedDot, Transposing
from hw.pe.variants.variant import Variant
from hw.synthesis import Design, Resources
from skipopu.machine.config import Machine
from skipopu.numerics.accumulate import SUM_BITS
from skipopu.report import Cell, Record, Table, shown

ROWS = 128  # of a beat of 512 bits
COLUMNS = ("multipliers of a port", "LUT", "FF", "DSP", "LUT levels")


def synthesised(*units: Variant | Component, library: Library | None = None) -> Resources:
    """The units, and what repeats in them, beside one another on UltraScale+."""
    total = Resources()
    for unit in units:
        if isinstance(unit, Variant):
            text = elaboratable_verilog(unit, "unit", [*unit.inputs.values(), *unit.outputs.values()])
        else:
            text = component_verilog(unit, "unit")
        total += Design(text + library_verilog(library or Library())).synthesise("unit", "ultrascale+")
    return total


def lanes(library: Library) -> Lanes:
    """The multipliers of a port of ROWS rows."""
    machine = Machine.load("u280-slice4")
    return Lanes(dataclasses.replace(machine, port_bits=4 * ROWS, stationary=True), library)


def table(say: Callable[[str], None]) -> Table:
    """Rounding of two results, operands of attention and its sums are in all of them."""
    library = Library()
    converters = [FromInteger(SUM_BITS) for _ in range(2)]
    ways: dict[str, tuple[Variant | Component, ...]] = {
        "a row's channels side by side": (AlignedDot(ROWS),),
        "the same behind a transposing buffer": (AlignedDot(ROWS), Transposing(ROWS)),
        "a channel's rows side by side, sums beside in a third multiplier": (lanes(library), *converters),
    }
    rows: list[list[Cell]] = []
    for name, units in ways.items():
        say(f"{name}: synthesis")
        found = synthesised(*units, library=library)
        cells: list[Cell] = [name]
        for key in ("lut", "ff", "dsp", "levels"):
            value = Record(f"channels.{key}", getattr(found, key), key, "synthesised", "skipopu study pe", system=name)
            cells.append(shown("{:,.0f}", value))
        rows.append(cells)
    return Table("Leaving out channels: 128 multipliers of a 512-bit port, UltraScale+", COLUMNS, rows, marked=[2])
