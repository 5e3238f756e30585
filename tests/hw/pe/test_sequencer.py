"""The walk of a MATMUL, cycle for cycle, against lists of its beats and pairs and counts of what was taken and multiplied."""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from amaranth.hdl import Signal
from amaranth.sim import Simulator, SimulatorContext

from hw.pe.sequencer import Sequencer
from hw.pe.slice import Slice
from skipopu.isa.spec import BLOCK_ROWS, MATMUL, SHORT_BLOCK_ROWS, matmul_shape
from skipopu.machine import pipeline
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_GROUP
from skipopu.numerics.formats import INT4, INT4Z, INT8, SCALE_WORD, Format

MACHINE = Machine.load("tiny")
LANES, INNER = MACHINE.weight_lanes, 512
SCALE_BEATS = SCALE_WORD // MACHINE.beat_bytes
TAKES, STEPS = ("scale", "first", "second"), ("token", "first_beat", "last_beat", "first_group", "row", "piece", "bank")


class Port:
    """A port's beats as BeatPlaces hold them: the eldest shown, some behind it, some still to come; and how many takes will get."""

    def __init__(self, beats: int, level: int) -> None:
        self.shown, self.behind, self.coming, self.promised = level > 0, max(0, level - 1), beats - level, 0

    @property
    def level(self) -> int:
        return self.shown + self.behind

    @property
    def spare(self) -> bool:
        """Whether there is a beat for one more take."""
        return self.level > self.promised

    def step(self, push: bool, take: bool) -> None:
        assert self.shown or not take, "a port is told to take a beat that is not there"
        comes, follows = push and self.coming > 0, self.behind > 0 and (take or not self.shown)
        self.shown = follows or (self.shown and not take)
        self.behind += comes - follows
        self.coming -= comes
        self.promised -= take


@dataclass
class Told:
    """What the ports have to be told in a cycle: of a beat and of a step what to do and who takes part, and where activations are."""

    take: dict[str, int] = field(default_factory=dict)
    taking: int = 0
    step: list[int] = field(default_factory=list)
    active: int = 0
    place: tuple[int, ...] = ()  # slot, word, group, piece


def mask(bits: Iterable[bool]) -> int:
    return sum(bit << k for k, bit in enumerate(bits))


def beats_at(dut: Sequencer) -> list[Signal]:
    """Inputs that say of every port whether it has a beat, one behind it and, where that is asked for, one behind that."""
    return [dut.weights_ready, dut.weights_behind, *([dut.weights_further] if pipeline.told(dut.machine) else [])]


