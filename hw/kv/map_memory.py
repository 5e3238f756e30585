"""The memory that holds the KV map."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Bundle, Component, given, gives
from hw.kv.map import MapEntry, MapRead
from skipopu.machine.config import Machine


class MapWrite(Bundle):
    """A write of the map, seen by who writes."""

    def __init__(self, machine: Machine) -> None:
        self.address = gives(bits_for_index(machine.map_entries), "entry of the map to write")
        self.data = gives(MapEntry(), "that entry")
        self.enable = gives(1, "write it")
        super().__init__()


class MapMemory(Component):
    """An entry for every token of every layer.

    Latency: 1 cycle from an address to its entry, and from a write to a read that sees it. Throughput: a write and a read by each
    reader per cycle.

    Parameters:
        machine: the machine.
        readers: their number.
    """

    def __init__(self, machine: Machine, readers: int) -> None:
        self.machine = machine
        self.write = given(MapWrite(machine), "who writes entries", "write_{}")
        self.reads = [given(MapRead(machine), f"reader {k}", f"read_{k}_{{}}") for k in range(readers)]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=MapEntry(), depth=self.machine.map_entries, init=[])
        write = memory.write_port()
        m.d.comb += [write.addr.eq(self.write.address), write.data.eq(self.write.data), write.en.eq(self.write.enable)]
        for read in self.reads:
            port = memory.read_port()
            m.d.comb += [port.addr.eq(read.address), read.data.eq(port.data)]
        return m
