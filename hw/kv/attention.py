"""ATTEND: walks the KV map, runs the ports' phases, reduces over ports and divides once per head."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import FromInteger, Multiply
from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid, tree
from hw.arithmetic.quadratic import Quadratic
from hw.arithmetic.signature import Signature
from hw.control.issue import Issue, field
from hw.kv.port import KV_BIAS, SUM_BITS, TOTAL_BITS, AttentionPort
from hw.kv.write import MapEntry
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, WordWrite, lane_of
from hw.memory.reader import Run
from hw.pe.activation import AlignedMemory
from skipopu.isa.spec import ATTEND, BUFFER_UNIT
from skipopu.machine.config import Machine
from skipopu.numerics.tables import OUTPUT_BITS, RECIPROCAL

QUERY_WRITES = (
    "write_slot",
    "write_element",
    "write_data",
    "write_enable",
    "exponent_slot",
    "exponent_group",
    "exponent_data",
    "exponent_enable",
)


class AttentionUnit(Component):
    """Keys of all mapped entries, maxima over ports, probabilities, values, division; one result element per cycle.

    Members: active, instruction (in), done, digest (out); configuration; the query memory's write side; map_read_*; runs_p,
    beats_p (loaders of the ports); words (out stream, to the buffer); saturated, range (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.queries = [AlignedMemory(machine, machine.query, machine.kv_lanes) for _ in range(machine.ports)]
        self.ports = [AttentionPort(machine) for _ in range(machine.ports)]
        members = {name: self.queries[0].signature.members[name] for name in QUERY_WRITES}
        for p in range(machine.ports):
            members[f"runs_{p}"] = Out(stream.Signature(Run(machine)))
            members[f"beats_{p}"] = In(stream.Signature(machine.port_bits))
        super().__init__(
            {
                **members,
                "active": In(1),
                "instruction": In(Issue(machine)),
                "done": Out(1),
                "digest": Out(32),
                "kv_heads": In(7),
                "query_group": In(5),
                "head_dim": In(10),
                "kv_base": In(32),
                "kv_entry": In(16),
                "map_read_address": Out(bits_for_index(machine.map_entries)),
                "map_read_data": In(MapEntry(machine)),
                "words": Out(stream.Signature(WordWrite(machine))),
                "saturated": Out(1),
                "range": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes, ports = self.machine, self.machine.kv_lanes, self.ports
        tokens = machine.tokens
        token_shape = bits_for_index(tokens)
        beat_shift = (machine.beat_bytes - 1).bit_length()
        m.submodules.writes = writes = Signature(1)
        m.d.comb += self.digest.eq(writes.total)
        head_beats, header_beats, heads = Signal(6), Signal(4), Signal(10)
        m.d.sync += [
            head_beats.eq((self.head_dim + (lanes - 1)) >> (lanes.bit_length() - 1)),
            header_beats.eq((2 * self.kv_heads + (machine.beat_bytes - 1)) >> beat_shift),
            heads.eq(self.kv_heads * self.query_group),
        ]
        # List of the slots with their positions and buffer addresses
        count, setup = Signal(count_shape(tokens)), Signal(count_shape(tokens))
        slots = [Signal(token_shape, name=f"slot_{j}") for j in range(tokens)]
        positions = [Signal(24, name=f"position_{j}") for j in range(tokens)]
        bases = [Signal(ELEMENT_ADDRESS_BITS, name=f"base_{j}") for j in range(tokens)]
        running_base, last_token = Signal(ELEMENT_ADDRESS_BITS), Signal(24)

        keys, softmax, values, begin, requests_done = Signal(), Signal(), Signal(), Signal(), Signal()
        map_index, map_row = Signal(24), Signal(24)
        map_valid, map_token = Signal(), Signal(20)
        maximum_address, exponent_address = Signal.like(ports[0].maximum_address), Signal.like(ports[0].exponent_address)
        total_address, sum_address = Signal.like(ports[0].total_address), Signal.like(ports[0].sum_address)
        maximum_enable, exponent_enable = Signal(), Signal()
        has = [port.entries != 0 for port in ports]
        larger = lambda a, b: Mux(a > b, a, b)  # noqa: E731
        global_maximum = tree([Mux(h, p.maximum_local, 0) for h, p in zip(has, ports, strict=True)], larger)
        global_exponent = tree([Mux(h, p.exponent_local, 0) for h, p in zip(has, ports, strict=True)], larger)
        wanted_ready = Signal(len(ports))
        ranges = []
        for p, (port, query) in enumerate(zip(ports, self.queries, strict=True)):
            m.submodules[f"port_{p}"], m.submodules[f"query_{p}"] = port, query
            for name in QUERY_WRITES:
                m.d.comb += getattr(query, name).eq(getattr(self, name))
            ranges.append(query.range)
            runs, beats = getattr(self, f"runs_{p}"), getattr(self, f"beats_{p}")
            m.d.comb += [
                query.read_slot.eq(port.query_slot),
                query.read_word.eq(port.query_word),
                query.read_group.eq(port.query_head),
                port.query.eq(query.data),
                port.query_exponent.eq(query.exponent),
                runs.valid.eq(port.runs.valid),
                runs.payload.eq(port.runs.payload),
                port.runs.ready.eq(runs.ready),
                port.beats.valid.eq(beats.valid),
                port.beats.payload.eq(beats.payload),
                beats.ready.eq(port.beats.ready),
                port.phase_keys.eq(keys),
                port.phase_softmax.eq(softmax),
                port.phase_values.eq(values),
                port.begin.eq(begin),
                port.requests_done.eq(requests_done),
                port.wanted.valid.eq(map_valid & (self.map_read_data.port == p)),
                port.wanted.payload.place.eq(self.map_read_data.place),
                port.wanted.payload.token.eq(map_token),
                wanted_ready[p].eq(port.wanted.ready & (self.map_read_data.port == p)),
                port.kv_heads.eq(self.kv_heads),
                port.query_group.eq(self.query_group),
                port.head_beats.eq(head_beats),
                port.header_beats.eq(header_beats),
                port.kv_base.eq(self.kv_base),
                port.kv_entry.eq(self.kv_entry),
                port.token_count.eq(count),
                port.positions.eq(Cat(positions)),
                port.slots.eq(Cat(slots)),
                port.maximum_address.eq(maximum_address),
                port.maximum_global.eq(global_maximum),
                port.maximum_enable.eq(maximum_enable),
                port.exponent_address.eq(exponent_address),
                port.exponent_global.eq(global_exponent),
                port.exponent_enable.eq(exponent_enable),
                port.total_address.eq(total_address),
                port.sum_address.eq(sum_address),
            ]
        m.d.comb += self.range.eq(Cat(ranges).any())
        all_done = Cat(port.phase_done for port in ports).all()

        # Map walk: the memory answers one cycle after the address; an entry that is not taken is read again.
        advance = map_valid & wanted_ready.any()
        walking = Signal()
        next_index = Signal(24)
        m.d.comb += [
            next_index.eq(Mux(map_valid & ~advance, map_token, map_index)),
            self.map_read_address.eq(map_row + next_index),
            requests_done.eq(~walking & ~map_valid),
        ]
        with m.If(walking & (~map_valid | advance)):
            m.d.sync += [map_valid.eq(1), map_token.eq(map_index), map_index.eq(map_index + 1)]
            with m.If(map_index == last_token):
                m.d.sync += walking.eq(0)
        with m.Elif(advance):
            m.d.sync += map_valid.eq(0)

        # Division: once per (token, head)
        token, head = Signal(token_shape), Signal(10)
        head_first_word, kv_head, group = Signal(bits_for_index(machine.query // lanes)), Signal(7), Signal(5)
        total = Signal(TOTAL_BITS)
        m.d.sync += total.eq(
            tree([Mux(h, p.total, 0) for h, p in zip(has, ports, strict=True)], lambda a, b: (a + b)[:TOTAL_BITS])
        )
        m.submodules.convert_total = convert_total = FromInteger(TOTAL_BITS + 1)
        m.submodules.reciprocal = reciprocal = Quadratic((RECIPROCAL,))
        m.submodules.convert_reciprocal = convert_reciprocal = FromInteger(OUTPUT_BITS + 2)
        denominator_exponent = Signal(8)
        m.d.comb += [
            convert_total.mantissa.eq(total),
            reciprocal.u.eq(convert_total.z[:23]),
            convert_reciprocal.mantissa.eq(reciprocal.y),
            denominator_exponent.eq(convert_total.z[23:31]),
            convert_reciprocal.exponent.eq(127 - OUTPUT_BITS - denominator_exponent),
        ]
        division = 1 + FromInteger.LATENCY + Quadratic.LATENCY + FromInteger.LATENCY + 2
        wait = Signal(range(division + 1))
        quotient, shared_exponent = Signal(32), Signal(5)

        # Results: one element per cycle
        element, lane, beat = Signal(10), Signal(range(max(2, lanes))), Signal(6)
        emitting = Signal()
        m.d.comb += sum_address.eq(Cat(token, head_first_word + beat)[: len(sum_address)])
        added = Signal(SUM_BITS * lanes)
        m.d.sync += added.eq(
            Cat(
                tree(
                    [Mux(h, p.sum[SUM_BITS * k : SUM_BITS * (k + 1)], 0) for h, p in zip(has, ports, strict=True)],
                    lambda a, b: (a + b)[:SUM_BITS],
                )
                for k in range(lanes)
            )
        )
        m.submodules.convert = convert = FromInteger(SUM_BITS)
        m.submodules.multiply = multiply = Multiply()
        numerator = Signal(signed(SUM_BITS))
        m.d.sync += numerator.eq(added.word_select(delay(m, lane, 1, "lane"), SUM_BITS))
        base = Signal(ELEMENT_ADDRESS_BITS)
        head_offset = Signal(20)
        with m.Switch(token):
            for j in range(tokens):
                with m.Case(j):
                    m.d.comb += base.eq(bases[j])
        at_end = 2 + FromInteger.LATENCY + Multiply.LATENCY
        valid_convert = delay_valid(m, emitting, 2, "converting")
        valid_end = delay_valid(m, emitting, at_end, "emitted")
        address_end = delay(m, base + head_offset + element, at_end, "address")
        m.d.comb += [
            convert.mantissa.eq(numerator),
            convert.exponent.eq(shared_exponent - KV_BIAS),
            convert.valid.eq(valid_convert),
            multiply.a.eq(convert.z),
            multiply.b.eq(quotient),
            multiply.valid.eq(delay_valid(m, valid_convert, FromInteger.LATENCY, "dividing")),
            self.saturated.eq(convert.saturated | multiply.saturated | Cat(port.saturated for port in ports).any()),
            self.words.valid.eq(valid_end),
            self.words.payload.address.eq(address_end),
            self.words.payload.data.eq(Cat(multiply.z for _ in range(machine.vector_lanes))),
            self.words.payload.enable.eq(Const(1, machine.vector_lanes) << lane_of(machine, _signal(m, address_end))),
            writes.valid[0].eq(valid_end),
            writes.where[0].eq(address_end[:ELEMENT_ADDRESS_BITS]),
            writes.value[0].eq(multiply.z),
        ]
        last_head = head == heads - 1
        last_listed = token == count - 1
        settle = Signal(range(at_end + Signature.LATENCY + 2))

        def start_walk(phase: str) -> None:
            m.d.sync += [walking.eq(1), map_index.eq(0)]
            m.next = phase

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.active):
                    m.d.comb += [writes.clear.eq(1), begin.eq(1)]
                    m.d.sync += [
                        setup.eq(0),
                        count.eq(0),
                        map_row.eq(self.instruction.map_row),
                        running_base.eq(field(self.instruction.word, ATTEND, "dst") * BUFFER_UNIT),
                    ]
                    m.next = "LIST"
            with m.State("LIST"):
                m.d.sync += [
                    setup.eq(setup + 1),
                    running_base.eq(running_base + field(self.instruction.word, ATTEND, "stride") * BUFFER_UNIT),
                ]
                with m.If(self.instruction.mask.bit_select(setup, 1)):
                    m.d.sync += [count.eq(count + 1), last_token.eq(self.instruction.position + setup)]
                    with m.Switch(count):
                        for j in range(tokens):
                            with m.Case(j):
                                m.d.sync += [
                                    slots[j].eq(setup),
                                    positions[j].eq(self.instruction.position + setup),
                                    bases[j].eq(running_base),
                                ]
                with m.If(setup == tokens - 1):
                    start_walk("KEYS START")
            with m.State("KEYS START"):
                m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += keys.eq(1)
                with m.If(all_done):
                    m.d.sync += [token.eq(0), head.eq(0)]
                    m.next = "REDUCE"
            with m.State("REDUCE"):
                m.d.comb += [
                    maximum_address.eq(Cat(token, head)),
                    maximum_enable.eq(1),
                    exponent_address.eq(Cat(token, head)),
                    exponent_enable.eq(head < self.kv_heads),
                ]
                m.d.sync += token.eq(token + 1)
                with m.If(last_listed):
                    m.d.sync += [token.eq(0), head.eq(head + 1)]
                    with m.If(last_head):
                        m.next = "SOFTMAX"
            with m.State("SOFTMAX"):
                m.d.comb += softmax.eq(1)
                with m.If(all_done):
                    start_walk("VALUES START")
            with m.State("VALUES START"):
                m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += values.eq(1)
                with m.If(all_done):
                    m.d.sync += [token.eq(0), settle.eq(0)]
                    m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.sync += [head.eq(0), kv_head.eq(0), group.eq(0), head_first_word.eq(0), head_offset.eq(0), wait.eq(0)]
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.comb += [total_address.eq(Cat(token, head)), exponent_address.eq(Cat(token, kv_head))]
                m.d.sync += wait.eq(wait + 1)
                with m.If(wait == division):
                    m.d.sync += [
                        quotient.eq(convert_reciprocal.z),
                        shared_exponent.eq(global_exponent),
                        element.eq(0),
                        lane.eq(0),
                        beat.eq(0),
                    ]
                    m.next = "EMIT"
            with m.State("EMIT"):
                m.d.comb += emitting.eq(1)
                m.d.sync += [element.eq(element + 1), lane.eq(lane + 1)]
                with m.If(lane == lanes - 1):
                    m.d.sync += [lane.eq(0), beat.eq(beat + 1)]
                with m.If(element == self.head_dim - 1):
                    m.d.sync += settle.eq(0)
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                # The head's results leave before its quotient is replaced.
                m.d.sync += settle.eq(settle + 1)
                with m.If(settle == at_end + Signature.LATENCY):
                    m.d.sync += [
                        head.eq(head + 1),
                        head_first_word.eq(head_first_word + head_beats),
                        head_offset.eq(head_offset + self.head_dim),
                        group.eq(group + 1),
                        wait.eq(0),
                    ]
                    with m.If(group == self.query_group - 1):
                        m.d.sync += [group.eq(0), kv_head.eq(kv_head + 1)]
                    m.next = "DIVIDE"
                    with m.If(last_head):
                        m.d.sync += token.eq(token + 1)
                        m.next = "TOKEN"
                        with m.If(last_listed):
                            m.d.comb += self.done.eq(1)
                            m.next = "IDLE"
        return m


def _signal(m: Module, value: Value) -> Signal:
    signal = Signal(len(value))
    m.d.comb += signal.eq(value)
    return signal
