"""The accumulating multiplier: its register is the sum of products, and the two sums in it are exact for a whole group.

The bound of a sum grows by a term's, and what is inside the bound of a group's is taken apart exactly:
:mod:`skipopu.numerics.accumulate`'s own function is applied to signals.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Mux, Signal, Value, signed

from hw.pe.stationary.multiplier import Multiplier
from skipopu.numerics.accumulate import SIDE_BITS, SPACING, SUM_BITS, TERMS, WIDTH, apart
from skipopu.numerics.align import ALIGNED_BITS
from tests.formal.laws import Laws, Unit

WIDE, NARROW = 5, 4  # bits of operands of the unit here
WEIGHT_BITS = 4
HEAVIEST = 1 << WEIGHT_BITS - 1  # magnitude of a weight
LARGEST = (1 << ALIGNED_BITS - 1) - 1  # of an activation


def laws() -> Laws:
    """Of the unit."""
    laws, unit = Laws(), Multiplier(WIDE, NARROW)
    m = laws.m
    m.submodules.unit = unit
    laws.drive(unit.wide, unit.narrow, unit.valid, unit.more)
    product = Signal(signed(WIDE + NARROW))
    m.d.comb += product.eq(laws.before(unit.wide).as_signed() * unit.narrow)
    total = Signal(signed(WIDTH))
    ready = laws.before(laws.before(laws.before(product))).as_signed()
    with m.If(unit.valid):
        m.d.sync += total.eq(Mux(unit.more, total, 0) + ready)
    laws.law("the register holds the sum of the products since the first one", unit.total == total)
    laws.reached("a sum of products is below zero, after one above", (total < -100) & (laws.before(total).as_signed() > 0))
    return laws


def group_laws() -> Laws:
    """Of two sums in one register."""
    laws = Laws()
    m = laws.m

    def free(bits: int) -> Value:
        return laws.free(bits).as_signed()

    # The bound of a sum of so many terms, and one more
    x, weight = free(ALIGNED_BITS), free(WEIGHT_BITS)
    laws.assume(x != -LARGEST - 1)
    count, total = laws.free(range(TERMS)), free(SUM_BITS)
    most = Signal(SUM_BITS + 1)
    m.d.comb += most.eq(count * HEAVIEST * LARGEST)
    after, more = total + weight * x, most + HEAVIEST * LARGEST
    within = (total <= most) & (total >= -most)
    laws.law(
        f"a sum of up to {TERMS} products has {SUM_BITS} bits",
        ~within | ((after <= more) & (after >= -more) & (after == after[:SUM_BITS].as_signed())),
    )
    # What the register and the bits beside it hold of any two such sums
    low, high = free(SUM_BITS), free(SUM_BITS)
    register: Any = ((high << SPACING) + low)[:WIDTH]
    beside: Any = high[:SIDE_BITS]
    found_low, found_high = apart(register, beside)
    laws.law(f"two sums of {SUM_BITS} bits are taken apart exactly", (found_low == low) & (found_high == high))
    laws.reached(
        "a sum of as many terms as there may be, all of the largest magnitude",
        within & (count == TERMS - 1) & (total == most) & (weight * x == HEAVIEST * LARGEST),
    )
    return laws


UNITS = (
    Unit("hw/pe/stationary/multiplier.py", laws, f"operands of {WIDE} and {NARROW} bits"),
    Unit(
        "skipopu/numerics/accumulate.py",
        group_laws,
        f"activations of {ALIGNED_BITS} bits, weights from {-HEAVIEST} to {HEAVIEST - 1}",
    ),
)