@dataclass
class Product:
    """In the order of the walk: (fields of the take, ports) per beat; (round, fields of the step, words, ports, ...) per pair."""

    rows: int
    groups: int
    group: int
    weights: Format
    inner: bool
    ports: int = MACHINE.ports
    takes: list[tuple[dict[str, int], int]] = field(default_factory=list, init=False)
    pairs: list[tuple[int, dict[str, int], tuple[int, int], int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.shape = matmul_shape(self.rows, self.ports)
        self.pieces, self.step = max(1, LANES // self.group), 8 // self.weights.bits
        block = SHORT_BLOCK_ROWS if self.rows <= SHORT_BLOCK_ROWS and self.pieces == 1 else BLOCK_ROWS
        beats, scale = max(1, self.group // LANES), 0
        for number in range(self.shape["rounds"]):
            ports = (1 << (self.shape["ports"] if number == self.shape["rounds"] - 1 else self.ports)) - 1
            for group in range(self.groups):
                place = 4 * (INNER * self.inner + group * self.group) // LANES
                for row in range(0, block, self.step * self.pieces):
                    if scale % self.weights.scales_per_word == 0:
                        self.takes += [({"scale": 1, "scale_beat": k}, ports) for k in range(SCALE_BEATS)]
                    for beat in range(beats):
                        self.takes += [
                            ({"first": 1}, ports),
                            ({"second": 1, "scale_index": scale % self.weights.scales_per_word}, ports),
                        ]
                        edges = {"first_beat": beat == 0, "last_beat": beat == beats - 1, "first_group": group == 0}
                        self.pairs.append(
                            (number, {**edges, "row": row, "bank": number % 2}, (place // 4 + beat, place), ports)
                        )
                    scale += self.step * self.pieces

    def cycles(self, tokens: int) -> int:
        """First beat to last step where nothing waits: a beat or a step per cycle, whichever a pair has more of."""
        seconds = [k for k, (take, _) in enumerate(self.takes) if "second" in take]
        between = [max(tokens * self.pieces, b - a) for a, b in pairwise(seconds)]
        return seconds[0] + sum(between) + tokens * self.pieces


@pytest.mark.parametrize("ports", [MACHINE.ports, 1])
@pytest.mark.parametrize(
    ("product", "tokens"),
    [
        (Product(40, 3, 2 * LANES, INT4, False), 1),
        (Product(21, 3, LANES, INT8, True), 3),
        (Product(4, 5, 2 * LANES, INT4, True), 4),
        (Product(40, 3, 2 * LANES, INT4Z, False), 2),
        (Product(24, 5, LANES // 4, INT4Z, True), 1),
        (Product(21, 5, LANES // 2, INT8, False), 3),
        (Product(4, 7, LANES // 2, INT4, True), 1),
        (Product(40, 1, LANES // 4, INT4, False), 2),
    ],
)
def test_walk(product: Product, tokens: int, ports: int) -> None:
    """Several ports are told of the walk's takes and steps later; it goes on as if those takes were made, and no sooner."""
    machine, product = dataclasses.replace(MACHINE, ports=ports), dataclasses.replace(product, ports=ports)
    dut, late = Sequencer(machine), pipeline.told(machine)
    flight, most = late + Slice.latency(machine), 3 + late  # beats at a port; with one fewer nothing waits
    slots = [2, 3, 0, 1]
    takes, pairs, rounds, each = product.takes, product.pairs, product.shape["rounds"], tokens * product.pieces
    watched = [dut.streaming, dut.waiting_drain, dut.waiting_weights, dut.finished, dut.rounds.done]
    shown = [dut.take, dut.taking_ports, dut.step, dut.active_ports]
    places = [dut.activation_slot, dut.activation_word, dut.activation_group, dut.activation_piece]

    async def run(ctx: SimulatorContext, stalls: random.Random | None) -> tuple[int, bool]:
        """Cycles from the first beat to the last step, and whether a bank was waited for."""
        beats = [sum(taking >> number & 1 for _, taking in takes) for number in range(ports)]
        held = [Port(count, 0 if stalls else min(count, most)) for count in beats]

        def show() -> None:
            for least, signal in enumerate(beats_at(dut)):
                ctx.set(signal, mask(port.behind >= least if least else port.shown for port in held))

        show()
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        spare = mask(port.spare for port in held)
        taken = seconds = steps = drained = cycle = last_step = 0
        waited = False
        later = deque([Told()] * late)
        ends: deque[tuple[int, tuple[int, int, int]]] = deque()  # cycle in which a round is complete; its bank, ports, last
        drains: deque[int] = deque()
        while drained < rounds:
            drain = bool(drains) and drains[0] <= cycle
            show()
            ctx.set(dut.drained, drain)
            ctx.set(dut.drained_bank, drained % 2 if drain else stalls is None)
            ctx.set(dut.slot, slots[ctx.get(dut.token)])
            _, _, *sampled = await ctx.tick().sample(
                *watched, *shown, *places, dut.rounds.bank, dut.rounds.ports, dut.rounds.last
            )
            streaming, waits_drain, waits_weights, finished, done, take, takers, step, active, *sampled = sampled
            place, end = tuple(sampled[: len(places)]), tuple(sampled[len(places) :])
            # Taking goes on while there are beats, a second one where no pair is left to multiply.
            pair, token, piece = pairs[min(steps // each, len(pairs) - 1)], steps % tokens, steps % each // tokens
            pending, taking = seconds > steps // each, taken < len(takes)
            fresh = steps % each == 0 and (steps == 0 or pairs[steps // each - 1][0] != pair[0]) if pending else False
            free = not fresh or drained >= pair[0] - 1
            popping = pending and free and steps % each == each - 1
            assert (streaming, waits_drain, waits_weights) == (pending and free, pending and not free, taking and not pending)
            assert finished == (not taking and not pending)
            told = Told(taking=takes[taken][1] if taking else 0)
            if taking and not told.taking & ~spare and ("second" not in takes[taken][0] or not pending or popping):
                told.take = takes[taken][0]
                taken, seconds = taken + 1, seconds + ("second" in told.take)
                for port in held[: told.taking.bit_length()]:
                    port.promised += 1
            if streaming:
                now = {**pair[1], "token": token, "piece": piece, "row": pair[1]["row"] + piece * product.step}
                told.step, told.active, told.place = [now[name] for name in STEPS], pair[3], (slots[token], *pair[2], piece)
                steps, last_step = steps + 1, cycle
                if popping and (steps == each * len(pairs) or pairs[steps // each][0] != pair[0]):
                    ends.append((cycle + flight, (pair[0] % 2, pair[3], pair[0] == rounds - 1)))
            later.append(told)
            told = later.popleft()
            assert [take[name] for name in TAKES] == [told.take.get(name, 0) for name in TAKES]
            assert all(take[name] == value for name, value in told.take.items())
            assert takers == told.taking
            assert step.product == bool(told.step)
            assert not told.step or ([step[name] for name in STEPS], active, place) == (told.step, told.active, told.place)
            complete = bool(ends) and ends[0][0] == cycle
            assert done == complete
            if complete:
                assert end == ends.popleft()[1]
                drains.append(cycle + 1 + (stalls.choice((0, 250, 250)) if stalls else 0))
            if drain:
                drains.popleft()
                drained += 1
            waited |= bool(waits_drain)
            spare = mask(port.spare for port in held)
            for number, port in enumerate(held):
                push = port.level < most and not (stalls and stalls.random() < 1 / 3)
                port.step(push, any(take[name] for name in TAKES) and bool(takers >> number & 1))
            cycle += 1
        assert (taken, steps) == (len(takes), each * len(pairs))
        assert not any(port.level or port.coming for port in held)
        return last_step, waited

    async def bench(ctx: SimulatorContext) -> None:
        fields = {**product.shape, "groups": product.groups, "format": product.weights.code, "source": product.inner}
        ctx.set(dut.instruction.word, MATMUL.encode(fields))
        ctx.set(dut.group, product.group)
        ctx.set(dut.inner, INNER)
        ctx.set(dut.token_count, tokens)
        await ctx.tick()
        assert ctx.get(dut.finished)
        waited = [(await run(ctx, random.Random(seed)))[1] for seed in range(3)]
        assert any(waited) or rounds < 3
        pauseless = len(pairs) > rounds  # rounds of a single pair end sooner than the ones before them are drained
        assert await run(ctx, None) == (product.cycles(tokens), False) or not pauseless

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_the_most_groups() -> None:
    """As many as an instruction can say, to the last one; a pair of beats each."""
    dut, groups, pieces = Sequencer(MACHINE), (1 << MATMUL.by_name["groups"].width) - 1, 4

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.instruction.word, MATMUL.encode({**matmul_shape(BLOCK_ROWS, MACHINE.ports), "groups": groups}))
        ctx.set(dut.group, LANES // pieces)
        ctx.set(dut.token_count, 1)
        for signal in beats_at(dut):
            ctx.set(signal, -1)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        steps = 0
        for _ in range((pieces + SCALE_BEATS) * groups):
            *_, streaming = await ctx.tick().sample(dut.streaming)
            steps += streaming
            if ctx.get(dut.finished):
                break
        assert ctx.get(dut.finished)
        assert steps == pieces * groups

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_the_most_rounds() -> None:
    """As many as an instruction can say; the last one, and no other, is the last, with fewer ports."""
    machine, rounds = dataclasses.replace(MACHINE, port_bits=512), (1 << MATMUL.by_name["rounds"].width) - 1
    dut, ends = Sequencer(machine), list[tuple[int, int, int]]()

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.instruction.word, MATMUL.encode({"rounds": rounds, "ports": 1, "groups": 1}))
        for port, value in (
            (dut.group, machine.weight_lanes // 4),
            (dut.token_count, 1),
            *((signal, -1) for signal in beats_at(dut)),
        ):
            ctx.set(port, value)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.drained, 1)  # whatever was claimed
        cycles = 4 * rounds + 2 * Slice.latency(machine)
        for cycle in range(cycles):
            ctx.set(dut.drained_bank, cycle % 2)
            _, _, done, *end = await ctx.tick().sample(dut.rounds.done, dut.rounds.bank, dut.rounds.last, dut.rounds.ports)
            if done:
                ends.append(tuple(end))
            if len(ends) == rounds:
                break
        assert ctx.get(dut.finished)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    every = (1 << machine.ports) - 1
    assert ends == [(k % 2, k == rounds - 1, 1 if k == rounds - 1 else every) for k in range(rounds)]


def test_the_largest_group_at_the_end_of_the_largest_memory() -> None:
    machine = dataclasses.replace(MACHINE, port_bits=64, vector_lanes=2, activation=LARGEST_BUFFER)
    dut, lanes, inner = Sequencer(machine), machine.weight_lanes, LARGEST_BUFFER - LARGEST_GROUP
    first, words = inner // lanes, LARGEST_GROUP // lanes

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.instruction.word, MATMUL.encode({"rounds": 1, "ports": 1, "groups": 1, "source": 1}))
        for port, value in (
            (dut.group, LARGEST_GROUP),
            (dut.inner, inner),
            (dut.token_count, 1),
            *((signal, -1) for signal in beats_at(dut)),
        ):
            ctx.set(port, value)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        seen, later = [], deque([0] * pipeline.told(machine))
        while not ctx.get(dut.finished) or any(later):
            *_, streaming, word, group = await ctx.tick().sample(dut.streaming, dut.activation_word, dut.activation_group)
            later.append(streaming)
            if later.popleft():
                assert group == 4 * first  # a quarter of a word each
                seen.append(word)
            assert len(seen) <= BLOCK_ROWS // 2 * words
        assert seen == BLOCK_ROWS // 2 * list(range(first, first + words))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
