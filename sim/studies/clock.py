"""The estimate of a unit's clock against what a router reaches for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hw.clock.delays import corner
from hw.clock.routed import routed
from hw.clock.slowest import slowest
from hw.emit import TOP, overlay_verilog
from hw.report import parts_of
from hw.synthesis import Design
from skipopu.machine.config import Machine
from skipopu.report import Cell, Record, Report, Table, shown

# Wires' delays were fitted to these; the others are what the method is held against.
FITTED = ("scan", "kv_write", "aligner", "embed", "groups", "store", "route", "dispatch", "write_port")
HELD = {
    "ulx3s": ("kv_fetch", "array_unit", "counters", "queue_array", "records", "registers", "weights", "read_port", "tile"),
    "tiny": ("adjust", "kv_write", "aligner", "route"),
}
FITTED_TARGET = "ulx3s"
SOURCE = "skipopu study clock"


class Rates(NamedTuple):
    """Of a unit on an ECP5, in MHz."""

    target: str
    unit: str
    estimated: float
    routed: float

    @property
    def fitted(self) -> bool:
        return self.target == FITTED_TARGET and self.unit in FITTED

    @property
    def error(self) -> float:
        """Of the estimate, as a share."""
        return self.estimated / self.routed - 1


def rates(design: Design, target: str, unit: str) -> Rates:
    """Both rates of one unit of a machine, paths between its registers alone.

    Raises:
        SkipopuError: a tool is missing or failed.
    """
    parts = parts_of(design)
    name = unit if unit in parts else f"\\{TOP}.{unit}"
    others = [part for part in parts if part != name]
    path = slowest(design.netlist(name, "ecp5", others), corner("ecp5", "likely"), borders=False)
    return Rates(target, unit, path.mhz, routed(design, name, others))


def report(say: Callable[[str], None]) -> Report:
    """Every unit's estimate beside its routed rate."""
    found: list[Rates] = []
    for target, units in {
        FITTED_TARGET: (*FITTED, *HELD[FITTED_TARGET]),
        **{k: v for k, v in HELD.items() if k != FITTED_TARGET},
    }.items():
        design = Design(overlay_verilog(Machine.load(target)))
        for unit in units:
            say(f"{target}: {unit}")
            found.append(rates(design, target, unit))
    rows: list[list[Cell]] = []
    for each in sorted(found, key=lambda each: each.fitted):
        cells: list[Cell] = [f"`{each.unit}` of `{each.target}`"]
        for name, value, form, kind in (
            ("estimated_mhz", each.estimated, "{:.1f}", "estimated"),
            ("routed_mhz", each.routed, "{:.1f}", "measured"),
            ("error", 100 * each.error, "{:+.1f} %", "derived"),
        ):
            unit = "%" if name == "error" else "MHz"
            record = Record(f"{each.unit}.{name}", round(value, 2), unit, kind, SOURCE, target=each.target)
            cells.append(shown(form, record))
        rows.append([*cells, "yes" if each.fitted else ""])
    held = [each for each in found if not each.fitted]
    worst = max(held, key=lambda each: abs(each.error))
    near = sum(abs(each.error) <= 0.15 for each in held)
    finding = (
        f"{near} of {len(held)} units that nothing was fitted to are within 15 %, the worst, {worst.unit} of {worst.target}, is {worst.error:+.1%}"
        " off."
    )
    columns = ("unit", "estimated, MHz", "routed, MHz", "error", "wires fitted to it")
    return Report([Table("Estimated and routed clocks, ECP5-85F, speed grade 6", columns, rows)], findings=[finding])
