"""The rotary rows of the slots' positions."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Bundle, Component, given, gives
from skipopu.machine.config import Machine

LARGEST_HALF_HEAD = 128


class RotaryWrite(Bundle):
    """A write of the rotary memory, seen from the unit that loads it."""

    def __init__(self, machine: Machine) -> None:
        self.slot = gives(bits_for_index(machine.tokens), "slot of the row")
        self.word = gives(8, "index of the number in its row: cosine and sine in turn")
        self.data = gives(32, "the number, FP32")
        self.enable = gives(1, "write now")
        super().__init__()


class RotaryMemory(Component):
    """Cosines and sines of each slot's position, a pair of numbers for each pair of a head's rows.

    Latency: 1 cycle from ``slot`` and ``pair`` to the numbers. Throughput: a number written and ``drain_ports`` pairs read per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        ports = range(machine.drain_ports)
        self.write = given(RotaryWrite(machine), "numbers as they come", "write_{}")
        self.slot = given(bits_for_index(machine.tokens), "slot to read")
        self.pair = [given(range(LARGEST_HALF_HEAD), f"pair of its head to read for port {i}") for i in ports]
        self.cos = [gives(32, f"cosine for port {i}, FP32") for i in ports]
        self.sin = [gives(32, f"sine for port {i}, FP32") for i in ports]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rows = rows = Memory(shape=64, depth=self.machine.tokens * LARGEST_HALF_HEAD, init=[])
        write = rows.write_port(granularity=32)
        m.d.comb += [
            write.addr.eq(self.write.slot * LARGEST_HALF_HEAD + self.write.word[1:]),
            write.data.eq(Cat(self.write.data, self.write.data)),
            write.en.eq(Mux(self.write.enable, Mux(self.write.word[0], 2, 1), 0)),
        ]
        for pair, cos, sin in zip(self.pair, self.cos, self.sin, strict=True):
            read = rows.read_port()
            m.d.comb += [
                read.addr.eq(self.slot * LARGEST_HALF_HEAD + pair),
                cos.eq(read.data[:32]),
                sin.eq(read.data[32:]),
            ]
        return m
