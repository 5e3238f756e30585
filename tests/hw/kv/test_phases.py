"""The phases follow one another, each after the end of the one before it, with the promised cycles between them."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import Signal
from amaranth.sim import SimulatorContext

from hw.kv.phases import Phases
from tests.hw.kv.support import simulate


def test_the_order_and_its_cycles() -> None:
    dut, rng = Phases(), np.random.default_rng(0)
    outputs = {
        "idle": dut.idle,
        "begin": dut.begin,
        "start_keys": dut.start_keys,
        "keys": dut.phase.keys,
        "values": dut.phase.values,
        "to_keys": dut.soon.keys,
        "to_values": dut.soon.values,
        "divide": dut.divide,
    }
    ends = (dut.active, dut.listed, dut.keys_done, dut.values_done, dut.divided)

    async def bench(ctx: SimulatorContext) -> None:
        async def cycle(*expected: str, given: Signal | None = None) -> None:
            for signal in ends:  # what another phase waits for says nothing now
                ctx.set(signal, signal is given or (signal is not due and int(rng.integers(2))))
            assert {name for name, signal in outputs.items() if ctx.get(signal)} == set(expected)
            await ctx.tick()

        for _ in range(5):
            wait = [int(rng.integers(0, 4)) for _ in range(5)]
            due = dut.active
            for _ in range(wait[0]):
                await cycle("idle")
            await cycle("idle", "begin", given=dut.active)
            due = dut.listed
            for _ in range(wait[1]):
                await cycle()
            await cycle(given=dut.listed)
            await cycle("start_keys", "to_keys")
            due = dut.keys_done
            for _ in range(wait[2]):
                await cycle("keys", "to_keys")
            await cycle("keys", "to_keys", given=dut.keys_done)
            await cycle("to_values")
            due = dut.values_done
            for _ in range(wait[3]):
                await cycle("values", "to_values")
            await cycle("values", "to_values", "divide", given=dut.values_done)
            due = dut.divided
            for _ in range(wait[4]):
                await cycle()
            await cycle(given=dut.divided)

    simulate(dut, bench)
