"""A shell's control port with the overlay's registers behind it: every access is answered once, whatever a reset does."""

from __future__ import annotations

from amaranth.hdl import Mux, Signal
from amaranth.lib.wiring import Out

from hw.control.host import HostRegisters
from hw.shell.bases import ShellRegisters
from skipopu import shell
from tests.formal.control.host import MACHINE, answered_once, drive_host, resettable
from tests.formal.laws import Laws, Unit

PORTS = 2


def laws() -> Laws:
    laws, front, registers = Laws(), ShellRegisters(PORTS), HostRegisters(MACHINE)
    m, bus = laws.m, front.control
    m.submodules.front = front
    resettable(laws, registers, front.reset)
    for name, member in front.host.signature.members.items():
        inner, outer = getattr(registers.bus, name.removeprefix("host_")), getattr(front.host, name)
        m.d.comb += inner.eq(outer) if member.flow is Out else outer.eq(inner)
    drive_host(laws, bus)
    never = Signal()
    answered_once(laws, bus, never, 3)
    host = front.host
    laws.law("a read that is offered to the registers stands", laws.stands(host.arvalid, host.arready, host.araddr))
    write = bus.awvalid & bus.awready
    laws.law("nothing is taken while the overlay is in reset", ~front.reset | ~(write | (bus.arvalid & bus.arready)))
    laws.law(
        "a write to RESET resets the overlay",
        front.reset | ~laws.before(write & (bus.awaddr == shell.RESET)),
    )
    byte, held = laws.fixed(2, "byte"), Signal(8)
    mine = write & (bus.awaddr == shell.base_register(1)) & bus.wstrb.bit_select(byte, 1)
    m.d.sync += held.eq(Mux(mine, bus.wdata.word_select(byte, 8), held))
    laws.law("a base holds what was written last, byte by byte, through resets", front.base[1].word_select(byte, 8) == held)
    return laws


UNITS = (Unit("hw/shell/bases.py", laws, "2 ports, in front of the registers of `mono`"),)
