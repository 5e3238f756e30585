"""What the dispatcher hands to a unit, and the queue in front of each unit that honours dependence tokens."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out

from skipopu.isa.fields import WORD_BITS, Instruction
from skipopu.isa.spec import ALIGN, Unit
from skipopu.machine.config import QUEUE_DEPTH, Machine

UNITS = len(Unit)


class Issue(data.StructLayout):
    """An instruction with the machine state it was dispatched under.

    word: the instruction. mask: listed slots. address: memory address with the layer base, 64-byte units. position: of
    slot 0. count: slots of the chunk. map_row: KV map index of (layer, token 0). trace_row: address of the layer's trace,
    64-byte units. first_layer: layer is 0. empty: nothing to do. entries: KVWRITEs
    dispatched before it.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "word": WORD_BITS,
                "mask": machine.tokens,
                "address": 32,
                "position": 24,
                "count": 7,
                "map_row": 24,
                "trace_row": 32,
                "first_layer": 1,
                "empty": 1,
                "pc": 12,
                "sequence": 32,
                "entries": 16,
            }
        )


class Record(data.StructLayout):
    """One entry of the trace ring."""

    def __init__(self) -> None:
        super().__init__({"sequence": 32, "pc": 12, "signature": 32})


def field(word: Value, instruction: Instruction, name: str) -> Value:
    """A field of an instruction word, by the one specification."""
    offset = instruction.offsets[name]
    return word[offset : offset + instruction.by_name[name].width]


class UnitQueue(Component):
    """Queue of one unit: starts its head once every dependence token it pops is there, retires it when the unit is done.

    An instruction marked empty is retired without starting the unit. Members: issue (in stream); next, active, instruction (out,
    stable while next or active: it waits for its tokens, it runs), done, digest (in, one cycle: completion and signature); tokens (in: which units' tokens are available), take, give (out:
    token masks for one cycle); retired (out stream); pc (out: of the instruction at the head), idle (out), waiting
    (out: the head lacks a token).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                "issue": In(stream.Signature(Issue(machine))),
                "next": Out(1),
                "active": Out(1),
                "instruction": Out(Issue(machine)),
                "done": In(1),
                "digest": In(32),
                "tokens": In(UNITS),
                "take": Out(UNITS),
                "give": Out(UNITS),
                "retired": Out(stream.Signature(Record())),
                "pc": Out(12),
                "idle": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = Issue(self.machine)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=layout.size, depth=QUEUE_DEPTH)
        head = layout(fifo.r_data)
        # pop and push stand at the same place in every instruction of a unit.
        pop, push = field(head.word, ALIGN, "pop"), field(head.word, ALIGN, "push")
        m.d.comb += [
            fifo.w_data.eq(self.issue.payload),
            fifo.w_en.eq(self.issue.valid),
            self.issue.ready.eq(fifo.w_rdy),
            self.instruction.eq(head),
            self.pc.eq(head.pc),
            self.retired.payload.sequence.eq(head.sequence),
            self.retired.payload.pc.eq(head.pc),
        ]
        total = Signal(32)
        m.d.comb += self.retired.payload.signature.eq(total)
        with m.FSM():
            with m.State("WAIT"):
                m.d.comb += [self.idle.eq((fifo.level == 0) & ~self.issue.valid), self.next.eq(fifo.r_rdy & ~head.empty)]
                m.d.comb += self.waiting.eq(fifo.r_rdy & ((pop & ~self.tokens) != 0))
                with m.If(fifo.r_rdy & ((pop & ~self.tokens) == 0)):
                    m.d.comb += self.take.eq(pop)
                    m.d.sync += total.eq(0)
                    with m.If(head.empty):
                        m.next = "RETIRE"
                    with m.Else():
                        m.next = "ACTIVE"
            with m.State("ACTIVE"):
                m.d.comb += self.active.eq(1)
                with m.If(self.done):
                    m.d.sync += total.eq(self.digest)
                    m.next = "RETIRE"
            with m.State("RETIRE"):
                m.d.comb += self.retired.valid.eq(1)
                with m.If(self.retired.ready):
                    m.d.comb += [self.give.eq(push), fifo.r_en.eq(1)]
                    m.next = "WAIT"
        return m
