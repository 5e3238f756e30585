"""Verilog with the recorders that Verilator's coverage lacks: it counts no states of machines written as Amaranth does."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.coverage.verilog import RESET, Block, Machine, blocks, declared, machine

OFF, ON = "/*verilator coverage_off*/", "/*verilator coverage_on*/"
IGNORED = re.compile(rf"^ +if \((?:{RESET}|\\\$auto\$verilog_backend\S+ )\) begin(?: end)?$")
RECORDER = re.compile(r"// coverage: (\d+)(?: to (\d+))?$")


def instrumented(text: str) -> str:
    """``text`` with counters of states and of their changes at the clock's edges, and with nothing else counted than registers, outputs
    and branches: no intermediate values, no inputs, no resets."""
    lines = text.splitlines()
    for block in reversed(blocks(text)):
        first, last = block.first - 1, block.first + len(block.lines) - 2
        lines[last:last] = recorders(block)
        for number, line in enumerate(block.lines):
            if IGNORED.match(line):
                lines[first + number] = f"{OFF}{line}{ON}"
        for number, _, name in declared(block):
            if name not in block.kept:
                lines[first + number] = f"{OFF}{block.lines[number]}{ON}"
    return "\n".join(lines) + "\n"


def recorders(block: Block) -> list[str]:
    """Statements whose branches are taken in each state and at each change."""
    found = machine(block)
    return [] if found is None else list(_recorders(found))


def _recorders(found: Machine) -> Iterator[str]:
    state, bits = found.register, max(found.states).bit_length()
    yield f"  {OFF}reg [{bits - 1}:0] coverage_was = 0; reg coverage_rst = 1; reg coverage_seen = 0;{ON}"
    yield "  always @(posedge clk) begin"
    yield f"    coverage_was <= {state}; coverage_rst <= {found.reset};"
    for number in found.states:
        yield f"    if (!coverage_rst && {state} == {number}) coverage_seen <= !coverage_seen; // coverage: {number}"
    for before, after in found.changes:
        at = f"coverage_was == {before} && {state} == {after}"
        yield f"    if (!coverage_rst && {at}) coverage_seen <= !coverage_seen; // coverage: {before} to {after}"
    yield "  end"
