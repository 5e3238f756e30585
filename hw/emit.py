"""Verilog of an overlay."""

from __future__ import annotations

import functools
import re

from amaranth.back import verilog

from hw.overlay import Overlay
from skipopu.machine.config import Machine

TOP = "overlay"


@functools.lru_cache(maxsize=8)
def overlay_verilog(machine: Machine) -> str:
    """The whole design as Verilog text, top module ``overlay``; the same machine gives the same bytes. Remembered."""
    text = verilog.convert(Overlay(machine), name=TOP, strip_internal_attrs=True, emit_src=False)
    return _ZEROED.sub(_zero_loop, text)


# A memory that starts at zero: one assignment per word, which a loop says in two lines.
_ZEROED = re.compile(r"  initial begin\n((?:    (\S+ ?)\[\d+\] = \d+'[hd]0+;\n)+)  end\n")


def _zero_loop(match: re.Match[str]) -> str:
    name, words = match[2].strip(), match[1].count("\n")
    label = re.sub(r"\W", "_", name)
    space = " " if name.startswith("\\") else ""
    return f"  integer zero_{label};\n  initial for (zero_{label} = 0; zero_{label} < {words}; zero_{label} = zero_{label} + 1) {name}{space}[zero_{label}] = 0;\n"
