"""A pipeline of fixed latency as a compiled program: millions of operands in seconds, where the shared bench takes minutes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from amaranth.hdl import Value
from numpy.typing import NDArray

from hw.component import Component
from hw.emit import component_verilog
from sim.rtl.verilate import compile_simulation
from tests.hw.bench import Values

TOP = "unit"
# Each word is 64 bits of one port. Outputs are read before the edge that takes the operands set in the same cycle.
MAIN = """#include "Vtop.h"
#include <cstdint>
#include <cstdio>
int main() {{
    VerilatedContext context;
    Vtop unit{{&context}};
    auto edge = [&] {{ unit.clk = 1; unit.eval(); unit.clk = 0; unit.eval(); }};
    uint64_t given[{inputs}], gives[{outputs}];
    unit.rst = 1;
    edge();
    unit.rst = 0;
    while (fread(given, sizeof given, 1, stdin) == 1) {{
        {set}
        unit.eval();
        {get}
        fwrite(gives, sizeof gives, 1, stdout);
        edge();
    }}
}}
"""


def run(
    dut: Component, operands: Mapping[str, Values], outputs: Sequence[str], latency: int, work: Path
) -> list[NDArray[np.uint64]]:
    """Feeds ``dut`` an operand set per cycle without gaps, in Verilator.

    Args:
        dut: the unit, with ports of up to 64 bits.
        operands: input to its values.
        outputs: those to read.
        latency: cycles from the operands to the results.
        work: an empty folder for the simulation.

    Returns:
        The values of each of ``outputs`` that belong to the operands, unsigned.
    """
    (work / "unit.v").write_text(component_verilog(dut, TOP))
    setting = (f"unit.{name} = given[{k}];" for k, name in enumerate(operands))
    getting = (f"gives[{k}] = unit.{name};" for k, name in enumerate(outputs))
    texts = {"inputs": len(operands), "outputs": len(outputs), "set": " ".join(setting), "get": " ".join(getting)}
    (work / "main.cpp").write_text(MAIN.format(**texts))
    compile_simulation(work, TOP, TOP, ["unit.v"], work / "main.cpp")
    columns = [
        np.asarray(values).astype(np.uint64) & np.uint64((1 << len(Value.cast(getattr(dut, name)))) - 1)
        for name, values in operands.items()
    ]
    words = np.stack(columns, axis=-1)
    words = np.concatenate([words, np.zeros((latency, len(columns)), np.uint64)])
    done = subprocess.run([work / TOP], input=words.tobytes(), stdout=subprocess.PIPE, check=True)
    return list(np.frombuffer(done.stdout, np.uint64).reshape(len(words), -1)[latency:].T)
