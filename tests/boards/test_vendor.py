"""Projects for AMD's tools: valid, complete, and the same ports and addresses in every file as in the Verilog."""

from __future__ import annotations

import dataclasses
import functools
import re
import tkinter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from boards.board import Board, BoardError, check, committed_resources, names
from boards.vendor.project import CONTROL_ADDRESS, INSTANCE, project
from hw.synthesis import Design, Resources
from sim.compare.findings import estimated_clock
from skipopu import shell
from skipopu.machine.config import Machine
from skipopu.shell import MODULE
from tests.boards.tcl import record

VENDOR = [name for name in names() if Board.load(name).flow != "open"]
VITIS = [name for name in VENDOR if Board.load(name).flow == "vitis"]
VIVADO = [name for name in VENDOR if Board.load(name).flow == "vivado"]


@functools.cache
def files(name: str) -> dict[str, str]:
    board = Board.load(name)
    return project(board, Machine.load(board.target))


@functools.cache
def ports(name: str) -> dict[str, tuple[str, int]]:
    """(direction, bits) of every port of the shell's Verilog."""
    module = re.search(rf"^module {MODULE}\(.*?^endmodule", files(name)[f"{MODULE}.v"], re.MULTILINE | re.DOTALL)
    assert module is not None
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", module[0], re.MULTILINE)
    return {port: (direction, int(top or 0) + 1) for direction, top, port in found}


def buses(name: str) -> list[str]:
    return sorted({port.rsplit("_", 1)[0] for port in ports(name) if port.startswith("m_axi_")})


@pytest.mark.slow
@pytest.mark.parametrize("name", VENDOR)
def test_packaging_script(name: str, tmp_path: Path) -> None:
    calls = record(files(name)["package.tcl"], tmp_path)
    board = Board.load(name)
    assert ("create_project", "-force", "package", "package", "-part", board.part) in calls
    clocks = {call[2]: call[4] for call in calls if call[:2] == ("ipx::associate_bus_interfaces", "-busif")}
    assert sorted(clocks) == sorted([*buses(name), "s_axi_control"])
    assert clocks["s_axi_control"] == "ap_clk"
    assert {clocks[bus] for bus in buses(name)} == {"ap_clk_2" if board.flow == "vitis" else "ap_clk"}
    for call in calls:
        if call[:2] == ("ipx::associate_bus_interfaces", "-clock"):
            assert ports(name)[call[2]] == ports(name)[call[4]] == ("input", 1)
    # Every register of the generated table, at its address.
    offsets = [call[2] for call in calls if call[:2] == ("set_property", "address_offset")]
    named = [call[1] for call in calls if call[0] == "ipx::add_register"]
    table = [line.split(",")[:2] for line in files(name)["registers.csv"].splitlines()[1:]]
    halves = {f"{name.removesuffix('_LOW')}_HIGH" for _, name in table if name.endswith("_LOW")}
    expected = {name.removesuffix("_LOW"): int(address, 16) for address, name in table if name not in halves}
    assert {register: int(offset, 16) for register, offset in zip(named, offsets, strict=True)} == expected
    assert max(expected.values()) < 1 << ports(name)["s_axi_control_awaddr"][1]
    packaged = [call for call in calls if call[0] == "package_xo"]
    assert len(packaged) == (board.flow == "vitis")


@pytest.mark.slow
@pytest.mark.parametrize("name", VITIS)
def test_floor_plan_names_instances(name: str) -> None:
    """Every cell that is given a die is an instance of the Verilog, by its way from the shell, and none is given two."""
    below = Design(files(name)[f"{MODULE}.v"]).modules
    given = re.findall(r"USER_SLR_ASSIGNMENT SLR(\d) \[get_cells -quiet \{ (.*?) \}\]", files(name)["floorplan.xdc"])
    cells = [cell for _, named in given for cell in named.split()]
    assert len(cells) == len(set(cells)) == 9 * len(buses(name)) + 1
    assert {int(die) for die, _ in given} == set(range(Board.load(name).dies))
    for cell in cells:
        module = MODULE
        for instance in cell.split("/"):
            found = re.search(rf"^  (\\?\S+) +\\?{instance} +\($", below[module], re.MULTILINE)
            assert found is not None, cell
            module = found[1]
    (net,) = re.findall(
        r"^set_property MAX_FANOUT_MODE SLR \[get_nets -quiet overlay/(\w+)\]$", files(name)["floorplan.xdc"], re.M
    )
    assert re.search(rf"^  reg {net} = 1'h1;$", below["overlay"], re.MULTILINE), "the reset's register"


