"""The shell around the overlay: its pins, and how long bursts may be."""

from __future__ import annotations

import dataclasses

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator, SimulatorContext

import hw.shell.shell
from hw.control.host import RESET_CYCLES
from hw.library import Library
from hw.memory.axi import Axi4, AxiLite
from hw.shell.bases import BASE_BITS
from hw.shell.shell import Shell
from skipopu import shell
from skipopu.errors import ConfigError
from skipopu.machine.config import Machine


@pytest.mark.parametrize("gearbox", [False, True])
def test_pins(gearbox: bool) -> None:
    """The names that vendors' tools look for; ports of half the width behind gearboxes."""
    machine = Machine.load("tiny")
    dut = Shell(machine, gearbox, Library())
    names = {"ap_clk", "ap_rst_n", *(["ap_clk_2", "ap_rst_n_2"] if gearbox else [])}
    names |= {f"s_axi_control_{name}" for name in AxiLite(shell.ADDRESS_BITS).members}
    names |= {f"m_axi_{p:02}_{name}" for p in range(machine.ports) for name in Axi4(8).members}
    assert set(dut.signature.members) == names
    for axi in dut.axi:
        assert len(axi.rdata) == len(axi.wdata) == machine.port_bits // (2 if gearbox else 1)
        assert len(axi.araddr) == len(axi.awaddr) == BASE_BITS


def test_a_burst_that_becomes_too_long() -> None:
    machine = dataclasses.replace(Machine.load("tiny"), write_burst=129)
    with pytest.raises(ConfigError, match="bursts of 129 beats; the gearbox takes 128"):
        Shell(machine, True, Library())
    Shell(machine, False, Library())


def test_addresses_count_from_their_ports_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all their bits, whatever the other ports' bases; the overlay is what the test drives."""
    overlay: dict[str, Signal] = {}

    def instance(name: str, **ports: Signal) -> Module:
        overlay.update(ports)
        return Module()

    monkeypatch.setattr(hw.shell.shell, "Instance", instance)
    dut, checked = Shell(Machine.load("tiny"), False, Library()), 0
    bases, control = [0x1_8765_4000, (1 << BASE_BITS) - 4096], dut.control

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal checked

        async def tick(count: int) -> None:
            for level in count * (1, 0):
                ctx.set(dut.ap_clk, level)
                await ctx.delay(1e-9)

        ctx.set(dut.ap_rst_n, 1)
        await tick(3 + RESET_CYCLES)
        ctx.set(control.bready, 1)
        ctx.set(control.wstrb, 15)
        for place, base in ((shell.base_register(p), base) for p, base in enumerate(bases)):
            for half in range(2):
                ctx.set(control.awaddr, place + 4 * half)
                ctx.set(control.wdata, base >> 32 * half & 0xFFFF_FFFF)
                for valid in (1, 0):
                    ctx.set(control.awvalid, valid)
                    ctx.set(control.wvalid, valid)
                    await tick(1)
        for p, base in enumerate(bases):
            for name in ("araddr", "awaddr"):
                inner = overlay[f"o_port{p}_{name}"]
                for address in (0, 0xFFF, 0x1000, (1 << len(inner)) - 64):
                    ctx.set(inner, address)
                    assert ctx.get(getattr(dut.axi[p], name)) == (base + address) % (1 << BASE_BITS)
                    checked += 1

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    assert checked == 16
