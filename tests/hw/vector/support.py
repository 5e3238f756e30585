"""What the vector units' tests share: packed words, a model of the buffer, random pauses."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
from amaranth.sim import SimulatorContext

from hw.memory.buffer import BufferRead
from tests.hw.bench import Part


def packed(values: Iterable[int], bits: int = 32) -> int:
    """``values`` side by side, the first one lowest."""
    return sum((int(value) & (1 << bits) - 1) << bits * k for k, value in enumerate(values))


def unpacked(word: int, count: int, bits: int = 32, signed: bool = False) -> list[int]:
    values = [word >> bits * k & (1 << bits) - 1 for k in range(count)]
    return [value - (value >> bits - 1 << bits) for value in values] if signed else values


def buffer(read: BufferRead, contents: np.ndarray, lanes: int) -> Part:
    """Answers ``read`` from ``contents``, 32-bit patterns; a word that was not asked for is noise."""

    async def answer(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        noise = random.Random(5)
        async for _, _, address, enable in ctx.tick().sample(read.address, read.enable):
            first = address // lanes * lanes
            ctx.set(read.data, packed(contents[first : first + lanes]) if enable else noise.getrandbits(32 * lanes))

    return answer


async def pause(ctx: SimulatorContext, stalls: random.Random | None) -> int:
    """Lets some cycles pass, none without stalls; how many."""
    cycles = stalls.choice((0, 0, 0, 1, 2, 7)) if stalls else 0
    if cycles:
        await ctx.tick().repeat(cycles)
    return cycles
