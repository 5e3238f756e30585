"""Which slice a machine's tiles have."""

from __future__ import annotations

from hw.pe.slice import Slice
from hw.pe.stationary.slice import StationarySlice
from skipopu.machine.config import Machine


def slice_of(machine: Machine) -> type[Slice] | type[StationarySlice]:
    """Of an array that multiplies a row's channels side by side, or of one that keeps its rows."""
    return StationarySlice if machine.stationary else Slice
