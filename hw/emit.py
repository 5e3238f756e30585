"""Verilog of an overlay."""

from __future__ import annotations

import functools
import re

from amaranth.back import verilog
from amaranth.lib.wiring import Component

from hw.library import Library
from hw.overlay import Overlay
from skipopu.machine.config import Machine

TOP = "overlay"


@functools.lru_cache(maxsize=8)
def overlay_verilog(machine: Machine) -> str:
    """The whole design as Verilog text, top module ``overlay``; the same machine gives the same bytes. Remembered."""
    library = Library()
    parts = [_convert(Overlay(machine, library), TOP)]
    parts += [_convert(component, name) for name, component in library.modules.items()]
    return "".join(parts)


def _convert(component: Component, name: str) -> str:
    return _ZEROED.sub(_zero_loop, verilog.convert(component, name=name, strip_internal_attrs=True, emit_src=False))


# A memory that starts at zero: one assignment per word, which a loop says in two lines.
_ZEROED = re.compile(r"  initial begin\n((?:    (\S+ ?)\[\d+\] = \d+'[hd]0+;\n)+)  end\n")


def _zero_loop(match: re.Match[str]) -> str:
    name, words = match[2].strip(), match[1].count("\n")
    label = re.sub(r"\W", "_", name)
    space = " " if name.startswith("\\") else ""
    return f"  integer zero_{label};\n  initial for (zero_{label} = 0; zero_{label} < {words}; zero_{label} = zero_{label} + 1) {name}{space}[zero_{label}] = 0;\n"
