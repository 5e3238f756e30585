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

    Latency: 1 cycle from ``slot`` and ``pair`` to the numbers. Throughput: a number written and ``drain_pairs`` pairs of ``drain_ports`` ports
    read per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        ports = range(machine.drain_ports)
        self.write = given(RotaryWrite(machine), "numbers as they come", "write_{}")
        self.slot = given(bits_for_index(machine.tokens), "slot to read")
        self.pair = [given(range(LARGEST_HALF_HEAD), f"pair of its head to read for port {i}") for i in ports]
        numbers = range(machine.drain_ports * machine.drain_pairs)
        self.cos = [gives(32, f"cosine {k}, of ports and their pairs, FP32") for k in numbers]
        self.sin = [gives(32, f"sine {k}, FP32") for k in numbers]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pairs = self.machine.drain_pairs  # side by side in a word
        words = LARGEST_HALF_HEAD // pairs
        bits = pairs.bit_length() - 1
        m.submodules.rows = rows = Memory(shape=64 * pairs, depth=self.machine.tokens * words, init=[])
        write = rows.write_port(granularity=32)
        number = Mux(self.write.word[0], 2, 1)
        m.d.comb += [
            write.addr.eq(self.write.slot * words + self.write.word[1 + bits :]),
            write.data.eq(Cat(self.write.data for _ in range(2 * pairs))),
            write.en.eq(Mux(self.write.enable, number if pairs == 1 else number << (self.write.word[1 : 1 + bits] << 1), 0)),
        ]
        for i, pair in enumerate(self.pair):
            read = rows.read_port()
            m.d.comb += read.addr.eq(self.slot * words + (pair if pairs == 1 else pair >> bits))
            for k in range(pairs):
                m.d.comb += [
                    self.cos[i * pairs + k].eq(read.data[64 * k : 64 * k + 32]),
                    self.sin[i * pairs + k].eq(read.data[64 * k + 32 : 64 * k + 64]),
                ]
        return m
