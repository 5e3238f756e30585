"""Both multiplier primitives give the exact product, and one of them is the block with nothing beside it."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from amaranth.hdl import Module, signed

from hw.component import Component, given, gives
from hw.emit import component_verilog, library_verilog
from hw.library import Library
from hw.pe.dot import PackedDot
from hw.pe.multiplier import LATENCY, Product, multiply
from hw.synthesis import Design
from skipopu.errors import SkipopuError
from skipopu.numerics.formats import FORMATS
from tests.hw.bench import pipeline
from tests.hw.pe.stationary.test_multiplier import OPERANDS, forms, proven

WIDE, NARROW = 27, 18


class Multiplier(Component):
    """One multiplier. Latency: LATENCY cycles. Throughput: a product per cycle."""

    def __init__(self, primitive: str) -> None:
        self.primitive = primitive
        self.wide, self.narrow = given(signed(WIDE), "an operand"), given(signed(NARROW), "the other")
        self.product = gives(signed(WIDE + NARROW), "their product")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.product.eq(multiply(m, self.primitive, self.wide, self.narrow, "product"))
        return m


@pytest.mark.parametrize("primitive", ["27x18", "18x18"])
def test_products(primitive: str) -> None:
    source = random.Random(6)

    def numbers(bits: int) -> list[int]:
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        corners = [low, low + 1, -1, 0, 1, high]
        return [a for a in corners for _ in corners] + [source.randint(low, high) for _ in range(300)]

    wide, narrow = numbers(WIDE), numbers(NARROW)
    narrow[:36] = [narrow[6 * (k % 6)] for k in range(36)]  # every corner with every other
    dut = Multiplier(primitive)
    products = [a * b for a, b in zip(wide, narrow, strict=True)]
    pipeline(dut, [(dut.wide, wide), (dut.narrow, narrow)], [(dut.product, products)], LATENCY)


BENCH = (
    OPERANDS
    + """
  instantiated one_unit(.clk(clk), .rst(1'b0), .wide(a[63:39]), .narrow(b[63:46]), .product(one));
  described two_unit(.clk(clk), .rst(1'b0), .wide(a[63:39]), .narrow(b[63:46]), .product(two));
  always @* if (begun > 8) assert (one[42:0] == two[42:0]);
endmodule
"""
)


@pytest.mark.synth
def test_both_forms_give_the_same_products(tmp_path: Path) -> None:
    proven(Product(25, 18), BENCH, tmp_path, ("", ""))


@pytest.mark.synth
@pytest.mark.parametrize("wrong", [(".PREG(32'd1)", ".PREG(32'd0)"), (".AREG(32'd1)", ".AREG(32'd2)"), ("9'h005", "9'h025")])
def test_a_wrong_instance_is_found(wrong: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(SkipopuError, match="proof did fail"):
        proven(Product(25, 18), BENCH, tmp_path, wrong)


def test_instance() -> None:
    """A register for each operand, in the multiplier and behind it, enabled; sign bits fill what the operand leaves of the port."""
    instance, _ = forms(Product(25, 18))
    used = {name for name, count in re.findall(r"\.(\w+)\(32'd(\d)\)", instance) if count == "1"}
    assert used == {"AREG", "ACASCREG", "BREG", "BCASCREG", "MREG", "PREG"}
    assert set(re.findall(r"\.(CE\w+)\(1'h1\)", instance)) == {"CEA2", "CEB2", "CEM", "CEP"}
    assert ".A({ wide[24], wide[24], wide[24], wide[24], wide[24], wide })" in instance


@pytest.mark.synth
def test_a_block_holds_its_registers() -> None:
    library, lanes = Library(), 8
    dot = component_verilog(PackedDot(lanes, "27x18", FORMATS, library=library), "unit")
    design = Design(dot + library_verilog(library))
    (name,) = library.modules
    assert design.instances("unit", name) == lanes
    found = design.synthesise(name, "ultrascale+")
    assert (found.dsp, found.ff, found.lut) == (1, 0, 0)
