"""Sums of signed values over ports, one per cycle, a cycle per level."""

from __future__ import annotations

import numpy as np
import pytest

from hw.kv.port_sum import PortSum
from hw.pe.dot import WEIGHTED_BITS
from skipopu.machine.config import Machine
from tests.hw.bench import pipeline


@pytest.mark.parametrize("target", ["tiny", "trio"])
def test_against_numpy(target: str) -> None:
    machine = Machine.load(target)
    dut, rng = PortSum(machine), np.random.default_rng(0)
    limit = 1 << WEIGHTED_BITS - 1
    values = rng.integers(-limit, limit, (machine.ports, 60))
    values[:, 0], values[:, 1] = -limit, limit - 1
    sums = values.sum(0) % (1 << len(dut.sum))
    pipeline(
        dut, list(zip(dut.product, values % (2 * limit), strict=True)), [(dut.sum, sums)], (machine.ports - 1).bit_length()
    )
