"""Arranges the listed slots' queries in blocks of four, as the query memory's banks hold them."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.kv.shapes import HeadShapes
from hw.kv.walk import Block
from hw.memory.buffer import ELEMENT_ADDRESS_BITS
from skipopu.machine.config import QUERY_LANES, Machine


class QueryBlocks(Component):
    """Query number j = slot * query_group + member is lane j mod 4 of block j / 4; blocks without a listed slot are left out.

    Members: start, mask, query_group, head_dim, kv_words, address, stride (in: buffer address of slot 0's result and distance
    between slots, elements); done (out, one cycle), count, block_k, addresses_k (out: of each lane's result for KV head 0),
    kv_offset (out: distance between results of consecutive KV heads), last_slot (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        self.blocks = shapes.blocks
        super().__init__(
            {
                "start": In(1),
                "mask": In(machine.tokens),
                "query_group": In(shapes.query_group),
                "head_dim": In(shapes.head_dim),
                "kv_words": In(shapes.kv_words),
                "address": In(ELEMENT_ADDRESS_BITS),
                "stride": In(ELEMENT_ADDRESS_BITS),
                "done": Out(1),
                "count": Out(count_shape(self.blocks)),
                **{f"block_{k}": Out(Block(machine)) for k in range(self.blocks)},
                **{f"addresses_{k}": Out(data.ArrayLayout(ELEMENT_ADDRESS_BITS, QUERY_LANES)) for k in range(self.blocks)},
                "kv_offset": Out(ELEMENT_ADDRESS_BITS),
                "last_slot": Out(bits_for_index(machine.tokens)),
            }
        )

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
                                    getattr(self, f"block_{k}").eq(complete),
                                    getattr(self, f"addresses_{k}").eq(all_addresses),
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
