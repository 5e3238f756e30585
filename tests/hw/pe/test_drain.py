"""The walk over complete rounds: ports, tokens and pairs in order, whatever pauses, a pair per cycle."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext

from hw.pe.drain import PAIRS, Drain
from skipopu.isa.spec import BLOCK_ROWS
from skipopu.machine.accepted import MOST_PORTS
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_HEAD, LARGEST_VOCABULARY
from tests.hw.bench import exercise

TOKENS, HALF_HEAD = 3, 24


@pytest.mark.parametrize(("lanes", "ports"), [(8, 3), (16, 2), (32, 4)])
@pytest.mark.parametrize("tokens", [1, 3])
def test_walk(lanes: int, ports: int, tokens: int) -> None:
    bits = max(64, 16 * lanes)
    machine = Machine("drained", ports, bits, TOKENS, lanes, 4096, bits, bits, 64, 64)
    together = machine.drain_ports
    dut = Drain(machine)
    last_ports = 1 + ports // 2
    rounds = [((1 << ports) - 1, 0), ((1 << ports) - 1, 0), ((1 << last_ports) - 1, 1)]
    expected, ends, row = [], [], 0
    for number, (blocks, last) in enumerate(rounds):
        for turn in range(-(-blocks.bit_length() // together)):
            for token in range(tokens):
                for pair in range(PAIRS):
                    heads = [(row // 2 + PAIRS * i + pair) % HALF_HEAD for i in range(together)]
                    expected.append((number % 2, turn, token, pair, blocks >> turn * together, last, row + 2 * pair, *heads))
            row += BLOCK_ROWS * together
        ends.append(len(expected) - 1)
    steady: list[list[int]] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.token_count, tokens)
        ctx.set(dut.half_head, HALF_HEAD)
        ports_seen = (dut.bank, dut.turn, dut.token, dut.pair, dut.blocks, dut.last, dut.row, *dut.rotary)
        for _ in range(2):
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            seen, drained, times = [], [], []
            waiting, number, cycle, finished = 0, 0, -1, 0
            while not finished:
                # At most one round per bank waits.
                complete = number < len(rounds) and waiting < 2 and not (stalls and stalls.random() < 0.8)
                ctx.set(dut.round.done, complete)
                if complete:
                    blocks, last = rounds[number]
                    for port, value in ((dut.round.bank, number % 2), (dut.round.ports, blocks), (dut.round.last, last)):
                        ctx.set(port, value)
                    number, waiting = number + 1, waiting + 1
                paused = bool(stalls and stalls.random() < 0.3)
                ctx.set(dut.pause, paused)
                _, _, draining, end, finished, *values = await ctx.tick().sample(
                    dut.draining, dut.drained, dut.finished, *ports_seen
                )
                cycle += 1
                assert cycle < 2000
                if draining:
                    assert not paused
                    seen.append(tuple(values))
                    times.append(cycle)
                if end:
                    drained.append(len(seen) - 1)
                    waiting -= 1
            assert seen == expected
            assert drained == ends
            if stalls is None:
                steady.append(times)
            ctx.set(dut.done, 1)
            await ctx.tick()
            ctx.set(dut.done, 0)
            assert not ctx.get(dut.finished)

    exercise(dut, {}, {}, drive=drive, patience=5000)
    assert steady == [list(range(1, 1 + len(expected)))] * 2


def test_the_last_row_of_a_long_product() -> None:
    """Behind half of the largest vocabulary, of the longest heads, where a block's pairs are drained together."""
    machine = Machine("drained", MOST_PORTS, 512, 1, 32, 4096, 512, 512, 64, 64, stationary=True)
    dut, half_head = Drain(machine), LARGEST_HEAD // 2
    per_round, together = BLOCK_ROWS * MOST_PORTS, BLOCK_ROWS * machine.drain_ports
    assert machine.drain_pairs == PAIRS

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        def check(row: int) -> None:
            heads = [(row // 2 + PAIRS * i) % half_head for i in range(machine.drain_ports)]
            assert (ctx.get(dut.row), [ctx.get(rotary) for rotary in dut.rotary]) == (row, heads)

        ctx.set(dut.token_count, 1)
        ctx.set(dut.half_head, half_head)
        ctx.set(dut.round.ports, -1)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for first in range(0, LARGEST_VOCABULARY // 2 + per_round, per_round):
            ctx.set(dut.round.bank, first // per_round % 2)
            ctx.set(dut.round.done, 1)
            await ctx.tick()
            ctx.set(dut.round.done, 0)
            assert ctx.get(dut.draining)
            check(first)
            await ctx.tick().repeat(per_round // together - 1)
            check(first + per_round - together)
            await ctx.tick()
            assert not ctx.get(dut.draining)

    exercise(dut, {}, {}, drive=drive, seeds=(), patience=LARGEST_VOCABULARY)
