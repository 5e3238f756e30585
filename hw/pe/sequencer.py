"""Walks a MATMUL: rounds, groups, pairs of rows, beats and tokens, in lockstep over all slices."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid, registered
from hw.component import Component, given, gives
from hw.control.issue import Issue, field
from hw.pe.formats import FORMAT_BITS, two_digits, zero_points
from hw.pe.ready import enough
from hw.pe.rounds import Rounds
from hw.pe.slice import Slice, Step, Take
from hw.widths import ELEMENT_BITS, GROUP_BITS
from skipopu.isa.spec import BLOCK_ROWS, MATMUL, SHORT_BLOCK_ROWS
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4, INT4Z, SCALE_WORD


def is_short(word: Value, group: Value, machine: Machine) -> Value:
    """Whether a MATMUL's only block is a short one; with several groups in a beat none is."""
    only = (field(word, MATMUL, "rounds") == 1) & (field(word, MATMUL, "ports") == 1)
    short = only & (field(word, MATMUL, "spare") >= BLOCK_ROWS - SHORT_BLOCK_ROWS)
    return short & (group >= machine.weight_lanes) if machine.short_groups else short


def place_bits(machine: Machine) -> int:
    """Width of a place in a slot of the aligned memory: a word, or a quarter of one where groups may be shorter."""
    return bits_for_index(machine.activation // machine.weight_lanes).width + 2 * machine.short_groups


class Pair:
    """The pair of beats that is being multiplied, or waits for it while ``full``, and what is known of the next one."""

    def __init__(self, machine: Machine) -> None:
        word = bits_for_index(machine.activation // machine.weight_lanes)
        self.full = Signal(name="pair_full")
        self.step = Signal(Step(machine), name="pair")
        self.word = Signal(word, name="pair_word")
        self.group = Signal(place_bits(machine), name="pair_group")
        self.end = Signal(name="pair_end")  # the round's last one
        self.ports = Signal(machine.ports, name="pair_ports")
        self.last = Signal(name="pair_last")  # of the last round
        self.loaded = Signal(name="pair_loaded")  # the next one is there a cycle later
        self.next_bank = Signal(name="next_bank")  # of the round that it belongs to


class Sequencer(Component):
    """Takes weight beats into pairs and multiplies each pair with every listed token, in lockstep over all slices.

    Taking runs ahead: while the tokens of a pair are multiplied the next pair's scales and first beat are taken, and its second
    beat with the last token, so that one beat per cycle is sustained with up to two tokens and one pair per ``token_count``
    cycles with more. A round gives every active port one block of rows; rounds alternate between two accumulator banks, so that
    the epilogue drains one while the other fills. Where several groups stand in a beat, a pair of beats is as many pairs of rows: all
    tokens are multiplied with the first, then with the next.

    Latency: 1 cycle from ``start`` to the first beat, pipeline.told more until ports are told, and, where its bank is free, 1 from a
    pair's second beat to its first step; ``Slice.latency`` from a round's last step to its accumulators. Throughput: a beat per cycle or
    a step per cycle, whichever a pair has more of; scales are beats of the pair after them.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        word = bits_for_index(machine.activation // machine.weight_lanes)
        self.start = given(1, "begin with the instruction, which stands since a cycle before")
        self.instruction = given(Issue(machine), "a MATMUL, while active")
        self.group = given(GROUP_BITS, "weights per group")
        self.inner = given(ELEMENT_BITS, "first element of the activations' inner region")
        self.weights_ready = given(machine.ports, "ports with a beat")
        self.weights_behind = given(machine.ports, "ports with a beat in the next cycle, even if the present one is taken")
        if pipeline.told(machine):
            self.weights_further = given(machine.ports, "and in the one after it, even if that is taken too")
        self.token_count = given(count_shape(machine.tokens), "tokens in the list, at least 1")
        self.slot = given(slot, "slot of the token asked for")
        self.token = gives(slot, "the step's place in the list")
        self.take = gives(Take(machine), "what to do with the next beats")
        self.taking_ports = gives(machine.ports, "ports that take them")
        self.step = gives(Step(machine), "what to multiply")
        self.active_ports = gives(machine.ports, "ports that take part")
        self.format = gives(FORMAT_BITS, "of the weights")
        self.activation_slot = gives(slot, "slot of the aligned memory to read, with the step")
        self.activation_word = gives(word, "word to read")
        self.activation_group = gives(
            place_bits(machine), "its group's first word, or quarter of one where groups may be shorter"
        )
        if machine.short_groups:
            self.activation_piece = gives(2, "which of a beat's groups it meets")
            self.half = gives(1, "two groups stand in a beat")
            self.quarter = gives(1, "four groups stand in a beat")
        self.rounds = gives(Rounds(machine), "to the epilogue", "round_{}")
        self.drained = given(1, "the epilogue is done with a bank")
        self.drained_bank = given(1, "that bank")
        self.finished = gives(1, "every step was issued")
        self.streaming = gives(1, "a step")
        self.waiting_weights = gives(1, "no step for want of weights")
        self.waiting_drain = gives(1, "no step for want of a free bank")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pair, taking, popping = Pair(self.machine), Signal(), Signal()
        self._take(m, pair, taking, popping)
        self._multiply(m, pair, taking, popping)
        flight = pipeline.told(self.machine) + Slice.latency(self.machine)
        ending = popping & pair.end
        m.d.comb += [
            self.finished.eq(~taking & ~pair.full),
            self.rounds.done.eq(delay_valid(m, ending, flight, "round_end")),
            self.rounds.bank.eq(delay(m, pair.step.bank, flight, "bank_end")),
            self.rounds.ports.eq(delay(m, pair.ports, flight, "ports_end")),
            self.rounds.last.eq(delay(m, pair.last, flight, "last_end")),
        ]
        return m

    def _take(self, m: Module, pair: Pair, taking: Signal, popping: Signal) -> None:
        """Beats into ``pair``, which becomes free when ``popping``; ``taking`` until the last beat."""
        machine, instruction = self.machine, self.instruction.word
        # What does not change while the instruction runs is worked out in front of registers.
        rounds, groups = field(instruction, MATMUL, "rounds"), field(instruction, MATMUL, "groups")
        beats_per_group = Signal(GROUP_BITS)
        finer = 2 * machine.short_groups  # bits of a place below words
        first_word = Signal.like(self.activation_group, name="first_word")
        inner_word = self.inner >> (machine.weight_lanes.bit_length() - 1 - finer)
        m.d.comb += [
            first_word.eq(Mux(field(instruction, MATMUL, "source"), inner_word, 0)),
            beats_per_group.eq(self.group >> (machine.weight_lanes.bit_length() - 1)),
            self.format.eq(registered(m, field(instruction, MATMUL, "format"), "own_format")),
        ]
        scale_beats = max(1, SCALE_WORD // machine.beat_bytes)

        # Rounds, groups, rows, beats, members of a pair
        walked = Signal(len(rounds)), Signal(len(groups)), Signal(3), Signal(GROUP_BITS), Signal()
        round_index, group_index, row, beat, second = walked
        scale_index, scale_beat, need_scale = Signal(5), Signal(range(max(2, scale_beats))), Signal()
        word = Signal.like(self.activation_group, name="word")  # of the group's first beat
        last_round, ports = Signal(), Signal(machine.ports)
        last_ports = (Const(1, machine.ports + 1) << field(instruction, MATMUL, "ports")[:7]) - 1
        last_ports = registered(m, last_ports[: machine.ports], "last_ports")
        m.d.comb += ports.eq(Mux(last_round, last_ports, (1 << machine.ports) - 1))
        ready = Signal()  # all ports have a beat, worked out the cycle before
        take, told, late = Signal(), Signal(Take(machine)), pipeline.told(machine)
        m.d.comb += [
            take.eq(taking & ready & (need_scale | ~second | ~pair.full | popping)),
            pair.loaded.eq(take & ~need_scale & second),
            self.taking_ports.eq(delay(m, ports & taking.replicate(machine.ports), late, "taking_ports")),
            told.scale.eq(take & need_scale),
            told.scale_beat.eq(scale_beat),
            told.first.eq(take & ~need_scale & ~second),
            told.second.eq(pair.loaded),
            told.scale_index.eq(scale_index),
            self.take.eq(delay_valid(m, told, late, "take")),
        ]
        rows = Mux(two_digits(self.format, machine.weight_formats), 1, 2)
        advance: Value = beats_per_group
        if machine.short_groups:
            lanes = machine.weight_lanes
            m.d.comb += [self.half.eq(self.group == lanes // 2), self.quarter.eq(self.group == lanes // 4)]
            with m.If(self.half | self.quarter):
                m.d.comb += beats_per_group.eq(1)
            rows = rows << Mux(self.quarter, 2, self.half)
            advance = self.group >> (lanes.bit_length() - 1 - finer)
        last_beat = beat == registered(m, (beats_per_group - 1)[:GROUP_BITS], "last_beat_number")
        block_rows = Mux(is_short(instruction, self.group, machine), SHORT_BLOCK_ROWS, BLOCK_ROWS)
        block_rows, last_group_number = registered(m, block_rows, "block_rows"), registered(m, groups - 1, "last_group_number")
        last_row = row + rows == block_rows
        last_group = group_index == last_group_number
        round_end = last_beat & last_row & last_group
        # Whether a beat is taken comes late: what follows from either is ready before it.
        next_is_last, single = round_index + 2 == rounds, rounds == 1
        further = self.weights_further if late else None
        there = enough(m, self.weights_ready, self.weights_behind, further, last_ports, take)
        last_if_taken = Mux(~need_scale & second & round_end, next_is_last, last_round)
        last_if_not = Mux(self.start, single, last_round)
        if_not, if_taken = (
            Mux(last, of_last, of_others)
            for last, (of_others, of_last) in zip((last_if_not, last_if_taken), there, strict=True)
        )
        m.d.sync += ready.eq(Mux(take, if_taken, if_not))
        with m.If(take & need_scale):
            m.d.sync += scale_beat.eq(scale_beat + 1)
            with m.If(scale_beat == scale_beats - 1):
                m.d.sync += [scale_beat.eq(0), need_scale.eq(0)]
        with m.If(take & ~need_scale):
            m.d.sync += second.eq(~second)
        with m.If(pair.loaded):
            m.d.sync += [
                pair.full.eq(1),
                beat.eq(beat + 1),
                pair.step.first_beat.eq(beat == 0),
                pair.step.last_beat.eq(last_beat),
                pair.step.first_group.eq(group_index == 0),
                pair.step.row.eq(row),
                pair.step.bank.eq(pair.next_bank),
                pair.word.eq((word[finer:] if finer else word) + beat),
                pair.group.eq(word),
                pair.end.eq(round_end),
                pair.ports.eq(ports),
                pair.last.eq(last_round),
            ]
            with m.If(last_beat):
                m.d.sync += [beat.eq(0), row.eq(row + rows), scale_index.eq(scale_index + rows)]
                with m.If(scale_index + rows == INT4.scales_per_word):
                    m.d.sync += need_scale.eq(1)
                if machine.zero_points:
                    less = zero_points(self.format, machine.weight_formats)
                    with m.If(less & (scale_index + rows == INT4Z.scales_per_word)):
                        m.d.sync += [need_scale.eq(1), scale_index.eq(0)]
                with m.If(last_row):
                    m.d.sync += [row.eq(0), group_index.eq(group_index + 1), word.eq(word + advance)]
            with m.If(round_end):
                m.d.sync += [group_index.eq(0), word.eq(first_word), round_index.eq(round_index + 1)]
                m.d.sync += [last_round.eq(next_is_last), pair.next_bank.eq(~pair.next_bank)]
                with m.If(last_round):
                    m.d.sync += taking.eq(0)
        with m.Elif(popping):
            m.d.sync += pair.full.eq(0)
        with m.If(self.start):
            m.d.sync += [
                taking.eq(rounds != 0),
                *(s.eq(0) for s in (round_index, group_index, row, beat, second, scale_index, scale_beat)),
                last_round.eq(single),
                word.eq(first_word),
                need_scale.eq(1),
                pair.next_bank.eq(0),
            ]

    def _multiply(self, m: Module, pair: Pair, taking: Signal, popping: Signal) -> None:
        """``pair`` with every token, a step per cycle. A bank is claimed by its round's first step.

        Whether a step is made in a cycle is worked out in the one before: beats are taken or not by it.
        """
        token, busy, claimed = Signal.like(self.token), Signal(2), Signal()
        fire, step, late = Signal(), Signal(Step(self.machine)), pipeline.told(self.machine)
        last_token = Signal()
        last, following = last_token, Mux(last_token, 0, token + 1)
        piece = Signal(2)
        if self.machine.short_groups:
            last = last_token & (piece == Mux(self.quarter, 3, self.half))
            with m.If(fire & last_token):
                m.d.sync += piece.eq(Mux(last, 0, piece + 1))
            with m.If(self.start):
                m.d.sync += piece.eq(0)
        m.d.comb += [
            popping.eq(fire & last),
            step.eq(pair.step),
            step.product.eq(fire),
            step.token.eq(token),
            self.step.eq(delay_valid(m, step, late, "step")),
            self.active_ports.eq(delay(m, pair.ports, late, "active_ports")),
            self.token.eq(token),
            self.activation_slot.eq(delay(m, self.slot, late, "activation_slot")),
            self.activation_word.eq(delay(m, pair.word, late, "activation_word")),
            self.activation_group.eq(delay(m, pair.group, late, "activation_group")),
            self.streaming.eq(fire),
            self.waiting_drain.eq(pair.full & ~fire),
            self.waiting_weights.eq(taking & ~pair.full),
        ]
        if self.machine.short_groups:
            digits = two_digits(self.format, self.machine.weight_formats)
            m.d.comb += [
                step.piece.eq(piece),
                step.row.eq(pair.step.row + Mux(digits, piece, piece << 1)),
                self.activation_piece.eq(delay(m, piece, late, "activation_piece")),
            ]
        with m.If(fire):
            m.d.sync += [token.eq(following), last_token.eq(following == self.token_count - 1)]
        with m.If(self.start):
            m.d.sync += [token.eq(0), last_token.eq(self.token_count == 1)]
        # Both as they are in the next cycle
        then_claimed, then_busy = Signal(), Signal(2)
        m.d.comb += [then_claimed.eq(Mux(fire, ~(last & pair.end), claimed) & ~self.start), then_busy.eq(busy)]
        with m.If(fire & ~claimed):
            m.d.comb += then_busy.bit_select(pair.step.bank, 1).eq(1)
        with m.If(self.drained):
            m.d.comb += then_busy.bit_select(self.drained_bank, 1).eq(0)
        next_may, own_may = (then_claimed | ~then_busy.bit_select(bank, 1) for bank in (pair.next_bank, pair.step.bank))
        m.d.sync += [
            claimed.eq(then_claimed),
            busy.eq(then_busy),
            fire.eq(Mux(pair.loaded, next_may, pair.full & ~popping & own_may)),
        ]
