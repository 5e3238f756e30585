"""Walks a MATMUL: rounds, groups, pairs of rows, beats and tokens, in lockstep over all slices."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid
from hw.control.issue import Issue, field
from hw.pe.slice import Slice, Step, Take
from skipopu.isa.spec import BLOCK_ROWS, MATMUL, SHORT_BLOCK_ROWS
from skipopu.layout import SCALES_PER_WORD
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT8


class TokenSlots(Component):
    """Compacts a slot mask into a list: ``slot`` of list position ``position``; ready ``tokens`` cycles after start.

    Members: start, mask (in); ready, count (out); position (in), slot (out, combinational).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        super().__init__(
            {
                "start": In(1),
                "mask": In(machine.tokens),
                "ready": Out(1),
                "count": Out(count_shape(machine.tokens)),
                "position": In(slot),
                "slot": Out(slot),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tokens = self.machine.tokens
        slots = Array(Signal(self.slot.shape(), name=f"slot_{i}") for i in range(tokens))
        index = Signal(count_shape(tokens), init=tokens)
        left = Signal(tokens)
        m.d.comb += [self.ready.eq((index == tokens) & ~self.start), self.slot.eq(slots[self.position])]
        with m.If(self.start):
            m.d.sync += [index.eq(0), self.count.eq(0), left.eq(self.mask)]
        with m.Elif(index != tokens):
            m.d.sync += [index.eq(index + 1), left.eq(left >> 1)]
            with m.If(left[0]):
                m.d.sync += [slots[self.count].eq(index), self.count.eq(self.count + 1)]
        return m


def is_short(word: Value) -> Value:
    """Whether a MATMUL's only block is a short one."""
    only = (field(word, MATMUL, "rounds") == 1) & (field(word, MATMUL, "ports") == 1)
    return only & (field(word, MATMUL, "spare") >= BLOCK_ROWS - SHORT_BLOCK_ROWS)


class Sequencer(Component):
    """Takes weight beats into pairs and multiplies each pair with every listed token, in lockstep over all slices.

    Taking runs one pair ahead: while the tokens of a pair are multiplied the next pair's beats are taken, so that one beat
    per cycle is sustained with one token and one pair per ``token_count`` cycles with more. A round gives every active port
    one block of 8 rows; rounds alternate between two accumulator banks, so that the epilogue drains one while the other
    fills.

    Members: active, start, instruction (in); group (in: weights per group); inner (in: first element of the activations' inner
    region); weights_ready (in, per port); token_count, slot
    (in, from the token list), token (out: list position of the step); take, taking_ports, step, active_ports, wide (out);
    activation_slot, activation_word, activation_group (out, to the aligned memory); round_done (out: bank, for one cycle,
    once its accumulators can be read), round_bank, round_ports, round_last; drained (in: the epilogue is done with a bank),
    drained_bank; finished (out: all steps were issued); streaming, waiting_weights, waiting_drain (out, for the counters).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        word = bits_for_index(machine.activation // machine.weight_lanes)
        super().__init__(
            {
                "active": In(1),
                "start": In(1),
                "instruction": In(Issue(machine)),
                "group": In(10),
                "inner": In(20),
                "weights_ready": In(machine.ports),
                "token_count": In(count_shape(machine.tokens)),
                "slot": In(slot),
                "token": Out(slot),
                "take": Out(Take(machine)),
                "taking_ports": Out(machine.ports),
                "step": Out(Step(machine)),
                "active_ports": Out(machine.ports),
                "wide": Out(1),
                "activation_slot": Out(slot),
                "activation_word": Out(word),
                "activation_group": Out(word),
                "round_done": Out(1),
                "round_bank": Out(1),
                "round_ports": Out(machine.ports),
                "round_last": Out(1),
                "drained": In(1),
                "drained_bank": In(1),
                "finished": Out(1),
                "streaming": Out(1),
                "waiting_weights": Out(1),
                "waiting_drain": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        instruction = self.instruction.word
        rounds, groups = field(instruction, MATMUL, "rounds"), field(instruction, MATMUL, "groups")
        beats_per_group, wide = Signal(10), Signal()
        first_word = Signal.like(self.activation_word)
        inner_word = self.inner >> (machine.weight_lanes.bit_length() - 1)
        m.d.comb += [
            first_word.eq(Mux(field(instruction, MATMUL, "source"), inner_word, 0)),
            beats_per_group.eq(self.group >> (machine.weight_lanes.bit_length() - 1)),
            wide.eq(field(instruction, MATMUL, "format") == INT8.code),
            self.wide.eq(wide),
        ]
        scale_beats = max(1, 2 * SCALES_PER_WORD // machine.beat_bytes)

        # Taking: rounds, groups, rows, beats, members of a pair
        round_index, group_index, row, beat, second = Signal(12), Signal(10), Signal(3), Signal(10), Signal()
        scale_index, scale_beat, need_scale = Signal(5), Signal(range(max(2, scale_beats))), Signal()
        word = Signal.like(self.activation_word)  # of the group's first beat
        bank, taking = Signal(), Signal()
        pair_full, popping = Signal(), Signal()
        last_round = round_index == rounds - 1
        ports = Signal(machine.ports)
        m.d.comb += ports.eq((1 << machine.ports) - 1)
        with m.If(last_round):
            m.d.comb += ports.eq((Const(1, machine.ports + 1) << field(instruction, MATMUL, "ports")[:7]) - 1)
        ready = (ports & ~self.weights_ready) == 0
        take, take_second = Signal(), Signal()
        m.d.comb += [
            take.eq(taking & ready & (need_scale | ~second | ~pair_full | popping)),
            take_second.eq(take & ~need_scale & second),
            self.taking_ports.eq(ports & taking.replicate(machine.ports)),
            self.take.scale.eq(take & need_scale),
            self.take.scale_beat.eq(scale_beat),
            self.take.first.eq(take & ~need_scale & ~second),
            self.take.second.eq(take_second),
            self.take.scale_index.eq(scale_index),
        ]
        rows = Mux(wide, 1, 2)
        last_beat = beat == beats_per_group - 1
        block_rows = Mux(is_short(instruction), SHORT_BLOCK_ROWS, BLOCK_ROWS)
        last_row = row + rows == block_rows
        last_group = group_index == groups - 1
        round_end = last_beat & last_row & last_group
        with m.If(take & need_scale):
            m.d.sync += scale_beat.eq(scale_beat + 1)
            with m.If(scale_beat == scale_beats - 1):
                m.d.sync += [scale_beat.eq(0), need_scale.eq(0)]
        with m.If(take & ~need_scale):
            m.d.sync += second.eq(~second)
        # The pair that is being multiplied
        pair = Signal(Step(machine))
        pair_word, pair_group, pair_end = Signal.like(word), Signal.like(self.activation_group), Signal()
        pair_ports, pair_last = Signal(machine.ports), Signal()
        with m.If(take_second):
            m.d.sync += [
                beat.eq(beat + 1),
                pair.first_beat.eq(beat == 0),
                pair.last_beat.eq(last_beat),
                pair.first_group.eq(group_index == 0),
                pair.row.eq(row),
                pair.bank.eq(bank),
                pair_word.eq(word + beat),
                pair_group.eq(word),
                pair_end.eq(round_end),
                pair_ports.eq(ports),
                pair_last.eq(last_round),
            ]
            with m.If(last_beat):
                m.d.sync += [beat.eq(0), row.eq(row + rows), scale_index.eq(scale_index + rows)]
                with m.If(scale_index + rows == SCALES_PER_WORD):
                    m.d.sync += need_scale.eq(1)
                with m.If(last_row):
                    m.d.sync += [row.eq(0), group_index.eq(group_index + 1), word.eq(word + beats_per_group)]
            with m.If(round_end):
                m.d.sync += [group_index.eq(0), word.eq(first_word), round_index.eq(round_index + 1), bank.eq(~bank)]
                with m.If(last_round):
                    m.d.sync += taking.eq(0)

        # Multiplying: the bank is claimed by its round's first step.
        token, busy, claimed = Signal.like(self.token), Signal(2), Signal()
        bank_free = claimed | ~busy.bit_select(pair.bank, 1)
        fire = Signal()
        last_token = token == self.token_count - 1
        m.d.comb += [
            fire.eq(pair_full & bank_free),
            popping.eq(fire & last_token),
            self.step.eq(pair),
            self.step.product.eq(fire),
            self.step.token.eq(token),
            self.active_ports.eq(pair_ports),
            self.token.eq(token),
            self.activation_slot.eq(self.slot),
            self.activation_word.eq(pair_word),
            self.activation_group.eq(pair_group),
            self.streaming.eq(fire),
            self.waiting_drain.eq(pair_full & ~bank_free),
            self.waiting_weights.eq(taking & ~pair_full),
        ]
        with m.If(fire):
            m.d.sync += [token.eq(Mux(last_token, 0, token + 1)), claimed.eq(~(last_token & pair_end))]
            with m.If(~claimed):
                m.d.sync += busy.bit_select(pair.bank, 1).eq(1)
        with m.If(take_second):
            m.d.sync += pair_full.eq(1)
        with m.Elif(popping):
            m.d.sync += pair_full.eq(0)
        with m.If(self.drained):
            m.d.sync += busy.bit_select(self.drained_bank, 1).eq(0)
        with m.If(self.start):
            m.d.sync += [
                taking.eq(rounds != 0),
                *(s.eq(0) for s in (round_index, group_index, row, beat, second, token, scale_index, scale_beat)),
                word.eq(first_word),
                need_scale.eq(1),
                claimed.eq(0),
                bank.eq(0),
            ]
        flight = Slice.latency(machine)
        ending = popping & pair_end
        m.d.comb += [
            self.finished.eq(~taking & ~pair_full),
            self.round_done.eq(delay_valid(m, ending, flight, "round_end")),
            self.round_bank.eq(delay(m, pair.bank, flight, "bank_end")),
            self.round_ports.eq(delay(m, pair_ports, flight, "ports_end")),
            self.round_last.eq(delay(m, pair_last, flight, "last_end")),
        ]
        return m
