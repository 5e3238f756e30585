"""One port's part of attention where multipliers keep their sums: scores and probabilities of its entries."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory

from hw.arithmetic.fp32 import FromInteger
from hw.arithmetic.pipeline import delay, delay_valid, registered
from hw.component import given, gives
from hw.kv.lockstep import EXPONENT_BITS
from hw.kv.numbers import order_key
from hw.kv.port import HIDDEN, AttentionPort
from hw.kv.query import query_depth
from hw.kv.shapes import HeadShapes
from hw.kv.stationary.walk import Taken
from hw.pe.dot import PROBABILITY_BITS, PackedDot
from hw.pe.stationary.lanes import Lanes
from hw.pe.stationary.slice import StationarySlice
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, TOGETHER, Machine
from skipopu.numerics.accumulate import WIDTH
from skipopu.numerics.align import ALIGNED_BIAS
from skipopu.numerics.fp16 import ALIGNED_BIAS as KV_BIAS

STEP_TAKEN = StationarySlice.PUT_ASIDE - 1  # a step to the first of its sums


def place_of(number: Value, entries: Value, together: Signal) -> Value:
    """Where probabilities of round ``entries`` lie: rounds that are kept together side by side."""
    return Array(Cat(entries[: 1 + k], number) for k in TOGETHER)[together]


class HeldPort(AttentionPort):
    """Works on its port's entries in lockstep with the other ports; their beats come out of the multipliers' buffer, sums from the multipliers.

    Scores lie in words of four, one word per (entry, KV head, block of queries); probabilities beside them, of twice as many rounds as a
    round of values has entries.

    Latency: STEP_TAKEN cycles from a head's last step to the first of its sums, ``score_latency`` from a sum's being taken to its score,
    ``WEIGHT_LATENCY`` from a softmax step to its weight, ``WRITTEN`` to the step of values that may use it, ``SoftCap.LATENCY`` more of both
    where scores are capped, 3 from a step to ``element`` and ``probabilities``. Throughput: a step of either kind, and a sum, per cycle.
    """

    def _operands(self, machine: Machine) -> None:
        self.beat = given(machine.port_bits, "the step's beat, a cycle after it")
        self.probabilities = gives(PROBABILITY_BITS * QUERY_LANES, "what each query multiplies them by, with them")
        self.dot = given(WIDTH, "sum of a query's products, signed, ``Lanes.selected`` cycles after it is taken")

    @staticmethod
    def score_latency(machine: Machine) -> int:
        """Cycles from a sum's being taken to its score."""
        return pipeline.scored(machine)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step, softmax, together = self.lockstep.kv_step, self.lockstep.softmax_step, self.lockstep.together
        m.d.sync += [self.in_keys.eq(self.phase.keys), self.in_values.eq(self.phase.values)]
        working = self.work.working & step.work
        names = ("score_index", "first_index", "softmax_index", "softmax_first")
        index, first_index, softmax_index, softmax_first = (Signal.like(self.work.score, name=name) for name in names)
        m.d.comb += [
            index.eq(self.work.score + step.number),
            first_index.eq(self.work.score + step.number_first),
            softmax_index.eq(self.work.softmax_score + softmax.number),
            softmax_first.eq(self.work.softmax_score + softmax.number_first),
        ]
        m.submodules.scores = words = Memory(shape=data.ArrayLayout(32, QUERY_LANES), depth=self.words, init=[])
        write, read = words.write_port(granularity=1), words.read_port()
        key_exponent, value_exponent, stored_exponent, softmax_exponent = self._exponents(
            m, working, first_index, softmax_first
        )
        self._align(m, self.beat, key_exponent, stored_exponent, delay_valid(m, working, 1, "element_valid"))
        self._score(m, working, index, key_exponent, value_exponent, write)
        m.d.comb += read.addr.eq(softmax_index)

        scaled, softmax, written_lane, at_scaled = self._weights(m, read.data.as_value(), softmax_exponent)
        rounds = Memory(shape=data.ArrayLayout(PROBABILITY_BITS, QUERY_LANES), depth=2 * query_depth(self.machine), init=[])
        m.submodules.probabilities = rounds
        put, take = rounds.write_port(granularity=1), rounds.read_port()
        put_address = place_of(softmax.number, softmax.parity, together)
        m.d.comb += [
            put.addr.eq(delay(m, put_address, at_scaled, "probability_index")),
            put.en.eq(written_lane),
            put.data.eq(Cat(scaled[:PROBABILITY_BITS] for _ in range(QUERY_LANES))),
            take.addr.eq(place_of(step.number, step.round, together)),
        ]
        m.d.comb += self.probabilities.eq(delay(m, take.data.as_value(), 2, "probabilities"))
        return m

    def _exponents(self, m: Module, working: Value, first: Signal, softmax_first: Signal) -> tuple[Value, Value, Value, Value]:
        """Exponents of the step's head a cycle after it: of K, of V (both from the header); of V as kept, for values and for softmax."""
        machine, step = self.machine, self.lockstep.kv_step
        header = [Signal(machine.port_bits, name=f"header_{i}") for i in range(HeadShapes(machine).most_header_beats)]
        taking = delay_valid(m, self.work.working & step.header, 1, "header")
        number = delay(m, step.header_number, 1, "header_number")
        for i, register in enumerate(header):
            with m.If(taking & (number == i)):
                m.d.sync += register.eq(self.beat)
        fields = Cat(header).word_select(delay(m, step.kv_head, 1, "kv_head"), 16)
        key, value = fields[:EXPONENT_BITS], fields[8 : 8 + EXPONENT_BITS]
        m.submodules.value_exponents = kept = Memory(
            shape=EXPONENT_BITS, depth=self.words, init=[], attrs={"ram_style": "block"}
        )
        write, read, softmax_read = kept.write_port(), kept.read_port(), kept.read_port()
        begins = working & self.in_keys & step.first_beat
        m.d.comb += [
            write.addr.eq(delay(m, first, 1, "first")),
            write.data.eq(value),
            write.en.eq(delay_valid(m, begins, 1, "head_begins")),
            read.addr.eq(first),
            softmax_read.addr.eq(softmax_first),
        ]
        return key, value, read.data, softmax_read.data

    def _score(self, m: Module, working: Value, index: Signal, key_exponent: Value, value_exponent: Value, write: Any) -> None:
        """Scores of a block's queries as their sums come, rounded once. What the last step knew is kept until all of them did."""
        machine, step, shapes = self.machine, self.lockstep.kv_step, HeadShapes(self.machine)
        taken = data.View(Taken(machine), self.lockstep.taken)
        with_step = Cat(index, self._visible(m, step), working & self.in_keys)
        a_cycle_later = Cat(value_exponent, key_exponent, self.lockstep.query_exponents)
        of_last = Cat(delay(m, with_step, STEP_TAKEN, "taken"), delay(m, a_cycle_later, STEP_TAKEN - 1, "taken_exponents"))
        kept = Signal.like(of_last, name="kept")
        known = Mux(taken.begin, of_last, kept)
        m.d.sync += kept.eq(known)
        parts: list[Value] = []
        for width in (len(index), QUERY_LANES, 1, EXPONENT_BITS, EXPONENT_BITS, 8 * QUERY_LANES):
            parts.append(known[:width])
            known = known[width:]
        own_index, visible, own, own_value, own_key, queries = parts

        at_dot = Lanes.selected(machine)
        sum_bits = PackedDot.dot_bits(machine.weight_lanes) + (shapes.most_head_beats - 1).bit_length()
        m.submodules.convert = convert = FromInteger(sum_bits)
        exponent = Signal(signed(12))
        m.d.sync += exponent.eq(queries.word_select(taken.lane, 8) + own_key - (ALIGNED_BIAS + KV_BIAS))
        m.d.comb += [
            convert.mantissa.eq(registered(m, self.dot[:sum_bits].as_signed(), "sum")),
            convert.exponent.eq(delay(m, exponent, at_dot, "exponent")),
            convert.valid.eq(delay_valid(m, taken.valid & own, at_dot + 1, "scoring")),
            self.score_saturated.eq(convert.saturated),
        ]
        at = self.score_latency(machine)
        assert at == at_dot + 1 + FromInteger.LATENCY
        scored = delay_valid(m, taken.valid & own, at, "scored")
        seen = delay(m, visible.bit_select(taken.lane, 1), at, "seen")
        lane = delay(m, Const(1, QUERY_LANES) << taken.lane, at, "scored_lane")
        m.d.comb += [
            self.scores.score_keys.eq(Mux(scored & seen, order_key(convert.z), 0)),
            self.scores.value_exponents.eq(Mux(scored & seen, delay(m, own_value, at, "own_value"), 0)),
            write.addr.eq(delay(m, own_index, at, "own_index")),
            write.en.eq(Mux(scored, lane, 0)),
            write.data.eq(Cat(Mux(seen, convert.z, HIDDEN) for _ in range(QUERY_LANES))),
        ]
