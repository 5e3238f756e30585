"""One port's part of attention: scores and probabilities of its entries."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory

from hw.arithmetic.fp32 import Add, FromInteger
from hw.arithmetic.pipeline import delay, delay_valid, registered
from hw.arithmetic.quadratic import Quadratic
from hw.component import Component, given, gives
from hw.kv.lockstep import Lockstep, Scores, Work
from hw.kv.numbers import align_half, order_key
from hw.kv.phases import Phase
from hw.kv.query import query_depth
from hw.kv.shapes import HeadShapes
from hw.kv.soft_cap import CappedStep, SoftCap, behind
from hw.pe.dot import PROBABILITY_BITS
from hw.pe.slice import Slice
from hw.widths import POSITION_BITS
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS
from skipopu.numerics.fp16 import ALIGNED_BIAS as KV_BIAS
from skipopu.numerics.tables import EXP2, FRACTION_BITS, OUTPUT_BITS

MOST_REGISTERS = 8  # sums of so many blocks stand in registers, more of them in a memory, which is smaller then
HIDDEN = 0xFFFFFFFF  # in place of a score that its query does not see


class AttentionPort(Component):
    """Works on its port's entries in lockstep with the other ports.

    Scores lie in words of four, one word per (entry, KV head, block of queries); probabilities of two rounds beside them.

    Latency: ``score_latency`` cycles from a head's last step to its scores, ``WEIGHT_LATENCY`` from a softmax step to its weight,
    ``WRITTEN`` to the step of values that may use it, ``SoftCap.LATENCY`` more of both where scores are capped, 3 from a step to
    ``element`` and ``probability``. Throughput: a step of either kind per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.words = machine.score_entries // QUERY_LANES
        self.phase = given(Phase(), "what attention is at, from a cycle before its first step", "{}")
        self.lockstep = given(Lockstep(machine), "steps of all ports", "{}")
        self.work = given(Work(machine), "this port's share", "{}")
        self.element = gives(ALIGNED_BITS * machine.kv_lanes, "aligned elements of the beat, three cycles after the step")
        self._operands(machine)
        self.scores = gives(Scores(machine), "scores and probabilities", "{}")
        self.score_saturated = gives(1, "a score was clipped")
        super().__init__()
        self.in_keys, self.in_values = Signal(), Signal()  # the phase, in registers of this port

    def _operands(self, machine: Machine) -> None:
        """Declares what goes to the multipliers beside the elements, and what comes from them."""
        self.probability = gives(PROBABILITY_BITS, "probability that they are multiplied by, with them")
        self.dots = given(Slice.dot_bits(machine) * QUERY_LANES, "products of the elements and the step's four queries")

    @staticmethod
    def score_latency(machine: Machine) -> int:
        """Cycles from a head's last step to its scores."""
        return pipeline.score(machine)

    WEIGHT_LATENCY = pipeline.WEIGHT  # from a softmax step to its probability
    WRITTEN = pipeline.WEIGHED  # to the cycle in which a step of values may use it

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step, softmax = self.lockstep.kv_step, self.lockstep.softmax_step
        m.d.sync += [self.in_keys.eq(self.phase.keys), self.in_values.eq(self.phase.values)]
        working = self.work.working & step.work
        indices = [Signal.like(self.work.score, name=f"score_index_{k}") for k in range(4)]
        index, first_index, softmax_index, softmax_first = indices
        m.d.comb += [
            index.eq(self.work.score + step.number),
            first_index.eq(self.work.score + step.number_first),
            softmax_index.eq(self.work.softmax_score + softmax.number),
            softmax_first.eq(self.work.softmax_score + softmax.number_first),
        ]
        words = Memory(shape=32 * QUERY_LANES, depth=self.words, init=[])
        m.submodules.scores = words
        write, read = words.write_port(), words.read_port()
        key_exponent, value_exponent, stored_exponent, softmax_exponent = self._header(m, working, first_index, softmax_first)
        self._elements(m, key_exponent, stored_exponent, delay_valid(m, working, 1, "element_valid"))

        # Scores
        visible = self._visible(m, step)
        at_score = self.score_latency(self.machine)
        scores = self._scores(m, working, key_exponent)
        scored = delay_valid(m, working & self.in_keys & step.last_beat, at_score, "scored")
        seen = delay(m, visible, at_score, "seen")
        exponent = delay(m, value_exponent, at_score, "value_exponent")
        for q, score in enumerate(scores):
            shown = scored & seen[q]
            m.d.comb += [
                self.scores.score_keys[32 * q : 32 * (q + 1)].eq(Mux(shown, order_key(score), 0)),
                self.scores.value_exponents[5 * q : 5 * (q + 1)].eq(Mux(shown, exponent, 0)),
            ]

        m.d.comb += [
            read.addr.eq(softmax_index),
            write.addr.eq(delay(m, index, at_score, "score_index")),
            write.en.eq(scored),
            write.data.eq(Cat(Mux(seen[q], score, HIDDEN) for q, score in enumerate(scores))),
        ]

        scaled, softmax, written_lane, at_scaled = self._weights(m, read.data, softmax_exponent)
        rounds = Memory(shape=data.ArrayLayout(PROBABILITY_BITS, QUERY_LANES), depth=2 * query_depth(self.machine), init=[])
        m.submodules.probabilities = rounds
        put, take = rounds.write_port(granularity=1), rounds.read_port()
        m.d.comb += [
            put.addr.eq(delay(m, Cat(softmax.parity, softmax.number), at_scaled, "probability_index")),
            put.en.eq(written_lane),
            put.data.eq(Cat(scaled[:PROBABILITY_BITS] for _ in range(QUERY_LANES))),
            take.addr.eq(Cat(step.parity, step.number)),
        ]
        used = take.data.as_value().word_select(delay(m, step.lane, 1, "lane"), PROBABILITY_BITS)
        using = delay_valid(m, working & self.in_values, 1, "using")
        m.d.comb += self.probability.eq(delay(m, Mux(using, used, 0), 2, "probability"))
        return m

    def _visible(self, m: Module, step: Any) -> Signal:
        """Which of a step's queries exist and see the present entry."""
        visible = Signal(QUERY_LANES)
        ahead = Signal(signed(POSITION_BITS + 1))
        m.d.comb += ahead.eq(self.work.token - self.lockstep.position)  # above the slot: a later token
        seen_of = [ahead <= step.slots[q] for q in range(QUERY_LANES)]
        if self.machine.window:
            inside = Signal(signed(POSITION_BITS + 2))
            m.d.comb += inside.eq(self.work.token - self.lockstep.earliest)
            seen_of = [earlier & (inside >= step.slots[q]) for q, earlier in enumerate(seen_of)]
        m.d.comb += visible.eq(Cat(lane & shown for lane, shown in zip(step.lanes, seen_of, strict=True)))
        return visible

    def _weights(self, m: Module, scores: Value, softmax_exponent: Value) -> tuple[Value, Any, Value, int]:
        """Of a word of ``scores``, read for the softmax step: (the lane's scaled probability, that step, capped or not, the lanes to write, the
        cycles after the step in which they are)."""
        softmax: Any = self.lockstep.softmax_step
        lane = delay(m, softmax.lane, 1, "softmax_lane")
        score, weighing = registered(m, scores.word_select(lane, 32), "score_read"), self.work.weighing & softmax.work
        softmax_exponent = registered(m, softmax_exponent, "exponent_read")
        hidden = score[23:31] == 255
        if self.machine.soft_cap:
            step_capped = data.View(CappedStep(self.machine), self.lockstep.capped)
            m.submodules.soft_cap = cap = SoftCap(self.machine)
            m.d.comb += [cap.score.eq(score), cap.factor.eq(step_capped.factor)]
            capping = registered(m, step_capped.capping, "capping")  # stable while an instruction runs
            score, hidden = Mux(capping, cap.capped, score), behind(m, capping, hidden, "capped_hidden")
            softmax_exponent = behind(m, capping, softmax_exponent, "capped_exponent")
            weighing = behind(m, capping, weighing, "capped_weighing", valid=True)
            softmax = step_capped
            lane = delay(m, softmax.lane, 1, "weight_lane")
        scaled, at_scaled = self._probability(m, score, hidden, softmax_exponent, weighing)
        replaced = delay_valid(m, weighing, at_scaled, "replaced")
        written_lane = Const(1, QUERY_LANES) << delay(m, lane, at_scaled - 1, "written_lane")
        assert at_scaled + 1 == self.WRITTEN
        return scaled, softmax, Mux(replaced, written_lane, 0), at_scaled

    def _header(self, m: Module, working: Value, first: Signal, softmax_first: Signal) -> tuple[Value, Value, Value, Value]:
        """Exponents of the present head: of K, of V (both from the header); of V as kept, for the values and for softmax.

        The kept ones come one cycle after the step, the others with it.
        """
        machine, step = self.machine, self.lockstep.kv_step
        header = [Signal(machine.port_bits, name=f"header_{i}") for i in range(HeadShapes(machine).most_header_beats)]
        for i, register in enumerate(header):
            with m.If(self.work.working & step.header & (step.header_number == i)):
                m.d.sync += register.eq(self.work.kv_beat)
        fields = Cat(header).word_select(step.kv_head, 16)
        key, value = fields[:5], fields[8:13]
        m.submodules.value_exponents = kept = Memory(shape=5, depth=self.words, init=[], attrs={"ram_style": "block"})
        write, read, softmax_read = kept.write_port(), kept.read_port(), kept.read_port()
        m.d.comb += [
            write.addr.eq(first),
            write.data.eq(value),
            write.en.eq(working & self.in_keys & step.first_beat & (step.block == 0)),
            read.addr.eq(first),
            softmax_read.addr.eq(softmax_first),
        ]
        return key, value, read.data, softmax_read.data

    def _elements(self, m: Module, key_exponent: Value, stored_exponent: Value, valid: Value) -> None:
        """Aligned elements of the present beat; zeros where the port sits out, whatever its memories and its header hold."""
        raw = registered(m, self.work.kv_beat, "raw")
        self._align(m, raw, delay(m, key_exponent, 1, "key_exponent"), stored_exponent, valid)

    def _align(self, m: Module, raw: Value, key_exponent: Value, stored_exponent: Value, valid: Value) -> None:
        shared = Signal(5)
        m.d.comb += shared.eq(Mux(valid, Mux(self.in_values, stored_exponent, key_exponent), 0))
        for k in range(self.machine.kv_lanes):
            half = Mux(valid, raw[16 * k : 16 * k + 16], 0)
            m.d.comb += self.element[ALIGNED_BITS * k : ALIGNED_BITS * (k + 1)].eq(align_half(m, half, shared, f"half_{k}"))

    def _scores(self, m: Module, working: Value, key_exponent: Value) -> list[Value]:
        """FP32 scores of the four queries: dots summed over the head's beats, rounded once."""
        machine, step = self.machine, self.lockstep.kv_step
        at_dot, bits, shapes = Slice.dot_latency(machine), Slice.dot_bits(machine), HeadShapes(machine)
        which = delay(m, step.block, at_dot, "which")
        first = delay(m, step.first_beat, at_dot, "first")
        dotted = delay_valid(m, working & self.in_keys, at_dot, "dotted")
        scoring = delay_valid(m, working & self.in_keys & step.last_beat, at_dot + 1, "scoring")
        lanes = delay(m, step.lanes, at_dot + 1, "scoring_lanes")
        offset = delay(m, key_exponent, at_dot, "dot_exponent")
        results, saturated = [], []
        for q in range(QUERY_LANES):
            sum_bits = bits + (shapes.most_head_beats - 1).bit_length()
            running = Signal(signed(sum_bits), name=f"running_{q}")
            dot = self.dots[bits * q : bits * (q + 1)].as_signed()
            if shapes.blocks > MOST_REGISTERS:
                m.submodules[f"kept_{q}"] = memory = Memory(shape=signed(sum_bits), depth=shapes.blocks, init=[])
                write, read = memory.write_port(), memory.read_port(domain="comb")
                m.d.comb += [write.addr.eq(which), write.data.eq(running), write.en.eq(dotted), read.addr.eq(which)]
                before = read.data
            else:
                kept = Array(Signal(signed(sum_bits), name=f"kept_{q}_{b}", reset_less=True) for b in range(shapes.blocks))
                before = kept[which]
                with m.If(dotted):
                    m.d.sync += kept[which].eq(running)
            m.d.comb += running.eq(dot + Mux(first, 0, before))
            exponent = Signal(signed(12), name=f"exponent_{q}")
            own = delay(m, self.lockstep.query_exponents[8 * q : 8 * (q + 1)], at_dot - 1, f"query_exponent_{q}")
            m.d.sync += exponent.eq(own + offset - (ALIGNED_BIAS + KV_BIAS))
            m.submodules[f"convert_{q}"] = convert = FromInteger(sum_bits)
            m.d.comb += [
                convert.mantissa.eq(registered(m, running, f"dot_{q}")),
                convert.exponent.eq(exponent),
                convert.valid.eq(scoring & lanes[q]),
            ]
            results.append(convert.z)
            saturated.append(convert.saturated)
        m.d.comb += self.score_saturated.eq(Cat(saturated).any())
        return results

    def _probability(
        self, m: Module, score: Value, hidden: Value, stored_exponent: Value, weighing: Value
    ) -> tuple[Value, int]:
        """2^(score - maximum) under the exponent that all entries share; (value, cycles after the step).

        ``weighing`` comes with the step, the others two cycles later.
        """
        m.submodules.subtract = subtract = Add()
        m.d.comb += [subtract.a.eq(self.lockstep.maximum), subtract.b.eq(score), subtract.subtract.eq(1)]
        shift = self.lockstep.shared_exponent - stored_exponent  # not negative where visible
        distance = subtract.z
        exponent, mantissa = distance[23:31], Cat(distance[:23], Const(1, 1))
        fixed = Signal(7 + FRACTION_BITS)
        left, right = exponent - 126, 126 - exponent
        far = exponent > 132
        shifted = Mux(exponent < 126, mantissa >> Mux(right > 31, 31, right)[:5], mantissa << left[:3])
        m.d.sync += fixed.eq(Mux(exponent == 0, 0, shifted))
        m.submodules.exp2 = exp2 = Quadratic((EXP2,))
        m.d.comb += exp2.u.eq(fixed[:FRACTION_BITS])
        at_exp2 = 2 + Add.LATENCY + 1 + Quadratic.LATENCY
        # By how far the table's value is shifted comes out of a register.
        whole = delay(m, fixed[FRACTION_BITS : FRACTION_BITS + 6], Quadratic.LATENCY - 1, "whole")
        drop = OUTPUT_BITS - FRACTION_BITS + whole  # at least 6
        dropped = registered(m, Mux(drop > 32, 32, drop)[:6], "dropped")
        gone = delay(m, far, 1 + Quadratic.LATENCY, "far") | delay(m, hidden, at_exp2 - 2, "hidden")
        gone |= ~delay_valid(m, weighing, at_exp2, "weighed")
        # Half up: the bit below the last kept one is added.
        kept = Cat(Const(0, 1), exp2.y) >> dropped
        m.d.sync += self.scores.weight.eq(Mux(gone, 0, (kept >> 1) + kept[0]))
        assert at_exp2 + 1 == self.WEIGHT_LATENCY
        moved = Cat(Const(0, 1), self.scores.weight) >> delay(m, shift[:5], at_exp2 - 1, "shift")
        scaled = Signal(32)
        m.d.sync += scaled.eq((moved >> 1) + moved[0])
        return scaled, at_exp2 + 2
