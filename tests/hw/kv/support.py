"""What tests of attention's units share."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from amaranth.hdl import Cat, Elaboratable, Module, Value
from amaranth.sim import Simulator, SimulatorContext

from hw.kv.send import EntrySender
from hw.kv.shapes import Heads
from hw.kv.write import KvWriteUnit
from hw.library import AnyComponent, Library
from hw.memory.outpost import Outpost
from hw.wiring.ports import send
from hw.wiring.units import Units
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import Machine

# As many heads, the longest ones, the longest map and the most history slots there can be, behind the narrowest port.
LARGEST = dataclasses.replace(
    Machine.load("mono"),
    name="largest",
    kv_heads=64,
    query_group=16,
    query=64 * 16 * 256,
    map_entries=LARGEST_MAP,
    score_entries=LARGEST_MAP,
    history=1 << 20,
    window=True,
)

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


class BuiltLibrary(Library):
    """Gives the components themselves, which can be simulated."""

    def use(self, name: str, build: Callable[[], AnyComponent], label: str, domains: Sequence[str] = ("sync",)) -> AnyComponent:
        return build()


class SentToPorts(Elaboratable):
    """``unit``, which writes entries, and what the overlay has between it and the ports.

    Attributes:
        writes: per port, what comes there.
        written: a bit per port: the write is done, one cycle.
    """

    def __init__(self, unit: EntrySender | KvWriteUnit) -> None:
        machine, self._m = unit.machine, Module()
        outposts = [Outpost(machine, count) for count in (1, machine.ports - 1)] if pipeline.apart(machine) else []
        self._m.submodules += [unit, *outposts]
        places = send(self._m, cast(Units, SimpleNamespace(kv_write=unit, outposts=outposts)))
        self.writes = [writes for writes, _ in places]
        self.written = Cat(written for _, written in places)

    def elaborate(self, platform: object) -> Module:
        return self._m


class Schedule:
    """Inputs and expected outputs by cycle; an input that is not scheduled keeps its value."""

    def __init__(self) -> None:
        self.inputs: dict[int, list[tuple[Any, Any]]] = defaultdict(list)
        self.outputs: dict[int, list[tuple[Any, Any, str]]] = defaultdict(list)

    def set(self, cycle: int, port: Any, value: Any) -> None:
        self.inputs[cycle].append((port, value))

    def pulse(self, cycle: int, port: Any, value: Any, rest: Any) -> None:
        """``value`` in this cycle, ``rest`` from the next one on unless that has its own."""
        self.inputs[cycle].append((port, value))
        self.inputs[cycle + 1].insert(0, (port, rest))

    def expect(self, cycle: int, port: Any, value: Any, what: str) -> None:
        self.outputs[cycle].append((port, value, what))

    async def play(self, ctx: SimulatorContext) -> None:
        for cycle in range(1 + max((*self.inputs, *self.outputs))):
            for port, value in self.inputs.get(cycle, []):
                ctx.set(port, value)
            for port, value, what in self.outputs.get(cycle, []):
                assert ctx.get(port) == value, f"cycle {cycle}, {what}: {ctx.get(port):#x}, expected {value:#x}"
            await ctx.tick()


def joined(values: Iterable[int], bits: int) -> int:
    """``values`` modulo 2^bits beside one another, the first lowest."""
    return sum((int(value) & (1 << bits) - 1) << bits * k for k, value in enumerate(values))
