"""The array unit: sequencer, one slice per port, shared activations, epilogue."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.control.issue import Issue
from hw.pe.sequencer import Sequencer, TokenSlots
from hw.pe.slice import Slice
from hw.vector.epilogue import EpilogueUnit
from skipopu.machine.config import Machine


class ArrayUnit(Component):
    """Executes MATMUL.

    Members: active, instruction (in), done, digest (out); beats_p (in stream: weights of port p); group (in);
    activation read side; streaming, waiting_memory, waiting_drain, saturated (out). The epilogue's buffer, rotary and
    argmax members are passed through.
    """

    PASSED = (
        "inverse_rms",
        "half_head",
        "rope_slot",
        "rope_word",
        "rope_data",
        "rope_enable",
        "read_address",
        "read_enable",
        "read_data",
        "write_address",
        "write_data",
        "write_enable",
        "last_slot",
        "chunk",
        "best_token",
        "done",
        "digest",
    )

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sequencer = Sequencer(machine)
        self.epilogue = EpilogueUnit(machine)
        self.slices = [Slice(machine) for _ in range(machine.ports)]
        members = {name: self.epilogue.signature.members[name] for name in self.PASSED}
        for name in ("activation_slot", "activation_word", "activation_group", "streaming", "waiting_memory", "waiting_drain"):
            members[name] = self.sequencer.signature.members[name]
        for p in range(machine.ports):
            members[f"beats_{p}"] = In(stream.Signature(machine.port_bits))
        super().__init__(
            {
                **members,
                "active": In(1),
                "instruction": In(Issue(machine)),
                "group": In(10),
                "activation": In(self.slices[0].activation.shape()),
                "exponent": In(8),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, epilogue = self.sequencer, self.epilogue
        m.submodules.sequencer, m.submodules.epilogue = sequencer, epilogue
        m.submodules.step_slots = step_slots = TokenSlots(self.machine)
        m.submodules.drain_slots = drain_slots = TokenSlots(self.machine)
        for name in self.PASSED:
            inner, outer = getattr(epilogue, name), getattr(self, name)
            m.d.comb += outer.eq(inner) if epilogue.signature.members[name].flow is Out else inner.eq(outer)
        for name in ("activation_slot", "activation_word", "activation_group", "streaming", "waiting_memory", "waiting_drain"):
            m.d.comb += getattr(self, name).eq(getattr(sequencer, name))
        # Lists first, then the walk.
        begin, start, running = Signal(), Signal(), Signal()
        m.d.comb += [
            begin.eq(self.active & ~running),
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
        ready = []
        for p, unit in enumerate(self.slices):
            m.submodules[f"slice_{p}"] = unit
            beats = getattr(self, f"beats_{p}")
            ready.append(beats.valid)
            m.d.comb += [
                unit.beats.valid.eq(beats.valid),
                unit.beats.payload.eq(beats.payload),
                beats.ready.eq(unit.beats.ready),
                unit.step.eq(sequencer.step),
                unit.active.eq(sequencer.active_ports[p]),
                unit.activation.eq(self.activation),
                unit.exponent.eq(self.exponent),
                unit.drain_address.eq(epilogue.drain_address),
            ]
        m.d.comb += [
            sequencer.weights_ready.eq(Cat(ready)),
            epilogue.drain_even.eq(Cat(unit.drain_even for unit in self.slices)),
            epilogue.drain_odd.eq(Cat(unit.drain_odd for unit in self.slices)),
            self.saturated.eq(epilogue.saturated | Cat(unit.saturated for unit in self.slices).any()),
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
