"""The end of attention: one division per query, one result element per cycle."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import FromInteger, Multiply
from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid
from hw.arithmetic.quadratic import Quadratic
from hw.arithmetic.signature import Signature
from hw.kv.query import query_depth
from hw.kv.reduce import EXPONENT_BITS, SUM_BITS, TOTAL_BITS
from hw.kv.walk import blocks, lowest
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, WordWrite, lane_of
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.fp16 import ALIGNED_BIAS as KV_BIAS
from skipopu.numerics.tables import OUTPUT_BITS, RECIPROCAL


class Divide(Component):
    """Walks KV heads, blocks and their lanes. Members: clear (in: a new instruction), start (in); configuration; block_count,
    lanes_k, addresses_k, kv_offset (in); read_number, read_lane, sum_address (out), total, exponent, sums (in, one cycle
    later); words (out stream, always accepted), done, digest, saturated (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.blocks = blocks(machine)
        number = bits_for_index(query_depth(machine))
        super().__init__(
            {
                "clear": In(1),
                "start": In(1),
                "kv_heads": In(7),
                "head_dim": In(10),
                "block_count": In(count_shape(self.blocks)),
                **{f"lanes_{k}": In(QUERY_LANES) for k in range(self.blocks)},
                **{f"addresses_{k}": In(data.ArrayLayout(ELEMENT_ADDRESS_BITS, QUERY_LANES)) for k in range(self.blocks)},
                "kv_offset": In(ELEMENT_ADDRESS_BITS),
                "read_number": Out(number),
                "read_lane": Out(2),
                "sum_address": Out(number),
                "total": In(TOTAL_BITS),
                "exponent": In(EXPONENT_BITS),
                "sums": In(SUM_BITS * machine.kv_lanes),
                "words": Out(stream.Signature(WordWrite(machine))),
                "done": Out(1),
                "digest": Out(32),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.kv_lanes
        m.submodules.writes = writes = Signature(1)
        m.d.comb += [writes.clear.eq(self.clear), self.digest.eq(writes.total)]

        # 1 / total
        m.submodules.convert_total = convert_total = FromInteger(TOTAL_BITS + 1)
        m.submodules.reciprocal = reciprocal = Quadratic((RECIPROCAL,))
        m.submodules.convert_reciprocal = convert_reciprocal = FromInteger(OUTPUT_BITS + 2)
        denominator_exponent = Signal(8)
        m.d.comb += [
            convert_total.mantissa.eq(self.total),
            reciprocal.u.eq(convert_total.z[:23]),
            convert_reciprocal.mantissa.eq(reciprocal.y),
            denominator_exponent.eq(convert_total.z[23:31]),
            convert_reciprocal.exponent.eq(127 - OUTPUT_BITS - denominator_exponent),
        ]
        division = 1 + FromInteger.LATENCY + Quadratic.LATENCY + FromInteger.LATENCY + 1
        wait = Signal(range(division + 1))
        quotient, exponent = Signal(32), Signal(EXPONENT_BITS)

        # The query and its element
        kv_head, block, left = Signal(7), Signal(bits_for_index(self.blocks)), Signal(QUERY_LANES)
        number, sum_base, sum_number = (
            Signal.like(self.read_number),
            Signal.like(self.sum_address),
            Signal.like(self.sum_address),
        )
        offset, element, lane = Signal(ELEMENT_ADDRESS_BITS), Signal(10), Signal(range(max(2, lanes)))
        emitting = Signal()
        lane_masks = Array(getattr(self, f"lanes_{k}") for k in range(self.blocks))
        addresses = Array(getattr(self, f"addresses_{k}").as_value() for k in range(self.blocks))
        query_address = Signal(ELEMENT_ADDRESS_BITS)
        m.d.comb += [
            self.read_number.eq(number),
            self.read_lane.eq(lowest(left)),
            self.sum_address.eq(sum_number),
            query_address.eq(addresses[block].word_select(self.read_lane, ELEMENT_ADDRESS_BITS) + offset),
        ]

        # Results
        m.submodules.convert = convert = FromInteger(SUM_BITS)
        m.submodules.multiply = multiply = Multiply()
        numerator = Signal(signed(SUM_BITS))
        m.d.sync += numerator.eq(self.sums.word_select(delay(m, lane, 1, "lane"), SUM_BITS))
        at_end = 2 + FromInteger.LATENCY + Multiply.LATENCY
        valid_convert = delay_valid(m, emitting, 2, "converting")
        valid_end = delay_valid(m, emitting, at_end, "emitted")
        address_end = Signal(ELEMENT_ADDRESS_BITS)
        m.d.comb += [
            address_end.eq(delay(m, query_address + element, at_end, "address")),
            convert.mantissa.eq(numerator),
            convert.exponent.eq(exponent - KV_BIAS),
            convert.valid.eq(valid_convert),
            multiply.a.eq(convert.z),
            multiply.b.eq(quotient),
            multiply.valid.eq(delay_valid(m, valid_convert, FromInteger.LATENCY, "dividing")),
            self.saturated.eq(convert.saturated | multiply.saturated),
            self.words.valid.eq(valid_end),
            self.words.payload.address.eq(address_end),
            self.words.payload.data.eq(Cat(multiply.z for _ in range(machine.vector_lanes))),
            self.words.payload.enable.eq(Const(1, machine.vector_lanes) << lane_of(machine, address_end)),
            writes.valid[0].eq(valid_end),
            writes.where[0].eq(address_end),
            writes.value[0].eq(multiply.z),
        ]
        settle = Signal(range(at_end + Signature.LATENCY + 2))
        following = left & (left - 1)
        last_block, last_head = block == self.block_count - 1, kv_head == self.kv_heads - 1
        next_block = Signal.like(block)
        m.d.comb += next_block.eq(block + 1)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [s.eq(0) for s in (kv_head, block, number, sum_base, sum_number, offset, wait)]
                    m.d.sync += left.eq(self.lanes_0)
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.sync += [wait.eq(wait + 1), element.eq(0), lane.eq(0)]
                with m.If(wait == division):
                    m.d.sync += [quotient.eq(convert_reciprocal.z), exponent.eq(self.exponent)]
                    m.next = "EMIT"
            with m.State("EMIT"):
                m.d.comb += emitting.eq(1)
                m.d.sync += [element.eq(element + 1), lane.eq(lane + 1), settle.eq(0)]
                with m.If(lane == lanes - 1):
                    m.d.sync += [lane.eq(0), sum_number.eq(sum_number + self.block_count)]
                with m.If(element == self.head_dim - 1):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                # The query's results leave before its quotient is replaced.
                m.d.sync += settle.eq(settle + 1)
                with m.If(settle == at_end + Signature.LATENCY):
                    m.d.sync += [wait.eq(0), left.eq(following), sum_number.eq(sum_base)]
                    m.next = "DIVIDE"
                    with m.If(~following[:QUERY_LANES].any()):
                        m.d.sync += [
                            left.eq(lane_masks[next_block]),
                            block.eq(next_block),
                            number.eq(number + 1),
                            sum_base.eq(sum_base + 1),
                            sum_number.eq(sum_base + 1),
                        ]
                        with m.If(last_block):
                            # The last block's last beat is the head's last; after a full beat it was already passed.
                            beyond = Mux(lane == 0, sum_number - self.block_count, sum_number) + 1
                            m.d.sync += [
                                left.eq(self.lanes_0),
                                block.eq(0),
                                kv_head.eq(kv_head + 1),
                                offset.eq(offset + self.kv_offset),
                                sum_base.eq(beyond),
                                sum_number.eq(beyond),
                            ]
                            with m.If(last_head):
                                m.d.comb += self.done.eq(1)
                                m.next = "IDLE"
        return m
