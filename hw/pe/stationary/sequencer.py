"""Walks a MATMUL of a stationary array: tiles, groups, their parts, beats and tokens, in lockstep over all slices."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid
from hw.component import Component, given, gives
from hw.control.issue import Issue, field
from hw.pe.formats import FORMAT_BITS, two_digits
from hw.pe.rounds import Rounds
from hw.pe.stationary.active import ActiveWords
from hw.pe.stationary.fill import BEAT_BITS, FillWalk, PartLayout
from hw.pe.stationary.operands import word_lanes
from hw.pe.stationary.slice import Beat, Fill, StationarySlice, Sum
from hw.widths import ELEMENT_BITS, GROUP_BITS
from skipopu.isa.spec import BLOCK_ROWS, MATMUL
from skipopu.machine import pipeline
from skipopu.machine.config import TOKENS_AT_ONCE, Machine
from skipopu.numerics.accumulate import TERMS


class StationarySequencer(Component):
    """Fills one half of the slices' buffers with a group's part, multiplies the other with two tokens after two, takes the sums out.

    A tile gives every port as many blocks of rows as a beat has codes for; what is left at a product's end are tiles of half as many, a
    quarter and so on, whose beats are several channels. Tiles alternate between two banks of accumulators. Multiplying follows filling beat
    by beat; a part's last beat waits until the sums before are out. A tile's rounds are drained as sums come, where draining is no faster.

    Latency: 2 cycles from ``start`` to the first beat, 1 from a beat to its step, pipeline.told more until ports are told of either;
    ``StationarySlice.PUT_ASIDE`` from a part's last step to its first sum, ``StationarySlice.latency`` from a tile's last sum to its accumulators.
    Throughput: a beat filled, a beat multiplied with two tokens, and a sum per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        self.start = given(1, "begin with the instruction")
        self.instruction = given(Issue(machine), "a MATMUL, while active")
        self.group = given(GROUP_BITS, "weights per group")
        self.inner = given(ELEMENT_BITS, "first element of the activations' inner region")
        self.weights_ready = given(machine.ports, "ports with a beat")
        self.weights_behind = given(machine.ports, "ports with a beat in the next cycle, even if the present one is taken")
        if pipeline.told(machine):
            self.weights_further = given(machine.ports, "and in the one after it, even if that is taken too")
        self.token_count = given(count_shape(machine.tokens), "tokens in the list, at least 1")
        self.slots = [given(slot, f"slot of token {k} asked for") for k in range(TOKENS_AT_ONCE)]
        self.tokens = [gives(slot, f"the step's place {k} in the list") for k in range(TOKENS_AT_ONCE)]
        self.fill = gives(Fill(machine), "what to do with the next beats")
        self.taking_ports = gives(machine.ports, "ports that take them")
        self.step = gives(Beat(machine), "what to multiply")
        self.sum = gives(Sum(machine), "what to take out")
        self.active_ports = gives(machine.ports, "ports that take part in the sum")
        self.format = gives(FORMAT_BITS, "of the weights")
        self.activation_slots = [
            gives(slot, f"slot {k} of the aligned memory to read, with the step") for k in range(TOKENS_AT_ONCE)
        ]
        word = bits_for_index(machine.activation // word_lanes(machine))
        self.activation_word = gives(word, "word to read")
        self.activation_group = gives(word, "its group's first word")
        self.activation_place = gives(range(word_lanes(machine)), "of the step's first channel in the word")
        self.activation_channels = gives(PartLayout(machine)["channels"].shape, "channels of the step, logarithm")
        if machine.masks:
            self.masks_done = given(1, "it is known which channels are active")
            self.active = gives(ActiveWords(machine), "reads of active channels", "active_{}")
            self.nothing = gives(1, "the step's group has no active channel: it multiplies nothing")
        self.kept = gives(1, "for one cycle: the next cycle's sum is the first of the last step's group")
        self.second = gives(1, "the sum is of the second token")
        self.rounds = gives(Rounds(machine), "to the epilogue", "round_{}")
        self.drained = given(1, "the epilogue is done with a bank")
        self.drained_bank = given(1, "that bank")
        self.finished = gives(1, "every step was issued")
        self.streaming = gives(1, "a step")
        self.waiting_weights = gives(1, "no step for want of weights")
        self.waiting_drain = gives(1, "no step for want of a free bank")
        super().__init__()
        self.filling = FillWalk(machine)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, filling = self.machine, self.filling
        m.submodules.filling = filling
        m.d.comb += [
            self.format.eq(field(self.instruction.word, MATMUL, "format")),
            filling.start.eq(self.start),
            filling.instruction.eq(self.instruction),
            filling.group.eq(self.group),
            filling.inner.eq(self.inner),
            filling.ready.eq(self.weights_ready),
            filling.behind.eq(self.weights_behind),
            *([filling.further.eq(self.weights_further)] if pipeline.told(machine) else []),
            filling.format.eq(self.format),
            self.fill.eq(filling.fill),
            self.taking_ports.eq(filling.taking_ports),
        ]
        if machine.masks:
            connect(m, filling.active, flipped(self.active))
            m.d.comb += filling.masks_done.eq(self.masks_done)
        self._multiply(m)
        return m

    def _multiply(self, m: Module) -> None:
        """The halves in turn, each with two tokens after two. A bank is claimed by its tile's first step."""
        machine, filling = self.machine, self.filling
        half, beat, first_token = Signal(), Signal(count_shape(TERMS)), Signal.like(self.tokens[0])
        part, filled, complete = Signal(PartLayout(machine), name="own_part"), Signal(count_shape(TERMS)), Signal()
        busy, claimed, hold = Signal(2), Signal(), Signal(range(TOKENS_AT_ONCE * machine.weight_lanes))
        fire, ready, last_beat = Signal(), Signal(), Signal()
        step, late = Signal(Beat(machine), name="step_here"), pipeline.told(machine)
        last_pass, two = first_token + TOKENS_AT_ONCE >= self.token_count, first_token + 1 < self.token_count
        bank_free = claimed | ~busy.bit_select(part.bank, 1)
        place: Value = beat[:BEAT_BITS]
        if machine.masks:
            m.d.comb += [filling.half.eq(half), filling.beat.eq(beat)]
            place = filling.place
        channel = part.first + (place << part.channels)
        lanes = word_lanes(machine).bit_length() - 1
        m.d.comb += [
            part.eq(Mux(half, filling.parts[1], filling.parts[0])),
            filled.eq(Mux(half, filling.filled[1], filling.filled[0])),
            complete.eq(filling.complete.bit_select(half, 1)),
            last_beat.eq(filled <= beat + 1),  # if complete
            ready.eq(filling.opened.bit_select(half, 1) & (complete | ~last_beat)),
            fire.eq(ready & bank_free & (~last_beat | (hold == 0))),
            step.product.eq(fire),
            step.address.eq(Cat(beat[:BEAT_BITS], half)),
            step.first.eq(beat == 0),
            step.last.eq(last_beat),
            self.step.eq(delay_valid(m, step, late, "step")),
            self.tokens[0].eq(first_token),
            self.tokens[1].eq(Mux(two, first_token + 1, first_token)),
            *(
                to.eq(delay(m, value, late, name))
                for to, value, name in (
                    *(
                        (own, slot, f"slot_{k}")
                        for k, (own, slot) in enumerate(zip(self.activation_slots, self.slots, strict=True))
                    ),
                    (self.activation_word, (part.word + (channel >> lanes))[: len(part.word)], "word"),
                    (self.activation_group, part.word, "group"),
                    (self.activation_place, channel[:lanes], "place"),
                    (self.activation_channels, part.channels, "channels"),
                )
            ),
            filling.freed.eq(delay_valid(m, (fire & last_beat & last_pass) << half, 1, "freed")),
            self.finished.eq(~filling.taking & (filling.opened == 0)),
            self.streaming.eq(fire),
            self.waiting_drain.eq(ready & ~bank_free),
            self.waiting_weights.eq((filling.taking | (filling.opened != 0)) & ~ready),
        ]
        if machine.masks:
            m.d.comb += self.nothing.eq(delay(m, filled == 0, late, "nothing"))
        sums = (machine.weight_lanes // 2) >> part.channels
        duration = Mux(two, sums << 1, sums)
        with m.If(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        with m.If(fire):
            m.d.sync += [beat.eq(beat + 1), claimed.eq(~(last_beat & last_pass & part.tile_ends))]
            with m.If(~claimed):
                m.d.sync += busy.bit_select(part.bank, 1).eq(1)
            with m.If(last_beat):
                least = StationarySlice.PUT_ASIDE
                m.d.sync += [
                    beat.eq(0),
                    hold.eq(Mux(duration < least, least, duration) - 1),
                    first_token.eq(Mux(last_pass, 0, first_token + TOKENS_AT_ONCE)),
                ]
                with m.If(last_pass):
                    m.d.sync += half.eq(~half)
        with m.If(self.drained):
            m.d.sync += busy.bit_select(self.drained_bank, 1).eq(0)
        with m.If(self.start):
            m.d.sync += [beat.eq(0), claimed.eq(0), first_token.eq(0), half.eq(0)]
        self._take_out(m, fire & last_beat, part, first_token, two, last_pass)

    def _take_out(self, m: Module, last: Value, part: Any, first_token: Signal, two: Value, last_pass: Value) -> None:
        """The sums of a part and its tokens, from PUT_ASIDE cycles behind its last step; no other part's last step comes sooner."""
        machine = self.machine
        lane_bits = (machine.weight_lanes // 2 - 1).bit_length()
        kept = [Signal(PartLayout(machine), name=f"kept_{k}") for k in range(2)]
        about = [Signal(len(first_token) + 2, name=f"about_{k}") for k in range(2)]
        ports = [Signal(machine.ports, name=f"ports_{k}") for k in range(2)]
        full = (1 << machine.ports) - 1
        only = (Const(1, machine.ports + 1) << field(self.instruction.word, MATMUL, "ports")[:7])[: machine.ports + 1] - 1
        with m.If(last):
            m.d.sync += [kept[0].eq(part), about[0].eq(Cat(two, last_pass, first_token)), ports[0].eq(full)]
            with m.If(part.last & (part.rounds == 0)):
                m.d.sync += ports[0].eq(only[: machine.ports])
        begins = delay_valid(m, last, StationarySlice.PUT_ASIDE - 1, "begins")
        running, index, second = Signal(), Signal(lane_bits), Signal()
        own, sums = kept[1], Signal(count_shape(machine.weight_lanes // 2))
        taken, late = Signal(Sum(machine), name="sum_here"), pipeline.told(machine)
        both, of_last_pass, token = about[1][0], about[1][1], about[1][2:]
        m.d.comb += [
            self.kept.eq(delay_valid(m, begins, late, "kept")),
            self.second.eq(delay(m, second, late, "second")),
            sums.eq((machine.weight_lanes // 2) >> own.channels),
            taken.valid.eq(running),
            taken.index.eq(index),
            taken.lane.eq(Cat((index << own.channels)[:lane_bits], second)),
            taken.adds.eq((Const(1) << own.channels) - 1),
            taken.token.eq(token + second),
            taken.bank.eq(own.bank),
            taken.scales.eq(own.scales),
            taken.begins.eq(own.begins),
            taken.ends.eq(own.ends),
            taken.first_group.eq(own.first_group),
            self.sum.eq(delay_valid(m, taken, late, "sum")),
            self.active_ports.eq(delay(m, ports[1], late, "active_ports")),
        ]
        last_sum = index == sums - 1
        with m.If(running):
            m.d.sync += index.eq(index + 1)
            with m.If(last_sum):
                m.d.sync += [index.eq(0), second.eq(1), running.eq(second != both)]
        with m.If(begins):
            m.d.sync += [running.eq(1), index.eq(0), second.eq(0)]
            m.d.sync += [new.eq(old) for old, new in (kept, about, ports)]
        plain, digits = (pipeline.drain_begins(machine, row_sums, sums) for row_sums in (BLOCK_ROWS // 2, BLOCK_ROWS))
        drained = Mux(two_digits(self.format, machine.weight_formats), digits, plain)
        drains = running & (index == drained - 1) & (second == both) & own.tile_ends & of_last_pass
        flight = late + StationarySlice.latency(machine)
        of_last_round = Mux(own.last, only[: machine.ports], full)
        m.d.comb += [
            self.rounds.done.eq(delay_valid(m, drains, flight, "round_end")),
            self.rounds.bank.eq(delay(m, own.bank, flight, "bank_end")),
            self.rounds.ports.eq(delay(m, of_last_round, flight, "ports_end")),
            self.rounds.last.eq(delay(m, own.last, flight, "last_end")),
            self.rounds.more.eq(delay(m, ((Const(1) << own.rounds) - 1)[: len(self.rounds.more)], flight, "more_end")),
        ]
