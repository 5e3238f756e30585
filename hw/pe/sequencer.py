"""Walks a MATMUL: rounds, groups, rows, beats and tokens, in lockstep over all slices."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay_valid
from hw.control.issue import Issue, field
from hw.pe.slice import Slice, Step
from skipopu.isa.spec import MATMUL
from skipopu.layout import SCALES_PER_WORD
from skipopu.machine.config import Machine


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


class Sequencer(Component):
    """Issues one step per cycle while every active slice has weights and an accumulator bank is free.

    A round gives every active port one block of 8 rows; rounds alternate between two accumulator banks, so that the
    epilogue drains one while the other fills. Members: active, instruction (in); group (in: weights per group);
    weights_ready (in, per port); token_count, slot (in, from the token list), token (out: list position of the step);
    step, active_ports (out); activation_slot, activation_word, activation_group (out, to the aligned memory);
    round_done (out: bank, for one cycle, once its accumulators can be read), round_bank, round_ports, round_last;
    drained (in: the epilogue is done with a bank), drained_bank; finished (out: all steps were issued);
    streaming, waiting_memory, waiting_drain (out, for the counters).
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
                "weights_ready": In(machine.ports),
                "token_count": In(count_shape(machine.tokens)),
                "slot": In(slot),
                "token": Out(slot),
                "step": Out(Step(machine)),
                "active_ports": Out(machine.ports),
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
                "waiting_memory": Out(1),
                "waiting_drain": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        word = self.instruction.word
        rounds, groups = field(word, MATMUL, "rounds"), field(word, MATMUL, "groups")
        beats_per_group = Signal(10)
        m.d.comb += beats_per_group.eq(self.group >> (machine.weight_lanes.bit_length() - 1))
        scale_beats = max(1, 2 * SCALES_PER_WORD // machine.beat_bytes)

        round_index, group_index, row = Signal(12), Signal(10), Signal(3)
        beat, token, bank = Signal(10), Signal.like(self.token), Signal()
        scale_index, scale_beat, need_scale = Signal(5), Signal(range(max(2, scale_beats))), Signal()
        first_word = Signal.like(self.activation_word)  # of the group
        busy = Signal(2)
        running = Signal()
        last_round = round_index == rounds - 1
        ports = Signal(machine.ports)
        all_ports = (1 << machine.ports) - 1
        m.d.comb += ports.eq(all_ports)
        with m.If(last_round):
            m.d.comb += ports.eq((Const(1, machine.ports + 1) << field(word, MATMUL, "ports")[:7]) - 1)
        # The bank is claimed by the round's first step of any kind.
        claimed = Signal()
        bank_free = claimed | ~busy.bit_select(bank, 1)
        memory_ready = (ports & ~self.weights_ready) == 0
        fire = Signal()
        m.d.comb += [
            fire.eq(running & bank_free & memory_ready),
            self.waiting_drain.eq(running & ~bank_free),
            self.waiting_memory.eq(running & bank_free & ~memory_ready),
            self.streaming.eq(fire & ~need_scale),
            self.active_ports.eq(ports),
            self.token.eq(token),
            self.activation_slot.eq(self.slot),
            self.activation_word.eq(first_word + beat),
            self.activation_group.eq(group_index),
            self.step.scale.eq(fire & need_scale),
            self.step.scale_beat.eq(scale_beat),
            self.step.product.eq(fire & ~need_scale),
            self.step.scale_index.eq(scale_index),
            self.step.token.eq(token),
            self.step.first_beat.eq(beat == 0),
            self.step.first_group.eq(group_index == 0),
            self.step.row.eq(row),
            self.step.bank.eq(bank),
        ]
        last_token = token == self.token_count - 1
        last_beat = beat == beats_per_group - 1
        last_row = row == 7
        last_group = group_index == groups - 1
        m.d.comb += [self.step.pop.eq(last_token), self.step.last_beat.eq(last_beat)]
        round_end = Signal()
        with m.If(fire):
            m.d.sync += claimed.eq(1)
            with m.If(~claimed):
                m.d.sync += busy.bit_select(bank, 1).eq(1)
        with m.If(fire & need_scale):
            m.d.sync += scale_beat.eq(scale_beat + 1)
            with m.If(scale_beat == scale_beats - 1):
                m.d.sync += [scale_beat.eq(0), need_scale.eq(0)]
        with m.If(fire & ~need_scale):
            m.d.sync += token.eq(token + 1)
            with m.If(last_token):
                m.d.sync += [token.eq(0), beat.eq(beat + 1)]
                with m.If(last_beat):
                    m.d.sync += [beat.eq(0), row.eq(row + 1), scale_index.eq(scale_index + 1)]
                    with m.If(scale_index == SCALES_PER_WORD - 1):
                        m.d.sync += need_scale.eq(1)
                    with m.If(last_row):
                        m.d.sync += [group_index.eq(group_index + 1), first_word.eq(first_word + beats_per_group)]
                        with m.If(last_group):
                            m.d.comb += round_end.eq(1)
                            m.d.sync += [
                                group_index.eq(0),
                                first_word.eq(0),
                                round_index.eq(round_index + 1),
                                bank.eq(~bank),
                                claimed.eq(0),
                            ]
                            with m.If(last_round):
                                m.d.sync += running.eq(0)
        with m.If(self.drained):
            m.d.sync += busy.bit_select(self.drained_bank, 1).eq(0)
        with m.If(self.start):
            m.d.sync += [
                running.eq(rounds != 0),
                round_index.eq(0),
                group_index.eq(0),
                first_word.eq(0),
                row.eq(0),
                beat.eq(0),
                token.eq(0),
                scale_index.eq(0),
                scale_beat.eq(0),
                need_scale.eq(1),
                claimed.eq(0),
                bank.eq(0),
            ]
        flight = Slice.latency(machine)
        m.d.comb += [
            self.finished.eq(~running),
            self.round_done.eq(delay_valid(m, round_end, flight, "round_end")),
            self.round_bank.eq(delay_valid(m, bank, flight, "bank_end")),
            self.round_ports.eq(delay_valid(m, ports, flight, "ports_end")),
            self.round_last.eq(delay_valid(m, last_round, flight, "last_end")),
        ]
        return m
