"""The evaluator against the tables, bit for bit."""

from __future__ import annotations

import numpy as np

from hw.arithmetic.quadratic import Quadratic
from skipopu.numerics import tables
from tests.hw.arithmetic.operands import RNG
from tests.hw.bench import pipeline

COUNT = 500


def test_all_tables_in_turn() -> None:
    which = RNG.integers(0, len(tables.TABLES), COUNT)
    u = np.array([RNG.integers(0, 1 << tables.TABLES[i].argument_bits) for i in which])
    expected = [int(tables.TABLES[i].evaluate(np.array(v))) for i, v in zip(which, u, strict=True)]
    dut = Quadratic(tables.TABLES)
    pipeline(dut, [(dut.select, which), (dut.u, u)], [(dut.y, expected)], Quadratic.LATENCY)


def test_one_table_from_end_to_end() -> None:
    last = (1 << tables.RSQRT.argument_bits) - 1
    u = np.unique(np.concatenate([np.linspace(0, last, 300).astype(np.int64), [1, last - 1]]))
    dut = Quadratic((tables.RSQRT,))
    pipeline(dut, [(dut.u, u)], [(dut.y, tables.RSQRT.evaluate(u))], Quadratic.LATENCY)
