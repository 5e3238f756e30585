"""Verilog of an overlay."""

from __future__ import annotations

from amaranth.back import verilog

from hw.overlay import Overlay
from skipopu.machine.config import Machine

TOP = "overlay"


def overlay_verilog(machine: Machine) -> str:
    """The whole design as Verilog text, top module ``overlay``; the same machine gives the same bytes."""
    return verilog.convert(Overlay(machine), name=TOP, strip_internal_attrs=True, emit_src=False)
