"""The ECP5's PLL: a machine's clock from a board's oscillator."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Instance, Signal

from skipopu.errors import SkipopuError

# Lattice FPGA-DS-02012, ECP5 family data sheet, sysCLOCK PLL timing: of what is compared, of the inner oscillator, of an output.
COMPARED_MHZ, VCO_MHZ, CLOCK_MHZ = (3.125, 400), (400, 800), (3.125, 400)
MIDDLE_MHZ = 600  # of the inner oscillator
MOST = 128  # of a divider
# Of the loop filter; what Project Trellis' ecppll writes, from Lattice's own wizard.
FILTER = {"ICP_CURRENT": "12", "LPF_RESISTOR": "8", "MFG_ENABLE_FILTEROPAMP": "1", "MFG_GMCREF_SEL": "2"}


class Dividers(NamedTuple):
    """Of the board's oscillator to what is compared, of the inner one to what is compared with it, of the inner one to the clock."""

    source: int
    feedback: int
    output: int


def dividers(oscillator_mhz: float, clock_mhz: float) -> Dividers:
    """Those that give ``clock_mhz``, to a millionth, with the smallest first divider, then the inner oscillator nearest its middle.

    Raises:
        SkipopuError: none do; it names the nearest clocks that some do.
    """
    known = [
        Dividers(source, feedback, output)
        for source in range(1, int(oscillator_mhz / COMPARED_MHZ[0]) + 1)
        for feedback in range(1, MOST + 1)
        if VCO_MHZ[0] <= oscillator_mhz * feedback / source <= VCO_MHZ[1]
        for output in range(1, MOST + 1)
        if CLOCK_MHZ[0] <= oscillator_mhz * feedback / source / output <= CLOCK_MHZ[1]
    ]
    exact = [d for d in known if abs(oscillator_mhz * d.feedback / d.source / d.output / clock_mhz - 1) < 1e-6]
    if not exact:
        clocks = {oscillator_mhz * d.feedback / d.source / d.output for d in known}
        near = [
            max((c for c in clocks if c < clock_mhz), default=None),
            min((c for c in clocks if c > clock_mhz), default=None),
        ]
        accepted = " or ".join(f"{clock:.8g}" for clock in near if clock is not None)
        raise SkipopuError(f"the PLL makes no {clock_mhz:.8g} MHz of {oscillator_mhz:g}; accepted: {accepted}, among others")
    return min(exact, key=lambda d: (d.source, abs(oscillator_mhz * d.feedback / d.source - MIDDLE_MHZ)))


def pll(oscillator_mhz: float, clock_mhz: float, source: Signal, clock: Signal, locked: Signal) -> Instance:
    """``clock`` from ``source``; ``locked``: it is steady, asynchronous (Lattice FPGA-TN-02200, ECP5 sysCLOCK)."""
    chosen = dividers(oscillator_mhz, clock_mhz)
    returned = Signal()
    still = {f"i_{name}": 0 for name in ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP", "PHASELOADREG")}
    return Instance(
        "EHXPLLL",
        **{f"a_{name}": value for name, value in FILTER.items()},
        p_FEEDBK_PATH="CLKOP",
        p_CLKI_DIV=chosen.source,
        p_CLKFB_DIV=1,
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_DIV=chosen.feedback,
        p_CLKOP_CPHASE=chosen.feedback - 1,
        p_CLKOS_ENABLE="ENABLED",
        p_CLKOS_DIV=chosen.output,
        p_CLKOS_CPHASE=chosen.output - 1,
        i_CLKI=source,
        i_CLKFB=returned,
        **still,
        o_CLKOP=returned,
        o_CLKOS=clock,
        o_LOCK=locked,
    )
