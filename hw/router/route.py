"""ROUTE: routing bits by the policies of a layer: from the router product, the residual's norm, a trace or constants."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream

from hw.arithmetic.fp32 import Multiply, order
from hw.arithmetic.pipeline import bits_for_index, registered
from hw.arithmetic.signature import Signature, index
from hw.component import Component, given, gives
from hw.control.issue import field
from hw.control.lists import Routed
from hw.memory.axi import ADDRESS_BITS
from hw.memory.buffer import BufferRead
from hw.memory.reader import Run
from hw.router.score import Score
from hw.router.window import Window
from hw.vector.unit import Task
from hw.widths import ELEMENT_BITS, POSITION_BITS
from skipopu.isa.spec import ADDRESS_SHIFT, BUFFER_UNIT, ROUTE
from skipopu.machine.config import Machine
from skipopu.policy import ALWAYS, EXIT, NEVER, NORM, ROUTER, SKIP_POLICIES, TOP, TRACE, WINDOW, Phase, SkipPolicy, Weighs
from skipopu.policy import Module as LayerModule
from skipopu.records import ROUTER_RECORD, policy_field
from skipopu.records import ROUTER_RECORD_READ as RECORD_BYTES


class RouteUnit(Component):
    """Decides both bits of each slot by the policies of the record, most of which hold z = (high + low) + bias against the dial.

    For one that weighs the residual's norm z is how far 1/rms has come since the layer before.

    The record is read while the router product is on its way.

    Latency: 1 cycle from ``next`` to the record's run; ``done`` comes Signature.LATENCY + 1 cycles behind the last slot. Throughput: a slot that is listed in
    5 + 2 * ``Score.LATENCY`` cycles, with a trace 2 more and memory's; another in 2. Where tokens are compared every slot takes 1 more.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.next = given(1, "``instruction`` is a ROUTE that waits to become active")
        self.task = given(Task(machine), "ROUTE to execute", "{}")
        self.dial = given(32, "threshold, FP32")
        self.decoding = given(1, "the chunk lies behind the prompt; stable while a ROUTE is active")
        self.inverse_rms = given(32 * machine.tokens, "1/rms of each slot's residual, FP32; stable while a ROUTE is active")
        self.read = gives(BufferRead(machine), "sums of the router product", "read_{}")
        self.runs = gives(stream.Signature(Run(machine)), "where port 0's loader reads the record or a trace")
        self.beats = given(stream.Signature(machine.port_bits), "what it read")
        self.saturated = gives(1, "a sum saturated")
        self.routed = gives(Routed(machine), "the decision, from done on", "{}")
        if machine.window:
            self.window = gives(POSITION_BITS, "tokens that a query of the layer sees, 0: all; from done to the next record")
            self.window_next = gives(POSITION_BITS, "that of the next layer")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        word = self.task.instruction.word
        beat_shift = (machine.beat_bytes - 1).bit_length()
        record_beats = max(1, RECORD_BYTES // machine.beat_bytes)
        record = Signal(8 * RECORD_BYTES)
        biases = [field(record, ROUTER_RECORD, f"bias_{k.name.lower()}") for k in LayerModule]
        policies = [
            registered(
                m,
                Mux(self.decoding, *(field(record, ROUTER_RECORD, policy_field(k, p)) for p in (Phase.DECODE, Phase.PREFILL))),
                f"{k.name.lower()}_policy",
            )
            for k in LayerModule
        ]
        if machine.window:
            for name in ("window", "window_next"):
                m.d.comb += getattr(self, name).eq(field(record, ROUTER_RECORD, name))
        reading = [policy.code for policy in SKIP_POLICIES if policy.reads_trace]
        traced = Cat(policy == code for policy in policies for code in reading).any()
        m.submodules.writes = writes = Signature(1)
        m.d.comb += self.task.digest.eq(writes.total)
        slot = Signal(bits_for_index(machine.tokens))
        base = Signal(ELEMENT_BITS)
        module = Signal()
        bit = [Signal(name="attention_bit"), Signal(name="ffn_bit")]
        decided = [self.routed.attention, self.routed.ffn]
        before = [Signal(machine.tokens, name=f"{k.name.lower()}_before") for k in LayerModule]
        trace_byte = Signal(8)
        count = Signal(4)
        beats_left = Signal(2)
        trace_address = Signal(ADDRESS_BITS)
        m.d.comb += trace_address.eq((self.task.instruction.trace_row << ADDRESS_SHIFT) + self.task.instruction.position + slot)
        m.submodules.scaled = scaled = Multiply()
        m.submodules.score = score = Score(machine)
        # 1/rms of the slot, and what it was in front of the layer before; there a cycle behind the slot
        norms = [Signal(32, name=f"norm_{s}") for s in range(machine.tokens)]
        norm, last, of_norm = Signal(32), Signal(32), Signal()
        weighing = [policy.code for policy in SKIP_POLICIES if policy.weighs is Weighs.NORM]
        m.d.sync += [
            norm.eq(self.inverse_rms.word_select(slot, 32)),
            last.eq(Mux(self.task.instruction.first_layer, 0, Array(norms)[slot])),
        ]
        known = [policy for policy in SKIP_POLICIES if policy.runs_on(machine.tokens)]
        keeping = [policy for policy in known if policy.keep]
        of_windows = [Cat(policy == top.code for top in keeping).any() if keeping else Const(0, 1) for policy in policies]
        ranked, ends = Cat(of_windows).any(), slot == self.task.instruction.count - 1
        windows = [Window() for _ in LayerModule] if keeping else []
        each, seen = Signal(range(WINDOW)), Signal.like(slot)
        for k, window in enumerate(windows):
            m.submodules[f"{LayerModule(k).name.lower()}_window"] = window
            m.d.comb += [
                window.place.eq(slot),
                window.difference.eq(score.z),
                window.keep.eq(sum(Mux(policies[k] == top.code, top.keep, 0) for top in keeping)),
            ]
        m.d.comb += [
            score.address.eq(base + (module << 1)),
            of_norm.eq(Cat(Mux(module, policies[1], policies[0]) == code for code in weighing).any()),
            score.bias.eq(Mux(of_norm, 0, Mux(module, biases[LayerModule.FFN], biases[LayerModule.ATTENTION]))),
            score.instead.eq(of_norm),
            score.numbers.eq(Cat(last, norm[:31], ~norm[31])),
            scaled.a.eq(self.dial),
            scaled.b.eq(norm),
            scaled.valid.eq(score.start & of_norm),
            score.read_data.eq(self.read.data),
            self.read.address.eq(score.read_address),
            self.read.enable.eq(score.read_enable),
            self.saturated.eq(score.saturated | scaled.saturated),
        ]

        m.d.comb += [
            self.task.working.eq(self.read.enable),
            self.task.waiting.eq((self.runs.valid & ~self.runs.ready) | (self.beats.ready & ~self.beats.valid)),
        ]

        def leave() -> None:
            """In a state: done with a slot, which may be the last of a window."""
            m.next = "NEXT"
            if windows:
                m.d.sync += [each.eq(0), seen.eq(slot & ~(WINDOW - 1))]
                with m.If(ranked & (ends | (slot % WINDOW == WINDOW - 1))):
                    m.next = "RANK"

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [beats_left.eq(record_beats), *(was.eq(bits) for was, bits in zip(before, decided, strict=True))]
                with m.If(self.next | self.task.active):
                    m.next = "RECORD"
            with m.State("RECORD"):
                m.d.comb += [
                    self.runs.valid.eq(1),
                    self.runs.payload.beat.eq(self.task.instruction.address << (ADDRESS_SHIFT - beat_shift)),
                    self.runs.payload.count.eq(record_beats),
                ]
                with m.If(self.runs.ready):
                    m.next = "RECORD DATA"
            with m.State("RECORD DATA"):
                m.d.comb += self.beats.ready.eq(1)
                with m.If(self.beats.valid):
                    joined = Cat(record, self.beats.payload)[-8 * RECORD_BYTES :] if record_beats > 1 else self.beats.payload
                    m.d.sync += [record.eq(joined), beats_left.eq(beats_left - 1)]
                    with m.If(beats_left == 1):
                        m.next = "READY"
            with m.State("READY"):
                m.d.sync += [
                    slot.eq(0),
                    base.eq(field(word, ROUTE, "src") * BUFFER_UNIT),
                    *(bits.eq(0) for bits in decided),
                ]
                m.d.comb += [window.clear.eq(1) for window in windows]
                with m.If(self.task.active):
                    m.d.comb += writes.clear.eq(1)
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.d.sync += module.eq(0)
                with m.If(~self.task.instruction.mask.bit_select(slot, 1)):
                    leave()
                with m.Elif(traced):
                    m.next = "TRACE"
                with m.Else():
                    m.next = "SCORE"
            with m.State("TRACE"):
                m.d.comb += [
                    self.runs.valid.eq(1),
                    self.runs.payload.beat.eq(trace_address >> beat_shift),
                    self.runs.payload.count.eq(1),
                ]
                with m.If(self.runs.ready):
                    m.next = "TRACE DATA"
            with m.State("TRACE DATA"):
                m.d.comb += self.beats.ready.eq(1)
                with m.If(self.beats.valid):
                    m.d.sync += trace_byte.eq(self.beats.payload.word_select(trace_address[:beat_shift], 8))
                    m.next = "SCORE"
            with m.State("SCORE"):
                m.d.comb += score.start.eq(1)
                m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(score.done):
                    m.d.comb += [
                        writes.valid[0].eq(1),
                        writes.where[0].eq(index(1, slot, module)),
                        writes.value[0].eq(score.z),
                    ]
                    m.d.comb += [window.valid.eq(module == k) for k, window in enumerate(windows)]
                    for k in LayerModule:
                        was = before[k].bit_select(slot, 1) | self.task.instruction.first_layer
                        rules = self.rules(score.z, scaled.z, self.task.instruction.position + slot, trace_byte[k], was)
                        with m.If(module == k):
                            m.d.sync += bit[k].eq(0)  # by a code that is not known, too
                            with m.Switch(policies[k]):
                                for policy in known:
                                    with m.Case(policy.code):
                                        m.d.sync += bit[k].eq(rules[policy])
                    m.d.sync += module.eq(1)
                    m.next = "KEEP"
                    with m.If(module == 0):
                        m.next = "SCORE"
            with m.State("KEEP"):
                m.d.comb += [
                    writes.valid[0].eq(~ranked),
                    writes.where[0].eq(index(0, slot, Const(0, 1))),
                    writes.value[0].eq(Cat(bit)),
                ]
                m.d.sync += [
                    *(bits.bit_select(slot, 1).eq(own) for bits, own in zip(decided, bit, strict=True)),
                    Array(norms)[slot].eq(norm),
                ]
                leave()
            if windows:
                with m.State("RANK"):
                    listed = self.task.instruction.mask.bit_select(seen, 1)
                    chosen = [
                        Mux(of, window.bits.bit_select(each, 1), bits.bit_select(seen, 1))
                        for of, window, bits in zip(of_windows, windows, decided, strict=True)
                    ]
                    m.d.comb += [
                        writes.valid[0].eq(listed),
                        writes.where[0].eq(index(0, seen, Const(0, 1))),
                        writes.value[0].eq(Cat(chosen)),
                    ]
                    m.d.sync += [each.eq(each + 1), seen.eq(seen + 1)]
                    with m.If(listed):
                        m.d.sync += [bits.bit_select(seen, 1).eq(own) for bits, own in zip(decided, chosen, strict=True)]
                    with m.If(seen == slot):
                        m.d.comb += [window.clear.eq(1) for window in windows]
                        m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [slot.eq(slot + 1), base.eq(base + field(word, ROUTE, "stride") * BUFFER_UNIT), count.eq(0)]
                m.next = "SLOT"
                with m.If(ends):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == Signature.LATENCY):
                    m.d.comb += self.task.done.eq(1)
                    m.next = "IDLE"
        return m

    def rules(self, difference: Value, scaled: Value, position: Value, traced: Value, before: Value) -> dict[SkipPolicy, Value]:
        """Each policy's bit for the present slot, as its rule says; where tokens are compared it comes later.

        ``scaled`` is the dial times 1/rms, ``difference`` may be negative.
        """
        exceeds = order(difference) >= order(self.dial)
        rules = {
            ROUTER: exceeds,
            ALWAYS: Const(1, 1),
            NEVER: Const(0, 1),
            TRACE: traced,
            EXIT: exceeds & before,
            **dict.fromkeys(TOP, Const(0, 1)),
            NORM: (order(Cat(difference[:31], Const(0, 1))) >= order(scaled)) | ~before,
        }
        if missing := set(SKIP_POLICIES) - set(rules):
            raise NotImplementedError(f"no circuit for the skip policies {', '.join(policy.name for policy in missing)}")
        return rules
