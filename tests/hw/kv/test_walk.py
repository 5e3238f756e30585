"""Rounds of keys and of values, step by step, against nested loops."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from amaranth.sim import SimulatorContext
from numpy.typing import NDArray

from hw.kv.shapes import HeadShapes
from hw.kv.walk import KvStep, KvWalk
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine
from tests.hw.kv.support import LARGEST, set_heads, simulate

MACHINE = Machine.load("trio")
HELD = 3  # beats of a port that the walk can tell

Block = dict[str, Any]


def random_blocks(rng: np.random.Generator, count: int, machine: Machine = MACHINE) -> list[Block]:
    return [
        {
            "lanes": int(rng.integers(1, 1 << QUERY_LANES)),
            "base": int(rng.integers(0, 64)),
            "slots": [int(s) for s in rng.integers(0, machine.tokens, QUERY_LANES)],
        }
        for _ in range(count)
    ]


def steps(entry: KvEntry, blocks: list[Block], values: bool) -> Iterator[dict[str, Any]]:
    """Of an entry's round: what is promised of each."""
    for number in range(0 if values else entry.header_beats):
        yield {"header": 1, "work": 0, "header_number": number, "pop": 1, "entry_end": 0, "head_end": 0}
    heads = [(h, b, k) for h in range(entry.kv_heads) for b in range(entry.head_beats) for k in range(len(blocks))]
    for head, beat, k in heads:
        lanes = [q for q in range(QUERY_LANES) if blocks[k]["lanes"] >> q & 1]
        for lane in lanes if values else lanes[:1]:
            beat_end = k == len(blocks) - 1 and (not values or lane == lanes[-1])
            last_beat = beat == entry.head_beats - 1
            step = {
                "header": 0,
                "work": 1,
                "kv_head": head,
                "block": k,
                "lanes": blocks[k]["lanes"],
                "slots": blocks[k]["slots"],
                "first_beat": beat == 0,
                "last_beat": last_beat,
                "number": head * len(blocks) + k,
                "number_first": head * len(blocks),
                "pop": beat_end,
                "entry_end": beat_end and last_beat and head == entry.kv_heads - 1,
            }
            word = head * entry.head_beats
            yield (step | {"lane": lane} if values else step) | {
                "sum_number": (head * entry.head_beats + beat) * len(blocks) + k,
                "word": blocks[k]["base"] + word + beat,
                "head": blocks[k]["base"] + word,
                "head_end": beat_end and last_beat,
            }


def told_step(ctx: SimulatorContext, dut: KvWalk) -> dict[str, Any]:
    """What the ports are told, by name."""
    step = ctx.get(dut.round.step)
    others = {"first": dut.round.first, "sum_number": dut.round.sum_number, "word": dut.query.word, "head": dut.query.head}
    return (
        {name: step[name] for name in KvStep(dut.machine).members}
        | {"slots": [step.slots[q] for q in range(QUERY_LANES)]}
        | {name: ctx.get(signal) for name, signal in others.items()}
    )


class Cycle(NamedTuple):
    """Of the ports: the beats that they held, those in the round, those whose beat went, and what they were told. Of the walk, in its own
    time: whether it had probabilities, whether it was in a round, and what it said that ended.
    """

    beats: NDArray[np.int64]
    active: NDArray[np.bool_]
    popped: NDArray[np.bool_]
    step: dict[str, Any]
    weighed: bool
    running: bool
    head_end: bool
    round_end: bool

    @property
    def moves(self) -> bool:
        return bool(self.step["header"] or self.step["work"])


