"""Groups of a word against a model of their places, pieces and lengths."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.pe.spread import Spread
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BITS

MACHINE = Machine.load("tiny")
LANES = MACHINE.weight_lanes


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_every_place_and_piece(pieces: int) -> None:
    dut, rng, group = Spread(MACHINE), np.random.default_rng(pieces), LANES // pieces

    def packed(lanes: np.ndarray) -> int:
        return sum(int(v) << ALIGNED_BITS * k for k, v in enumerate(lanes))

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.half, pieces == 2)
        ctx.set(dut.quarter, pieces == 4)
        for place in range(pieces):
            for piece in range(pieces):
                word, wanted = rng.integers(0, 1 << ALIGNED_BITS, LANES), np.zeros(LANES, np.int64)
                wanted[piece * group : (piece + 1) * group] = word[place * group : (place + 1) * group]
                ctx.set(dut.word, packed(word))
                ctx.set(dut.place, 4 * place // pieces)
                ctx.set(dut.piece, piece)
                assert ctx.get(dut.operands) == packed(wanted)

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
