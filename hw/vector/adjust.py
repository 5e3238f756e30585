"""ADJUST: vectors of the buffer normalised, multiplied and added to element by element, then rotated, activated or added."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike
from amaranth.lib import stream
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, registered
from hw.arithmetic.signature import Signature
from hw.component import Component, given, gives
from hw.control.issue import field
from hw.memory.axi import ADDRESS_BITS
from hw.memory.buffer import BufferRead, WordWrite, lane_of
from hw.memory.reader import Run
from hw.vector.adjust_lanes import AdjustLanes
from hw.vector.adjust_operands import AdjustOperands
from hw.vector.adjust_results import AdjustResults
from hw.vector.unit import Task
from hw.widths import ELEMENT_BITS, GROUP_BITS
from skipopu.adjust_record import ADJUST_RECORD
from skipopu.isa.spec import ADDRESS_SHIFT, ADJUST, BUFFER_UNIT, AlignTarget, Finish, Reduce
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.adjust import PARTIALS


class AdjustUnit(Component):
    """Slot after slot: the rotary row if there is one, gains and biases from port 0, the vector's words from and to the buffer.

    The record comes first, once. What is normalised is read twice; to be added to the buffer or activated, a word takes two cycles.

    Latency: 1 cycle from ``active`` to the record's run; AdjustLanes.LATENCY + 4 from a word's read to its write. Throughput: a
    word of ``pipeline.adjust_lanes`` elements per cycle; besides, pipeline.adjust_reduce cycles for each 1/rms.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.task = given(Task(machine), "ADJUST to execute", "{}")
        self.illegal = gives(1, "fields that no machine executes; the unit stops")
        self.runs = gives(stream.Signature(Run(machine)), "what port 0's loader is to read")
        self.beats = given(stream.Signature(machine.port_bits), "what it read")
        self.rope_row = given(32, "64-byte units per rotary row")
        self.head_dim = given(GROUP_BITS, "elements of a head")
        self.activation = given(3, "function, an Activation")
        self.parameter = given(32, "its parameter, FP32")
        self.read = gives(BufferRead(machine), "a port of the buffer", "read_{}")
        self.words = gives(stream.Signature(WordWrite(machine)), "results, to the buffer")
        self.finish = gives(1, "level: everything is written, the aligner may close")
        self.aligned = given(1, "the aligner is done")
        self.saturated = gives(1, "a step was too large for FP32")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, pipeline.adjust_lanes(self.machine)
        instruction = self.task.instruction
        coming = {name: field(instruction.word, ADJUST, name) for name in ADJUST.by_name}
        # What an instruction says is needed when its record was asked for, at the earliest, and stands until it is done.
        fields = {name: registered(m, value, f"own_{name}") for name, value in coming.items()}
        elements, finish = fields["elements"], fields["finish"]
        rotates, adds, twice, of_heads, normal = (
            registered(m, condition, name)
            for name, condition in (
                ("rotates", coming["finish"] == Finish.ROTATE),
                ("adds", coming["finish"] == Finish.RESIDUAL),
                ("twice", (coming["finish"] == Finish.RESIDUAL) | (coming["finish"] == Finish.ACTIVATE)),
                ("of_heads", coming["reduce"] == Reduce.HEADS),
                ("normal", coming["reduce"] != Reduce.NONE),
            )
        )
        slot = Signal(bits_for_index(machine.tokens))
        # Of the slot: first elements of its vectors. Of the present part, what is normalised at once: the same, elements before it
        sources, results = Signal(ELEMENT_BITS), Signal(ELEMENT_BITS)
        source, result, before, offset = (Signal(ELEMENT_BITS, name=n) for n in ("source", "result", "before", "offset"))
        size = registered(m, Mux(of_heads, self.head_dim, elements), "size")
        ends = offset + lanes >= size
        turn = Signal(GROUP_BITS)  # element of its head
        squares, reads, issues, second = Signal(), Signal(), Signal(), Signal()

        m.submodules.lanes = unit = AdjustLanes(machine)
        m.submodules.operands = operands = AdjustOperands(machine)
        m.submodules.outcome = outcome = AdjustResults(machine)
        record, steps, in_words, recording = operands.record, Signal(), Signal(), Signal()
        # Elements' words go as there are operands and room, decided by registers alone.
        m.d.comb += [
            issues.eq(in_words & (second | (operands.have & outcome.room))),
            steps.eq(in_words & Mux(second, 1, ~twice & operands.have & outcome.room)),
        ]
        # From a word's read to its results: the buffer, a register, the lanes
        there = offset < size
        m.d.comb += [
            reads.eq(squares & there | issues),
            self.read.enable.eq(reads),
            self.read.address.eq(Mux(adds & second, result, source) + offset),
        ]
        which = delay(m, lane_of(machine, self.read.address)[lanes.bit_length() - 1 :], 1, "which")
        taken, kept = Signal(32 * lanes), Signal(32 * lanes)
        m.d.sync += [
            taken.eq(Mux(delay(m, ~squares | there, 1, "there"), self.read.data.word_select(which, 32 * lanes), 0)),
            kept.eq(taken),
        ]
        gives_words = issues & (~adds | second)
        m.d.comb += [
            unit.x.eq(Mux(delay(m, adds & ~delay(m, squares, 1, "of_squares"), 1, "adds_kept"), kept, taken)),
            unit.old.eq(taken),
            unit.square.eq(delay_valid(m, squares, 2, "square")),
            unit.round.eq(delay(m, offset[lanes.bit_length() - 1 :], 2, "round")),
            unit.first.eq(delay(m, offset < PARTIALS, 2, "first")),
            unit.last.eq(delay(m, ends & ((offset + lanes)[: PARTIALS.bit_length() - 1] == 0), 2, "last")),
            unit.valid.eq(delay_valid(m, gives_words, 2, "valid")),
            unit.odd.eq(delay(m, second, 2, "odd")),
            unit.finish.eq(finish),
            unit.relu.eq(fields["relu"]),
            unit.normal.eq(normal),
            unit.inverse_size.eq(field(record, ADJUST_RECORD, "inverse_size")),
            unit.epsilon.eq(field(record, ADJUST_RECORD, "epsilon")),
            unit.activation.eq(self.activation),
            unit.parameter.eq(self.parameter),
            self.saturated.eq(unit.saturated),
        ]
        connect(m, flipped(self.beats), operands.beats)
        connect(m, outcome.words, flipped(self.words))
        late = 2 + unit.LATENCY
        m.d.comb += [
            operands.head_dim.eq(self.head_dim),
            operands.recording.eq(recording),
            operands.used.eq(steps),
            operands.turn.eq(turn),
            *(getattr(unit, name).eq(getattr(operands, name)) for name in ("gain", "bias", "cos", "sin")),
            outcome.announce.eq(gives_words),
            outcome.valid.eq(delay_valid(m, gives_words, late, "results")),
            outcome.results.eq(unit.results),
            outcome.enable.eq(unit.enable),
            outcome.address.eq(delay(m, (result + offset)[:ELEMENT_BITS], late, "address")),
            outcome.slot.eq(delay(m, slot, late, "result_slot")),
            self.task.digest.eq(outcome.digest),
        ]
        m.d.comb += self.task.working.eq(reads)

        # What memory is asked for
        rope, asks = Signal(ADDRESS_BITS), Signal()
        to_beats = ADDRESS_SHIFT - (machine.beat_bytes - 1).bit_length()
        row = Signal(ADDRESS_BITS)
        first_row = registered(m, instruction.position * self.rope_row[:12], "first_row")
        m.d.sync += rope.eq(field(record, ADJUST_RECORD, "rope") + row)
        starved = Signal()
        m.d.comb += [self.runs.valid.eq(asks), self.task.waiting.eq((asks & ~self.runs.ready) | starved)]

        def ask(address: Value, beats: ValueLike, then: str) -> None:
            m.d.comb += [asks.eq(1), self.runs.payload.beat.eq(address << to_beats), self.runs.payload.count.eq(beats)]
            with m.If(self.runs.ready):
                m.next = then

        settle = Signal(range(Signature.LATENCY + 1))
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    slot.eq(0),
                    settle.eq(0),
                    sources.eq(coming["src"] * BUFFER_UNIT),
                    results.eq(coming["dst"] * BUFFER_UNIT),
                ]
                with m.If(self.task.active):
                    m.d.comb += outcome.clear.eq(1)
                    m.next = "RECORD"
                    with m.If(
                        (coming["elements"] == 0) | (coming["elements"] % BUFFER_UNIT != 0) | (coming["reduce"] > max(Reduce))
                    ):
                        m.next = "ILLEGAL"
            with m.State("ILLEGAL"):
                m.d.comb += self.illegal.eq(1)
                m.next = "STUCK"
            with m.State("STUCK"):
                pass
            with m.State("RECORD"):
                ask(instruction.address, 1 << to_beats, "RECORD DATA")
                m.d.sync += recording.eq(self.runs.ready)
            with m.State("RECORD DATA"):
                m.d.sync += row.eq(first_row)
                m.d.comb += starved.eq(~operands.full)
                with m.If(operands.full):
                    m.d.sync += recording.eq(0)
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.d.sync += [source.eq(sources), result.eq(results), before.eq(0), turn.eq(0)]
                m.next = "NEXT"
                with m.If(instruction.mask.bit_select(slot, 1)):
                    m.next = "GAINS"
                    with m.If(rotates):
                        m.next = "ROPE"
            with m.State("ROPE"):
                ask(rope, operands.row_beats, "GAINS")
                m.d.comb += operands.rotary.eq(self.runs.ready)
            with m.State("GAINS"):
                ask(instruction.address + 1, elements >> 3 << to_beats, "PART")
            with m.State("PART"):
                m.d.sync += offset.eq(0)
                m.next = "WORDS"
                with m.If(before + size > elements):
                    m.next = "ILLEGAL"
                with m.Elif(normal):
                    m.next = "PAUSE"
                with m.Else():
                    m.d.sync += in_words.eq(1)
            with m.State("PAUSE"):
                m.next = "SQUARES"  # the adders meet the words before first
            with m.State("SQUARES"):
                m.d.comb += squares.eq(1)
                m.d.sync += offset.eq(offset + lanes)
                with m.If(ends & ((offset + lanes)[: PARTIALS.bit_length() - 1] == 0)):
                    m.d.sync += offset.eq(0)
                    m.next = "REDUCE"
            with m.State("REDUCE"):
                with m.If(unit.reduced):
                    m.d.sync += in_words.eq(1)
                    m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += starved.eq(~operands.have)
                with m.If(issues & twice):
                    m.d.sync += second.eq(~second)
                with m.If(steps):
                    m.d.sync += [
                        offset.eq(offset + lanes),
                        turn.eq(Mux(turn + lanes >= self.head_dim, 0, turn + lanes)),
                    ]
                    with m.If(ends):
                        m.d.sync += [source.eq(source + size), result.eq(result + size), before.eq(before + size)]
                        m.d.sync += in_words.eq(0)
                        m.next = "PART"
                        with m.If(before + size >= elements):
                            m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [
                    slot.eq(slot + 1),
                    row.eq(row + self.rope_row[:12]),
                    sources.eq(sources + fields["stride"] * BUFFER_UNIT),
                    results.eq(results + fields["dst_stride"] * BUFFER_UNIT),
                ]
                m.next = "SLOT"
                with m.If(slot == machine.tokens - 1):
                    m.next = "WRITTEN"
                with m.If(rotates & (turn != 0)):
                    m.next = "ILLEGAL"
            with m.State("WRITTEN"):
                with m.If(outcome.empty):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                aligning = fields["align"] != AlignTarget.NONE
                settled = settle == Signature.LATENCY
                m.d.sync += settle.eq(settle + ~settled)
                m.d.comb += [
                    self.finish.eq(aligning & self.task.active),
                    self.task.done.eq(settled & (~aligning | self.aligned)),
                ]
                with m.If(self.task.done):
                    m.next = "IDLE"
        return m
