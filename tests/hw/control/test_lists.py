"""Chunks cut from a prompt and from what is known behind it, and the lists that decisions leave of them."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.lists import TokenLists
from skipopu.isa.registers import NO_POSITION
from skipopu.isa.spec import TokenList
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT
from tests.hw.bench import exercise


@pytest.mark.parametrize("target", ["tiny", "trio"])
def test_lists(target: str) -> None:
    machine = Machine.load(target)
    dut, tokens = TokenLists(machine), machine.tokens

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        source = stalls or random.Random(9)
        for prompt, behind, wanted in (
            (1, 0, NO_POSITION),
            (tokens - 1, tokens + 2, 0),
            (tokens, 1, tokens),
            (tokens + 1, 0, tokens - 1),
            (3 * tokens - 1, 2 * tokens, 2 * tokens + 1),
            (2, tokens, tokens),
            (2, tokens, NO_POSITION - 1),
            (tokens, tokens, NO_POSITION),
        ):
            known = prompt + behind
            ctx.set(dut.restart, 1)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            executed, position = [0, 0], 0
            ctx.set(dut.prompt_length, prompt)
            ctx.set(dut.known_length, known)
            ctx.set(dut.predict_from, wanted)
            while position < known + 3:
                count = max(1, min(tokens, (prompt if position < prompt else known) - position))
                every = (1 << count) - 1
                ctx.set(dut.position, position)
                ctx.set(dut.open, 1)
                await ctx.tick()
                ctx.set(dut.open, 0)
                assert (ctx.get(dut.count), ctx.get(dut.last_slot)) == (count, count - 1)
                await ctx.tick().repeat(2)
                ends = position + count >= known
                asked = sum(1 << slot for slot in range(count) if position + slot >= wanted)
                lists = {
                    TokenList.ALL: every,
                    TokenList.ATTENTION: every,
                    TokenList.FFN: every,
                    TokenList.LAST: ends << count - 1 | asked,
                }
                for _ in range(3):
                    assert (ctx.get(dut.ends), ctx.get(dut.asked)) == (ends, asked)
                    assert ctx.get(dut.decoding) == (position >= prompt)
                    for chosen, mask in lists.items():
                        ctx.set(dut.chosen, chosen)
                        assert ctx.get(dut.mask) == mask, chosen
                    assert [ctx.get(dut.executed_attention), ctx.get(dut.executed_ffn)] == executed
                    decision = [source.getrandbits(count) for _ in range(2)]
                    ctx.set(dut.routed.attention, decision[0])
                    ctx.set(dut.routed.ffn, decision[1])
                    if source.random() < 0.8:
                        ctx.set(dut.decided, 1)
                        lists[TokenList.ATTENTION], lists[TokenList.FFN] = decision
                        executed = [n + bits.bit_count() for n, bits in zip(executed, decision, strict=True)]
                    await ctx.tick()
                    ctx.set(dut.decided, 0)
                position += count

    exercise(dut, {}, {}, drive=drive, seeds=range(1))


@pytest.mark.parametrize("known", [LARGEST_CONTEXT, 1 << 31])
def test_the_ends_of_the_longest_prompt(known: int) -> None:
    """Its first chunk is full, its last one as long as what is left of it."""
    machine = Machine.load("tiny")
    dut, tokens = TokenLists(machine), machine.tokens

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for left in (known, tokens + 1, tokens, tokens - 1, 1, 0):
            ctx.set(dut.position, known - left)
            ctx.set(dut.open, 1)
            await ctx.tick()
            ctx.set(dut.open, 0)
            await ctx.tick().repeat(2)
            ctx.set(dut.chosen, TokenList.LAST)
            count = max(1, min(tokens, left))
            asked = sum(1 << slot for slot in range(count) if slot >= left - 1)
            seen = [ctx.get(port) for port in (dut.count, dut.ends, dut.decoding, dut.mask)]
            assert seen == [count, left <= count, left == 0, asked | (left <= count) << count - 1], left

    constants = [(dut.prompt_length, known), (dut.known_length, known), (dut.predict_from, known - 1)]
    exercise(dut, {}, {}, constants=constants, drive=drive, seeds=())
