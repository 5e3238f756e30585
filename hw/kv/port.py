"""One port's part of attention: scores, probabilities and weighted sums over the entries that lie in this port."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import Add, FromInteger
from hw.arithmetic.pipeline import adder_tree, bits_for_index, count_shape, delay, delay_valid, registered
from hw.arithmetic.quadratic import Quadratic
from hw.memory.reader import Run
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS
from skipopu.numerics.tables import EXP2, FRACTION_BITS, OUTPUT_BITS

KV_BIAS = 31
TOKEN_FIFO = 8  # entries requested ahead
SUM_BITS = 58  # sum of p' v: 25 + 17 + 15 bits and sign
TOTAL_BITS = 41  # sum of p


class Wanted(data.StructLayout):
    """An entry to visit: its place in the port's pool and its token."""

    def __init__(self) -> None:
        super().__init__({"place": 20, "token": 20})


def align_half(m: Module, half: Value, exponent: Value, name: str) -> Value:
    """Mantissa of an FP16 pattern under a shared exponent field, nearest even: signed 18 bits, combinational."""
    own = Mux(half[10:15] == 0, 1, half[10:15])
    distance = Signal(5, name=f"{name}_distance")
    m.d.comb += distance.eq(exponent - own)
    wide = Signal(17 + 19, name=f"{name}_wide")
    reach = Mux(distance > 19, 19, distance)[:5]
    # 11-bit mantissa with six zeros below, over 2^distance
    m.d.comb += wide.eq(Cat(Const(0, 19 + 6), half[:10], half[10:15] != 0) >> reach)
    kept, guard, sticky = wide[19:], wide[18], wide[:18].any()
    magnitude = Signal(17, name=f"{name}_magnitude")
    m.d.comb += magnitude.eq(kept + (guard & (sticky | kept[0])))
    result = Signal(signed(ALIGNED_BITS), name=f"{name}_aligned")
    m.d.comb += result.eq(Mux(half[15], -magnitude, magnitude))
    return result


def order_key(x: Value) -> Value:
    """Unsigned integer in the order of FP32 numbers; 0 is below every finite number."""
    return Mux(x[31], ~x, x | (1 << 31))[:32]


def from_key(key: Value) -> Value:
    """The inverse of :func:`order_key`."""
    return Mux(key[31], key ^ (1 << 31), ~key)[:32]


