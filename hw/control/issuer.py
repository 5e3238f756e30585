"""Hands instructions over to the units' queues."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream

from hw.arithmetic.pipeline import count_shape, delay, delay_valid, registered
from hw.component import Component, given, gives
from hw.control.configuration import config_bits, setting
from hw.control.issue import ENTRY_BITS, Issue, field
from hw.control.layers import Layer
from hw.control.weights import WeightRequest
from hw.pe.formats import one_of, two_digits, zero_points
from hw.pe.sequencer import is_short
from hw.widths import ELEMENT_BITS, GROUP_BITS, POSITION_BITS
from skipopu.isa.fields import WORD_BITS
from skipopu.isa.registers import ERROR_BITS, Config, Error
from skipopu.isa.spec import (
    ADJUST,
    ALIGN,
    ATTEND,
    EXTEND,
    INSTRUCTIONS,
    KVWRITE,
    MATMUL,
    OPCODE_BITS,
    PC_BITS,
    ROUTE,
    TokenList,
    Unit,
)
from skipopu.machine import pipeline
from skipopu.machine.config import Machine


def unit_opcodes(machine: Machine) -> dict[Unit, list[int]]:
    """Instructions that each unit of ``machine`` executes."""
    executed = [i for i in INSTRUCTIONS if machine.adjust or i is not ADJUST]
    return {unit: [i.opcode for i in executed if i.unit == unit.name.lower()] for unit in Unit}


assert ALIGN.offsets["list"] == MATMUL.offsets["list"]


class Issuer(Component):
    """Hands a unit's instruction to its queue with the state it depends on, and a product's weights to whoever fetches them.

    An instruction that works on a routed list waits until the routing decision is known, so weights are requested up to the next
    decision and never for a skipped module.

    Latency: none, a product's pipeline.sized cycles, in which its size is held against the buffer. Throughput: an instruction per cycle, a
    product in as many and one more.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.restart = given(1, "a run starts, for a cycle")
        self.coming = given(WORD_BITS, "the instruction, the cycle before")
        self.word = given(WORD_BITS, "the instruction")
        self.attempt = given(1, "it is a unit's, hand it over")
        self.pc = given(PC_BITS, "its index")
        self.mask = given(machine.tokens, "slots of its list")
        self.position = given(32, "of slot 0")
        self.count = given(count_shape(machine.tokens), "slots of the chunk")
        self.layer = given(Layer(), "where the present layer has its own", "layer_{}")
        self.config = given(config_bits(machine), "configuration registers")
        self.route_done = given(1, "a routing decision is known, for a cycle")
        self.issue = [gives(stream.Signature(Issue(machine)), f"instructions for {u.name.lower()}'s queue") for u in Unit]
        self.fetch = gives(stream.Signature(WeightRequest(machine)), "weights of a product that is handed over")
        self.free = gives(1, "a unit's would be handed over; of a product, once its size is known")
        self.taken = gives(1, "it is handed over")
        self.refused = gives(1, "no machine can execute it: it is not handed over")
        self.reason = gives(ERROR_BITS, "error that it is")
        self.wait_route = gives(1, "it waits for a routing decision")
        self.row_end = gives(1, "the layer's attention is handed over")
        self.retired = gives(32, "instructions handed over so far")
        if machine.masks:
            self.masked = given(1, "a product has thresholds")
            self.again = given(1, "and the mask of the product before")
            self.thresholds = given(EXTEND.by_name["mask"].width, "their address")
        if machine.window:
            self.window = given(POSITION_BITS, "tokens that a query of the layer sees, by its last decision; 0: all")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word, opcode, formats = self.word, self.word[:OPCODE_BITS], self.machine.weight_formats
        entries, route_pending = Signal(ENTRY_BITS), Signal()
        issue = Issue(self.machine)(Signal(Issue(self.machine).size, name="issue_payload"))
        request = self.fetch.payload
        m.d.comb += [
            issue.word.eq(word),
            issue.mask.eq(self.mask),
            issue.address.eq(field(word, MATMUL, "address") + Mux(field(word, MATMUL, "layered"), self.layer.base, 0)),
            issue.position.eq(self.position),
            issue.count.eq(self.count),
            issue.map_row.eq(self.layer.map_row),
            issue.trace_row.eq(self.layer.trace_row),
            issue.first_layer.eq(self.layer.first),
            issue.empty.eq((self.mask == 0) & (opcode != KVWRITE.opcode)),
            issue.pc.eq(self.pc),
            issue.sequence.eq(self.retired),
            issue.entries.eq(entries),
            request.address.eq(issue.address),
            request.rounds.eq(field(word, MATMUL, "rounds")),
            request.ports.eq(field(word, MATMUL, "ports")),
            request.groups.eq(field(word, MATMUL, "groups")),
            request.short.eq(is_short(word, setting(self.config, Config.GROUP)[:GROUP_BITS], self.machine)),
            request.two_digits.eq(two_digits(field(word, MATMUL, "format"), formats)),
        ]
        if self.machine.zero_points:
            m.d.comb += request.zero_points.eq(zero_points(field(word, MATMUL, "format"), formats))
        if self.machine.masks:
            base = Mux(field(word, MATMUL, "layered"), self.layer.base, 0)
            m.d.comb += [
                issue.masked.eq(self.masked),
                issue.again.eq(self.again),
                request.masked.eq(self.masked),
                request.again.eq(self.again),
                request.thresholds.eq(self.thresholds + base),
                request.source.eq(field(word, MATMUL, "source")),
            ]
        if self.machine.window:
            m.d.comb += issue.window.eq(self.window)
        # One decision at a time: a second ROUTE would clear the first one's mark too early.
        coming_list, coming_opcode = field(self.coming, MATMUL, "list"), self.coming[:OPCODE_BITS]
        routed = (coming_list == TokenList.ATTENTION) | (coming_list == TokenList.FFN) | (coming_opcode == ROUTE.opcode)
        wait = registered(m, routed, "routed") & route_pending
        m.d.comb += self.wait_route.eq(self.attempt & wait)

        is_product = registered(m, coming_opcode == MATMUL.opcode, "is_product")
        known = registered(m, one_of(field(self.coming, MATMUL, "format"), formats), "known_format")
        has_rounds = registered(m, field(self.coming, MATMUL, "rounds") != 0, "has_rounds")
        elements, room = Signal(ELEMENT_BITS + 1), Signal(signed(ELEMENT_BITS + 1))
        inner = Mux(field(self.coming, MATMUL, "source"), setting(self.config, Config.INNER)[:ELEMENT_BITS], 0)
        late = pipeline.sized(self.machine) - 1
        groups = delay(m, field(self.coming, MATMUL, "groups"), late, "groups")
        m.d.sync += elements.eq(groups * setting(self.config, Config.GROUP)[:GROUP_BITS])
        m.d.sync += room.eq(self.machine.activation - inner)
        # Of a product, pipeline.sized behind the first attempt that need not wait, by which its list stands: whether it was looked at, and what
        # it is.
        looks = delay_valid(m, self.attempt & ~wait & ~self.taken, late, "looks")
        checked, fits = registered(m, looks, "checked"), registered(m, looks & known & (elements <= room), "fits")
        fetches = registered(m, has_rounds & (self.mask != 0), "fetches")
        m.d.comb += [
            self.refused.eq(is_product & checked & ~fits),
            self.reason.eq(Mux(known, Error.BUFFER_RANGE, Error.ILLEGAL_INSTRUCTION)),
        ]

        is_of, ready = Signal(len(Unit), reset_less=True), Cat(queue.ready for queue in self.issue)
        for unit in Unit:
            m.d.sync += is_of[unit].eq(Cat(coming_opcode == code for code in unit_opcodes(self.machine)[unit]).any())
        m.d.comb += [
            self.free.eq(~wait & (~is_product | fits & (~fetches | self.fetch.ready)) & ((is_of & ~ready) == 0)),
            self.taken.eq(self.attempt & self.free),
            self.fetch.valid.eq(self.taken & is_product & fetches),
            self.row_end.eq(self.taken & (opcode == ATTEND.opcode)),
        ]
        for queue, chosen in zip(self.issue, is_of, strict=True):
            m.d.comb += [queue.payload.eq(issue), queue.valid.eq(self.taken & chosen)]

        with m.If(self.route_done | self.restart):
            m.d.sync += route_pending.eq(0)
        with m.If(self.taken):
            m.d.sync += [entries.eq(entries + (opcode == KVWRITE.opcode)), self.retired.eq(self.retired + 1)]
            with m.If((opcode == ROUTE.opcode) & (self.mask != 0)):
                m.d.sync += route_pending.eq(1)
        with m.If(self.restart):
            m.d.sync += [entries.eq(0), self.retired.eq(0)]
        return m
