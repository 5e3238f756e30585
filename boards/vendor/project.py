"""Projects for AMD's tools: everything that Vitis or Vivado needs to build a machine for a board."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2

from boards.board import Board, floor_plan
from hw.block import for_family
from hw.registers import c_header, register_table
from hw.shell.shell import SHELL, Shell, shell_verilog
from skipopu import shell
from skipopu.isa.registers import HOST_REGISTERS
from skipopu.machine.config import Machine

TEMPLATES = Path(__file__).with_name("templates")
INSTANCE = "skipopu_1"
CONTROL_ADDRESS = 0xA000_0000  # of the control port on a Zynq, the start of what HPM0 reaches
# Template, and the file that it becomes, by flow.
FILES = {
    "vitis": {
        "vitis/kernel.xml.j2": "kernel.xml",
        "package.tcl.j2": "package.tcl",
        "vitis/link.cfg.j2": "link.cfg",
        "vitis/crossings.xdc.j2": "crossings.xdc",
        "vitis/floorplan.xdc.j2": "floorplan.xdc",
        "vitis/Makefile.j2": "Makefile",
        "vitis/README.md.j2": "README.md",
    },
    "vivado": {"package.tcl.j2": "package.tcl", "vivado/build.tcl.j2": "build.tcl", "vivado/README.md.j2": "README.md"},
}


@dataclass(frozen=True)
class PortOfShell:
    """A memory port: its name, what the kernel calls its argument, the register of its base, the dies of its tile and of what writes."""

    name: str
    number: str
    argument: str
    base: int
    tile_die: int
    write_die: int


def project(board: Board, machine: Machine) -> dict[str, str]:
    """Files of the project by name; the same board and machine give the same text.

    With the ``vitis`` flow memory ports have half the machine's width at the board's memory clock.
    """
    gearbox = board.flow == "vitis"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    floor = floor_plan(board, machine)
    ports = [
        PortOfShell(f"m_axi_{p:02}", f"{p:02}", f"port{p:02}", shell.base_register(p), tile, floor.writes(p))
        for p, tile in enumerate(floor.tiles)
    ]
    values = {
        "board": board,
        "machine": machine,
        "module": SHELL,
        "instance": INSTANCE,
        "ports": ports,
        "registers": HOST_REGISTERS,
        "reset": shell.RESET,
        "control_bytes": 1 << shell.ADDRESS_BITS,
        "control_address": CONTROL_ADDRESS,
        "memory_bits": Shell.width(machine, gearbox),
        "gearbox": gearbox,
        "kernel": board.flow == "vitis",
    }
    files = {file: environment.get_template(name).render(values) for name, file in FILES[board.flow].items()}
    files[f"{SHELL}.v"] = for_family(shell_verilog(machine, gearbox), board.family)
    return files | {"registers.csv": register_table(machine.ports), "skipopu.h": c_header(machine.ports)}
