"""The walk of a MATMUL, cycle for cycle, against lists of its beats and pairs and counts of what was taken and multiplied."""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.pe.sequencer import Sequencer
from hw.pe.slice import Slice
from skipopu.isa.spec import BLOCK_ROWS, MATMUL, SHORT_BLOCK_ROWS, matmul_shape
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_GROUP
from skipopu.numerics.formats import INT4, INT4Z, INT8, SCALE_WORD, Format

MACHINE = Machine.load("tiny")
LANES, FLIGHT, INNER = MACHINE.weight_lanes, Slice.latency(MACHINE), 512
SCALE_BEATS = SCALE_WORD // MACHINE.beat_bytes
TAKES, STEPS = ("scale", "first", "second"), ("token", "first_beat", "last_beat", "first_group", "row", "piece", "bank")


@dataclass
class Product:
    """In the order of the walk: (fields of the take, ports) per beat; (round, fields of the step, words, ports, ...) per pair."""

    rows: int
    groups: int
    group: int
    weights: Format
    inner: bool
    takes: list[tuple[dict[str, int], int]] = field(default_factory=list)
    pairs: list[tuple[int, dict[str, int], tuple[int, int], int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shape = matmul_shape(self.rows, MACHINE.ports)
        self.pieces, self.step = max(1, LANES // self.group), 8 // self.weights.bits
        block = SHORT_BLOCK_ROWS if self.rows <= SHORT_BLOCK_ROWS and self.pieces == 1 else BLOCK_ROWS
        beats, scale = max(1, self.group // LANES), 0
        for number in range(self.shape["rounds"]):
            ports = (1 << (self.shape["ports"] if number == self.shape["rounds"] - 1 else MACHINE.ports)) - 1
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
    ],
)
def test_walk(product: Product, tokens: int) -> None:
    dut = Sequencer(MACHINE)
    slots = [2, 3, 0, 1]
    takes, pairs, rounds, each = product.takes, product.pairs, product.shape["rounds"], tokens * product.pieces
    watched = [dut.taking_ports, dut.streaming, dut.waiting_drain, dut.waiting_weights, dut.finished, dut.rounds.done]
    shown = [dut.take, dut.step, dut.activation_slot, dut.activation_word, dut.activation_group, dut.active_ports]

    async def run(ctx: SimulatorContext, stalls: random.Random | None) -> tuple[int, bool]:
        """Cycles from the first beat to the last step, and whether a bank was waited for."""
        ready = 0
        ctx.set(dut.weights_ready, ready)
        ctx.set(dut.weights_behind, -1)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ready = 3
        taken = seconds = steps = drained = cycle = last_step = 0
        waited = False
        ends: deque[tuple[int, tuple[int, int, int]]] = deque()  # cycle in which a round is complete; its bank, ports, last
        drains: deque[int] = deque()
        while drained < rounds:
            behind = stalls.choice((0, 1, 2, 3, 3, 3)) if stalls else 3
            drain = bool(drains) and drains[0] <= cycle
            ctx.set(dut.weights_ready, ready)
            ctx.set(dut.weights_behind, behind)
            ctx.set(dut.drained, drain)
            ctx.set(dut.drained_bank, drained % 2 if drain else stalls is None)
            ctx.set(dut.slot, slots[ctx.get(dut.token)])
            sampled = await ctx.tick().sample(*watched, *shown, dut.rounds.bank, dut.rounds.ports, dut.rounds.last)
            ports, streaming, waits_drain, waits_weights, finished, done, take, step, slot, word, group, active, *end = sampled[
                2:
            ]
            # Taking goes on while there are beats, a second one where no pair is left to multiply.
            pair, token, piece = pairs[min(steps // each, len(pairs) - 1)], steps % tokens, steps % each // tokens
            pending, taking = seconds > steps // each, taken < len(takes)
            fresh = steps % each == 0 and (steps == 0 or pairs[steps // each - 1][0] != pair[0]) if pending else False
            free = not fresh or drained >= pair[0] - 1
            popping = pending and free and steps % each == each - 1
            assert (streaming, waits_drain, waits_weights) == (pending and free, pending and not free, taking and not pending)
            assert finished == (not taking and not pending)
            assert ports == (takes[taken][1] if taking else 0)
            wanted: dict[str, int] = {}
            if taking and not ports & ~ready and ("second" not in takes[taken][0] or not pending or popping):
                wanted = takes[taken][0]
                taken, seconds = taken + 1, seconds + ("second" in wanted)
            taken_ports = ports if wanted else 0
            assert [take[name] for name in TAKES] == [wanted.get(name, 0) for name in TAKES]
            assert all(take[name] == value for name, value in wanted.items())
            assert step.product == streaming
            if streaming:
                now = {**pair[1], "token": token, "piece": piece, "row": pair[1]["row"] + piece * product.step}
                assert [step[name] for name in STEPS] == [now[name] for name in STEPS]
                assert (slot, (word, group), active) == (slots[token], pair[2], pair[3])
                steps, last_step = steps + 1, cycle
                if popping and (steps == each * len(pairs) or pairs[steps // each][0] != pair[0]):
                    ends.append((cycle + FLIGHT, (pair[0] % 2, pair[3], pair[0] == rounds - 1)))
            complete = bool(ends) and ends[0][0] == cycle
            assert done == complete
            if complete:
                assert tuple(end) == ends.popleft()[1]
                drains.append(cycle + 1 + (stalls.choice((0, 250, 250)) if stalls else 0))
            if drain:
                drains.popleft()
                drained += 1
            waited |= bool(waits_drain)
            ready = behind | ready & ~taken_ports
            cycle += 1
        assert (taken, steps) == (len(takes), each * len(pairs))
        return last_step, waited

    async def bench(ctx: SimulatorContext) -> None:
        fields = {**product.shape, "groups": product.groups, "format": product.weights.code, "source": product.inner}
        ctx.set(dut.instruction.word, MATMUL.encode(fields))
        ctx.set(dut.group, product.group)
        ctx.set(dut.inner, INNER)
        ctx.set(dut.token_count, tokens)
        assert ctx.get(dut.finished)
        waited = [(await run(ctx, random.Random(seed)))[1] for seed in range(3)]
        assert any(waited) or rounds < 3
        assert await run(ctx, None) == (product.cycles(tokens), False)

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
        ctx.set(dut.weights_ready, -1)
        ctx.set(dut.weights_behind, -1)
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
            (dut.weights_ready, -1),
            (dut.weights_behind, -1),
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
            (dut.weights_ready, -1),
            (dut.weights_behind, -1),
        ):
            ctx.set(port, value)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        seen = []
        while not ctx.get(dut.finished):
            *_, streaming, word, group = await ctx.tick().sample(dut.streaming, dut.activation_word, dut.activation_group)
            assert not streaming or group == 4 * first  # a quarter of a word each
            seen += [word] if streaming else []
            assert len(seen) <= BLOCK_ROWS // 2 * words
        assert seen == BLOCK_ROWS // 2 * list(range(first, first + words))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
