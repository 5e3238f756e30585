"""ULX3S: the pins around a system, and the platform that names them."""

from __future__ import annotations

from typing import ClassVar

from amaranth.build import Attrs, Pins, Platform, Resource
from amaranth.hdl import ClockDomain, Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from hw.link.system import SYSTEM

POWER_ON_CYCLES = 31


class Ulx3sTop(Elaboratable):
    """Clock, reset, serial line and lamps around module ``system``.

    The clock is the board's 25 MHz oscillator. Reset: :data:`POWER_ON_CYCLES` after configuration and while FIRE 1 is held. Lamps, from
    the right: 0 a byte comes in, 1 a byte goes out, 7 a heartbeat of 1.3 s. The ESP32's GPIO0 is held high, or it would restart the FPGA.
    """

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        uart = platform.request("uart", 0, dir=dict.fromkeys(("rx", "tx", "rts", "dtr"), "-"))

        def pad(name: str, direction: str, port: object) -> Signal:
            m.submodules[name] = buffer = io.Buffer(direction, port)
            return buffer.i if direction == "i" else buffer.o

        clock = pad("clock", "i", platform.request("clk25", 0, dir="-"))
        button = pad("button", "i", platform.request("button_fire", 0, dir="-"))
        keep = pad("keep", "o", platform.request("wifi_gpio0", 0, dir="-"))
        rx, tx = pad("rx", "i", uart.rx), pad("tx", "o", uart.tx)
        lamps = [pad(f"lamp_{k}", "o", platform.request("led", k, dir="-")) for k in range(8)]
        m.domains.sync = domain = ClockDomain()
        m.d.comb += domain.clk.eq(clock)
        waited, held = Signal(range(POWER_ON_CYCLES + 1), reset_less=True), Signal()
        m.submodules.button_synchroniser = FFSynchronizer(button, held, reset_less=True)
        with m.If(held):
            m.d.sync += waited.eq(0)
        with m.Elif(waited != POWER_ON_CYCLES):
            m.d.sync += waited.eq(waited + 1)
        m.d.comb += [domain.rst.eq(waited != POWER_ON_CYCLES), keep.eq(1)]
        m.submodules.system = Instance(SYSTEM, i_clk=domain.clk, i_rst=domain.rst, i_rx=rx, o_tx=tx)
        beat = Signal(25)
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
    required_tools: ClassVar[list[str]] = []  # skipopu runs them itself
