"""The shell around the overlay: its pins, and how long bursts may be."""

from __future__ import annotations

import dataclasses

import pytest

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
