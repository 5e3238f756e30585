"""A queue starts its head once all its tokens are there, and retires in order."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.issue import UNITS
from hw.control.queue import UnitQueue
from skipopu.isa.spec import ALIGN
from skipopu.machine.config import Machine
from tests.hw.bench import exercise

PERIOD, LATENCY = 3, 3
MONO = Machine.load("mono")


def digest(pc: int) -> int:
    return pc * 0x9E3779B1 % (1 << 32)


def test_instructions_wait_run_and_retire() -> None:
    dut, source = UnitQueue(MONO), random.Random(1)
    heads = [{"pop": source.getrandbits(3), "push": source.getrandbits(3)} for _ in range(30)]
    issued = [
        {"word": ALIGN.encode(head), "pc": 7 * k, "sequence": 1000 + k, "empty": k % 5 == 2} for k, head in enumerate(heads)
    ]
    retired = [{"pc": i["pc"], "sequence": i["sequence"], "signature": 0 if i["empty"] else digest(i["pc"])} for i in issued]
    pops, pushes = [head["pop"] for head in heads if head["pop"]], [head["push"] for head in heads if head["push"]]

    async def units(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        tokens, taken, given = [0] * UNITS, 0, 0
        while True:
            for unit in range(UNITS):
                tokens[unit] += stalls is None or stalls.random() < 0.2
            there = sum((count > 0) << unit for unit, count in enumerate(tokens))
            ctx.set(dut.tokens, there)
            ctx.set(dut.done, stalls is None or stalls.random() < 0.3)
            ctx.set(dut.digest, digest(ctx.get(dut.instruction.pc)))
            sampled = ctx.tick().sample(dut.take, dut.give, dut.active, dut.instruction.empty)
            *_, take, give, active, empty = await sampled
            assert not (active and empty)
            if take:
                assert take == pops[taken]
                assert take & ~there == 0
                taken += 1
            if give:
                assert give == pushes[given]
                given += 1
            tokens = [count - (take >> unit & 1) for unit, count in enumerate(tokens)]

    run = exercise(dut, {dut.issue: issued}, {dut.retired: retired}, beside=units)
    waits = [b - a for a, b in zip(run.given[dut.retired], run.given[dut.retired][1:], strict=False)]
    assert run.given[dut.retired][0] == run.taken[dut.issue][0] + LATENCY + 1
    assert waits == [PERIOD - bool(instruction["empty"]) for instruction in issued[1:]]


def test_tokens_are_taken_together() -> None:
    dut, taken = UnitQueue(MONO), []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.issue.payload.word, ALIGN.encode({"pop": 0b111}))
        ctx.set(dut.issue.valid, 1)
        assert ctx.get(dut.idle)
        await ctx.tick()
        ctx.set(dut.issue.valid, 0)
        for tokens in (0, 0, 0b001, 0b011, 0b110, 0b101, 0b111, 0, 0):
            ctx.set(dut.tokens, tokens)
            taken.append(ctx.get(dut.take))
            assert not ctx.get(dut.idle)
            await ctx.tick()
        assert ctx.get(dut.active)

    exercise(dut, {}, {dut.retired: []}, drive=drive, seeds=())
    assert taken == [0, 0, 0, 0, 0, 0, 0b111, 0, 0]


@pytest.mark.parametrize("pop", range(1 << UNITS))
def test_every_set_of_tokens(pop: int) -> None:
    """Some of those that it pops are not enough, others beside them change nothing and stay."""
    dut = UnitQueue(MONO)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.issue.payload.word, ALIGN.encode({"pop": pop}))
        ctx.set(dut.issue.valid, 1)
        await ctx.tick()
        ctx.set(dut.issue.valid, 0)
        ctx.set(dut.tokens, ~pop)
        for _ in range(2 if pop else 1):
            await ctx.tick()
        for tokens in range(1 << UNITS):
            ctx.set(dut.tokens, tokens)
            assert ctx.get(dut.take) == (0 if pop & ~tokens else pop)
            assert ctx.get(dut.waiting) == bool(pop & ~tokens)
            ctx.set(dut.tokens, ~pop)
        assert not ctx.get(dut.active)

    exercise(dut, {}, {dut.retired: []}, drive=drive, seeds=())
