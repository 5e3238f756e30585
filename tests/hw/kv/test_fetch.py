"""A port's entries through the history buffer: what comes out is what was asked for, once each, and hits are not fetched."""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.kv.fetch import KvFetch
from skipopu.machine.config import Machine

HEADER, WORDS, ENTRY_BLOCKS = 1, 3, 1  # beats of the header, of K; 64-byte units of an entry
MACHINE = dataclasses.replace(Machine.load("mono"), history=128, kv_fifo=16)
BOTH = pytest.mark.parametrize("machine", [MACHINE, dataclasses.replace(MACHINE, stationary=True)], ids=["rows", "stationary"])
CAPACITY = MACHINE.history_slots
BLOCK_BEATS = 64 // MACHINE.beat_bytes


def content(beat: int) -> int:
    return (beat * 0x9E3779B97F4A7C15 + 1) & (1 << MACHINE.port_bits) - 1


def first_beat(place: int, values: int) -> int:
    return place * ENTRY_BLOCKS * BLOCK_BEATS + (HEADER + WORDS if values else 0)


def beat_of(ctx: SimulatorContext, dut: KvFetch) -> int:
    """The present beat; a stationary array chooses it where it is kept."""
    return ctx.get(dut.kept if dut.machine.stationary and ctx.get(dut.present_hit) else dut.beat)


class Bench:
    """A memory that answers in order after random pauses, and a reader that takes entries with random pauses."""

    def __init__(self, seed: int, slots: int) -> None:
        self.rng, self.slots = np.random.default_rng(seed), slots
        self.fifo: deque[int] = deque()  # beats in the loader
        self.flight: deque[tuple[int, int]] = deque()  # beats on their way: when, which
        self.held: dict[tuple[int, int], int] = {}  # (slot, values): place
        self.cycle = self.requested = self.hits = self.expected_hits = self.ahead = self.given_up = 0
        self.last_run = -1
        self.came = [0, 0]  # of a stationary array: keys and values told to be wanted

    async def step(self, ctx: SimulatorContext, dut: KvFetch) -> None:
        """Ends a cycle, whose other inputs the caller has set, and begins the next."""
        if ctx.get(dut.loader.runs.valid) and ctx.get(dut.loader.runs.ready):
            beat, count = ctx.get(dut.loader.runs.payload.beat), ctx.get(dut.loader.runs.payload.count)
            self.requested += count
            self.last_run = beat
            start = self.cycle + int(self.rng.integers(1, 30))
            if self.flight:
                start = max(start, self.flight[-1][0])
            self.flight.extend((start + k, beat + k) for k in range(count))
        if ctx.get(dut.loader.beats.ready) and self.fifo:
            self.fifo.popleft()
        self.hits += ctx.get(dut.hit)
        self.ahead += ctx.get(dut.fetched_ahead)
        if dut.machine.stationary:
            self.came[ctx.get(dut.came_values)] += ctx.get(dut.came)
        self.cycle += 1
        await ctx.tick()
        while self.flight and self.flight[0][0] <= self.cycle and len(self.fifo) < MACHINE.kv_fifo:
            self.fifo.append(self.flight.popleft()[1])
        ctx.set(dut.loader.level, len(self.fifo))
        ctx.set(dut.loader.beats.valid, bool(self.fifo))
        ctx.set(dut.loader.beats.payload, content(self.fifo[0]) if self.fifo else 0)
        ctx.set(dut.loader.runs.ready, int(self.rng.random() < 0.6))

    def want(self, ctx: SimulatorContext, dut: KvFetch, token: int, place: int, values: int, ahead: bool) -> None:
        entry = dut.wanted.payload.entry
        ctx.set(dut.wanted.valid, 1)
        ctx.set(dut.wanted.payload.place, place)
        fields = {"token": token, "score": token, "kept": token < self.slots, "ahead": ahead}
        for name, value in fields.items():
            ctx.set(getattr(entry, name), int(value))
        ctx.set(entry.half.slot, token % MACHINE.history_slots)
        ctx.set(entry.half.base, min(token * 2 * WORDS, MACHINE.history - 1))
        ctx.set(entry.half.values, values)

    def account(self, token: int, place: int, values: int) -> bool:
        """Whether it is a hit, by the rule; what is fetched is kept."""
        hit = self.held.get((token, values)) == place
        if token < self.slots:
            self.held[token, values] = place
        return hit

    async def prefetch(self, ctx: SimulatorContext, dut: KvFetch, places: list[int], count: int) -> None:
        """Slots in rising order; the last half that was taken is given up if it was not asked for yet."""
        ctx.set(dut.filling, 1)
        token, values, before = -1, 0, None
        for token in range(min(count, self.slots)):
            for values in (0, 1):
                self.want(ctx, dut, token, places[token], values, True)
                while not ctx.get(dut.wanted.ready):
                    await self.step(ctx, dut)
                await self.step(ctx, dut)
                before = self.held.get((token, values))
                self.account(token, places[token], values)
        ctx.set(dut.wanted.valid, 0)
        ctx.set(dut.filling, 0)
        for _ in range(3):
            await self.step(ctx, dut)
        if token >= 0 and before != places[token] and self.last_run != first_beat(places[token], values):
            self.given_up += 1
            self.held.pop((token, values))
            if before is not None:
                self.held[token, values] = before

    async def attend(self, ctx: SimulatorContext, dut: KvFetch, places: list[int]) -> None:
        """Keys of all tokens, then their values, requested as soon as the unit takes them."""
        asked = deque((token, values) for values in (0, 1) for token in range(len(places)))
        ctx.set(dut.begin, 1)
        await self.step(ctx, dut)
        ctx.set(dut.begin, 0)
        for values in (0, 1):
            ctx.set(dut.soon.keys, 1 - values)
            ctx.set(dut.soon.values, values)
            seen: list[int] = []
            weighed = 0
            number = 0
            idle = 0
            while len(seen) < len(places) or (values and weighed < len(places)):
                if asked:
                    token, wants = asked[0]
                    self.want(ctx, dut, token, places[token], wants, False)
                else:
                    ctx.set(dut.wanted.valid, 0)
                softmax = values and ctx.get(dut.softmax_ready) and ctx.get(dut.left) and self.rng.random() < 0.5
                ctx.set(dut.softmax_end, int(bool(softmax)))
                weighed += bool(softmax)
                # Values follow their probabilities.
                pop = ctx.get(dut.ready) and (not values or weighed > len(seen)) and self.rng.random() < 0.8
                beats = WORDS if values else HEADER + WORDS
                end = bool(pop) and number == beats - 1
                if pop:
                    token = ctx.get(dut.entry.token)
                    assert token not in seen
                    assert ctx.get(dut.entry.half.values) == values
                    assert ctx.get(dut.entry.score) == token
                    assert beat_of(ctx, dut) == content(first_beat(places[token], values) + number)
                    number = 0 if end else number + 1
                    if end:
                        seen.append(token)
                ctx.set(dut.pop, int(bool(pop)))
                ctx.set(dut.end, int(end))
                taken = asked and ctx.get(dut.wanted.ready)
                await self.step(ctx, dut)
                ctx.set(dut.pop, 0)
                ctx.set(dut.end, 0)
                ctx.set(dut.softmax_end, 0)
                if taken:
                    token, wants = asked.popleft()
                    self.expected_hits += (WORDS if wants else HEADER + WORDS) * self.account(token, places[token], wants)
                idle = 0 if pop or softmax or taken else idle + 1
                assert idle < 500, "nothing moves any more"
            assert sorted(seen) == list(range(len(places)))
            if dut.machine.stationary:
                assert self.came[values] == len(places)
                self.came[values] = 0
            else:
                assert not ctx.get(dut.pending)
        ctx.set(dut.soon.keys, 0)
        ctx.set(dut.soon.values, 0)
        assert not ctx.get(dut.left)


