"""Arranges the listed slots' queries in blocks of four, as the query memory's banks hold them."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.component import Component, given, gives
from hw.kv.shapes import HeadShapes
from hw.kv.walk import Block
from hw.memory.buffer import ELEMENT_ADDRESS_BITS
from skipopu.machine.config import QUERY_LANES, Machine


class QueryBlocks(Component):
    """Query number j = slot * query_group + member is lane j mod 4 of block j / 4; blocks without a listed slot are left out.

    Latency: ``tokens * query_group`` cycles from ``start`` to ``done``; what it gives is there a cycle after ``done``.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        self.blocks = shapes.blocks
        lanes = data.ArrayLayout(ELEMENT_ADDRESS_BITS, QUERY_LANES)
        self.start = given(1, "list the queries, one cycle")
        self.mask = given(machine.tokens, "listed slots")
        self.query_group = given(shapes.query_group, "queries per KV head")
        self.head_dim = given(shapes.head_dim, "elements of a head")
        self.kv_words = given(shapes.kv_words, "words of one query over all KV heads")
        self.address = given(ELEMENT_ADDRESS_BITS, "buffer address of slot 0's result, with start")
        self.stride = given(ELEMENT_ADDRESS_BITS, "elements between slots")
        self.done = gives(1, "the queries are listed, one cycle")
        self.count = gives(count_shape(self.blocks), "blocks")
        self.block = [gives(Block(machine), f"block {k}") for k in range(self.blocks)]
        self.addresses = [
            gives(lanes, f"buffer addresses of its lanes' results for KV head 0, block {k}") for k in range(self.blocks)
        ]
        self.kv_offset = gives(ELEMENT_ADDRESS_BITS, "elements between results of consecutive KV heads")
        self.last_slot = gives(bits_for_index(machine.tokens), "last listed slot")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        running = Signal()
        slot, member, lane = Signal(bits_for_index(self.machine.tokens)), Signal.like(self.query_group), Signal(2)
        slot_address, member_offset = Signal(ELEMENT_ADDRESS_BITS), Signal(ELEMENT_ADDRESS_BITS)
        gathered, complete = Signal(Block(self.machine)), Signal(Block(self.machine))
        addresses = Signal(data.ArrayLayout(ELEMENT_ADDRESS_BITS, QUERY_LANES))
        all_addresses = Signal.like(addresses)
        listed = self.mask.bit_select(slot, 1)
        m.d.comb += [complete.eq(gathered), all_addresses.eq(addresses)]
        with m.Switch(lane):
            for q in range(QUERY_LANES):
                with m.Case(q):
                    m.d.comb += [
                        complete.lanes[q].eq(listed),
                        complete.slots[q].eq(slot),
                        all_addresses[q].eq(slot_address + member_offset),
                    ]
        last_member = member == self.query_group - 1
        last = last_member & (slot == self.machine.tokens - 1)
        with m.If(running):
            m.d.sync += [
                lane.eq(lane + 1),
                member.eq(member + 1),
                member_offset.eq(member_offset + self.head_dim),
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
                    self.kv_offset.eq(member_offset + self.head_dim),
                ]
            with m.If((lane == QUERY_LANES - 1) | last):
                m.d.sync += [gathered.lanes.eq(0), gathered.base.eq(gathered.base + self.kv_words)]
                with m.If(complete.lanes.any()):
                    m.d.sync += self.count.eq(self.count + 1)
                    with m.Switch(self.count):
                        for k in range(self.blocks):
                            with m.Case(k):
                                m.d.sync += [
                                    self.block[k].eq(complete),
                                    self.addresses[k].eq(all_addresses),
                                ]
            with m.If(last):
                m.d.sync += running.eq(0)
                m.d.comb += self.done.eq(1)
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                *(s.eq(0) for s in (slot, member, lane, member_offset, gathered.as_value(), self.count)),
                slot_address.eq(self.address),
            ]
        return m
