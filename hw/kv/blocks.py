"""Arranges the listed slots' queries in blocks of four, as the query memory's banks hold them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data

from hw.arithmetic.pipeline import bits_for_index, count_shape, registered
from hw.component import Bundle, Component, given, gives
from hw.kv.query import query_depth
from hw.kv.shapes import Heads, HeadShapes
from hw.widths import ELEMENT_BITS
from skipopu.machine.config import QUERY_LANES, Machine


class Block(data.StructLayout):
    """Four queries of every KV head. lanes: which exist. base: of their words in the query memory."""

    def __init__(self, machine: Machine) -> None:
        slot = bits_for_index(machine.tokens)
        super().__init__(
            {"lanes": QUERY_LANES, "base": bits_for_index(query_depth(machine)), "slots": data.ArrayLayout(slot, QUERY_LANES)}
        )


class Listed(Bundle):
    """The blocks with listed queries; the same for every KV head."""

    def __init__(self, machine: Machine) -> None:
        most = HeadShapes(machine).blocks
        self.count = gives(count_shape(most), "blocks")
        self.blocks = gives(data.ArrayLayout(Block(machine), most), "what each holds, the first ``count`` of them")
        super().__init__()


class Results(Bundle):
    """Buffer addresses of the listed queries' results."""

    def __init__(self, machine: Machine) -> None:
        lanes = data.ArrayLayout(ELEMENT_BITS, QUERY_LANES)
        self.addresses = gives(
            data.ArrayLayout(lanes, HeadShapes(machine).blocks), "per block, of its lanes' results for KV head 0"
        )
        self.kv_offset = gives(ELEMENT_BITS, "elements between results of consecutive KV heads")
        super().__init__()


def block_of(listed: Listed, number: ValueLike) -> Any:
    """Block ``number`` of ``listed``: a view of :class:`Block`."""
    layout = listed.blocks.shape()
    return layout.elem_shape(Array(listed.blocks[k].as_value() for k in range(layout.length))[Value.cast(number)])


def lowest(mask: Value) -> Value:
    """Index of the lowest set bit of four."""
    return Mux(mask[0], 0, Mux(mask[1], 1, Mux(mask[2], 2, 3)))


def several(mask: Value) -> Value:
    """Whether more than one bit of ``mask`` is set."""
    return Cat(bit & mask[:i].any() for i, bit in enumerate(mask)).any()


class QueryBlocks(Component):
    """Query number j = slot * query_group + member is lane j mod 4 of block j / 4; blocks without a listed slot are left out.

    Latency: ``tokens * query_group`` cycles from ``start`` to ``done``; what it gives is there a cycle after ``done``.
    Throughput: a query per cycle, an instruction at a time.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.start = given(1, "list the queries, one cycle")
        self.mask = given(machine.tokens, "listed slots")
        self.heads = given(Heads(machine), "the model's heads, from a cycle before start")
        self.address = given(ELEMENT_BITS, "buffer address of slot 0's result, with start")
        self.stride = given(ELEMENT_BITS, "elements between slots")
        self.done = gives(1, "the queries are listed, one cycle")
        self.listed = gives(Listed(machine), "blocks with listed queries")
        self.results = gives(Results(machine), "where their results go")
        self.last_slot = gives(bits_for_index(machine.tokens), "last listed slot")
        self.entry_words = gives(HeadShapes(machine).entry_words, "score words of an entry; a cycle after the rest")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        running = Signal()
        slot, member, lane = Signal(bits_for_index(self.machine.tokens)), Signal.like(self.heads.query_group), Signal(2)
        slot_address, member_offset = Signal(ELEMENT_BITS), Signal(ELEMENT_BITS)
        gathered, complete = Signal(Block(self.machine)), Signal(Block(self.machine))
        addresses = Signal(data.ArrayLayout(ELEMENT_BITS, QUERY_LANES))
        all_addresses = Signal.like(addresses)
        listed = self.mask.bit_select(slot, 1)
        m.d.sync += self.entry_words.eq(self.heads.kv_heads * self.listed.count)
        m.d.comb += [complete.eq(gathered), all_addresses.eq(addresses)]
        with m.Switch(lane):
            for q in range(QUERY_LANES):
                with m.Case(q):
                    m.d.comb += [
                        complete.lanes[q].eq(listed),
                        complete.slots[q].eq(slot),
                        all_addresses[q].eq(slot_address + member_offset),
                    ]
        last_member, number = Signal(), registered(m, self.heads.query_group - 1, "last_member_number")
        last = last_member & (slot == self.machine.tokens - 1)
        with m.If(running):
            m.d.sync += [
                lane.eq(lane + 1),
                member.eq(member + 1),
                last_member.eq(Mux(last_member, number == 0, member + 1 == number)),
                member_offset.eq(member_offset + self.heads.head_dim),
                gathered.eq(complete),
                addresses.eq(all_addresses),
            ]
            with m.If(listed):
                m.d.sync += self.last_slot.eq(slot)
            with m.If(last_member):
                m.d.sync += [
                    member.eq(0),
                    slot.eq(slot + 1),
                    slot_address.eq(slot_address + self.stride),
                    member_offset.eq(0),
                    self.results.kv_offset.eq(member_offset + self.heads.head_dim),
                ]
            with m.If((lane == QUERY_LANES - 1) | last):
                m.d.sync += [gathered.lanes.eq(0), gathered.base.eq(gathered.base + self.heads.kv_words)]
                with m.If(complete.lanes.any()):
                    m.d.sync += self.listed.count.eq(self.listed.count + 1)
                    with m.Switch(self.listed.count):
                        for k in range(HeadShapes(self.machine).blocks):
                            with m.Case(k):
                                m.d.sync += [
                                    self.listed.blocks[k].eq(complete),
                                    self.results.addresses[k].eq(all_addresses),
                                ]
            with m.If(last):
                m.d.sync += running.eq(0)
                m.d.comb += self.done.eq(1)
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                last_member.eq(number == 0),
                *(s.eq(0) for s in (slot, member, lane, member_offset, gathered.as_value(), self.listed.count)),
                slot_address.eq(self.address),
            ]
        return m
