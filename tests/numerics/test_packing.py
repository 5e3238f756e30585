"""Packed products: proof by exhaustion that unpacking recovers each, and that no width can overflow."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.pe import multiplier, slice
from hw.pe.activation import MANTISSA_SUM_BITS
from hw.pe.dot import PROBABILITY_BITS, PackedDot
from skipopu.machine.config import Machine
from skipopu.numerics import align, half, packing
from skipopu.numerics.formats import FORMATS

# The definitions themselves, compiled: plain integer functions of numerics.
pack, halves, negative, repair = (numba.njit(f) for f in (packing.pack, packing.halves, packing.negative, packing.repair))
half_pack, half_unpack = numba.njit(half.pack), numba.njit(half.unpack)


@numba.njit
def count_wrong_pairs(first: int, last: int) -> tuple[int, int]:
    """(wrong products, wrong or too wide halves) over activations first..last and all pairs of 5-bit weights that 27 bits hold."""
    wrong = wide = 0
    for a in range(first, last + 1):
        for lower in range(-16, 16):
            for upper in range(-16 if lower >= 0 else -15, 16):
                operand = pack(lower, upper)
                if not -(1 << 26) <= operand < 1 << 26:
                    wide += 1
                below, above = halves(a * operand)
                if not (0 <= below < 1 << 22 and -(1 << 22) <= above < 1 << 22):
                    wide += 1
                p, q = repair(below, above, negative(below))
                if p != a * lower or q != a * upper:
                    wrong += 1
    return wrong, wide


@pytest.mark.slow
def test_every_packed_pair_is_recovered() -> None:
    """All 2^18 - 1 activations x (32 x 32 - 16) pairs of weights: 2.6 * 10^8 triples, about half a second compiled."""
    assert count_wrong_pairs(-align.ALIGNED_MAX, align.ALIGNED_MAX) == (0, 0)


def test_pairs_that_no_operand_holds() -> None:
    """Of all 32 x 32 pairs of 5-bit weights, exactly an upper -16 over a negative lower one leaves the 27-bit port."""
    lower, upper = np.meshgrid(np.arange(-16, 16), np.arange(-16, 16))
    operand = packing.pack(lower, upper)
    wide = (operand < -(1 << packing.WIDE_BITS - 1)) | (operand >= 1 << packing.WIDE_BITS - 1)
    assert (wide == ((upper == -16) & (lower < 0))).all()


def test_the_proof_can_fail() -> None:
    """One activation beyond the clip already breaks the lower product."""
    wrong, wide = count_wrong_pairs(-(1 << 17) - 1, -(1 << 17) - 1)
    assert wrong + wide > 0


@numba.njit(parallel=True)
def count_wrong_halves(space: int, cut: int) -> int:
    """Wrong products over all mantissas: 11 bits of the shared one, 11 - ``cut`` of the packed ones."""
    wrong = 0
    bits = 22 - cut
    mask = (1 << bits - space) - 1
    for shared in numba.prange(2048):
        for first in range(2048 >> cut):
            for second in range(2048 >> cut):
                product = half_pack(first, second, space) * shared
                low = ((second & mask) * (shared & mask)) & mask
                p, q = half_unpack(product, low, space, bits)
                if p != first * shared or q != second * shared:
                    wrong += 1
    return wrong


@pytest.mark.slow
def test_every_overpacked_pair_of_mantissas_is_recovered() -> None:
    """All 2^33 triples of 11-bit mantissas, zero and subnormals included: about 10 seconds compiled on two cores."""
    assert count_wrong_halves(half.OVERPACKED_SPACING, 0) == 0


@pytest.mark.slow
def test_every_truncated_pair_is_recovered() -> None:
    assert count_wrong_halves(half.TRUNCATED_SPACING, half.TRUNCATED_BITS) == 0


def test_without_repair_overpacking_fails() -> None:
    product = half.pack(np.int64(2047), np.int64(2047), half.OVERPACKED_SPACING) * 2047
    first, _ = half.unpack(product, np.int64(0), half.OVERPACKED_SPACING, half.PRODUCT_BITS)
    assert first != 2047 * 2047


@given(st.integers(12, 18), st.integers(0, 2**32))
def test_narrower_alignments_pack_as_well(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    largest = (1 << bits - 1) - 1
    a = rng.choice(np.array([-largest, largest, 0, 1, -1, int(rng.integers(-largest, largest + 1))]), 64)
    lower, upper = rng.integers(-16, 16, 64), rng.integers(-16, 16, 64)
    upper = np.where((upper == -16) & (lower < 0), -15, upper)
    space = packing.spacing(bits)
    product = a * ((upper << space) + lower)
    below, above = product & (1 << space) - 1, product >> space
    carry = below >> space - 1
    assert (below - (carry << space) == a * lower).all()
    assert (above + carry == a * upper).all()


# Widths: the largest magnitude that can occur against the register that holds it.

LARGEST_GROUP = 512
LARGEST_WEIGHT = 16  # of one 5-bit operand
MACHINES = [Machine.load(name) for name in ("tiny", "mono", "trio", "u280-slice4", "u280")]


def holds(bits: int, largest: int) -> bool:
    """Whether a signed number of ``bits`` bits holds +-``largest``."""
    return largest < 1 << bits - 1


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
def test_no_sum_of_a_group_overflows(machine: Machine) -> None:
    dot = PackedDot(machine.weight_lanes, machine.multiplier, FORMATS)
    a = align.ALIGNED_MAX
    assert holds(packing.SPACING, a * LARGEST_WEIGHT)
    assert holds(len(dot.lower), machine.weight_lanes * a * LARGEST_WEIGHT)
    assert holds(slice.ROW_SUM_BITS, LARGEST_GROUP * a * LARGEST_WEIGHT)
    assert holds(slice.ROW_SUM_BITS, LARGEST_GROUP * a * (LARGEST_WEIGHT + 15))  # -z times a sum, and nibbles up to 15
    assert holds(MANTISSA_SUM_BITS, LARGEST_GROUP * a)
    assert holds(slice.SUM_BITS, LARGEST_GROUP * a * 128)
    assert holds(slice.SUM_BITS + 12, LARGEST_GROUP * a * 128 * 2047)  # times the scale's mantissa
    assert slice.SUM_BITS + 12 < 62  # the model's integers are 64 bits wide
    quarter = machine.kv_lanes
    assert holds(PackedDot.dot_bits(machine.weight_lanes), quarter * a * (1 << 17))
    assert holds(PROBABILITY_BITS + align.ALIGNED_BITS, (1 << PROBABILITY_BITS - 1) * (1 << 17))


def test_exponents_of_reconstruction_fit() -> None:
    """Activation exponent 1..254, scale exponent 1..30, sums of up to 47 bits: within the converter's signed 12 bits."""
    low, high = 1 + 1 - (align.ALIGNED_BIAS + 25), 254 + 30 - (align.ALIGNED_BIAS + 25)
    bias = 127 + slice.SUM_BITS + 12 - 1
    assert low - 64 >= -2048
    assert high + bias < 2048


def test_units_fit_their_primitives() -> None:
    """27 x 18 signed, 18 x 18 signed for the halves of a split operand."""
    assert packing.WIDE_BITS <= 27
    assert align.ALIGNED_BITS <= 18
    assert multiplier.SPLIT + 1 <= 18
    assert packing.WIDE_BITS - multiplier.SPLIT <= 18
    assert half.OVERPACKED_SPACING + half.MANTISSA_BITS <= 26  # and a sign
    assert half.TRUNCATED_SPACING + half.MANTISSA_BITS - half.TRUNCATED_BITS <= 26
