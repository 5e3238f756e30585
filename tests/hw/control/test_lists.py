"""Chunks cut from a prompt, and the lists that decisions leave of them."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.lists import TokenLists
from skipopu.isa.spec import TokenList
from skipopu.machine.config import Machine
from tests.hw.bench import exercise


@pytest.mark.parametrize("target", ["tiny", "trio"])
def test_lists(target: str) -> None:
    machine = Machine.load(target)
    dut, tokens = TokenLists(machine), machine.tokens

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        source = stalls or random.Random(9)
        for prompt in (1, tokens - 1, tokens, tokens + 1, 3 * tokens - 1):
            ctx.set(dut.restart, 1)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            executed, position = [0, 0], 0
            ctx.set(dut.prompt_length, prompt)
            while position < prompt + 3:
                count = min(tokens, prompt - position) if position < prompt else 1
                every = (1 << count) - 1
                ctx.set(dut.position, position)
                ctx.set(dut.open, 1)
                await ctx.tick()
                ctx.set(dut.open, 0)
                assert (ctx.get(dut.count), ctx.get(dut.last_slot)) == (count, count - 1)
                await ctx.tick()
                ends = position + count >= prompt
                lists = {
                    TokenList.ALL: every,
                    TokenList.ATTENTION: every,
                    TokenList.FFN: every,
                    TokenList.LAST: ends << count - 1,
                }
                for _ in range(3):
                    assert ctx.get(dut.ends) == ends
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
