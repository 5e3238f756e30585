"""Walks a MATMUL of a stationary array: tiles, groups, their parts, beats and tokens, in lockstep over all slices."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid
from hw.component import Component, given, gives
from hw.control.issue import Issue, field
from hw.pe.formats import FORMAT_BITS, one_of, two_digits, zero_points
from hw.pe.rounds import Rounds
from hw.pe.stationary.operands import word_lanes
from hw.pe.stationary.slice import SCALES_KEPT, Beat, Fill, StationarySlice, Sum
from hw.pe.stationary.tiles import head_beats, largest, tile_size
from hw.widths import ELEMENT_BITS, GROUP_BITS
from skipopu.isa.spec import MATMUL
from skipopu.machine.config import TOKENS_AT_ONCE, Machine
from skipopu.numerics.accumulate import TERMS, terms

GROUP_INDEX_BITS = MATMUL.by_name["groups"].width


class PartLayout(data.StructLayout):
    """A group's part in one half of the buffer of codes: what it is multiplied with and where its sums go.

    beats: of codes. channels: of a beat, logarithm. rounds: of its tile, logarithm. word: of the activations, its group's first. first: its first
    channel in the group. scales, bank, begins, ends, first_group: as of a :class:`Sum`. tile_begins, tile_ends: the tile's first and last
    part. last: the tile is the product's last.
    """

    def __init__(self, machine: Machine) -> None:
        shift = bits_for_index(machine.channel_slots.bit_length())
        super().__init__(
            {
                "beats": count_shape(TERMS),
                "channels": shift,
                "rounds": shift,
                "word": bits_for_index(machine.activation // word_lanes(machine)),
                "first": GROUP_BITS,
                "scales": bits_for_index(SCALES_KEPT),
                "bank": 1,
                "begins": 1,
                "ends": 1,
                "first_group": 1,
                "tile_begins": 1,
                "tile_ends": 1,
                "last": 1,
            }
        )


class StationarySequencer(Component):
    """Fills one half of the slices' buffers with a group's part, multiplies the other with two tokens after two, takes the sums out.

    A tile gives every port as many blocks of rows as a beat has codes for; what is left at a product's end are tiles of half as many, a
    quarter and so on, whose beats are several channels. Tiles alternate between two banks of accumulators. Multiplying follows filling beat
    by beat; a part's last beat waits until the sums before are out.

    Latency: 1 cycle from ``start`` to the first beat, and from a beat to its step; ``StationarySlice.PUT_ASIDE`` from a part's last step to
    its first sum, ``StationarySlice.latency`` from a tile's last sum to its accumulators. Throughput: a beat filled, a beat multiplied with two
    tokens, and a sum per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        self.start = given(1, "begin with the instruction")
        self.instruction = given(Issue(machine), "a MATMUL, while active")
        self.group = given(GROUP_BITS, "weights per group")
        self.inner = given(ELEMENT_BITS, "first element of the activations' inner region")
        self.weights_ready = given(machine.ports, "ports with a beat")
        self.token_count = given(count_shape(machine.tokens), "tokens in the list, at least 1")
        self.slots = [given(slot, f"slot of token {k} asked for") for k in range(TOKENS_AT_ONCE)]
        self.tokens = [gives(slot, f"the step's place {k} in the list") for k in range(TOKENS_AT_ONCE)]
        self.fill = gives(Fill(machine), "what to do with the next beats")
        self.taking_ports = gives(machine.ports, "ports that take them")
        self.step = gives(Beat(machine), "what to multiply")
        self.sum = gives(Sum(machine), "what to take out")
        self.active_ports = gives(machine.ports, "ports that take part in the sum")
        self.format = gives(FORMAT_BITS, "of the weights")
        self.activation_slots = [gives(slot, f"slot {k} of the aligned memory to read, with the step") for k in range(TOKENS_AT_ONCE)]
        word = bits_for_index(machine.activation // word_lanes(machine))
        self.activation_word = gives(word, "word to read")
        self.activation_group = gives(word, "its group's first word")
        self.activation_place = gives(range(word_lanes(machine)), "of the step's first channel in the word")
        self.activation_channels = gives(PartLayout(machine)["channels"].shape, "channels of the step, logarithm")
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
        self.parts = Array(Signal(PartLayout(machine), name=f"part_{half}") for half in range(2))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.format.eq(field(self.instruction.word, MATMUL, "format"))
        taking, opened = Signal(), Signal(2)
        filled = Array(Signal(count_shape(TERMS), name=f"filled_{half}") for half in range(2))
        self._fill(m, taking, opened, filled)
        self._multiply(m, taking, opened, filled)
        return m

    def _fill(self, m: Module, taking: Signal, opened: Signal, filled: Array[Signal]) -> None:
        """Beats into the half that is free; ``opened`` while there is a part in it that is not done with, ``filled`` its beats so far."""
        machine, word = self.machine, self.instruction.word
        formats = machine.weight_formats
        groups = field(word, MATMUL, "groups")
        digits = two_digits(self.format, formats)
        left = Signal(MATMUL.by_name["rounds"].width)  # rounds, with those of the present tile
        group_index, channels_left, group_word = Signal(GROUP_INDEX_BITS), Signal(GROUP_BITS), Signal.like(self.activation_word)
        half, bank, scales = Signal(), Signal(), Signal(range(SCALES_KEPT))
        count, stage = Signal(count_shape(TERMS)), Signal(2)
        scaling, zeroing, coding = stage == 0, stage == 1, stage == 2
        part = Signal(PartLayout(machine), name="part")
        lanes = word_lanes(machine).bit_length() - 1
        size, several = tile_size(m, machine, left, digits)
        rounds = Const(1) << size
        more = [form for form in formats if terms(form) < TERMS]
        limit = Mux(one_of(self.format, more), min(map(terms, more), default=TERMS), TERMS)
        channels = Mux(channels_left < limit, channels_left, limit)
        last_group, last_tile = group_index == groups - 1, left == rounds
        m.d.comb += [
            part.rounds.eq(size),
            part.channels.eq(several),
            part.beats.eq(channels >> several),
            part.word.eq(group_word),
            part.first.eq(self.group - channels_left),
            part.scales.eq(scales),
            part.bank.eq(bank),
            part.begins.eq(channels_left == self.group),
            part.ends.eq(channels_left == channels),
            part.first_group.eq(group_index == 0),
            part.tile_begins.eq(part.begins & part.first_group),
            part.tile_ends.eq(part.ends & last_group),
            part.last.eq(last_tile),
        ]
        ports = Signal(machine.ports)
        m.d.comb += ports.eq((1 << machine.ports) - 1)
        with m.If(left == 1):
            m.d.comb += ports.eq((Const(1, machine.ports + 1) << field(word, MATMUL, "ports")[:7]) - 1)
        # A beat
        free = ~opened.bit_select(half, 1)
        take = Signal()
        scale_count, zero_count = head_beats(m, machine, size)
        ends = Mux(scaling, count == scale_count - 1, Mux(zeroing, count == zero_count - 1, count == part.beats - 1))
        opens = coding & (count == 0) & free
        m.d.comb += [
            take.eq(taking & ((ports & ~self.weights_ready) == 0) & (~coding | free | (count != 0))),
            self.taking_ports.eq(ports & taking.replicate(machine.ports)),
            self.fill.scale.eq(take & scaling),
            self.fill.zero.eq(take & zeroing),
            self.fill.code.eq(take & coding),
            self.fill.address.eq(
                Mux(
                    coding,
                    Cat(count[: (TERMS - 1).bit_length()], half),
                    Mux(scaling, scales * largest(machine, "scale"), scales * largest(machine, "zero")) + count,
                )
            ),
        ]
        with m.If(taking & opens):  # the part is known before its first beat
            m.d.sync += [self.parts[half].eq(part), filled[half].eq(0)]
        with m.If(take):
            m.d.sync += count.eq(count + 1)
            with m.If(coding):
                m.d.sync += [opened.bit_select(half, 1).eq(1), filled[half].eq(count + 1)]
            with m.If(ends):
                m.d.sync += count.eq(0)
                with m.If(scaling):
                    m.d.sync += stage.eq(Mux(zero_points(self.format, formats), 1, 2))
                with m.Elif(zeroing):
                    m.d.sync += stage.eq(2)
                with m.Else():
                    m.d.sync += [half.eq(~half), channels_left.eq(channels_left - channels)]
                    with m.If(part.ends):
                        m.d.sync += [
                            stage.eq(0),
                            scales.eq(scales + 1),
                            channels_left.eq(self.group),
                            group_index.eq(group_index + 1),
                            group_word.eq(group_word + (self.group >> lanes)),
                        ]
                        with m.If(last_group):
                            m.d.sync += [left.eq(left - rounds), bank.eq(~bank), group_index.eq(0), group_word.eq(self._first_word)]
                            with m.If(last_tile):
                                m.d.sync += taking.eq(0)
        with m.If(self.start):
            m.d.sync += [
                taking.eq(field(word, MATMUL, "rounds") != 0),
                left.eq(field(word, MATMUL, "rounds")),
                channels_left.eq(self.group),
                group_word.eq(self._first_word),
                *(signal.eq(0) for signal in (group_index, count, stage, bank, half)),
            ]

    @property
    def _first_word(self) -> Value:
        """Of the product's activations."""
        lanes = word_lanes(self.machine).bit_length() - 1
        return Mux(field(self.instruction.word, MATMUL, "source"), self.inner >> lanes, 0)

    def _multiply(self, m: Module, taking: Signal, opened: Signal, filled: Array[Signal]) -> None:
        """The halves in turn, each with two tokens after two. A bank is claimed by its tile's first step."""
        machine = self.machine
        half, beat, first_token = Signal(), Signal(count_shape(TERMS)), Signal.like(self.tokens[0])
        part = Signal(PartLayout(machine), name="own_part")
        busy, claimed, hold = Signal(2), Signal(), Signal(range(TOKENS_AT_ONCE * machine.weight_lanes))
        fire, ready = Signal(), Signal()
        last_beat, last_pass = beat == part.beats - 1, first_token + TOKENS_AT_ONCE >= self.token_count
        two = first_token + 1 < self.token_count
        bank_free = claimed | ~busy.bit_select(part.bank, 1)
        pops = fire & last_beat & last_pass
        place = part.first + (beat << part.channels)
        lanes = word_lanes(machine).bit_length() - 1
        m.d.comb += [
            part.eq(self.parts[half]),
            ready.eq(opened.bit_select(half, 1) & (filled[half] > beat)),
            fire.eq(ready & bank_free & (~last_beat | (hold == 0))),
            self.step.product.eq(fire),
            self.step.address.eq(Cat(beat[: (TERMS - 1).bit_length()], half)),
            self.step.first.eq(beat == 0),
            self.step.last.eq(last_beat),
            self.tokens[0].eq(first_token),
            self.tokens[1].eq(Mux(two, first_token + 1, first_token)),
            *(own.eq(slot) for own, slot in zip(self.activation_slots, self.slots, strict=True)),
            self.activation_word.eq(part.word + (place >> lanes)),
            self.activation_group.eq(part.word),
            self.activation_place.eq(place),
            self.activation_channels.eq(part.channels),
            self.finished.eq(~taking & (opened == 0)),
            self.streaming.eq(fire),
            self.waiting_drain.eq(ready & ~bank_free),
            self.waiting_weights.eq((taking | (opened != 0)) & ~ready),
        ]
        sums = (machine.weight_lanes // 2) >> part.channels
        duration = Mux(two, sums << 1, sums)
        with m.If(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        with m.If(fire):
            m.d.sync += [beat.eq(beat + 1), claimed.eq(~(pops & part.tile_ends))]
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
                    m.d.sync += [opened.bit_select(half, 1).eq(0), half.eq(~half)]
        with m.If(self.drained):
            m.d.sync += busy.bit_select(self.drained_bank, 1).eq(0)
        with m.If(self.start):
            m.d.sync += [beat.eq(0), claimed.eq(0), first_token.eq(0), half.eq(0)]
        self._take_out(m, fire & last_beat, part, first_token, two, last_pass)

    def _take_out(self, m: Module, last: Value, part: Signal, first_token: Signal, two: Value, last_pass: Value) -> None:
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
        both, of_last_pass, token = about[1][0], about[1][1], about[1][2:]
        m.d.comb += [
            self.kept.eq(begins),
            self.second.eq(second),
            sums.eq((machine.weight_lanes // 2) >> own.channels),
            self.sum.valid.eq(running),
            self.sum.index.eq(index),
            self.sum.lane.eq(Cat((index << own.channels)[:lane_bits], second)),
            self.sum.adds.eq((Const(1) << own.channels) - 1),
            self.sum.token.eq(token + second),
            self.sum.bank.eq(own.bank),
            self.sum.scales.eq(own.scales),
            self.sum.begins.eq(own.begins),
            self.sum.ends.eq(own.ends),
            self.sum.first_group.eq(own.first_group),
            self.active_ports.eq(ports[1]),
        ]
        last_sum = index == sums - 1
        ends = running & last_sum & (second == both)
        with m.If(running):
            m.d.sync += index.eq(index + 1)
            with m.If(last_sum):
                m.d.sync += [index.eq(0), second.eq(1), running.eq(second != both)]
        with m.If(begins):
            m.d.sync += [running.eq(1), index.eq(0), second.eq(0)]
            m.d.sync += [new.eq(old) for old, new in (kept, about, ports)]
        flight = StationarySlice.latency(machine)
        of_last_round = Mux(own.last, only[: machine.ports], full)
        m.d.comb += [
            self.rounds.done.eq(delay_valid(m, ends & own.tile_ends & of_last_pass, flight, "round_end")),
            self.rounds.bank.eq(delay(m, own.bank, flight, "bank_end")),
            self.rounds.ports.eq(delay(m, of_last_round, flight, "ports_end")),
            self.rounds.last.eq(delay(m, own.last, flight, "last_end")),
            self.rounds.more.eq(delay(m, ((Const(1) << own.rounds) - 1)[: len(self.rounds.more)], flight, "more_end")),
        ]
