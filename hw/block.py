"""Units that a device family has as a block: their Verilog holds two forms, the block where its macro is defined, else the described one."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Self

from hw.component import Component

BLOCKS = {"ultrascale+": "DSP48E2"}  # by family: the macro that chooses its block, which has the same name
_HEAD = re.compile(r"module [^;]*;\n")
_END = "endmodule\n"


class BlockUnit(Component):
    """A unit that ``block`` is made for. Latency and throughput are the same in both forms."""

    block = BLOCKS["ultrascale+"]

    @abstractmethod
    def instantiated(self) -> Self:
        """The same unit as an instance of the block."""


def either(block: str, instantiated: str, described: str) -> str:
    """A module with two bodies, from two Verilog texts of it: ``instantiated`` where macro ``block`` is defined."""
    heads, bodies = [], []
    for text in (instantiated, described):
        start = text.index("module ")
        found = _HEAD.match(text, start)
        assert found is not None
        assert text.endswith(_END)
        heads.append(found[0])
        bodies.append(text[found.end() : -len(_END)])
    assert heads[0] == heads[1]
    return f"{heads[0]}`ifdef {block}\n{bodies[0]}`else\n{bodies[1]}`endif\n{_END}"


def for_family(text: str, family: str) -> str:
    """Verilog ``text`` that uses the block of ``family`` where it has units of it."""
    block = BLOCKS.get(family, "")
    return f"`define {block}\n{text}" if block and f"`ifdef {block}\n" in text else text
