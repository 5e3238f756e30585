"""Which pins of a mapped cell a signal passes between, starts from and ends at."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Parameters = Mapping[str, str]


class Pass(NamedTuple):
    """A combinational way from pins ``inputs`` to pins ``outputs``, regular expressions of their names, of the delay ``kind``.

    order: bit i of an input reaches output bits j with j - i of at least this only; None: all of them.
    """

    kind: str
    inputs: str
    outputs: str
    order: int | None = None


class Starts(NamedTuple):
    """Registers behind pins ``outputs``; ``kind`` is from the clock to them."""

    kind: str
    outputs: str


class Ends(NamedTuple):
    """Registers behind pins ``inputs``; ``kind`` is how long before the clock a signal has to be there."""

    kind: str
    inputs: str


Way = Pass | Starts | Ends


@dataclass(frozen=True)
class Cell:
    """What is known of a type of cell. ``ways`` of one whose registers are chosen by parameters, is a function of these."""

    ways: tuple[Way, ...] | Callable[[Parameters], tuple[Way, ...]]

    def of(self, parameters: Parameters) -> tuple[Way, ...]:
        return self.ways(parameters) if callable(self.ways) else self.ways


def is_set(parameters: Parameters, name: str) -> bool:
    """Whether a number or a truth value among ``parameters`` is not zero; one that is not there is."""
    return bool(re.search("[1-9]", value := parameters.get(name, "0"))) or value == "TRUE"


def lut(pins: str, output: str) -> Cell:
    return Cell((Pass("LUT", pins, output),))


def register(data: str, enable: str, reset: str) -> Cell:
    return Cell((Starts("register", "Q"), Ends("data", data), Ends("enable", enable), Ends("reset", reset)))


def dsp48(parameters: Parameters) -> tuple[Way, ...]:
    """DSP48E2: operands, multiplier, adder, with the registers between them that are used; the pre-adder counts as part of the operands."""
    operands, product, result = (
        any(is_set(parameters, name) for name in names) for names in (("AREG", "BREG"), ("MREG",), ("PREG",))
    )
    multiplies = parameters.get("USE_MULT", "MULTIPLY") != "NONE"
    if not multiplies:
        product = False
    behind = {"DSP operands": operands, "DSP multiplier": product, "DSP adder": result, "DSP cascade": result}
    ways: list[Way] = []
    ways_in = (
        (("DSP operands", *(["DSP multiplier"] if multiplies else []), "DSP adder"), r"[ABD]|[AB]CIN|INMODE"),
        (("DSP adder",), "C|OPMODE|ALUMODE|CARRYIN(SEL)?"),
        (("DSP cascade",), "PCIN"),
    )
    for stages, pins in ways_in:
        passed: list[str] = []
        for stage in stages:
            if stage == "DSP operands" and behind[stage]:
                ways.append(Ends("DSP data", pins))  # its registers stand in front
                passed = ["DSP operands"]
                pins = ""
                continue
            passed.append(stage)
            if behind[stage]:
                if pins:
                    ways.append(Ends(" + ".join(passed), pins))
                passed, pins = [], ""
        if pins:
            ways.append(Pass(" + ".join(passed), pins, "P|PCOUT"))
        elif stages[0] == "DSP operands":
            ways.append(Starts(" + ".join(["DSP register", *passed]), "P|PCOUT"))
    return tuple(ways)


def block_ram(registers: tuple[str, str]) -> Cell:
    """RAMB18E2 or RAMB36E2."""

    def ways(parameters: Parameters) -> tuple[Way, ...]:
        return (
            *(
                Starts(
                    "block RAM, registered" if is_set(parameters, name) else "block RAM",
                    f"DOUTP?{port}DOUTP?{port}|CASDOUT.*{port}",
                )
                for name, port in zip(registers, "AB", strict=True)
            ),
            Ends("block RAM address", "ADDR.*|EN.*|WE.*|REGCE.*|RST.*"),
            Ends("block RAM data", "DIN.*"),
        )

    return Cell(ways)


def ultra_ram(parameters: Parameters) -> tuple[Way, ...]:
    return (
        *(
            Starts(
                "UltraRAM, registered" if is_set(parameters, f"OREG_{port}") else "UltraRAM", f"DOUT_{port}|CAS_OUT_DOUT_{port}"
            )
            for port in "AB"
        ),
        Ends("UltraRAM address", "ADDR.*|EN_.*|RDB_WR.*|BWE.*|RST.*|CAS_IN_.*"),
        Ends("UltraRAM data", "DIN.*"),
    )


def lut_ram(*ports: tuple[str, str], written: str) -> Cell:
    """Read ``ports`` are addresses and data, read in the same cycle."""
    return Cell(
        (
            *(Pass("LUT RAM", address, data) for address, data in ports),
            *(Starts("LUT RAM write", data) for _, data in ports),
            Ends("LUT RAM data", written),
        )
    )


CARRY = Cell(
    (
        Pass("carry in to sum", "S", "O", 0),
        Pass("carry in to sum", "DI", "O", 1),
        Pass("carry in to carry", "S|DI", "CO", 0),
        Pass("carry to sum", "CI|CYINIT", "O"),
        Pass("carry to carry", "CI|CYINIT", "CO"),
    )
)


LETTERS = "ABCDEFG"
ULTRASCALE: dict[str, Cell] = {
    **{f"LUT{n}": lut("I.*", "O") for n in range(1, 7)},
    "INV": Cell((Pass("inverter", "I", "O"),)),
    **{f"MUXF{n}": Cell((Pass("multiplexer", "I[01]", "O"), Pass("multiplexer select", "S", "O"))) for n in (7, 8, 9)},
    "CARRY4": CARRY,
    "CARRY8": CARRY,
    **{name: register("D", "CE", "R|S|CLR|PRE") for name in ("FDRE", "FDSE", "FDCE", "FDPE")},
    **{
        name: Cell((Starts("shift register", "Q.*"), Pass("LUT", "A.*", "Q"), Ends("shift register data", "D|CE")))
        for name in ("SRL16E", "SRLC32E")
    },
    **{
        name: lut_ram(*((f"ADDR{x}", f"DO{x}") for x in letters), written="DI.*|WE|ADDR" + last)
        for name, letters, last in (
            ("RAM32M", "ABCD", "D"),
            ("RAM64M", "ABCD", "D"),
            ("RAM32M16", LETTERS + "H", "H"),
            ("RAM64M8", LETTERS + "H", "H"),
        )
    },
    **{
        name: lut_ram(("A.*", "SPO"), ("DPRA.*", "DPO"), written="D|WE|A.*")
        for name in ("RAM32X1D", "RAM64X1D", "RAM128X1D", "RAM256X1D")
    },
    "RAM32X16DR8": lut_ram(("ADDRH", "DOH"), *((f"ADDR{x}", f"DO{x}") for x in LETTERS), written="DI.*|WE|ADDRH"),
    "RAM64X8SW": lut_ram(("A", "O"), written="D|WE|WSEL|A"),
    "DSP48E2": Cell(dsp48),
    "RAMB18E2": block_ram(("DOA_REG", "DOB_REG")),
    "RAMB36E2": block_ram(("DOA_REG", "DOB_REG")),
    "URAM288": Cell(ultra_ram),
}


def multiplier_18(parameters: Parameters) -> tuple[Way, ...]:
    """MULT18X18D; registers are used where they have a clock."""
    inputs, output = (parameters.get(name, "NONE") != "NONE" for name in ("REG_INPUTA_CLK", "REG_OUTPUT_CLK"))
    data = r"[AB]\d+|SIGNED[AB]|SOURCE[AB]"
    if inputs:
        return Ends("multiplier data", data), Starts(
            "multiplier, registered" if output else "multiplier, operands registered", r"P\d+"
        )
    if output:
        return Ends("multiplier, product registered", data), Starts("multiplier, registered", r"P\d+")
    return (Pass("multiplier", data, r"P\d+"),)


def block_ram_16(parameters: Parameters) -> tuple[Way, ...]:
    """DP16KD."""
    return (
        *(
            Starts("block RAM, registered" if parameters.get(f"REGMODE_{port}") == "OUTREG" else "block RAM", rf"DO{port}\d+")
            for port in "AB"
        ),
        Ends("block RAM data", r"DI[AB]\d+|AD[AB]\d+|WE[AB]|CE[AB]|OCE[AB]|RST[AB]|CS[AB]\d+"),
    )


ECP5: dict[str, Cell] = {
    "LUT4": lut("[ABCD]", "Z"),
    "PFUMX": Cell((Pass("multiplexer", "[AB]LUT", "Z"), Pass("multiplexer select", "C0", "Z"))),
    "L6MUX21": Cell((Pass("multiplexer", "D[01]", "Z"), Pass("multiplexer select", "SD", "Z"))),
    "CCU2C": Cell(
        (
            Pass("LUT", "[ABCD]0", "S0"),
            Pass("LUT", "[ABCD]1", "S1"),
            Pass("carry in to sum", "[ABCD]0", "S1"),
            Pass("carry in to carry", "[ABCD][01]", "COUT"),
            Pass("carry to sum", "CIN", "S[01]"),
            Pass("carry to carry", "CIN", "COUT"),
        )
    ),
    "TRELLIS_FF": register("DI|M", "CE", "LSR"),
    "TRELLIS_DPR16X4": lut_ram(("RAD", "DO"), written="DI|WAD|WRE"),
    "MULT18X18D": Cell(multiplier_18),
    "DP16KD": Cell(block_ram_16),
}
CELLS = {"ultrascale+": ULTRASCALE, "ecp5": ECP5}
