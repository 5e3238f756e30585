"""ULX3S: the pins around a system, and the platform that names them."""

from __future__ import annotations

from typing import Any, ClassVar

from amaranth.build import Attrs, Pins, Platform, Resource
from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from boards.open.pll import pll
from hw.link.system import SYSTEM

POWER_ON_CYCLES = 31
BEAT_BITS = 26
MOST_ASKED_MHZ = 45  # of placement and routing, which reach less when asked for more


def asked_mhz(clock_mhz: float) -> float:
    """The clock that placement and routing are asked for; whether a machine's own is met is judged by what they reach."""
    return min(clock_mhz, MOST_ASKED_MHZ)


class Ulx3sTop(Elaboratable):
    """Clock, reset, serial line and lamps around module ``system``.

    The clock of ``clock_mhz`` is a PLL's, from the board's oscillator. Reset: while the PLL is not locked, while FIRE 1 is held, and
    :data:`POWER_ON_CYCLES` longer. Lamps, from the right: 0 a byte comes in, 1 a byte goes out, 7 a heartbeat, :data:`BEAT_BITS` of cycles
    a period. The ESP32's GPIO0 is held high, or it would restart the FPGA.
    """

    def __init__(self, clock_mhz: float) -> None:
        self.clock_mhz = clock_mhz

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        # Its pins are attributes, which the stubs do not know.
        uart: Any = platform.request("uart", 0, dir=dict.fromkeys(("rx", "tx", "rts", "dtr"), "-"))

        def pad(name: str, direction: io.Direction, port: Any) -> Signal:
            m.submodules[name] = buffer = io.Buffer(direction, port)
            return buffer.i if direction is io.Direction.Input else buffer.o

        into, out = io.Direction.Input, io.Direction.Output
        oscillator = pad("oscillator", into, platform.request("clk25", 0, dir="-"))
        button = pad("button", into, platform.request("button_fire", 0, dir="-"))
        keep = pad("keep", out, platform.request("wifi_gpio0", 0, dir="-"))
        rx, tx = pad("rx", into, uart.rx), pad("tx", out, uart.tx)
        lamps = [pad(f"lamp_{k}", out, platform.request("led", k, dir="-")) for k in range(8)]
        m.domains.sync = ClockDomain()
        clock, locked = Signal(name="clock"), Signal(name="locked")
        m.submodules.pll = pll(platform.default_clk_frequency / 1e6, self.clock_mhz, oscillator, clock, locked)
        m.d.comb += ClockSignal().eq(clock)
        waited, held = Signal(range(POWER_ON_CYCLES + 1), reset_less=True), Signal(init=1)
        m.submodules.held_synchroniser = FFSynchronizer(button | ~locked, held, init=1, reset_less=True)
        with m.If(held):
            m.d.sync += waited.eq(0)
        with m.Elif(waited != POWER_ON_CYCLES):
            m.d.sync += waited.eq(waited + 1)
        m.d.comb += [ResetSignal().eq(waited != POWER_ON_CYCLES), keep.eq(1)]
        m.submodules.system = Instance(SYSTEM, i_clk=ClockSignal(), i_rst=ResetSignal(), i_rx=rx, o_tx=tx)
        beat = Signal(BEAT_BITS)
        m.d.sync += beat.eq(beat + 1)
        m.d.comb += [lamps[0].eq(~rx), lamps[1].eq(~tx), lamps[7].eq(beat[-1])]
        return m


class Ulx3sPlatform(ULX3S_85F_Platform):
    """The board with an LFE5U-85F."""

    resources: ClassVar[list[Resource]] = [
        *ULX3S_85F_Platform.resources,
        # One pin of amaranth-boards' "esp32", whose others stay unconnected.
        Resource("wifi_gpio0", 0, Pins("L2", dir="o"), Attrs(IO_TYPE="LVCMOS33", DRIVE="4")),
    ]

    @property
    def required_tools(self) -> list[str]:
        """None: skipopu runs them itself."""
        return []
