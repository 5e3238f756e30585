"""Yosys' ECP5 netlist as Verilog that simulates fast: one net per bit, the small cells written out where they stand.

A netlist of 50,000 LUTs as module instances with Yosys' own names takes Verilator's C++ half an hour to compile; like this it takes
minutes. What is written out follows Yosys' models (``ecp5/common_sim.vh``); the other cells are instances of them, or of ours
(``ecp5_cells.v``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from skipopu.errors import SkipopuError

INSTANCES = {"TRELLIS_DPR16X4", "DP16KD", "MULT18X18D", "EHXPLLL"}


def netlist_verilog(path: Path, top: str) -> str:
    """Module ``top`` of a JSON netlist (``write_json`` behind ``synth_ecp5``).

    Raises:
        SkipopuError: a cell or one of its modes has no model here.
    """
    module = json.loads(path.read_text())["modules"][top]
    lines: list[str] = []
    ports = []
    used: set[int] = set()

    def net(bit: int | str) -> str:
        if isinstance(bit, str):
            return f"1'b{'0' if bit in 'xz' else bit}"
        used.add(bit)
        return f"n{bit}"

    for name, port in module["ports"].items():
        (bit,) = port["bits"]
        ports.append(f"{port['direction']} {name}")
        ends = (net(bit), name) if port["direction"] == "input" else (name, net(bit))
        lines.append(f"assign {ends[0]} = {ends[1]};")
    registers: dict[tuple[str, ...], list[tuple[str, str, str]]] = defaultdict(list)
    first_values: dict[str, str] = {}
    for number, (name, cell) in enumerate(module["cells"].items()):
        kind, parameters, pins = cell["type"], cell["parameters"], cell["connections"]

        def pin(which: str, pins: dict[str, Any] = pins, number: int = number) -> str:
            return net(pins[which][0]) if pins.get(which) else f"open{number}_{which}" if which in OUTPUTS else "1'b0"

        if kind == "LUT4":
            lines.append(
                f"assign {pin('Z')} = {_bits(parameters['INIT'])} >> {{{pin('D')}, {pin('C')}, {pin('B')}, {pin('A')}}};"
            )
        elif kind == "PFUMX":
            lines.append(f"assign {pin('Z')} = {pin('C0')} ? {pin('ALUT')} : {pin('BLUT')};")
        elif kind == "L6MUX21":
            lines.append(f"assign {pin('Z')} = {pin('SD')} ? {pin('D1')} : {pin('D0')};")
        elif kind == "INV":
            lines.append(f"assign {pin('Z')} = ~{pin('A')};")
        elif kind == "CCU2C":
            carry = pin("CIN")
            for half in "01":
                initial, a, b = parameters[f"INIT{half}"], pin(f"A{half}"), pin(f"B{half}")
                lut, after = f"l{number}_{half}", f"y{number}_{half}"
                injects = parameters[f"INJECT1_{half}"] == "YES"
                lines.append(f"wire {lut} = {_bits(initial)} >> {{{pin(f'D{half}')}, {pin(f'C{half}')}, {b}, {a}}};")
                lines.append(f"assign {pin(f'S{half}')} = {lut}" + ("" if injects else f" ^ {carry}") + ";")
                generate = "1'b0" if injects else f"(~{lut} & {_bits(initial[-4:])} >> {{{b}, {a}}})"
                lines.append(f"wire {after} = {generate} | ({lut} & {carry});")
                carry = after
            lines.append(f"assign {pin('COUT')} = {carry};")
        elif kind == "TRELLIS_FF":
            mode = {key: parameters.get(key, default) for key, default in FF_DEFAULTS.items()}
            if mode["SRMODE"] == "ASYNC" or mode["CLKMUX"] != "CLK" or mode["LSRMODE"] != "LSR":
                raise SkipopuError(
                    f"{path}: flip-flop {name} has modes {mode}; the simulation knows synchronous ones on CLK only"
                )
            value = "1'b1" if mode["REGSET"] == "SET" else "1'b0"
            enable = _muxed(mode["CEMUX"], "CE", pin)
            reset = _muxed(mode["LSRMUX"], "LSR", pin)
            registers[pin("CLK"), enable, reset].append((pin("Q"), value, pin("DI")))
            first_values[pin("Q")] = value
        elif kind == "TRELLIS_IO":
            if parameters["DIR"] not in ("INPUT", "OUTPUT"):
                raise SkipopuError(f"{path}: pad {name} is {parameters['DIR']}; the simulation knows inputs and outputs")
            ends = ("O", "B") if parameters["DIR"] == "INPUT" else ("B", "I")
            lines.append(f"assign {pin(ends[0])} = {pin(ends[1])};")
        elif kind in INSTANCES:
            if kind == "DP16KD":
                contents = {key: value for key, value in parameters.items() if key.startswith("INITVAL") and "1" in value}
                parameters = {key: value for key, value in parameters.items() if not key.startswith("INITVAL")} | contents
                parameters["INITIALISED"] = "1" if contents else "0"
            values = ", ".join(f".{key}({_parameter(value)})" for key, value in parameters.items())
            wires = ", ".join(f".{key}({_vector(bits, net)})" for key, bits in pins.items())
            lines.append(f"{kind} #({values}) c{number}({wires});")
        elif kind != "$scopeinfo":
            raise SkipopuError(f"{path}: cell {name} is a {kind}; the simulation has no model of it")
    for (clock, enable, reset), members in registers.items():
        lines.append(f"always @(posedge {clock})")
        resets = "\n".join(f"{q} <= {value};" for q, value, _ in members)
        loads = "\n".join(f"{q} <= {d};" for q, _, d in members)
        lines.append(f"  if ({reset}) begin\n{resets}\nend else if ({enable}) begin\n{loads}\nend")
    declared = [
        f"reg n{bit} = {first_values[f'n{bit}']};" if f"n{bit}" in first_values else f"wire n{bit};" for bit in sorted(used)
    ]
    return "\n".join([f"module {top}({', '.join(ports)});", *declared, *lines, "endmodule"]) + "\n"


OUTPUTS = {"S0", "S1", "COUT"}  # that may be left open; Verilog makes a wire of such a name
FF_DEFAULTS = {"CLKMUX": "CLK", "CEMUX": "1", "LSRMUX": "LSR", "SRMODE": "LSR_OVER_CE", "REGSET": "RESET", "LSRMODE": "LSR"}


def _muxed(mode: str, name: str, pin: Callable[[str], str]) -> str:
    """A control input behind its multiplexer."""
    return {"1": "1'b1", "0": "1'b0", "INV": f"~{pin(name)}"}.get(mode.strip(), pin(name))


def _bits(value: str) -> str:
    """A parameter's bits, as JSON has them."""
    return f"{len(value)}'b{value}"


def _parameter(value: str) -> str:
    return _bits(value) if value and set(value) <= set("01xz") else json.dumps(value.rstrip())


def _vector(bits: Iterable[int | str], net: Any) -> str:
    names = [net(bit) for bit in bits]
    return names[0] if len(names) == 1 else "{" + ", ".join(reversed(names)) + "}"
