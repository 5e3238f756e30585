"""The cocotb side of runs: drives AXI4-Lite, waits, reads counters, has the memories loaded before and dumped after each.

What is asked for comes through the pipe named by ``SKIPOPU_REQUESTS``, a line of JSON for each: the memories' settings, the registers and
the cycles that it may take. The outcome of the Nth goes to ``resultN.json`` beside the pipe. Time passes between polls without a Python
call per cycle, and none while nothing is asked for. The machine is reset before the first run, and never again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from skipopu.isa.registers import CONTROL_START, HOST, HOST_REGISTERS, STATUS_DONE, STATUS_ERROR

PERIOD = 10  # ns
POLL = 1000  # cycles


class Host:
    """AXI4-Lite master on the bench's ``host_*`` pins."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut

    async def _until(self, ready: Any) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            if int(ready.value):
                return

    async def write(self, name: str, value: int) -> None:
        d = self.dut
        d.host_awaddr.value, d.host_wdata.value, d.host_wstrb.value = HOST[name].address, value & 0xFFFF_FFFF, 15
        d.host_awvalid.value = d.host_wvalid.value = 1
        d.host_bready.value = 1
        await self._until(d.host_awready)
        d.host_awvalid.value = d.host_wvalid.value = 0
        await self._until(d.host_bvalid)

    async def read(self, name: str) -> int:
        d = self.dut
        d.host_araddr.value, d.host_arvalid.value, d.host_rready.value = HOST[name].address, 1, 1
        await self._until(d.host_arready)
        d.host_arvalid.value = 0
        await self._until(d.host_rvalid)
        return int(d.host_rdata.value)


@cocotb.test()
async def runs(dut: Any) -> None:
    """A run for every line of the pipe, until it is closed."""
    path = Path(os.environ["SKIPOPU_REQUESTS"])
    host, identity, settings = Host(dut), {}, {}
    with path.open() as requests:
        for number, line in enumerate(iter(requests.readline, "")):
            request = json.loads(line)
            for name, value in request["settings"].items():
                getattr(dut, name).value = value
            before, settings = settings, request["settings"]
            if number and settings != before:
                await pulse(dut.renew)
            if number == 0:
                await reset(dut)
                identity = {name: await host.read(name) for name in ("MAGIC", "VERSION", "MACHINE", "NUMERICS")}
            await pulse(dut.load)
            result = await run(dut, host, path.parent / f"progress{number}", request)
            await pulse(dut.dump)
            written = path.parent / "unfinished"
            written.write_text(json.dumps(result | {"identity": identity}))
            written.rename(path.parent / f"result{number}.json")


async def reset(dut: Any) -> None:
    """Starts the clock; pins that the host drives are 0."""
    dut.load.value = dut.dump.value = dut.renew.value = 0
    for name in ("awvalid", "wvalid", "arvalid", "bready", "rready", "awaddr", "wdata", "wstrb", "araddr"):
        getattr(dut, f"host_{name}").value = 0
    dut.rst.value = 1
    Clock(dut.clk, PERIOD, unit="ns").start()
    for _ in range(4):
        await RisingEdge(dut.clk)
    dut.rst.value = 0


async def pulse(pin: Any) -> None:
    """The memories do what ``pin`` says."""
    pin.value = 1
    await Timer(2 * PERIOD, unit="ns")
    pin.value = 0
    await Timer(2 * PERIOD, unit="ns")


async def run(dut: Any, host: Host, told: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Starts the machine and waits for its end; ``told`` gets tokens and cycles so far."""
    for name, value in request["registers"].items():
        await host.write(name, value)
    await host.write("CONTROL", CONTROL_START)
    generated, stopped = 0, False
    with told.open("w") as progress:
        while not stopped:
            await Timer(POLL * PERIOD, unit="ns")
            await RisingEdge(dut.clk)
            stopped = bool(await host.read("STATUS") & (STATUS_DONE | STATUS_ERROR))
            count = await host.read("GENERATED")
            cycles = await host.read("CYCLES")
            if count != generated or stopped:
                generated = count
                progress.write(f"{count} {cycles}\n")
                progress.flush()
            if cycles > request["limit"]:
                break
    values = {r.name: await host.read(r.name) for r in HOST_REGISTERS if r.access == "r"}
    return {"stopped": stopped, "registers": values}
