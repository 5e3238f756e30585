"""The array unit: sequencer and epilogue around the ports' slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import delay, delay_valid
from hw.component import Component, given, gives, pass_on, passes
from hw.control.issue import Issue, field
from hw.library import Library
from hw.pe.activation import MANTISSA_SUM_BITS
from hw.pe.epilogue import EpilogueUnit
from hw.pe.sequencer import Sequencer
from hw.pe.stationary.lanes import Lanes
from hw.pe.stationary.operands import Operands
from hw.pe.stationary.sequencer import StationarySequencer
from hw.pe.stationary.slice import Beat, StationarySlice, Sum
from hw.pe.tile import Tile
from hw.pe.tokens import TokenSlots
from hw.widths import GROUP_BITS
from skipopu.isa.spec import MATMUL
from skipopu.machine import pipeline
from skipopu.machine.config import Machine


class ArrayUnit(Component):
    """Executes MATMUL on ``tiles``, whose slices it drives. Latency and throughput: its units'.

    Parameters:
        machine: the machine.
        tiles: of the ports; submodules of another unit.
        library: takes what repeats in the epilogue.
    """

    def __init__(self, machine: Machine, tiles: Sequence[Tile], library: Library | None = None) -> None:
        self.machine, self.tiles = machine, tiles
        walk = StationarySequencer(machine) if machine.stationary else Sequencer(machine)
        drain = EpilogueUnit(machine, library)
        self.inner_sequencer, self.inner_epilogue = walk, drain
        own = [drain.active, drain.start, drain.instruction, drain.token_count, drain.token, drain.slot, drain.finished]
        rounds = [drain.round, drain.drained, drain.drained_bank]
        slices = [drain.drain_address, drain.drain_even, drain.drain_odd, drain.saturated]
        self.epilogue = passes(drain, without=[*own, *rounds, *slices])
        read = [walk.inner, walk.activation_word, walk.activation_group]
        if isinstance(walk, StationarySequencer):
            read += [*walk.activation_slots, walk.activation_place, walk.activation_channels, walk.step]
            if machine.masks:
                read += [walk.active, walk.masks_done, walk.nothing]
        else:
            read.insert(1, walk.activation_slot)
            if machine.short_groups:
                read += [walk.activation_piece, walk.half, walk.quarter]
        self.sequencer = passes(walk, only=[*read, walk.streaming, walk.waiting_weights, walk.waiting_drain])
        self.beats = [given(stream.Signature(machine.port_bits), f"weights of port {p}") for p in range(machine.ports)]
        self.behind = [
            given(1, f"a beat of port {p} is there in the next cycle, even if the present one is taken")
            for p in range(machine.ports)
        ]
        if pipeline.told(machine):
            self.further = [given(1, "and in the one after it, even if that is taken too") for _ in range(machine.ports)]
        self.active = given(1, "the instruction runs")
        self.instruction = given(Issue(machine), "a MATMUL, while active")
        self.group = given(GROUP_BITS, "weights per group")
        if machine.stationary:
            self.attending = given(1, "attention has the multipliers")
            self.attention_beat = given(Beat(machine), "what it multiplies")
            self.attention_lane = given(2, "query whose sums it takes out")
            self.exponents = [given(8, f"of the activations of token {k} read, a cycle after their address") for k in range(2)]
            self.mantissas = [
                given(signed(MANTISSA_SUM_BITS), f"the sum of the part's operands of token {k}") for k in range(2)
            ]
        else:
            self.exponent = given(8, "of the activations read, three cycles after their address")
        self.started = gives(1, "a product with weights starts")
        if machine.masks:
            self.drop = given(machine.mask_ports, "ports whose next beat is none of weights, and taken")
            self.begins = gives(1, "a product begins, for a cycle")
        self.saturated = gives(1, "a number was beyond FP32")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, epilogue = self.inner_sequencer, self.inner_epilogue
        m.submodules.sequencer, m.submodules.epilogue = sequencer, epilogue
        m.submodules.step_slots = step_slots = TokenSlots(self.machine)
        m.submodules.drain_slots = drain_slots = TokenSlots(self.machine)
        pass_on(m, epilogue, self.epilogue)
        pass_on(m, sequencer, self.sequencer)
        # Lists first, then the walk.
        begin, start, running = Signal(), Signal(), Signal()
        started = self._started(m, running, step_slots.ready)
        m.d.comb += [
            begin.eq(self.active & ~running),
            self.started.eq(begin & (field(self.instruction.word, MATMUL, "rounds") != 0)),
            start.eq(running & step_slots.ready & ~started),
        ]
        with m.If(begin):
            m.d.sync += running.eq(1)
        with m.If(epilogue.done):
            m.d.sync += running.eq(0)
        if isinstance(sequencer, StationarySequencer):
            m.submodules.second_slots = second_slots = TokenSlots(self.machine)
            own = [
                (step_slots, sequencer.tokens[0], sequencer.slots[0]),
                (second_slots, sequencer.tokens[1], sequencer.slots[1]),
            ]
        else:
            own = [(step_slots, sequencer.token, sequencer.slot)]
        lists = [(sequencer, own), (epilogue, [(drain_slots, epilogue.token, epilogue.slot)])]
        for user, looked_up in lists:
            for slots, token, slot in looked_up:
                m.d.comb += [
                    slots.start.eq(begin),
                    slots.mask.eq(self.instruction.mask),
                    slots.position.eq(token),
                    slot.eq(slots.slot),
                ]
            m.d.comb += [
                user.token_count.eq(looked_up[0][0].count),
                user.instruction.eq(self.instruction),
                user.start.eq(start),
            ]
        m.d.comb += [
            sequencer.group.eq(self.group),
            sequencer.drained.eq(epilogue.drained),
            sequencer.drained_bank.eq(epilogue.drained_bank),
            epilogue.active.eq(running & started),
            epilogue.finished.eq(sequencer.finished),
        ]
        connect(m, sequencer.rounds, epilogue.round)
        # Neither works in the cycle in which the multipliers change hands.
        attending = delay_valid(m, self.attending, 1, "attends") if self.machine.stationary else Const(0, 1)
        for p, (tile, beats) in enumerate(zip(self.tiles, self.beats, strict=True)):
            connect(m, flipped(beats), tile.slice.beats)
            m.d.comb += [
                sequencer.weights_ready[p].eq(beats.valid),
                tile.slice.taking.eq(sequencer.taking_ports[p]),
                tile.slice.active.eq(sequencer.active_ports[p]),
            ]
            if not isinstance(sequencer, StationarySequencer):
                m.d.comb += tile.slice.exponent.eq(self.exponent)
            m.d.comb += sequencer.weights_behind[p].eq(self.behind[p])
            if pipeline.told(self.machine):
                m.d.comb += sequencer.weights_further[p].eq(self.further[p])
            m.d.comb += tile.slice.drain_address.eq(epilogue.drain_address)
            if not isinstance(sequencer, StationarySequencer):
                m.d.comb += tile.slice.take.eq(sequencer.take)
            step = sequencer.step
            if isinstance(sequencer, StationarySequencer):
                step = Mux(attending, self.attention_beat.as_value(), sequencer.step.as_value())
            m.d.comb += [tile.slice.step.eq(step), tile.slice.format.eq(sequencer.format)]
        if isinstance(sequencer, StationarySequencer):
            self._sums(m, sequencer, attending)
        if self.machine.masks:
            m.d.comb += self.begins.eq(begin)
            for p, tile in enumerate(self.tiles):
                m.d.comb += cast(StationarySlice, tile.slice).drop.eq(self.drop[p] if p < self.machine.mask_ports else 0)
        saturated = Cat(tile.slice_saturated for tile in self.tiles).any()
        if self.machine.stationary:  # long before their product is done
            saturated = delay_valid(m, saturated, 1, "slices_saturated")
        m.d.comb += [
            epilogue.drain_even.eq(Cat(tile.slice.drain_even for tile in self.tiles)),
            epilogue.drain_odd.eq(Cat(tile.slice.drain_odd for tile in self.tiles)),
            self.saturated.eq(epilogue.saturated | saturated),
        ]
        return m

    def _sums(self, m: Module, sequencer: StationarySequencer, attending: Value) -> None:
        """What the slices of a stationary array are told of the sums that they take out; a part's exponents come with its last step."""
        lag = StationarySlice.PUT_ASIDE - 2
        kept: list[Value] = []
        for k, (exponent, mantissas) in enumerate(zip(self.exponents, self.mantissas, strict=True)):
            own = Cat(
                delay(m, exponent, lag, f"exponent_{k}"),
                delay(m, mantissas, lag + 1 - Operands.summed(self.machine), f"mantissas_{k}"),
            )
            held = Signal(8 + MANTISSA_SUM_BITS, name=f"held_{k}", reset_less=True)
            with m.If(sequencer.kept):
                m.d.sync += held.eq(own)
            kept.append(held)
        present = Mux(sequencer.second, kept[1], kept[0])
        taken = Signal(Sum(self.machine))
        m.d.comb += taken.eq(sequencer.sum)
        with m.If(attending):
            m.d.comb += [taken.lane.eq(Lanes.first_of(self.machine, self.attention_lane)), taken.adds.eq(-1)]
        for tile in self.tiles:
            unit = cast(StationarySlice, tile.slice)
            m.d.comb += [
                unit.fill.eq(sequencer.fill),
                unit.sum.eq(taken),
                Cat(unit.exponent, unit.mantissas).eq(present),
            ]

    @staticmethod
    def _started(m: Module, running: Signal, ready: Signal) -> Signal:
        """Set from the cycle after the walk started until the unit is done."""
        started = Signal()
        with m.If(~running):
            m.d.sync += started.eq(0)
        with m.Elif(ready):
            m.d.sync += started.eq(1)
        return started
