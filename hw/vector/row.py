"""Rows of the embedding: a row's parts lie in the ports in turn."""

from __future__ import annotations

from operator import or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream

from hw.arithmetic.fp32 import half_word_to_fp32
from hw.arithmetic.pipeline import delay_valid, registered, tree
from hw.component import Component, given, gives
from hw.memory.axi import ADDRESS_BITS
from hw.memory.reader import Run
from hw.widths import ELEMENT_BITS
from skipopu.isa.spec import ADDRESS_SHIFT, EMBED
from skipopu.machine import pipeline
from skipopu.machine.config import Machine

TOGETHER = 4  # ports that stand together: their beats meet before they go on


class RowWord(data.StructLayout):
    """``vector_lanes`` elements of a row. element: index of the first. data: FP32. enable: which of them exist."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"element": ELEMENT_BITS, "data": 32 * machine.vector_lanes, "enable": machine.vector_lanes})


class RowReader(Component):
    """Asks every port of a row for its part, then takes the parts in the same order.

    Latency: 1 cycle from ``start`` to the first run, of several ports 2; 2 from a beat to its first word, of several ports 5. Throughput: a run
    per cycle, then a word per cycle; of several ports a run every other cycle, then a beat in two cycles more than it has words.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        ports = range(machine.ports)
        self.start = given(1, "for one cycle: a row is wanted")
        self.address = given(ADDRESS_BITS, "of each port's part, in 64-byte units; stable from the cycle after start")
        self.row = given(EMBED.by_name["row"].width, "64-byte units of a part")
        self.elements = given(EMBED.by_name["elements"].width, "elements of the row, FP16")
        self.runs = [gives(stream.Signature(Run(machine)), f"runs of beats wanted of port {p}") for p in ports]
        self.beats = [given(stream.Signature(machine.port_bits), f"port {p}'s beats") for p in ports]
        self.words = gives(stream.Signature(RowWord(machine)), "the row's words")
        self.done = gives(1, "the row's last word is taken, for a cycle")
        self.waiting = gives(1, "memory keeps the unit waiting")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        to_beats = ADDRESS_SHIFT - (machine.beat_bytes - 1).bit_length()  # 64-byte units to beats
        part_elements = self.row << 5
        asked_port, last_port, port = (
            Signal(range(max(2, machine.ports)), name=name) for name in ("asked_port", "last_port", "port")
        )
        asked, element, beats_left = Signal(ELEMENT_BITS), Signal(ELEMENT_BITS), Signal(20)
        piece = Signal(range(max(2, machine.kv_lanes // lanes)))
        asking, taking = Signal(), Signal()
        # One bit of each port: not by what chooses the beat, which many wires take long to reach.
        apart, ask = pipeline.apart(machine), Signal(machine.ports)  # one-hot: who is asked
        ready_ports, asks, accepted = Cat(runs.ready for runs in self.runs), Signal(machine.ports), Signal()
        free = (ready_ports & ask).any()
        if apart:  # by a register, where there was room a cycle before
            m.d.comb += accepted.eq(asking & delay_valid(m, free, 1, "free") & ~asks.any())
            m.d.sync += asks.eq(Mux(accepted, ask, asks & ~ready_ports))
        else:
            m.d.comb += [accepted.eq(free), asks.eq(ask & asking.replicate(machine.ports))]
        for p, runs in enumerate(self.runs):
            m.d.comb += [
                runs.valid.eq(asks[p]),
                runs.payload.beat.eq(self.address << to_beats),
                runs.payload.count.eq(self.row << to_beats),
            ]
        # One leaves its port; it is the row's last one.
        ready, gone = Signal(), Signal()
        over = (port == last_port) & (beats_left == 1)
        if apart:
            beat, valid, last_beat = self._from_afar(m, port, taking, ready, gone, over)
        else:
            beat, valid = self._chosen(port)
            for p, beats in enumerate(self.beats):
                m.d.comb += beats.ready.eq(ready & (port == p))
            m.d.comb += gone.eq(ready & valid)
            last_beat = over
        with m.If(gone):
            m.d.sync += beats_left.eq(beats_left - 1)
            with m.If(beats_left == 1):
                m.d.sync += [port.eq(port + 1), beats_left.eq(self.row << to_beats)]
        inside = element < self.elements
        # Halves wait in one place, where the way from the ports ends, their words in two more, where that from the buffer does.
        halves, halves_there = Signal(16 * lanes, reset_less=True), Signal()
        read, kept = (Signal(RowWord(machine), name=name, reset_less=True) for name in ("read", "kept"))
        full, moves, comes = Signal(), Signal(), Signal()
        m.d.comb += [
            moves.eq(~self.words.valid | self.words.ready),
            comes.eq(halves_there & ~full),
            read.data.eq(Cat(half_word_to_fp32(m, halves[16 * k : 16 * k + 16], f"half_{k}") for k in range(lanes))),
            self.waiting.eq(delay_valid(m, (asking & ~accepted) | (taking & ~valid), apart, "waiting")),
        ]
        with m.If(~full):
            m.d.sync += [
                halves.eq(beat.word_select(piece, 16 * lanes)),
                halves_there.eq(taking & valid & inside),
                read.element.eq(element),
                read.enable.eq(Cat(element + k < self.elements for k in range(lanes))),
                kept.eq(read),
            ]
        m.d.sync += full.eq(~moves & (full | comes))
        with m.If(moves):
            m.d.sync += [
                self.words.payload.eq(Mux(full, kept.as_value(), read.as_value())),
                self.words.valid.eq(full | comes),
            ]
        last_piece = (piece == machine.kv_lanes // lanes - 1) if machine.kv_lanes > lanes else Const(1, 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [*(s.eq(0) for s in (asked_port, asked, port, element, piece)), ask.eq(1)]
                with m.If(self.start):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += asking.eq(1)
                m.d.sync += beats_left.eq(self.row << to_beats)
                with m.If(accepted):
                    m.d.sync += [asked_port.eq(asked_port + 1), last_port.eq(asked_port), asked.eq(asked + part_elements)]
                    m.d.sync += ask.eq(ask << 1)
                    with m.If((asked_port == machine.ports - 1) | (asked + part_elements >= self.elements)):
                        m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += [taking.eq(1), ready.eq(~full & last_piece)]
                with m.If(valid & ~full):
                    m.d.sync += [piece.eq(Mux(last_piece, 0, piece + 1)), element.eq(element + lanes)]
                    with m.If(last_piece & last_beat):
                        m.next = "LAST"
            with m.State("LAST"):
                with m.If(moves & ~full & ~halves_there):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m

    def _chosen(self, port: Value) -> tuple[Value, Value]:
        """Of a port: its beat, and whether it has one. One bit of each port, not by what chooses the beat, which many wires take long to reach."""
        chosen = Array(beats.payload for beats in self.beats)[port]
        return chosen, Cat(beats.valid for beats in self.beats).bit_select(port, 1)

    def _from_afar(
        self, m: Module, port: Value, taking: Value, ready: Value, gone: Signal, over: Value
    ) -> tuple[Value, Value, Value]:
        """(a beat that was taken, whether there is one, whether it is the row's last): a port says by a register that it has one, is told by
        one to give it, and it waits here; ``gone`` when that begins, of the row's last one with ``over``."""
        here, there = Signal(self.machine.ports, init=1), Signal()
        beat, held, last = Signal(self.machine.port_bits, reset_less=True), Signal(), Signal()
        m.d.sync += [here.eq(1 << port), there.eq((Cat(beats.valid for beats in self.beats) & here).any())]
        given = delay_valid(m, gone, 1, "given")
        settling = given | delay_valid(m, given, 1, "settling")
        m.d.comb += gone.eq(taking & there & ~settling & ~held & ~last)
        for beats, chosen in zip(self.beats, here, strict=True):
            take = Signal(name="take")
            m.d.sync += take.eq(gone & chosen)
            m.d.comb += beats.ready.eq(take)
        # A port's beat stands from before it is seen until it is given: those of four ports meet beside these.
        chosen_beats = [Mux(chosen, beats.payload, 0) for beats, chosen in zip(self.beats, here, strict=True)]
        fours = [
            registered(m, tree(chosen_beats[k : k + TOGETHER], or_), f"beat_of_{k}")
            for k in range(0, len(chosen_beats), TOGETHER)
        ]
        with m.If(given):
            m.d.sync += [beat.eq(tree(fours, or_)), held.eq(1)]
        with m.Elif(ready):
            m.d.sync += held.eq(0)
        with m.If(self.start):
            m.d.sync += last.eq(0)
        with m.Elif(gone):
            m.d.sync += last.eq(over)
        return beat, held, last
