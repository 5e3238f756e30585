"""The array unit: sequencer and epilogue around the ports' slices."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.control.issue import Issue, field
from hw.pe.epilogue import EpilogueUnit
from hw.pe.sequencer import Sequencer, TokenSlots
from skipopu.isa.spec import MATMUL
from skipopu.machine.config import Machine


class ArrayUnit(Component):
    """Executes MATMUL on ``tiles``, whose slices it drives.

    Members: active, instruction (in), done, digest (out); beats_p (in stream: weights of port p); group (in); exponent (in:
    of the activation read); streaming, waiting_weights, waiting_drain, started (out: a
    product with weights starts), saturated (out). The epilogue's buffer, rotary and
    argmax members and the sequencer's activation addresses are passed through.
    """

    EPILOGUE = (
        "inverse_rms",
        "half_head",
        "rope_slot",
        "rope_word",
        "rope_data",
        "rope_enable",
        "read_address",
        "read_enable",
        "read_data",
        "write_valid",
        "write",
        "activation",
        "parameter",
        "pause",
        "last_slot",
        "chunk",
        "best_token",
        "finish",
        "aligned",
        "draining",
        "done",
        "digest",
    )
    SEQUENCER = (
        "inner",
        "activation_slot",
        "activation_word",
        "activation_group",
        "streaming",
        "waiting_weights",
        "waiting_drain",
    )
    BROADCAST = ("take", "step", "wide")

    def __init__(self, machine: Machine, tiles: Sequence[object]) -> None:
        self.machine, self.tiles = machine, tiles
        self.sequencer = Sequencer(machine)
        self.epilogue = EpilogueUnit(machine)
        members = {name: self.epilogue.signature.members[name] for name in self.EPILOGUE}
        members |= {name: self.sequencer.signature.members[name] for name in self.SEQUENCER}
        members |= {f"beats_{p}": In(stream.Signature(machine.port_bits)) for p in range(machine.ports)}
        super().__init__(
            {
                **members,
                "active": In(1),
                "instruction": In(Issue(machine)),
                "group": In(10),
                "exponent": In(8),
                "started": Out(1),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, epilogue = self.sequencer, self.epilogue
        m.submodules.sequencer, m.submodules.epilogue = sequencer, epilogue
        m.submodules.step_slots = step_slots = TokenSlots(self.machine)
        m.submodules.drain_slots = drain_slots = TokenSlots(self.machine)
        for unit, names in ((epilogue, self.EPILOGUE), (sequencer, self.SEQUENCER)):
            for name in names:
                inner, outer = getattr(unit, name), getattr(self, name)
                m.d.comb += outer.eq(inner) if unit.signature.members[name].flow is Out else inner.eq(outer)
        # Lists first, then the walk.
        begin, start, running = Signal(), Signal(), Signal()
        m.d.comb += [
            begin.eq(self.active & ~running),
            self.started.eq(begin & (field(self.instruction.word, MATMUL, "rounds") != 0)),
            start.eq(running & step_slots.ready & ~self._started(m, running, step_slots.ready)),
        ]
        with m.If(begin):
            m.d.sync += running.eq(1)
        with m.If(self.done):
            m.d.sync += running.eq(0)
        for slots, user in ((step_slots, sequencer), (drain_slots, epilogue)):
            m.d.comb += [
                slots.start.eq(begin),
                slots.mask.eq(self.instruction.mask),
                slots.position.eq(user.token),
                user.slot.eq(slots.slot),
                user.token_count.eq(slots.count),
                user.instruction.eq(self.instruction),
                user.start.eq(start),
                user.active.eq(running & ~start),
            ]
        m.d.comb += [
            sequencer.group.eq(self.group),
            sequencer.drained.eq(epilogue.drained),
            sequencer.drained_bank.eq(epilogue.drained_bank),
            epilogue.finished.eq(sequencer.finished),
        ]
        for name in ("round_done", "round_bank", "round_ports", "round_last"):
            m.d.comb += getattr(epilogue, name).eq(getattr(sequencer, name))
        for p, tile in enumerate(self.tiles):
            beats = getattr(self, f"beats_{p}")
            m.d.comb += [
                tile.beats.valid.eq(beats.valid),
                tile.beats.payload.eq(beats.payload),
                beats.ready.eq(tile.beats.ready),
                sequencer.weights_ready[p].eq(beats.valid),
                tile.taking.eq(sequencer.taking_ports[p]),
                tile.active.eq(sequencer.active_ports[p]),
                tile.exponent.eq(self.exponent),
                tile.drain_address.eq(epilogue.drain_address),
                *(getattr(tile, name).eq(getattr(sequencer, name)) for name in self.BROADCAST),
            ]
        m.d.comb += [
            epilogue.drain_even.eq(Cat(tile.drain_even for tile in self.tiles)),
            epilogue.drain_odd.eq(Cat(tile.drain_odd for tile in self.tiles)),
            self.saturated.eq(epilogue.saturated | Cat(tile.slice_saturated for tile in self.tiles).any()),
        ]
        return m

    @staticmethod
    def _started(m: Module, running: Signal, ready: Signal) -> Signal:
        """Set from the cycle after the walk started until the unit is done."""
        started = Signal()
        with m.If(~running):
            m.d.sync += started.eq(0)
        with m.Elif(ready):
            m.d.sync += started.eq(1)
        return started
