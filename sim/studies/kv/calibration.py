"""The memory model against published reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sim.baselines import data
from sim.rtl import memory as rtl_memory
from skipopu.machine.memory import DDR4_2400, HBM2
from skipopu.report import Cell, Record, Report, Table, shown

BEAT = 64  # bytes of the published master's port


def calibrate() -> dict[str, list[tuple[float, float, float]]]:
    """(published, formula, RTL memory) in GB/s per transaction size, for every published pattern of the U280."""
    reads = data.fpgas().reads
    cycle = 1000 / reads.clock_mhz
    timed = HBM2.timing(reads.clock_mhz, BEAT)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for name, published in reads.patterns.items():
        sequential, channels = name.startswith("sequential"), int(name.split()[1])
        issue = 1 if sequential else reads.issue
        behaviour = replace(timed, issue=issue, channel=22)
        # That kernel merges what it reads in sequence into long bursts.
        beats = [16 if sequential else size // BEAT for size in reads.sizes]
        simulated = rtl_memory.bandwidth(behaviour, beats, sequential, channels)
        rows[name] = [
            (seen, size / HBM2.transaction(size, 1 - 1 / channels, 0 if sequential else issue * cycle), rate * BEAT / cycle)
            for size, seen, rate in zip(reads.sizes, published, simulated, strict=True)
        ]
    return rows


def report() -> Report:
    """A row per pattern, then what all channels and DDR4 reach."""
    reads = data.fpgas().reads

    def cell(name: str, published: float, formula: float, simulated: float) -> Cell:
        return shown(
            "{:.2f}, {:.2f}, {:.2f}",
            Record(name, published, "GB/s", "published", reads.source),
            Record(name, formula, "GB/s", "derived", "skipopu.machine.memory.HBM2", digits=".3f"),
            Record(name, simulated, "GB/s", "simulated", "sim/rtl/axi_memory.sv", digits=".3f"),
        )

    rows: list[Sequence[Cell]] = [
        [
            pattern,
            *(cell(f"bandwidth, {pattern}, {size} B", *figures) for size, figures in zip(reads.sizes, row, strict=True)),
        ]
        for pattern, row in calibrate().items()
    ]
    peak, (least, most) = DDR4_2400.peak, reads.ddr4_best_share
    rows += [
        ["all 32 channels", f"{reads.every_channel_gb_s:.1f}, {32 * HBM2.cap:.1f}", "", "", "", ""],
        [
            "DDR4-2400, 4 bursts in flight: share of peak",
            *("", "", ""),
            f"{100 * reads.ddr4_share:.1f} %, {DDR4_2400.in_flight(512, 4) / peak:.1%}",
            "",
        ],
        [
            "DDR4-2400, best published decoding: share of peak",
            *("", "", ""),
            f"{100 * least:.0f}-{100 * most:.0f} %, at most {DDR4_2400.cap / peak:.1%}",
            "",
        ],
    ]
    title = f"Memory model against published reads of one 512-bit master at {reads.clock_mhz:g} MHz"
    return Report([Table(title, ["GB/s: published, formula, RTL memory", *(f"{size} B" for size in reads.sizes)], rows)])
