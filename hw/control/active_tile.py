"""The beats of a tile that active channels need, as runs."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import count_shape, registered
from hw.component import Component, given, gives
from hw.memory.reader import Run
from hw.pe.stationary.active import ActiveRuns, ActiveWords
from hw.pe.stationary.operands import word_lanes
from hw.widths import GROUP_BITS
from skipopu.isa.spec import MATMUL
from skipopu.machine.config import Machine


class ActiveTile(Component):
    """Group by group, as these are known: the scales and zero points, then runs of beats with an active channel. Pieces that follow one another
    become one run, up to a burst.

    Latency: 3 cycles from a group in ``groups_done`` to its first piece, a run waits for the piece behind it. Throughput: a piece, or a word of
    channels without one, per cycle, and 5 cycles between groups.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        groups = count_shape((1 << MATMUL.by_name["groups"].width) - 1)
        self.start = given(1, "begin with a tile")
        self.leading = given(groups, "with that: leading groups that were asked for")
        self.base = given(
            Run(machine)["beat"].shape,
            "with that: the first beat behind those; what follows is stable from the next cycle until the tile's last run",
        )
        self.groups = given(groups, "of the product")
        self.group = given(GROUP_BITS, "channels of one")
        self.heads = given(GROUP_BITS + 1, "beats of its scales and zero points")
        self.per_group = given(GROUP_BITS + 1, "all of its beats")
        self.channels = given(range(machine.channel_slots.bit_length()), "of a beat, logarithm")
        self.first_word = given(range(machine.activation // word_lanes(machine)), "of the channels behind those, with base")
        self.groups_done = given(groups, "whose active channels are known")
        self.active = gives(ActiveWords(machine), "reads of active channels", "active_{}")
        self.runs = gives(stream.Signature(Run(machine)), "what to fetch")
        self.last = gives(1, "it is the tile's last")
        self.end = gives(Run(machine)["beat"].shape, "the beat behind the tile, with its last run")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.active_runs = active = ActiveRuns(self.machine)
        connect(m, active.read, flipped(self.active))
        lanes = word_lanes(self.machine).bit_length() - 1
        group, base, word = Signal.like(self.groups), Signal.like(self.base), Signal.like(self.first_word)
        code = Signal.like(self.base)  # the group's first one of codes
        opened, is_open = Signal(Run(self.machine)), Signal()  # a run that may still grow
        # Whether it ends where the next piece begins: a group's head follows the group before, or its last beat.
        follows, ended = Signal(), Signal.like(active.beat)
        piece, count, offered, taken, grows = Signal.like(self.base), Signal.like(opened.count), Signal(), Signal(), Signal()
        # Of the present group, a cycle behind it
        known, looked = registered(m, self.groups_done > group, "known"), Signal()
        reaches = registered(m, ended == (self.per_group - self.heads)[: len(ended)], "reaches")
        m.d.sync += looked.eq(0)
        m.d.comb += [
            active.first.eq(word),
            active.words.eq(self.group >> lanes),
            active.channels.eq(self.channels),
            self.runs.payload.eq(opened),
            grows.eq(is_open & follows & (opened.count < self.machine.burst)),
            taken.eq(offered & (grows | ~is_open | self.runs.ready)),
            self.end.eq(base),
        ]
        with m.If(taken):
            with m.If(grows):
                m.d.sync += opened.count.eq(opened.count + count)
            with m.Else():
                m.d.sync += [opened.beat.eq(piece), opened.count.eq(count), is_open.eq(1)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [group.eq(self.leading), base.eq(self.base), word.eq(self.first_word)]
                with m.If(self.start):
                    m.next = "GROUP"
            with m.State("GROUP"):
                m.d.comb += [piece.eq(base), count.eq(self.heads), offered.eq(known & looked), follows.eq(reaches)]
                m.d.sync += looked.eq(1)
                m.d.comb += [active.start.eq(taken), self.runs.valid.eq(offered & is_open & ~grows)]
                with m.If(taken):
                    m.d.sync += [code.eq(base + self.heads), ended.eq(0)]
                    m.next = "PIECES"
            with m.State("PIECES"):
                m.d.comb += [piece.eq(code + active.beat), count.eq(active.length), offered.eq(active.valid)]
                m.d.comb += follows.eq(active.touches)
                with m.If(taken):
                    m.d.sync += ended.eq(active.beat + active.length)
                m.d.comb += [active.next.eq(taken), self.runs.valid.eq(offered & is_open & ~grows)]
                with m.If(active.ended):
                    m.d.sync += [
                        base.eq(base + self.per_group),
                        group.eq(group + 1),
                        word.eq(word + (self.group >> lanes)),
                    ]
                    m.next = "GROUP"
                    with m.If(group + 1 == self.groups):
                        m.next = "LAST"
            with m.State("LAST"):
                m.d.comb += [self.runs.valid.eq(1), self.last.eq(1)]
                with m.If(self.runs.ready):
                    m.d.sync += is_open.eq(0)
                    m.next = "IDLE"
        return m
