"""Units of a comparison, driven from cycle to cycle."""

from __future__ import annotations

import numpy as np
from amaranth.sim import SimulatorContext

from hw.pe.variants.variant import Variant
from tests.hw.bench import simulation


def number(values: np.ndarray, bits: int) -> int:
    """Fields of ``bits``, the first lowest."""
    return sum((int(value) & (1 << bits) - 1) << bits * k for k, value in enumerate(values))


def outputs(dut: Variant, inputs: dict[str, list[int]], cycles: int) -> dict[str, list[int]]:
    """What the unit gives in each cycle, of inputs that begin in cycle 0."""
    seen: dict[str, list[int]] = {name: [] for name in dut.outputs}

    async def bench(ctx: SimulatorContext) -> None:
        for cycle in range(cycles):
            for name, values in inputs.items():
                ctx.set(dut.inputs[name], values[cycle] if cycle < len(values) else 0)
            for name, signal in dut.outputs.items():
                seen[name].append(ctx.get(signal))
            await ctx.tick()

    simulator = simulation(dut)
    simulator.add_testbench(bench)
    simulator.run()
    return seen
