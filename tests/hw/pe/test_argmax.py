"""Each slot's largest result since the last clear, against NumPy: ties, both zeros, negative numbers, results that do not count."""

from __future__ import annotations

import numpy as np
import pytest

from hw.pe.argmax import Argmax
from tests.hw.arithmetic.operands import numbers
from tests.hw.bench import pipeline

COUNT, CYCLES = 4, 300


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("values", ["any", "ties", "negative"])
def test_best(values: str, slots: int) -> None:
    rng = np.random.default_rng(len(values))
    if values == "ties":
        patterns = rng.choice(np.array([0, 1 << 31, 0x3F800000, 0xBF800000, 0x3F800001], np.uint32), (CYCLES, COUNT))
    else:
        patterns = numbers(CYCLES * COUNT, rng).reshape(CYCLES, COUNT) | np.uint32((values == "negative") << 31)
    valid, enable, clear = rng.random((CYCLES, COUNT)) < 0.5, rng.random(CYCLES) < 0.8, rng.random(CYCLES) < 0.05
    clear[0] = True
    slot, asked = rng.integers(slots, size=(2, CYCLES))
    rows = np.cumsum(rng.integers(1, 9, CYCLES * COUNT)).reshape(CYCLES, COUNT)
    results = patterns.view(np.float32)
    best, largest, expected = [0] * slots, np.full(slots, -np.inf), []
    for cycle in range(CYCLES):
        if clear[cycle]:
            largest[:] = -np.inf
        elif enable[cycle]:
            of = slot[cycle]
            for k in range(COUNT):
                if valid[cycle, k] and results[cycle, k] > largest[of]:
                    best[of], largest[of] = int(rows[cycle, k]), results[cycle, k]
        expected.append(best[asked[cycle]])
    dut = Argmax(COUNT, slots)
    lanes = [
        (port[k], array[:, k])
        for port, array in ((dut.valid, valid), (dut.row, rows), (dut.result, patterns))
        for k in range(COUNT)
    ]
    operands = [(dut.clear, clear), (dut.enable, enable), (dut.slot, slot), (dut.asked, asked, dut.latency), *lanes]
    pipeline(dut, operands, [(dut.best, expected)], dut.latency)