class Memory:
    """Entries and beats of the ports: a port gives them up when it is told to, and says so a cycle later. ``held`` beats are always there,
    0: now and then one of its entries comes. Those of the next round come when the present one has begun, or not before it ended.

    Keeps what happened in ``trace``.
    """

    def __init__(self, dut: KvWalk, held: int, rng: np.random.Generator) -> None:
        self.dut, self.held, self.rng = dut, held, rng
        self.numbers = np.arange(dut.machine.ports)
        self.beats, self.entries, self.coming = (np.zeros(len(self.numbers), dtype=np.int64) for _ in range(3))
        self.entry_beats = 0
        self.due = np.zeros(len(self.numbers), dtype=np.bool_)  # ports to which an entry of the next round is to come
        self.early, self.scarce, self.last = False, False, False
        self.trace: list[Cycle] = []

    def expect(self, of_round: NDArray[np.bool_]) -> None:
        """Another round begins, the next one is of these ports."""
        self.due, self.early, self.scarce = of_round.copy(), *(bool(self.rng.random() < 0.5) for _ in range(2))

    def bits(self, ports: NDArray[np.bool_]) -> int:
        return int((ports.astype(np.int64) << self.numbers).sum())

    def ports(self, bits: int) -> NDArray[np.bool_]:
        return (bits >> self.numbers & 1).astype(np.bool_)

    async def cycle(self, ctx: SimulatorContext, between: bool) -> Cycle:
        """One, ``between`` rounds as far as the ports know."""
        dut, rng, stalls = self.dut, self.rng, not self.held
        if stalls:
            asked = self.due & (rng.random(len(self.due)) < (0.3 if between or self.early else 0))
            self.entries, self.due = self.entries + asked, self.due & ~asked
            come = (self.coming > 0) & (rng.random(len(self.due)) < (0.4 if self.scarce else 0.8))
            self.beats, self.coming = self.beats + come, self.coming - come + self.entry_beats * asked
        else:
            self.beats[:] = self.held
        if between:  # of a round that is going on it stays true
            self.last = not self.due.any() and bool(not (self.entries > 0).all() or rng.random() < 0.5)
        weighed = not stalls or bool(rng.random() < 0.7)
        further = [(dut.beats_further, self.beats > 2)] if pipeline.told(dut.machine) else []
        for port, value in (
            (dut.pending, self.entries > 0),
            (dut.beats_ready, self.beats > 0),
            (dut.beats_behind, self.beats > 1),
            *further,
        ):
            ctx.set(port, self.bits(value))
        ctx.set(dut.last_entries, self.last)
        ctx.set(dut.weighed, weighed)

        step, active = told_step(ctx, dut), ctx.get(dut.active)
        head_end, round_end, idle = (bool(ctx.get(signal)) for signal in (dut.head_end, dut.round_end, dut.idle))
        assert ctx.get(dut.pops) == (active if step["pop"] else 0)
        assert ctx.get(dut.ends) == (active if step["entry_end"] else 0)
        popped, ended = self.ports(ctx.get(dut.pops)), self.ports(ctx.get(dut.ends))
        now = Cycle(self.beats.copy(), self.ports(active), popped, step, weighed, not idle, head_end, round_end)
        assert now.moves or not (step["pop"] or step["entry_end"])
        assert now.running or not (head_end or round_end)
        self.trace.append(now)
        self.beats, self.entries = self.beats - popped, self.entries - ended
        assert (self.beats >= 0).all()
        assert (self.entries >= 0).all()
        await ctx.tick()
        return now


@pytest.mark.parametrize("stalls", [True, False])
@pytest.mark.parametrize("ports", [1, MACHINE.ports])
def test_rounds(ports: int, stalls: bool) -> None:
    """A step takes a beat of every port that is in the round; there is one whenever each had enough behind it, or waits with one."""
    machine = dataclasses.replace(MACHINE, ports=ports)
    entry = KvEntry(2, 16, machine)  # two beats per head
    walked(entry, HeadShapes(machine).blocks, 5 if stalls else 3, 0 if stalls else HELD)


@pytest.mark.parametrize(("kv_heads", "head_dim"), [(64, 4), (2, 256)])
def test_rounds_of_the_most_heads_and_of_the_longest(kv_heads: int, head_dim: int) -> None:
    walked(KvEntry(kv_heads, head_dim, LARGEST), 1, 1, HELD)


@pytest.mark.parametrize(
    ("ports", "held", "pace"), [(1, 1, [2]), (1, 2, [1]), (1, 3, [1]), (3, 1, [3]), (3, 2, [1, 2]), (3, 3, [1])]
)
def test_pace(ports: int, held: int, pace: list[int]) -> None:
    """Cycles from a step to the next where each takes a beat, of ports that always hold ``held``."""
    machine = dataclasses.replace(MACHINE, ports=ports)
    keys, _ = walked(KvEntry(machine.kv_heads, 16, machine), 1, 3, held)
    for cycles in keys:
        assert len(cycles) > 2 * machine.kv_heads
        assert np.diff(cycles).tolist() == list(itertools.islice(itertools.cycle(pace), len(cycles) - 1))


