"""Bandwidth of the simulated memory itself, behind a master that does nothing but read."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sim.rtl.build import MEMORY_MODEL, tool_versions
from sim.rtl.verilate import FLAGS, compile_simulation
from skipopu.cache import cache_entry, fill_once
from skipopu.machine.memory import MemoryTiming

BENCH = Path(__file__).with_name("memory_bench.sv")
BURSTS = 4000
MAIN = """#include "Vtop.h"
int main(int argc, char** argv) {
    VerilatedContext context;
    context.commandArgs(argc, argv);
    Vtop bench{&context};
    while (!context.gotFinish()) {
        bench.clk = !bench.clk;
        bench.eval();
    }
}
"""


def build() -> Path:
    """The simulation of master and memory, from the cache when it was built before.

    Raises:
        SkipopuError: no C++ compiler, or the build failed; the log's path is named.
    """
    sources = (BENCH, MEMORY_MODEL)
    text = "".join(source.read_text() for source in sources) + repr((MAIN, FLAGS, sorted(tool_versions().items())))
    directory = cache_entry("rtl", "memory", hashlib.sha256(text.encode()).hexdigest())

    def make(work: Path) -> None:
        main = work / "main.cpp"
        main.write_text(MAIN)
        for source in sources:
            (work / source.name).write_text(source.read_text())
        compile_simulation(work, "memory_bench", "memory_bench", [source.name for source in sources], main)

    fill_once(directory, make)
    return directory / "memory_bench"


def bandwidth(timing: MemoryTiming, beats: Sequence[int], sequential: bool, channels: int) -> list[float]:
    """Beats per cycle of reads of each of ``beats``, in sequence or at random over ``channels`` channels of 4 MiB."""
    executable = build()
    rates = []
    for count in beats:
        settings = {
            "beats": count,
            "bursts": BURSTS,
            "channels": channels,
            "sequential": int(sequential),
            "latency": timing.latency,
            "rate": timing.beats_per_256_cycles,
            "refresh_interval": timing.refresh_interval,
            "refresh": timing.refresh,
            "issue": timing.issue,
            "outstanding": timing.outstanding,
        }
        command = [str(executable), *(f"+{name}={value}" for name, value in settings.items())]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        cycles = next(int(line.split()[1]) for line in output.splitlines() if line.startswith("cycles"))
        rates.append(BURSTS * count / cycles)
    return rates
