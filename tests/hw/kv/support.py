"""What tests of attention's units share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from amaranth.hdl import Elaboratable, Value
from amaranth.sim import Simulator, SimulatorContext

from hw.kv.shapes import Heads
from skipopu.layout import KvEntry

Bench = Callable[[SimulatorContext], Awaitable[None]]


def simulate(dut: Elaboratable, *benches: Bench) -> None:
    """Runs until every bench ended."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()


def head_values(heads: Heads, entry: KvEntry, query_group: int = 1) -> list[tuple[Value, int]]:
    """(port, value) of what describes ``entry`` and its model's heads."""
    return [
        (heads.kv_heads, entry.kv_heads),
        (heads.query_group, query_group),
        (heads.head_dim, entry.head_dim),
        (heads.head_beats, entry.head_beats),
        (heads.header_beats, entry.header_beats),
        (heads.kv_words, entry.kv_heads * entry.head_beats),
        (heads.key_beats, entry.key_beats),
    ]


def set_heads(ctx: SimulatorContext, heads: Heads, entry: KvEntry, query_group: int = 1) -> None:
    for port, value in head_values(heads, entry, query_group):
        ctx.set(port, value)
