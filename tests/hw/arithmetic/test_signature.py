"""Hashes, their indices and their sums against the numerics."""

from __future__ import annotations

from functools import partial

import numpy as np
from amaranth.hdl import Const

from hw.arithmetic.signature import Signature, index, lane, mix
from skipopu.numerics import signature
from tests.hw.arithmetic.operands import RNG, function, numbers
from tests.hw.bench import pipeline

COUNT, LANES = 300, 3


def test_hash() -> None:
    where, value = numbers(COUNT), numbers(COUNT)
    function(partial(mix, name="x"), [(32, where), (32, value)], 32, signature.mix(where, value))


def test_index() -> None:
    slot, element = RNG.integers(0, 2**7, COUNT), RNG.integers(0, 2**18, COUNT)
    function(lambda m, s, e: index(Const(5, 3), s, e), [(7, slot), (18, element)], 32, signature.index(5, slot, element))
    base = element // 8 * 8
    function(lambda m, e: lane(e, 5, 8), [(18, base)], 18, base + 5)


def test_sum_of_lanes() -> None:
    """A write counts ``LATENCY`` cycles later, one that was there when the total was cleared too."""
    valid = RNG.integers(0, 2, (LANES, COUNT))
    where, value = (np.stack([numbers(COUNT) for _ in range(LANES)]) for _ in range(2))
    clear = RNG.integers(0, 12, COUNT) == 0
    clear[-1] = False  # the last inputs stand until the last result
    added = (signature.mix(where, value).astype(np.int64) * valid).sum(0)
    totals, total = [], 0
    for cycle in range(COUNT):
        # Cleared in the cycle in which the sum with the write would be kept: instead of it.
        kept = cycle + Signature.LATENCY - 1
        cleared = kept < COUNT and clear[kept]
        total = 0 if cleared else (total + int(added[cycle])) % 2**32
        totals.append(total)
    dut = Signature(LANES)
    operands = [
        (port, values)
        for ports, lanes in ((dut.valid, valid), (dut.where, where), (dut.value, value))
        for port, values in zip(ports, lanes, strict=True)
    ]
    pipeline(dut, [*operands, (dut.clear, clear)], [(dut.total, totals)], Signature.LATENCY)
