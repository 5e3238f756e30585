"""Energy is events times what each takes."""

from __future__ import annotations

import pytest

from sim.estimate import Workload, estimate
from sim.timing import energy
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
