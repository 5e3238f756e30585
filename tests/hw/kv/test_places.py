"""Token t's port is t mod ports, whatever the chunks; every port counts its own places and goes back to those of a run's first token."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.places import EntryPlaces
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT
from tests.hw.kv.support import simulate

TRIO = Machine.load("trio")
RUNS, CHUNKS = 40, 7


def giving_back(ports: int, walked: int, behind: int) -> int:
    """Cycles from ``restart`` on in which places are given back, of a run that does not begin at token 0.

    Args:
        ports: the machine's.
        walked: tokens between the chunk found last and the run's first token, in either direction.
        behind: tokens from that one on that have entries.
    """
    return walked + 2 * min(ports, behind) + 2


@pytest.mark.parametrize(("ports", "tokens"), [(1, 1), (1, 3), (3, 5), (3, 3), (4, 2)])
def test_runs_of_chunks_and_layers(ports: int, tokens: int) -> None:
    dut, rng = EntryPlaces(dataclasses.replace(TRIO, ports=ports, tokens=tokens)), np.random.default_rng(tokens)
    mapped: list[int] = []  # by token, its place in the first layer
    directions = set()

    async def tick(ctx: SimulatorContext) -> None:
        """With the map's memory: what is no entry may be anything."""
        token = ctx.get(dut.map_token)
        await ctx.tick()
        ctx.set(dut.entry.place, mapped[token] if token < len(mapped) else int(rng.integers(1000)))

    async def bench(ctx: SimulatorContext) -> None:
        places, begins, found = [0] * ports, [0], 0
        for _ in range(RUNS):
            inside = range(len(mapped)) if tokens <= ports else begins
            first = int(rng.choice([0, len(mapped), *rng.choice(inside or [0], 3)]))
            ctx.set(dut.first, first)
            ctx.set(dut.restart, 1)
            await tick(ctx)
            ctx.set(dut.restart, 0)
            ctx.set(dut.first, int(rng.integers(1000)))
            ctx.set(dut.position, first)
            ctx.set(dut.find, int(rng.integers(2)))
            for _ in range(giving_back(ports, abs(first - found), len(mapped) - first) if first else 0):
                assert ctx.get(dut.going_back)
                assert not ctx.get(dut.found)
                await tick(ctx)
            assert not ctx.get(dut.going_back)
            directions.add(np.sign(first - found) if first else None)
            for token in range(len(mapped) - 1, first - 1, -1):
                places[token % ports] = mapped[token]
            del mapped[first:]
            begins = [begin for begin in begins if begin < first]
            position = found = first
            assert ctx.get(dut.used) == sum(places)
            for _ in range(int(rng.integers(CHUNKS))):
                begins.append(position)
                count = int(rng.integers(1, tokens + 1))
                for layer in range(int(rng.integers(1, 4))):
                    ctx.set(dut.position, position)
                    await tick(ctx)
                    ctx.set(dut.find, 1)
                    cycles = 0
                    while not ctx.get(dut.found):
                        await tick(ctx)
                        cycles += 1
                    assert cycles == position - found
                    found = position
                    await tick(ctx)
                    ctx.set(dut.find, 0)
                    done = int(rng.integers(count + 1)) if layer else count  # an error may halt a run
                    for token in range(position, position + done):
                        port = token % ports
                        assert ctx.get(dut.port) == port
                        assert ctx.get(dut.place) == places[port]
                        use = int(rng.integers(2)) if layer else 1
                        if not layer:
                            mapped.append(places[port])
                        ctx.set(dut.use, use)
                        await tick(ctx)
                        places[port] += use
                        ctx.set(dut.use, 0)
                        ctx.set(dut.following, 1)
                        await tick(ctx)
                        ctx.set(dut.following, 0)
                    assert ctx.get(dut.used) == sum(places)
                position += count

    simulate(dut, bench)
    assert directions == {None, -1, 0, 1}


def test_a_chunk_is_looked_for_behind_what_a_run_begins_with() -> None:
    """It is found at its own token, even if it waits while places are given back to the run's first one."""
    dut = EntryPlaces(dataclasses.replace(TRIO, ports=3))

    async def bench(ctx: SimulatorContext) -> None:
        for first, position in ((0, 4), (3, 7), (5, 5), (1, 2)):
            ctx.set(dut.first, first)
            ctx.set(dut.position, position)
            ctx.set(dut.restart, 1)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            while ctx.get(dut.going_back):
                ctx.set(dut.find, 1)
                await ctx.tick()
            for _ in range(1 + position - first):
                assert not ctx.get(dut.found)
                await ctx.tick()
                ctx.set(dut.find, 1)
            assert ctx.get(dut.found)
            await ctx.tick()
            assert ctx.get(dut.port) == position % 3
            ctx.set(dut.find, 0)

    simulate(dut, bench)


def test_the_last_token_and_the_last_place() -> None:
    """Of the longest context, and behind all others that a port of the largest machine has."""
    dut = EntryPlaces(dataclasses.replace(TRIO, ports=3, tokens=1, map_entries=LARGEST_MAP))
    last = LARGEST_CONTEXT - 1

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.position, last)
        await ctx.tick()
        ctx.set(dut.find, 1)
        await ctx.tick().repeat(last)
        assert ctx.get(dut.found)
        await ctx.tick()
        ctx.set(dut.find, 0)
        assert ctx.get(dut.port) == last % 3
        for count in range(2):  # of entries of that token: what a run leaves, and what one finds that begins there
            ctx.set(dut.use, 1)
            await ctx.tick()
            ctx.set(dut.use, 0)
            ctx.set(dut.following, 1)
            await ctx.tick()
            ctx.set(dut.following, 0)
            assert ctx.get(dut.used) == 1 + count * (LARGEST_MAP - 1)
            ctx.set(dut.first, last)
            ctx.set(dut.restart, 1)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            assert ctx.get(dut.map_token) == last
            ctx.set(dut.entry.place, LARGEST_MAP - 1)
            while ctx.get(dut.going_back):
                await ctx.tick()
            await ctx.tick()
            ctx.set(dut.find, 1)
            assert ctx.get(dut.found)
            await ctx.tick()
            ctx.set(dut.find, 0)
            assert (ctx.get(dut.port), ctx.get(dut.place), ctx.get(dut.used)) == (last % 3, LARGEST_MAP - 1, LARGEST_MAP - 1)
        ctx.set(dut.use, 1)
        await ctx.tick()
        assert ctx.get(dut.place) == ctx.get(dut.used) == LARGEST_MAP

    simulate(dut, bench)
