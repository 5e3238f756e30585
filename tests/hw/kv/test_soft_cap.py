"""The cap of a score against the numerics, of all kinds of numbers, a score per cycle."""

from __future__ import annotations

import numpy as np
import pytest

from hw.kv.soft_cap import SoftCap
from skipopu.machine.config import Machine
from skipopu.numerics import fp32, soft_cap
from tests.hw.arithmetic.operands import RNG, numbers
from tests.hw.bench import pipeline


@pytest.mark.parametrize("cap", [soft_cap.LEAST, 1.0, 50.0, soft_cap.LARGEST])
def test_every_kind_of_score(cap: float) -> None:
    factor = soft_cap.factor(cap)
    near = (RNG.standard_normal(300) * 10.0 ** RNG.integers(-7, 2, 300)).astype(np.float32)
    ends = np.array([0, -0.0, 16, -16, np.nextafter(np.float32(16), np.float32(0)), 2.0**-20, -(2.0**-21)], np.float32)
    score = np.concatenate([fp32.bits(near), fp32.bits(ends), numbers(300)])
    dut = SoftCap(Machine.load("tiny"))
    expected = fp32.bits(soft_cap.capped(score.view(np.float32), factor))
    pipeline(dut, [(dut.factor, [int(fp32.bits(factor))]), (dut.score, score)], [(dut.capped, expected)], SoftCap.LATENCY)
