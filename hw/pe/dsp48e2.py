"""DSP48E2, the multiplier and adder of UltraScale+, as an instance (UG579)."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Value

A_BITS, WIDE_BITS, NARROW_BITS, RESULT_BITS = 30, 27, 18, 48  # of port A, of the multiplier's operands, of what is added up
REGISTERS = (
    *("AREG", "ACASCREG", "BREG", "BCASCREG", "DREG", "ADREG", "MREG", "PREG", "INMODEREG"),
    *("OPMODEREG", "ALUMODEREG", "CARRYINREG", "CARRYINSELREG", "CREG"),
)
_ENABLES = {"AREG": "A", "BREG": "B", "DREG": "D", "ADREG": "AD", "MREG": "M", "INMODEREG": "INMODE"}


def dsp48e2(
    registers: Mapping[str, int],
    wide: Value,
    narrow: Value,
    total: Value,
    *,
    other: Value | None = None,
    inmode: Value | None = None,
    more: Value | None = None,
    enable: Value | None = None,
) -> Instance:
    """An instance that multiplies; what is not named in ``registers`` (attribute to count) is not used.

    Parameters:
        registers: those in use.
        wide: port A, up to 27 bits, signed.
        narrow: port B, up to 18 bits, signed.
        total: port P.
        other: port D, which INMODE chooses in place of A; without it the sum in front of the multiplier is left out.
        inmode: INMODE.
        more: add to the sum so far.
        enable: of P's register.
    """
    held = dict.fromkeys(REGISTERS, 0) | dict(registers)
    used: list[str] = []
    for name, enables in _ENABLES.items():
        count = held[name]
        used += [f"CE{enables}{k}" for k in range(3 - count, 3)] if enables in ("A", "B") else [f"CE{enables}"] * count
    idle = ("C", "CTRL", "ALUMODE", "CARRYIN")
    enables = ("A1", "A2", "B1", "B2", "D", "AD", "M", "INMODE", *idle)
    resets = ("A", "B", "C", "D", "M", "P", "INMODE", "CTRL", "ALUMODE", "ALLCARRYIN")
    return Instance(
        "DSP48E2",
        p_AMULTSEL="A" if other is None else "AD",
        p_BMULTSEL="B",
        p_PREADDINSEL="A",
        p_USE_MULT="MULTIPLY",
        **{f"p_{name}": count for name, count in held.items()},
        i_CLK=ClockSignal(),
        i_A=_extended(wide, A_BITS),
        i_B=_extended(narrow, NARROW_BITS),
        i_C=Const(0, RESULT_BITS),
        i_D=Const(0, WIDE_BITS) if other is None else _extended(other, WIDE_BITS),
        i_INMODE=Const(0, 5) if inmode is None else inmode,
        i_OPMODE=Cat(Const(0b0101, 4), Const(0, 1), Const(0, 1) if more is None else more, Const(0, 3)),
        i_ALUMODE=Const(0, 4),
        i_CARRYINSEL=Const(0, 3),
        i_ACIN=Const(0, A_BITS),
        i_BCIN=Const(0, NARROW_BITS),
        i_PCIN=Const(0, RESULT_BITS),
        **{f"i_CE{name}": Const(f"CE{name}" in used, 1) for name in enables},
        **{f"i_{name}": Const(0, 1) for name in ("CARRYIN", "CARRYCASCIN", "MULTSIGNIN")},
        **{f"i_RST{name}": Const(0, 1) for name in resets},
        i_CEP=Const(held["PREG"], 1) if enable is None else enable,
        o_P=total,
    )


def _extended(value: Value, bits: int) -> Value:
    return Cat(value, value[-1].replicate(bits - len(value)))