def walked(entry: KvEntry, most: int, rounds: int, held: int) -> list[list[list[int]]]:
    """Walks entries like ``entry`` of each phase, with up to ``most`` blocks of queries; ``held`` as of :class:`Memory`. Gives by phase and
    round the cycles in which the ports are told a step.
    """
    machine, late, stalls = entry.machine, pipeline.told(entry.machine), not held
    dut, rng = KvWalk(machine), np.random.default_rng(0)
    memory, every = Memory(dut, held, rng), np.ones(machine.ports, dtype=np.bool_)
    trace = memory.trace
    told: list[list[list[int]]] = []

    async def wait(ctx: SimulatorContext, first: bool) -> None:
        """For a round to start: not before its last entry came, nor before the ports knew that another was over, but then."""
        cycles = complete = 0
        while ctx.get(dut.idle):
            now = await memory.cycle(ctx, between=True)
            assert not now.moves
            cycles, complete = cycles + 1, complete + (not memory.due.any())
            assert complete <= 1 + late
        assert complete
        assert first or cycles >= 1 + late

    async def take(ctx: SimulatorContext, expected: dict[str, Any], taking: NDArray[np.bool_], values: bool) -> None:
        """The next step of a round of the ports ``taking``, as soon as it may be. It is told ``late`` cycles behind the walk's own time."""
        while True:
            now = await memory.cycle(ctx, between=False)
            walk, before = trace[-1 - late], trace[-2 - late]
            assert now.running == (not trace[-2].round_end)
            may = walk.running and (walk.weighed or not values)
            took = before.running and (trace[-2].moves or (values and not before.weighed))
            sure = (before.beats > took + late * before.popped)[taking].all()
            assert now.moves or not (may and sure)
            assert (now.active == (taking if walk.running else trace[-2].active)).all()
            if now.moves:
                assert may
                assert (now.beats[taking] > 0).all()
                assert {name: (now.step | {"head_end": walk.head_end})[name] for name in expected} == expected
                assert walk.round_end == expected["entry_end"]
                return
            assert not walk.head_end
            assert not walk.round_end

    async def phase(ctx: SimulatorContext, values: bool) -> None:
        blocks = random_blocks(rng, 1 if rng.random() < 0.5 else int(rng.integers(1, most + 1)), machine)
        set_heads(ctx, dut.heads, entry)
        ctx.set(dut.listed.count, len(blocks))
        for k, block in enumerate(blocks):
            ctx.set(dut.listed.blocks[k], block)
        told.append([])
        await memory.cycle(ctx, between=True)
        ctx.set(dut.phase.keys, not values)
        ctx.set(dut.phase.values, values)
        of_rounds = [memory.ports(int(rng.integers(1, memory.bits(every) + 1))) if stalls else every for _ in range(rounds)]
        memory.entry_beats = entry.key_beats - (entry.header_beats if values else 0)
        if stalls:
            memory.expect(of_rounds[0])
        else:
            memory.entries[:] = rounds
        for number, taking in enumerate(of_rounds):
            await wait(ctx, first=number == 0)
            if stalls:
                memory.expect(of_rounds[number + 1] if number + 1 < rounds else ~every)
            told[-1].append([])
            for expected in steps(entry, blocks, values):
                await take(ctx, expected | {"parity": number % 2, "first": number == 0}, taking, values)
                told[-1][-1].append(len(trace))
        for _ in range(5):
            now = await memory.cycle(ctx, between=True)
            assert not now.running
            assert not now.moves
        assert not memory.coming.any()
        ctx.set(dut.phase.keys, 0)
        ctx.set(dut.phase.values, 0)
        await memory.cycle(ctx, between=True)

    async def bench(ctx: SimulatorContext) -> None:
        await memory.cycle(ctx, between=True)
        for values in (False, True) * (5 if stalls else 1):
            await phase(ctx, values)

    simulate(dut, bench)
    for of_phase in told if held else []:
        between = [after[0] - before[-1] - 1 for before, after in itertools.pairwise(of_phase)]
        assert between == [1 + 2 * late] * (rounds - 1)
        if held == HELD:
            assert all((np.diff(cycles) == 1).all() for cycles in of_phase)
    return told
