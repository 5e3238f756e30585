"""Energy is events times what each takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.estimate import Workload, estimate
from sim.timing import energy
from skipopu.isa.registers import COUNTERS
from skipopu.machine.config import Machine

U280 = Machine.load("u280")


def test_energy_adds_up() -> None:
    part = estimate(U280, Workload("llama-3.2-1b", 8, 8))
    parts = energy.estimate(U280, part.decode)
    assert sum(p.joules.likely for p in parts) == pytest.approx(energy.total(parts).likely)
    assert all(p.joules.low <= p.joules.likely <= p.joules.high for p in parts)
    bits = 8 * U280.beat_bytes * (part.decode["READ_BEATS"] + part.decode["WRITE_BEATS"])
    assert parts[0].joules.likely == pytest.approx(bits * 3.92e-12)
    doubled = energy.estimate(U280, {name: 2 * value for name, value in part.decode.items()})
    assert energy.total(doubled).high == pytest.approx(2 * energy.total(parts).high)


def test_multipliers_that_keep_their_rows() -> None:
    """Half as many more of them, each at work for a beat instead of two; the codes go through a buffer."""
    machine = replace(U280, stationary=True)
    counters = dict.fromkeys(COUNTERS, 0) | {"ARRAY_BUSY": 1000, "READ_BEATS": 32_000}
    own, plain = (energy.estimate(m, counters) for m in (machine, U280))
    counts = [{part.event.name: part.count for part in parts} for parts in (own, plain)]
    assert counts[0][energy.PRODUCT.name] == 1.5 * counts[1][energy.PRODUCT.name]
    assert counts[0][energy.FIFO.name] == 2 * counts[1][energy.FIFO.name]
    assert counts[0]["HBM2 read or written"] == counts[1]["HBM2 read or written"]
