"""Fills the slices' buffers: a product's tiles, their groups and the groups' parts, as the ports bring them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid, registered
from hw.component import Component, given, gives
from hw.control.issue import Issue, field
from hw.pe.formats import FORMAT_BITS, one_of, two_digits, zero_points
from hw.pe.ready import enough
from hw.pe.stationary.active import ActiveRuns, ActiveWords
from hw.pe.stationary.operands import word_lanes
from hw.pe.stationary.slice import SCALES_KEPT, Fill
from hw.pe.stationary.tiles import head_beats, largest, leading_groups, tile_size
from hw.widths import ELEMENT_BITS, GROUP_BITS
from skipopu.isa.spec import MATMUL
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.accumulate import TERMS, terms

GROUP_INDEX_BITS = MATMUL.by_name["groups"].width
BEAT_BITS = (TERMS - 1).bit_length()  # of a beat's number in its part


class PartLayout(data.StructLayout):
    """A group's part in one half of the buffer of codes: what it is multiplied with and where its sums go.

    channels: of a beat, logarithm. rounds: of its tile, logarithm. word: of the activations, its group's first. first: its first
    channel in the group. scales, bank, begins, ends, first_group: as of a :class:`hw.pe.stationary.slice.Sum`. tile_ends: the tile's last part.
    last: the tile is the product's last.
    """

    def __init__(self, machine: Machine) -> None:
        shift = bits_for_index(machine.channel_slots.bit_length())
        super().__init__(
            {
                "channels": shift,
                "rounds": shift,
                "word": bits_for_index(machine.activation // word_lanes(machine)),
                "first": GROUP_BITS,
                "scales": bits_for_index(SCALES_KEPT),
                "bank": 1,
                "begins": 1,
                "ends": 1,
                "first_group": 1,
                "tile_ends": 1,
                "last": 1,
            }
        )


class FillWalk(Component):
    """Takes beats of all ports in lockstep: scales and zero points of a group, then its codes, a part into each half of the buffer in turn.

    Latency: 2 cycles from ``start`` to the first beat, pipeline.told more until ports are told, 1 from a beat to ``filled``, and none from
    ``beat`` to ``place``. Throughput: a beat per cycle; a cycle between two parts of a group, and between two tiles. With masks a part's
    first beat of codes comes 5 cycles behind the part before it at the earliest, with what is taken between.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.start = given(1, "begin with the instruction")
        self.instruction = given(Issue(machine), "a MATMUL, while active")
        self.group = given(GROUP_BITS, "weights per group")
        self.inner = given(ELEMENT_BITS, "first element of the activations' inner region")
        self.ready = given(machine.ports, "ports with a beat")
        self.behind = given(machine.ports, "ports with a beat in the next cycle, even if the present one is taken")
        if pipeline.told(machine):
            self.further = given(machine.ports, "and in the one after it, even if that is taken too")
        self.freed = given(2, "halves that are done with, for a cycle")
        self.format = given(FORMAT_BITS, "of the weights")
        self.fill = gives(Fill(machine), "what to do with the next beats")
        self.taking_ports = gives(machine.ports, "ports that take them")
        self.taking = gives(1, "beats are still to come")
        self.opened = gives(2, "halves with a part, from before its first beat")
        self.complete = gives(2, "halves whose part has no more beats")
        self.parts = [gives(PartLayout(machine), f"what is in half {h}") for h in range(2)]
        self.filled = [gives(count_shape(TERMS), f"beats in half {h}") for h in range(2)]
        if machine.masks:
            self.masks_done = given(1, "it is known which channels are active")
            self.active = gives(ActiveWords(machine), "reads of active channels", "active_{}")
            self.half = given(1, "of a beat asked for")
            self.beat = given(BEAT_BITS, "its number among those in the half")
            self.place = gives(BEAT_BITS, "its number among those of the part")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, word, formats = self.machine, self.instruction.word, self.machine.weight_formats
        groups, lanes = field(word, MATMUL, "groups"), word_lanes(machine).bit_length() - 1
        left = Signal(MATMUL.by_name["rounds"].width)  # rounds, with those of the present tile
        group_index, channels_left, group_word = Signal(GROUP_INDEX_BITS), Signal(GROUP_BITS), Signal.like(self.parts[0].word)
        half, bank, scales, begun = Signal(), Signal(), Signal(range(SCALES_KEPT)), Signal()
        count, stage = Signal(count_shape(TERMS)), Signal(2)
        scaling, zeroing, coding = stage == 0, stage == 1, stage == 2
        # What follows from the rounds left is known a cycle after these.
        changing, settling, ends = Signal(), Signal(), Signal()
        m.d.comb += changing.eq(self.start)
        m.d.sync += settling.eq(changing)
        sizes = tile_size(m, machine, left, two_digits(self.format, formats))
        last_scale, last_zero = ((count - 1)[: len(count)] for count in head_beats(m, machine, sizes[0]))
        size, channels, last_scale, last_zero = (
            registered(m, value, f"own_{name}")
            for value, name in zip((*sizes, last_scale, last_zero), ("size", "channels", "scale", "zero"), strict=True)
        )
        # Of a tile, from its beginning on: the ports that take its beats
        ports, late, rounds = Signal(machine.ports), pipeline.told(machine), field(word, MATMUL, "rounds")
        last_ports = ((Const(1, machine.ports + 1) << field(word, MATMUL, "ports")[:7]) - 1)[: machine.ports]
        first, following = (
            Mux(count == 1, last_ports, (1 << machine.ports) - 1) for count in (rounds, left - (Const(1) << size))
        )
        following = registered(m, following, "following_ports")
        shorter = [form for form in formats if terms(form) < TERMS]
        limit = Mux(one_of(self.format, shorter), min(map(terms, shorter), default=TERMS), TERMS)
        own = Signal(GROUP_BITS)  # channels of the part
        last_group, last_tile = group_index == groups - 1, left == Const(1) << size
        first_word = Mux(field(word, MATMUL, "source"), self.inner >> lanes, 0)
        part = Signal(PartLayout(machine), name="part")
        m.d.comb += [
            own.eq(Mux(channels_left < limit, channels_left, limit)),
            part.rounds.eq(size),
            part.channels.eq(channels),
            part.word.eq(group_word),
            part.first.eq(self.group - channels_left),
            part.scales.eq(scales),
            part.bank.eq(bank),
            part.begins.eq(channels_left == self.group),
            part.ends.eq(channels_left == own),
            part.first_group.eq(group_index == 0),
            part.tile_ends.eq(part.ends & last_group),
            part.last.eq(last_tile),
        ]
        take, opening, over, head_ends, may = (Signal(name=name) for name in ("take", "opening", "over", "head_ends", "may"))
        # Worked out the cycle before; behind a change of tiles, in which none is taken, by the next one's ports.
        all_have, fill = Signal(), Signal(Fill(machine), name="fill_here")
        there = enough(m, self.ready, self.behind, self.further if late else None, ports, take)
        if_not, if_taken = (of_these for _, of_these in there)
        m.d.sync += all_have.eq(Mux(take, if_taken, if_not))
        of_zeros = zero_points(self.format, formats)
        m.d.comb += [
            head_ends.eq(Mux(scaling, (count == last_scale) & ~of_zeros, zeroing & (count == last_zero))),
            opening.eq(((take & head_ends) | (coding & ~begun)) & ~self.opened.bit_select(half, 1)),
            take.eq(may & all_have),
            self.taking_ports.eq(delay(m, ports & self.taking.replicate(machine.ports), late, "taking_ports")),
            self.fill.eq(delay_valid(m, fill, late, "fill")),
            fill.scale.eq(take & scaling),
            fill.zero.eq(take & zeroing),
            fill.code.eq(take & coding),
            fill.address.eq(
                Mux(
                    coding,
                    Cat(count[:BEAT_BITS], half),
                    Mux(scaling, scales * largest(machine, "scale"), scales * largest(machine, "zero")) + count,
                )
            ),
        ]
        at_work = self.taking & ~settling
        whole: Value = Const(0, 1)
        if machine.masks:
            later = Signal()  # than the first tile
            leading = registered(m, leading_groups(machine, groups, self.group), "leading")
            masked, again = self.instruction.masked, self.instruction.again
            whole = registered(m, masked & ~again & ~later & (group_index < leading), "whole")
            with m.If(changing):
                m.d.sync += later.eq(~self.start)
        known = self._beats(m, at_work, all_have, whole, part, own, take & coding, coding & begun, count, half, over)
        m.d.comb += may.eq(at_work & Mux(coding, begun & known, self._masks_done))
        with m.If(take):
            m.d.sync += count.eq(count + 1)
            with m.If(scaling & (count == last_scale)):
                m.d.sync += [count.eq(0), stage.eq(Mux(of_zeros, 1, 2))]
            with m.Elif(zeroing & (count == last_zero)):
                m.d.sync += [count.eq(0), stage.eq(2)]
            with m.Elif(coding):
                m.d.sync += Array(self.filled)[half].eq(count + 1)
        for h in range(2):
            with m.If(self.freed[h]):
                m.d.sync += [self.opened[h].eq(0), self.complete[h].eq(0)]
            with m.If(opening & (half == h)):
                m.d.sync += [self.parts[h].eq(part), self.filled[h].eq(0), self.opened[h].eq(1), begun.eq(1)]
            with m.If(over & (half == h)):
                m.d.sync += self.complete[h].eq(1)
        # Three cycles behind a change of tiles, of other parts a cycle behind their beginning: a beat of scales and one of codes lie between.
        group_ends, tile_ends, product_ends = (
            registered(m, value, name)
            for value, name in ((part.ends, "group_ends"), (part.tile_ends, "tile_ends"), (last_tile, "product_ends"))
        )
        with m.If(over):
            m.d.sync += [count.eq(0), begun.eq(0), half.eq(~half), channels_left.eq(channels_left - own)]
            with m.If(group_ends):
                m.d.sync += [
                    stage.eq(0),
                    scales.eq(scales + 1),
                    channels_left.eq(self.group),
                    group_index.eq(group_index + 1),
                    group_word.eq(group_word + (self.group >> lanes)),
                ]
                with m.If(tile_ends):
                    m.d.comb += changing.eq(1)
                    m.d.sync += [
                        left.eq(left - (Const(1) << size)),
                        ports.eq(following),
                        bank.eq(~bank),
                        group_index.eq(0),
                        group_word.eq(first_word),
                    ]
                    m.d.comb += ends.eq(product_ends)
        with m.If(delay_valid(m, ends, 1, "ended")):  # no beat is taken between
            m.d.sync += self.taking.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.taking.eq(rounds != 0),
                left.eq(rounds),
                ports.eq(first),
                channels_left.eq(self.group),
                group_word.eq(first_word),
                *(signal.eq(0) for signal in (group_index, count, stage, bank, half, begun, self.opened, self.complete)),
            ]
        return m

    @property
    def _masks_done(self) -> Value:
        return self.masks_done if self.machine.masks else Const(1, 1)

    def _beats(
        self,
        m: Module,
        at_work: Value,
        all_have: Value,
        whole: Value,
        part: Any,
        own: Value,
        take: Value,
        open: Value,
        count: Value,
        half: Value,
        over: Signal,
    ) -> Value:
        """Whether the ``open`` part has one more beat, of ``count`` so far; says when it is ``over``. Its beats, all of a ``whole`` group,
        are found while what is in front of them is taken."""
        last = count == registered(m, ((own >> part.channels) - 1)[: len(count)], "last_number")
        if not self.machine.masks:
            m.d.comb += over.eq(take & last)
            return Const(1, 1)
        lanes = word_lanes(self.machine).bit_length() - 1
        masked, within = self.instruction.masked, Signal.like(self.filled[0])
        m.submodules.runs = runs = ActiveRuns(self.machine)
        m.d.comb += [
            self.active.address.eq(runs.read.address),
            runs.read.word.eq(self.active.word | whole.replicate(len(self.active.word))),
        ]
        last_of_run, next_is_last, behind_first, looked = Signal(), Signal(), Signal(), Signal()
        m.d.comb += last_of_run.eq(Mux(behind_first, next_is_last, runs.single))
        ends = Mux(masked, runs.valid & last_of_run & runs.final, last)  # with the next beat
        m.d.comb += [
            runs.start.eq(at_work & self.masks_done & ~looked),
            runs.first.eq(part.word + (part.first >> lanes)),
            runs.words.eq(own >> lanes),
            runs.channels.eq(part.channels),
            runs.next.eq(take & last_of_run),
            over.eq(open & ((at_work & all_have & ends) | (masked & runs.ended))),
        ]
        with m.If(over | self.start):
            m.d.sync += looked.eq(0)
        with m.Elif(runs.start):
            m.d.sync += looked.eq(1)
        with m.If(take):
            m.d.sync += [
                within.eq(Mux(last_of_run, 0, within + 1)),
                behind_first.eq(~last_of_run),
                next_is_last.eq(within + 2 == runs.length),
            ]
        with m.If(self.start):
            m.d.sync += [within.eq(0), behind_first.eq(0)]
        m.submodules.places = places = Memory(shape=BEAT_BITS, depth=2 * TERMS, init=[])
        write, read = places.write_port(), places.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(Cat(count[:BEAT_BITS], half)),
            write.data.eq(Mux(masked, runs.beat + within, count)),
            write.en.eq(take),
            read.addr.eq(Cat(self.beat, self.half)),
            self.place.eq(read.data),
        ]
        return ~masked | runs.valid