class AttentionPort(Component):
    """Works in phases set by the attention unit: keys, then probabilities, then values.

    Orders of work inside an entry: KV head, beat of the head, query head of the group, listed token. Scores are kept in the
    order (entry, KV head, query head, token). Members: phase_* (in, levels); begin (in: a new instruction); wanted (in
    stream); requests_done (in: no further wanted entries in this phase); phase_done (out); runs, beats (loader of this
    port); configuration; token_count, positions (in: 24 bits per listed token), slots (in: slot per listed token);
    query_* (read side of this port's query memory); maximum_*, exponent_* (reduction: address in, local out, global in);
    total_*, sum_* (final: address in, out; not valid when ``entries`` is zero); entries (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        token = bits_for_index(machine.tokens)
        self.heads = machine.query // machine.kv_lanes
        self.head_depth = self.heads * (1 << token.width)
        self.sum_depth = (machine.query // machine.kv_lanes) * (1 << token.width)
        self.kv_depth = machine.kv_heads * (1 << token.width)
        query_word = bits_for_index(machine.query // machine.kv_lanes)
        super().__init__(
            {
                "phase_keys": In(1),
                "phase_softmax": In(1),
                "phase_values": In(1),
                "begin": In(1),
                "wanted": In(stream.Signature(Wanted())),
                "requests_done": In(1),
                "phase_done": Out(1),
                "runs": Out(stream.Signature(Run(machine))),
                "beats": In(stream.Signature(machine.port_bits)),
                "kv_heads": In(7),
                "query_group": In(5),
                "head_beats": In(6),
                "header_beats": In(4),
                "kv_base": In(32),
                "kv_entry": In(16),
                "token_count": In(count_shape(machine.tokens)),
                "positions": In(24 * machine.tokens),
                "slots": In(token.width * machine.tokens),
                "query_slot": Out(token),
                "query_word": Out(query_word),
                "query_head": Out(query_word),
                "query": In(ALIGNED_BITS * machine.kv_lanes),
                "query_exponent": In(8),
                "maximum_address": In(bits_for_index(self.head_depth)),
                "maximum_local": Out(32),
                "maximum_global": In(32),
                "maximum_enable": In(1),
                "exponent_address": In(bits_for_index(self.kv_depth)),
                "exponent_local": Out(5),
                "exponent_global": In(5),
                "exponent_enable": In(1),
                "total_address": In(bits_for_index(self.head_depth)),
                "total": Out(TOTAL_BITS),
                "sum_address": In(bits_for_index(self.sum_depth)),
                "sum": Out(SUM_BITS * machine.kv_lanes),
                "entries": Out(20),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.kv_lanes
        tokens = machine.tokens
        token_bits = bits_for_index(tokens).width
        beat_shift = (machine.beat_bytes - 1).bit_length()

        # Requests: one run per wanted entry; its token is remembered until the data was used.
        m.submodules.tokens_fifo = ahead = SyncFIFOBuffered(width=20, depth=TOKEN_FIFO)
        first_beat, run_beats = Signal(20), Signal(20)
        key_beats, value_beats = Signal(16), Signal(16)
        m.d.sync += [
            key_beats.eq(self.header_beats + self.kv_heads * self.head_beats),
            value_beats.eq(self.kv_heads * self.head_beats),
        ]
        m.d.comb += [
            first_beat.eq(Mux(self.phase_values, key_beats, 0)),
            run_beats.eq(Mux(self.phase_values, value_beats, key_beats)),
        ]
        entry_block = Signal(40)
        place_valid, token_held = Signal(), Signal(20)
        send = place_valid & ahead.w_rdy & self.runs.ready
        m.d.comb += [
            self.wanted.ready.eq(~place_valid),
            self.runs.valid.eq(place_valid & ahead.w_rdy),
            self.runs.payload.beat.eq((entry_block << (6 - beat_shift)) + first_beat),
            self.runs.payload.count.eq(run_beats),
            ahead.w_data.eq(token_held),
            ahead.w_en.eq(send),
        ]
        with m.If(self.wanted.valid & self.wanted.ready):
            m.d.sync += [
                entry_block.eq(self.kv_base + self.wanted.payload.place * self.kv_entry),
                token_held.eq(self.wanted.payload.token),
                place_valid.eq(1),
            ]
        with m.Elif(send):
            m.d.sync += place_valid.eq(0)
        entry_token = ahead.r_data

        # Walk over an entry's beats
        header_left = Signal(4)
        kv_head, beat = Signal(7), Signal(6)
        group, token = Signal(5), Signal(token_bits)
        head = Signal(bits_for_index(self.heads))  # first query head of the KV head
        word = Signal(bits_for_index(machine.query // lanes))  # query word of (head, beat)
        group_word = Signal.like(word)  # ... of the present query head
        score_base, score = Signal(bits_for_index(machine.score_entries)), Signal(bits_for_index(machine.score_entries))
        first_entry = Signal()
        header = [Signal(machine.port_bits, name=f"header_{i}") for i in range(-(-2 * machine.kv_heads // machine.beat_bytes))]
        header_number = Signal(4)
        in_header = self.phase_keys & (header_left != 0)
        working = (self.phase_keys | self.phase_values) & self.beats.valid & ahead.r_rdy & ~in_header
        last_token = token == self.token_count - 1
        last_group = group == self.query_group - 1
        last_beat = beat == self.head_beats - 1
        last_head = kv_head == self.kv_heads - 1
        entry_end = working & last_token & last_group & last_beat & last_head
        taking_header = in_header & self.beats.valid & ahead.r_rdy
        m.d.comb += [
            self.beats.ready.eq(taking_header | (working & last_token & last_group)),
            ahead.r_en.eq(entry_end),
        ]
        with m.If(taking_header):
            m.d.sync += [header_left.eq(header_left - 1), header_number.eq(header_number + 1)]
            for i, register in enumerate(header):
                with m.If(header_number == i):
                    m.d.sync += register.eq(self.beats.payload)
        with m.If(working):
            m.d.sync += token.eq(token + 1)
            with m.If(self.phase_values):
                m.d.sync += score.eq(score + 1)
            with m.If(last_token):
                m.d.sync += [token.eq(0), group.eq(group + 1), group_word.eq(group_word + self.head_beats)]
                with m.If(last_group):
                    m.d.sync += [
                        group.eq(0),
                        beat.eq(beat + 1),
                        word.eq(word + 1),
                        group_word.eq(word + 1),
                        score.eq(score_base),
                    ]
                    with m.If(last_beat):
                        # group_word stands at the last beat of the last query head: the next head starts one further
                        m.d.sync += [
                            beat.eq(0),
                            kv_head.eq(kv_head + 1),
                            head.eq(head + self.query_group),
                            word.eq(group_word + 1),
                            group_word.eq(group_word + 1),
                        ]
                        with m.If(self.phase_values):
                            m.d.sync += [score_base.eq(score + 1), score.eq(score + 1)]
                        with m.If(last_head):
                            m.d.sync += [
                                kv_head.eq(0),
                                head.eq(0),
                                word.eq(0),
                                group_word.eq(0),
                                first_entry.eq(0),
                                header_left.eq(self.header_beats),
                                header_number.eq(0),
                            ]
        position = self.positions.word_select(token, 24)
        visible = entry_token <= position
        flat_header = Cat(header)
        key_exponent = flat_header.word_select(kv_head << 1, 8)[:5]
        value_exponent = flat_header.word_select((kv_head << 1) | 1, 8)[:5]

        # Per-entry facts that the later phases need: token and V's exponents, in order of arrival
        m.submodules.entry_tokens = entry_tokens = Memory(shape=20, depth=machine.score_entries, init=[])
        m.submodules.value_exponents = value_exponents = Memory(shape=5, depth=machine.score_entries, init=[])
        fact_index = Signal(bits_for_index(machine.score_entries))
        fact_token, fact_exponent = entry_tokens.write_port(), value_exponents.write_port()
        fact = working & self.phase_keys & last_token & last_group & last_beat
        m.d.comb += [
            fact_token.addr.eq(fact_index),
            fact_token.data.eq(entry_token),
            fact_token.en.eq(fact),
            fact_exponent.addr.eq(fact_index),
            fact_exponent.data.eq(value_exponent),
            fact_exponent.en.eq(fact),
        ]
        with m.If(fact):
            m.d.sync += fact_index.eq(fact_index + 1)
        with m.If(entry_end & self.phase_keys):
            m.d.sync += self.entries.eq(self.entries + 1)

        # Aligned entry elements (values use the exponent recorded with the keys)
        fact_read_exponent, fact_read_token = value_exponents.read_port(), entry_tokens.read_port()
        softmax_fact = Signal.like(fact_index)
        value_fact = Signal.like(fact_index)
        next_value_fact = Signal.like(fact_index)
        m.d.comb += next_value_fact.eq(value_fact)
        with m.If(working & self.phase_values & last_token & last_group & last_beat):
            m.d.comb += next_value_fact.eq(value_fact + 1)
        m.d.sync += value_fact.eq(next_value_fact)
        m.d.comb += [
            fact_read_exponent.addr.eq(Mux(self.phase_values, next_value_fact, softmax_fact)),
            fact_read_token.addr.eq(softmax_fact),
        ]
        stored_exponent = fact_read_exponent.data
        shared = Mux(self.phase_values, stored_exponent, key_exponent)
        elements = [
            registered(m, align_half(m, self.beats.payload[16 * k : 16 * k + 16], shared, f"half_{k}"), f"element_{k}")
            for k in range(lanes)
        ]

        # Keys: dot product with the query (query memory answers one cycle later), summed over the head's beats
        m.d.comb += [
            self.query_slot.eq(self.slots.word_select(token, token_bits)),
            self.query_word.eq(group_word),
            self.query_head.eq(head + group),
        ]
        products = [
            registered(m, self.query[ALIGNED_BITS * k : ALIGNED_BITS * (k + 1)].as_signed() * element, f"product_{k}")
            for k, element in enumerate(elements)
        ]
        dot, tree_latency = adder_tree(m, products)
        at_dot = 2 + tree_latency
        dot_bits = 2 * ALIGNED_BITS + 9
        partial = Array(
            Signal(signed(dot_bits), name=f"partial_{i}", reset_less=True) for i in range(machine.query_group << token_bits)
        )
        which = delay(m, Cat(token, group), at_dot, "which")
        running = Signal(signed(dot_bits))
        m.d.comb += running.eq(dot + Mux(delay(m, beat == 0, at_dot, "first_beat"), 0, partial[which]))
        working_keys = working & self.phase_keys
        with m.If(delay_valid(m, working_keys, at_dot, "dotted")):
            m.d.sync += partial[which].eq(running)
        m.submodules.convert = convert = FromInteger(dot_bits)
        exponent_sum = Signal(signed(12))
        m.d.sync += exponent_sum.eq(
            delay(m, self.query_exponent, at_dot - 1, "query_exponent")
            + delay(m, key_exponent, at_dot, "key_exponent")
            - (ALIGNED_BIAS + KV_BIAS)
        )
        at_convert = at_dot + 1
        score_valid = working_keys & last_beat
        m.d.comb += [
            convert.mantissa.eq(registered(m, running, "dot")),
            convert.exponent.eq(exponent_sum),
            convert.valid.eq(delay_valid(m, score_valid, at_convert, "score_converting")),
            self.saturated.eq(convert.saturated),
        ]
        at_score = at_convert + FromInteger.LATENCY
        scored = delay_valid(m, score_valid, at_score, "scored")
        m.submodules.scores = scores = Memory(shape=32, depth=machine.score_entries, init=[])
        score_write, score_read = scores.write_port(), scores.read_port()
        score_write_index = Signal(bits_for_index(machine.score_entries))
        head_address = Cat(token, head + group)[: bits_for_index(self.head_depth).width]
        m.submodules.maximum = maximum = Memory(shape=32, depth=self.head_depth, init=[])
        m.submodules.maximum_all = maximum_all = Memory(shape=32, depth=self.head_depth, init=[])
        max_write, max_read, max_out = maximum.write_port(), maximum.read_port(domain="comb"), maximum.read_port(domain="comb")
        max_address = delay(m, head_address, at_score, "maximum_address")
        visible_score = delay(m, visible, at_score, "visible")
        first_score = delay(m, first_entry, at_score, "first_entry")
        key = Mux(visible_score, order_key(convert.z), 0)
        m.d.comb += [
            max_read.addr.eq(max_address),
            max_write.addr.eq(max_address),
            max_write.data.eq(Mux(first_score | (key > max_read.data), key, max_read.data)),
            max_write.en.eq(scored),
            max_out.addr.eq(self.maximum_address),
            self.maximum_local.eq(max_out.data),
        ]
        # Largest V exponent per (KV head, token) over visible entries
        m.submodules.exponent = exponent = Memory(shape=5, depth=self.kv_depth, init=[])
        m.submodules.exponent_all = exponent_all = Memory(shape=5, depth=self.kv_depth, init=[])
        exp_write, exp_read, exp_out = (
            exponent.write_port(),
            exponent.read_port(domain="comb"),
            exponent.read_port(domain="comb"),
        )
        kv_address = Cat(token, kv_head)[: bits_for_index(self.kv_depth).width]
        shown = Mux(visible, value_exponent, 0)
        m.d.comb += [
            exp_read.addr.eq(kv_address),
            exp_write.addr.eq(kv_address),
            exp_write.data.eq(Mux(first_entry | (shown > exp_read.data), shown, exp_read.data)),
            exp_write.en.eq(working_keys & last_beat & last_group),
            exp_out.addr.eq(self.exponent_address),
            self.exponent_local.eq(exp_out.data),
        ]
        for memory, address, value, enable in (
            (maximum_all, self.maximum_address, self.maximum_global, self.maximum_enable),
            (exponent_all, self.exponent_address, self.exponent_global, self.exponent_enable),
        ):
            port = memory.write_port()
            m.d.comb += [port.addr.eq(address), port.data.eq(value), port.en.eq(enable)]

        # Probabilities: walk the scores in order, in place
        s_entry, s_head, s_group, s_token = Signal(20), Signal(7), Signal(5), Signal(token_bits)
        s_query = Signal(bits_for_index(self.heads))
        s_index = Signal(bits_for_index(machine.score_entries))
        s_active = Signal()
        s_last_token, s_last_group = s_token == self.token_count - 1, s_group == self.query_group - 1
        s_last_head = s_head == self.kv_heads - 1
        with m.If(s_active):
            m.d.sync += [s_token.eq(s_token + 1), s_index.eq(s_index + 1)]
            with m.If(s_last_token):
                m.d.sync += [s_token.eq(0), s_group.eq(s_group + 1)]
                with m.If(s_last_group):
                    m.d.sync += [
                        s_group.eq(0),
                        s_head.eq(s_head + 1),
                        s_query.eq(s_query + self.query_group),
                        softmax_fact.eq(softmax_fact + 1),
                    ]
                    with m.If(s_last_head):
                        m.d.sync += [s_head.eq(0), s_query.eq(0), s_entry.eq(s_entry + 1)]
                        with m.If(s_entry == self.entries - 1):
                            m.d.sync += s_active.eq(0)
        all_max, all_exp = maximum_all.read_port(), exponent_all.read_port()
        s_address = Cat(s_token, s_query + s_group)[: bits_for_index(self.head_depth).width]
        m.d.comb += [
            score_read.addr.eq(Mux(self.phase_values, score, s_index)),
            all_max.addr.eq(s_address),
            all_exp.addr.eq(Cat(s_token, s_head)[: bits_for_index(self.kv_depth).width]),
        ]
        m.submodules.subtract = subtract = Add()
        m.d.comb += [subtract.a.eq(from_key(all_max.data)), subtract.b.eq(score_read.data), subtract.subtract.eq(1)]
        s_visible_1 = fact_read_token.data <= delay(m, self.positions.word_select(s_token, 24), 1, "s_position")
        shift_1 = all_exp.data - fact_read_exponent.data  # not negative where visible
        at_d = 1 + Add.LATENCY
        d = subtract.z
        fixed = Signal(7 + FRACTION_BITS)
        d_exponent, d_mantissa = d[23:31], Cat(d[:23], Const(1, 1))
        left, right = d_exponent - 126, 126 - d_exponent
        small = d_exponent < 126
        tiny, far = Signal(), Signal()
        m.d.comb += far.eq(d_exponent > 132)
        m.d.comb += tiny.eq(d_exponent == 0)
        m.d.sync += fixed.eq(Mux(tiny, 0, Mux(small, d_mantissa >> Mux(right > 31, 31, right)[:5], d_mantissa << left[:3])))
        m.submodules.exp2 = exp2 = Quadratic((EXP2,))
        m.d.comb += exp2.u.eq(fixed[:FRACTION_BITS])
        at_p = at_d + 1 + Quadratic.LATENCY
        whole = delay(m, fixed[FRACTION_BITS : FRACTION_BITS + 6], Quadratic.LATENCY, "whole")
        gone = delay(m, far, 1 + Quadratic.LATENCY, "far") | ~delay(m, s_visible_1, at_p - 1, "s_visible")
        drop = OUTPUT_BITS - FRACTION_BITS + whole  # at least 6
        p = Signal(FRACTION_BITS + 1)
        # Half up: the bit below the last kept one is added.
        shifted = Cat(Const(0, 1), exp2.y) >> Mux(drop > 32, 32, drop)[:6]
        m.d.sync += p.eq(Mux(gone, 0, (shifted >> 1) + shifted[0]))
        at_scaled = at_p + 1
        shift = delay(m, shift_1[:5], at_scaled - 1, "shift")
        scaled = Signal(FRACTION_BITS + 1)
        p_shifted = Cat(Const(0, 1), p) >> shift
        m.d.sync += scaled.eq((p_shifted >> 1) + p_shifted[0])
        at_written = at_scaled + 1
        s_valid = delay_valid(m, s_active, at_written, "s_valid")
        m.submodules.totals = totals = Memory(shape=TOTAL_BITS, depth=self.head_depth, init=[])
        total_write, total_read, total_out = (
            totals.write_port(),
            totals.read_port(domain="comb"),
            totals.read_port(domain="comb"),
        )
        total_address = delay(m, s_address, at_written, "total_address")
        m.d.comb += [
            total_read.addr.eq(total_address),
            total_write.addr.eq(total_address),
            total_write.data.eq(delay(m, p, 1, "p") + Mux(delay(m, s_entry == 0, at_written, "s_first"), 0, total_read.data)),
            total_write.en.eq(s_valid),
            total_out.addr.eq(self.total_address),
            self.total.eq(total_out.data),
        ]
        index_written = delay(m, s_index, at_written, "s_index")
        with m.If(s_valid):
            m.d.comb += [
                score_write.addr.eq(index_written),
                score_write.data.eq(scaled),
                score_write.en.eq(1),
            ]
        with m.Else():
            m.d.comb += [score_write.addr.eq(score_write_index), score_write.data.eq(convert.z), score_write.en.eq(scored)]
        with m.If(scored):
            m.d.sync += score_write_index.eq(score_write_index + 1)

        # Values: probabilities (read one cycle ahead of use) times elements
        probability = score_read.data[: FRACTION_BITS + 1]
        weighted = [
            registered(m, Cat(probability, Const(0, 1)).as_signed() * element, f"weighted_{k}")
            for k, element in enumerate(elements)
        ]
        m.submodules.sums = sums = Memory(shape=SUM_BITS * lanes, depth=self.sum_depth, init=[])
        sum_write, sum_read, sum_out = sums.write_port(), sums.read_port(domain="comb"), sums.read_port(domain="comb")
        sum_address = delay(m, Cat(token, group_word)[: bits_for_index(self.sum_depth).width], 2, "sum_address")
        first_2 = delay(m, first_entry, 2, "first_2")
        m.d.comb += [
            sum_read.addr.eq(sum_address),
            sum_write.addr.eq(sum_address),
            sum_write.data.eq(
                Cat(
                    (w + Mux(first_2, 0, sum_read.data[SUM_BITS * k : SUM_BITS * (k + 1)].as_signed()))[:SUM_BITS]
                    for k, w in enumerate(weighted)
                )
            ),
            sum_write.en.eq(delay_valid(m, working & self.phase_values, 2, "weighting")),
            sum_out.addr.eq(self.sum_address),
            self.sum.eq(sum_out.data),
        ]

        # Phases
        settle = Signal(5)
        quiet = ~working & ~taking_header & ~ahead.r_rdy & ~place_valid & ~self.wanted.valid & ~s_active
        in_phase = self.phase_keys | self.phase_softmax | self.phase_values
        started = Signal()
        with m.If(~in_phase):
            m.d.sync += [settle.eq(0), started.eq(0)]
        with m.Else():
            m.d.sync += started.eq(1)
            with m.If(~quiet | ~self.requests_done | ~started):
                m.d.sync += settle.eq(0)
            with m.Elif(settle != 31):
                m.d.sync += settle.eq(settle + 1)
        depth = max(at_score, at_written) + 3
        assert depth < 31
        m.d.comb += self.phase_done.eq(in_phase & (settle >= depth))
        with m.If(self.phase_softmax & ~started & (self.entries != 0)):
            m.d.sync += s_active.eq(1)
        with m.If(self.begin):
            m.d.sync += [
                self.entries.eq(0),
                fact_index.eq(0),
                score_write_index.eq(0),
                softmax_fact.eq(0),
                s_entry.eq(0),
                s_head.eq(0),
                s_group.eq(0),
                s_token.eq(0),
                s_query.eq(0),
                s_index.eq(0),
            ]
        with m.If(~in_phase):
            m.d.sync += [
                first_entry.eq(1),
                header_left.eq(self.header_beats),
                header_number.eq(0),
                score.eq(0),
                score_base.eq(0),
                value_fact.eq(0),
            ]
            m.d.comb += next_value_fact.eq(0)
        return m
