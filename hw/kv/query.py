"""Aligned queries in four banks, so that four queries meet the same elements of K in one cycle."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Signal, unsigned
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, delay, tree
from hw.component import Bundle, Component, given, gives
from hw.kv.shapes import Heads
from hw.widths import OFFSET_BITS
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.align import ALIGNED_BITS

QUERY_WRITES = ("head_slot", "head_end", "write_offset", "write_data", "write_exponent", "write_enable")


def query_depth(machine: Machine) -> int:
    """Words per bank."""
    return machine.query_words


class QueryWrites(Bundle):
    """Aligned queries on their way to their memory, seen by who aligns them.

    A slot's heads follow one another, slots may take turns. What belongs to a word comes with two delays: its head's slot and end with
    the word's read from the buffer, the rest :attr:`WRITE` cycles later.
    """

    WRITE = pipeline.ALIGN_WRITE

    def __init__(self, machine: Machine) -> None:
        self.head_slot = gives(bits_for_index(machine.tokens), "slot of the word that is written WRITE cycles later")
        self.head_end = gives(1, "that word is its head's last")
        self.write_offset = gives(OFFSET_BITS, "place of the first of ``vector_lanes`` mantissas in their head, elements")
        self.write_data = gives(ALIGNED_BITS * machine.vector_lanes, "mantissas to write")
        self.write_exponent = gives(8, "their head's exponent")
        self.write_enable = gives(1, "write now")
        super().__init__()


class QueryRead(Bundle):
    """A read of the query memory, seen by who reads."""

    def __init__(self, machine: Machine) -> None:
        address = bits_for_index(query_depth(machine))
        self.word = gives(address, "word of a query")
        self.head = gives(address, "first word of its head, where the exponent stands")
        super().__init__()


class QueryMemory(Component):
    """Query number j = slot * query_group + member stands in bank j mod 4 at word (j / 4) * kv_words + kv_head * head_beats + beat.

    Latency: 1 cycle from an address to its data; what is written is there for an address of the next cycle. Throughput: a write
    of ``vector_lanes`` mantissas and a read of a word of every bank per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.depth = query_depth(machine)
        self.clear = given(1, "all slots start with their first head")
        self.writes = given(QueryWrites(machine), "aligned queries", "{}")
        self.heads = given(Heads(machine), "the model's heads")
        self.read = given(QueryRead(machine), "what to read, the same in all banks")
        self.data = gives(ALIGNED_BITS * machine.kv_lanes * QUERY_LANES, "that word of all banks, a cycle later")
        self.exponents = gives(8 * QUERY_LANES, "exponents of its head in all banks, with it")
        self.range = gives(1, "a write went beyond a bank")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        lanes, vector = machine.kv_lanes, machine.vector_lanes
        # Per slot: member of the KV head's queries, first word of the KV head
        slots = range(machine.tokens)
        member = Array(Signal.like(self.heads.query_group, name=f"member_{k}") for k in slots)
        first_word = Array(Signal.like(self.heads.kv_words, name=f"first_word_{k}") for k in slots)
        with m.If(self.clear):
            m.d.sync += [signal.eq(0) for signal in (*member, *first_word)]
        with m.Elif(self.writes.head_end):
            m.d.sync += member[self.writes.head_slot].eq(member[self.writes.head_slot] + 1)
            with m.If(member[self.writes.head_slot] == self.heads.query_group - 1):
                m.d.sync += [
                    member[self.writes.head_slot].eq(0),
                    first_word[self.writes.head_slot].eq(first_word[self.writes.head_slot] + self.heads.head_beats),
                ]
        # Until the write: the query's number, then the word of its head
        bits = unsigned(max(3, (machine.tokens * machine.query_group).bit_length()))
        number, word_1 = Signal(bits), Signal.like(self.heads.kv_words)
        query, base = Signal(bits), Signal(20)
        m.d.sync += [
            number.eq(
                tree(
                    [(self.writes.head_slot << i) & bit.replicate(bits.width) for i, bit in enumerate(self.heads.query_group)],
                    lambda a, b: (a + b)[: bits.width],
                )
                + member[self.writes.head_slot]
            ),
            word_1.eq(first_word[self.writes.head_slot]),
        ]
        m.d.sync += [query.eq(number), base.eq(number[2:] * self.heads.kv_words + word_1)]
        rest = QueryWrites.WRITE - 2
        query, base = delay(m, query, rest, "query"), delay(m, base, rest, "base")
        address, high, low = Signal(20), lanes.bit_length() - 1, vector.bit_length() - 1
        inside = address < self.depth
        m.d.comb += [address.eq(base + self.writes.write_offset[high:]), self.range.eq(self.writes.write_enable & ~inside)]
        piece = self.writes.write_offset[low:high] if high > low else Const(0, 1)
        for bank in range(QUERY_LANES):
            mantissas = Memory(shape=ALIGNED_BITS * lanes, depth=self.depth, init=[])
            exponents = Memory(shape=8, depth=self.depth, init=[])
            m.submodules[f"mantissas_{bank}"], m.submodules[f"exponents_{bank}"] = mantissas, exponents
            write, read = mantissas.write_port(granularity=ALIGNED_BITS * vector), mantissas.read_port()
            exponent_write, exponent_read = exponents.write_port(), exponents.read_port()
            here = inside & (query[:2] == bank)
            with m.If(self.writes.write_enable & here):
                m.d.comb += write.en.eq(Const(1, lanes // vector) << piece)
            width = ALIGNED_BITS * lanes
            m.d.comb += [
                write.addr.eq(address),
                write.data.eq(Cat(self.writes.write_data for _ in range(lanes // vector))),
                read.addr.eq(self.read.word),
                self.data[width * bank : width * (bank + 1)].eq(read.data),
                exponent_write.addr.eq(base),
                exponent_write.data.eq(self.writes.write_exponent),
                exponent_write.en.eq(self.writes.write_enable & (self.writes.write_offset == 0) & here),
                exponent_read.addr.eq(self.read.head),
                self.exponents[8 * bank : 8 * (bank + 1)].eq(exponent_read.data),
            ]
        return m
