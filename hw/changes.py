"""A report's figures against those of an earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from skipopu.accept import read_json
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.report import Record, Table

COLUMNS = {
    "lut": "LUT",
    "ff": "FF",
    "dsp": "DSP",
    "bram": "BRAM",
    "uram": "URAM",
    "lut_levels": "LUT levels",
    "fmax_mhz": "MHz",
}
Figures = Mapping[str, float | int | str | None]  # by a record's name


def earlier(path: Path, machine: Machine, family: str) -> Figures:
    """The figures of what ``skipopu hdl --report --json`` wrote for the same machine and family of devices.

    Raises:
        SkipopuError: the file is none, or of another machine or family.
    """
    data = read_json(path, SkipopuError)
    inputs = data.get("inputs") or {}
    try:
        figures = {r["name"]: r["value"] for r in data["records"]}
        target, known = inputs["target"], inputs["fingerprint"]
        of_family = inputs.get("family", family)  # early files do not say
    except (KeyError, TypeError):
        target = known = of_family = ""
        figures = {}
    if not {"lut", "fmax_mhz"} <= figures.keys():
        raise SkipopuError(f"{path}: not what skipopu hdl --report --json writes")
    if known != machine.fingerprint:
        raise SkipopuError(
            f"{path}: a report of {target} ({known}); accepted: of {machine.name} as it is now ({machine.fingerprint})"
        )
    if of_family != family:
        raise SkipopuError(f"{path}: a report for {of_family}; accepted: for {family}")
    return figures


def figures_of(records: Iterable[Record]) -> Figures:
    return {record.name: record.value for record in records}


def changes(before: Figures, after: Figures) -> Table:
    """A row per unit of which a figure differs, the whole last; cells are empty where it does not."""
    names = {*before, *after}
    units = sorted(name.removesuffix(".lut") for name in names if name.endswith(".lut"))
    rows = []
    for unit in [*units, ""]:
        cells = [_change(before.get(key), after.get(key)) for key in (f"{unit}.{c}".lstrip(".") for c in COLUMNS)]
        if any(cells):
            rows.append([unit or "whole", *cells])
    return Table("changed", ["unit", *COLUMNS.values()], rows)


def _change(before: float | int | str | None, after: float | int | str | None) -> str:
    if before == after:
        return ""
    share = (
        f" ({after / before - 1:+.1%})" if isinstance(before, int | float) and isinstance(after, int | float) and before else ""
    )
    old, new = ("none" if value is None else f"{value:,}" for value in (before, after))
    return f"{old} to {new}{share}"