@pytest.mark.slow
@pytest.mark.parametrize("name", VITIS)
def test_kernel_description(name: str) -> None:
    root = ElementTree.fromstring(files(name)["kernel.xml"])
    kernel = root.find("kernel")
    assert root.tag == "root"
    assert kernel is not None
    assert kernel.attrib["name"] == MODULE
    assert kernel.attrib["hwControlProtocol"] == "user_managed"
    machine = Machine.load(Board.load(name).target)
    masters = {port.attrib["name"]: port.attrib for port in kernel.iterfind("ports/port") if port.attrib["mode"] == "master"}
    slaves = [port.attrib for port in kernel.iterfind("ports/port") if port.attrib["mode"] == "slave"]
    assert sorted(masters) == buses(name)
    assert len(masters) == machine.ports
    for bus, attributes in masters.items():
        assert ports(name)[f"{bus}_rdata"] == ("input", int(attributes["dataWidth"]))
        assert ports(name)[f"{bus}_wdata"] == ("output", machine.port_bits // 2)
        assert ports(name)[f"{bus}_araddr"] == ("output", 64)
    assert [slave["name"] for slave in slaves] == ["s_axi_control"]
    assert int(slaves[0]["range"], 16) == 1 << ports(name)["s_axi_control_araddr"][1]
    arguments = [a.attrib for a in kernel.iterfind("args/arg")]
    assert [a["port"] for a in arguments] == buses(name)
    assert [int(a["offset"], 16) for a in arguments] == [shell.base_register(p) for p in range(machine.ports)]
    assert [int(a["id"]) for a in arguments] == list(range(machine.ports))


@pytest.mark.slow
@pytest.mark.parametrize("name", VITIS)
def test_link_configuration(name: str) -> None:
    text, board = files(name)["link.cfg"], Board.load(name)
    connected = re.findall(rf"^sp={INSTANCE}\.(\w+):HBM\[(\d+)\]$", text, re.MULTILINE)
    assert [bus for bus, _ in connected] == buses(name)
    assert [int(channel) for _, channel in connected] == list(range(len(connected)))
    assert len(connected) <= board.memory.channels
    assert f"nk={MODULE}:1:{INSTANCE}" in text
    assert f"platform={board.platform}" in text
    clocks = dict(re.findall(rf"^freqHz=(\d+):{INSTANCE}\.(\w+)$", text, re.MULTILINE)[::1])
    assert {clock: int(hertz) for hertz, clock in clocks.items()} == {
        "ap_clk": Machine.load(board.target).clock_mhz * 1e6,
        "ap_clk_2": 450_000_000,
    }
    assert all(ports(name)[clock] == ("input", 1) for clock in clocks.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", VITIS)
def test_constraints_of_the_crossings(name: str, tmp_path: Path) -> None:
    """Both directions between the two clocks, and patterns that name what the Verilog has."""
    text, verilog, board = files(name)["crossings.xdc"], files(name)[f"{MODULE}.v"], Board.load(name)
    calls = record(text, tmp_path)
    clocks = [call[1] for call in calls if call[0] == "get_ports"]
    assert clocks == ["ap_clk", "ap_clk_2"]
    assert all(ports(name)[clock] == ("input", 1) for clock in clocks)
    limits = [call for call in calls if call[0] == "set_max_delay"]
    assert [(call[3], call[5]) for call in limits] == [
        (f"get_clocks@get_ports@{a}", f"get_clocks@get_ports@{b}") for a, b in (clocks, clocks[::-1])
    ]
    assert all(float(call[6]) <= 1000 / board.memory.mhz for call in limits)
    # Instances and registers behind the patterns' names; a register whose reset is asynchronous and sets it has a pin PRE.
    patterns = [
        call[3].removeprefix("NAME =~ ")
        for call in calls
        if call[:2] in (("get_pins", "-hierarchical"), ("get_cells", "-hierarchical"))
    ]
    assert patterns == ["*rst_cdc/stage*_reg/PRE", "*_cdc/stage*_reg*"]
    crossing = set(re.findall(r"^  \\gearbox\S*  (\w+_cdc) \($", verilog, re.MULTILINE))
    assert crossing == {"produce_cdc", "consume_cdc", "consume_buffered_cdc", "rst_cdc"}
    for module in re.findall(r"^module \\gearbox\S*_cdc .*?^endmodule", verilog, re.MULTILINE | re.DOTALL):
        assert re.findall(r"^  reg (?:\[\d+:0\] )?(\w+)", module, re.MULTILINE)[:2] == ["stage0", "stage1"]
    added = record(files(name)["package.tcl"], tmp_path)
    assert ("add_files", "-fileset", "constrs_1", "-norecurse", "crossings.xdc") in added
    assert ("set_property", "processing_order", "LATE", "get_files@crossings.xdc") in added
    assert ("add_files", "-fileset", "constrs_1", "-norecurse", "floorplan.xdc") in added


@pytest.mark.slow
@pytest.mark.parametrize("name", VIVADO)
def test_block_design(name: str, tmp_path: Path) -> None:
    calls = record(files(name)["build.tcl"], tmp_path, {"get_property": "100%"} | {"get_bd_pins": ""})
    board = Board.load(name)
    assert ("set_property", "board_part", board.board_part, "current_project") in calls or any(
        call[:3] == ("set_property", "board_part", board.board_part) for call in calls
    )
    # Every bus of the machine meets one HP port, every pin of its clock and reset is connected.
    nets = [pin for call in calls if call[0] in ("get_bd_pins", "get_bd_intf_pins") for pin in call[1:]]
    for pin in ("skipopu/ap_clk", "skipopu/ap_rst_n", "skipopu/s_axi_control", *(f"skipopu/{bus}" for bus in buses(name))):
        assert nets.count(pin) == 1, pin
        plain = pin.removeprefix("skipopu/")
        assert plain in ports(name) or f"{plain}_awvalid" in ports(name)
    for k in range(len(buses(name))):
        assert nets.count(f"ps/S_AXI_HP{k}_FPD") == nets.count(f"ps/saxihp{k}_fpd_aclk") == 1
    settings = next(call for call in calls if call[:2] == ("set_property", "-dict"))
    values = settings[2].split()
    chosen = dict(zip(values[::2], values[1::2], strict=True))
    bits = ports(name)["m_axi_00_rdata"][1]
    for k in range(len(buses(name))):
        assert chosen[f"CONFIG.PSU__SAXIGP{k + 2}__DATA_WIDTH"] == str(bits)
    assert bits <= 128, "an HP port has 128 bits"
    assert float(chosen["CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"]) == Machine.load(board.target).clock_mhz
    mapped = [call for call in calls if call[0] == "assign_bd_address"]
    assert len(mapped) == 1 + 2 * len(buses(name))
    assert int(mapped[0][2], 16) == CONTROL_ADDRESS
    assert mapped[0][4] == f"{(1 << shell.ADDRESS_BITS) // 1024}K"


def test_the_interpreter_sees_mistakes(tmp_path: Path) -> None:
    with pytest.raises(tkinter.TclError, match="no such variable"):
        record("create_project a\nset_property x $missing", tmp_path)
    assert record("foreach a {1 2} { connect $a [find $a] }", tmp_path)[1] == ("connect", "1", "find@1")


@pytest.mark.parametrize("name", names())
def test_the_default_machine_fits(name: str) -> None:
    board = Board.load(name)
    machine = Machine.load(board.target)
    resources = committed_resources(machine)
    assert resources is not None, "run `skipopu hdl --report --json boards/resources/NAME.json`"
    assert all(need.fits for need in check(board, machine, resources))


@pytest.mark.parametrize("name", names())
def test_the_default_machine_has_a_likely_clock(name: str) -> None:
    machine = Machine.load(Board.load(name).target)
    estimated = estimated_clock(machine)
    assert estimated is not None
    assert machine.clock_mhz <= estimated[1]


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    board, machine = Board.load("u50"), Machine.load("u280")
    resources = committed_resources(machine)
    assert resources is not None
    with pytest.raises(BoardError, match=r"machine u280 does not fit AMD Alveo U50: lut \d+.*, available 871680"):
        check(board, machine, resources)
    with pytest.raises(BoardError, match=r"ultrascale\+.*; ULX3S with an ECP5-85F is ecp5"):
        check(Board.load("ulx3s"), machine, Resources())
    with pytest.raises(BoardError, match="bytes per port 536870912, available 268435456"):
        check(Board.load("u280"), Machine.load("u55c"), Resources())


def test_unknown_board() -> None:
    with pytest.raises(BoardError, match="board 'u9000' is not known; accepted: kv260, u280"):
        Board.load("u9000")


@pytest.mark.slow
@pytest.mark.parametrize(("stationary", "kinds"), [(False, 1), (True, 2)])
def test_multipliers_are_blocks(stationary: bool, kinds: int) -> None:
    """The project's Verilog chooses the device's blocks: one kind that multiplies, or two that add up as well."""
    board = Board.load("kv260")
    text = project(board, dataclasses.replace(Machine.load(board.target), stationary=stationary))[f"{MODULE}.v"]
    assert text.startswith("`define DSP48E2\n")
    assert text.count("`ifdef DSP48E2\n") == text.count("  DSP48E2 #(") == kinds