def exercise(
    seed: int, slots: int, layers: int, skipped: float, unit: type[KvFetch] = KvFetch, machine: Machine = MACHINE
) -> Bench:
    """Some layers of growing contexts; a token's entry changes where its attention executes."""
    dut, bench = unit(machine), Bench(seed, slots)

    async def run(ctx: SimulatorContext) -> None:
        ctx.set(dut.heads.header_beats, HEADER)
        ctx.set(dut.heads.kv_words, WORDS)
        ctx.set(dut.heads.key_beats, HEADER + WORDS)
        ctx.set(dut.pool.entry, ENTRY_BLOCKS)
        ctx.set(dut.restart, 1)
        await bench.step(ctx, dut)
        ctx.set(dut.restart, 0)
        places: list[int] = []
        allocated = 0
        for _ in range(layers):
            places += [0] * int(bench.rng.integers(1, 5))
            for token in range(len(places)):
                if not places[token] or bench.rng.random() > skipped:
                    allocated += 1
                    places[token] = allocated
            if bench.rng.random() < 0.5:
                await bench.prefetch(ctx, dut, places, int(bench.rng.integers(0, len(places) + 1)))
            if bench.rng.random() < 0.7:
                await bench.attend(ctx, dut, places)
        await bench.attend(ctx, dut, places)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(run)
    simulator.run()
    return bench


@BOTH
@settings(max_examples=6)
@given(st.integers(0, 1 << 30), st.sampled_from([0, 3, CAPACITY]), st.sampled_from([0.0, 0.4, 0.9]))
def test_every_entry_comes_once_with_its_own_beats(machine: Machine, seed: int, slots: int, skipped: float) -> None:
    bench = exercise(seed, slots, 8, skipped, machine=machine)
    assert bench.hits == bench.expected_hits
    assert slots or not bench.hits


@BOTH
def test_hits_and_prefetches_happen(machine: Machine) -> None:
    bench = exercise(1, CAPACITY, 16, 0.7, machine=machine)
    assert bench.hits > 0
    assert bench.ahead > 0
    assert bench.given_up > 0


def test_a_tag_that_forgets_its_place_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(KvFetch):
        def elaborate(self, platform: object) -> object:
            m = super().elaborate(platform)
            history = m._named_submodules["history"][0]
            history._tags = lambda inner: None
            m.d.comb += history.hit.eq(1)
            return m

    with pytest.raises(AssertionError):
        exercise(3, CAPACITY, 4, 0.4, Forgetful)
