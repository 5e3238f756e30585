"""cocotb side of test_recovery: runs that follow one another on one machine, and what is done to it in the middle of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, Timer

from sim.rtl.bench import PERIOD, Host, pulse
from skipopu.isa.registers import CONTROL_START, HOST_REGISTERS, STATUS_DONE, STATUS_ERROR

POLL = 50  # cycles


def put(dut: Any, pins: dict[str, int]) -> None:
    for name, value in pins.items():
        getattr(dut, name).value = value


async def reset(dut: Any) -> None:
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0


async def ended(host: Host, dut: Any, limit: int) -> None:
    """Waits until the machine has ended a run, at most ``limit`` cycles."""
    for _ in range(limit // POLL):
        if await host.read("STATUS") & (STATUS_DONE | STATUS_ERROR):
            return
        await Timer(POLL * PERIOD, unit="ns")


@cocotb.test()
async def steps(dut: Any) -> None:
    """See :class:`tests.agreement.test_recovery.Step`."""
    path = Path(os.environ["SKIPOPU_BENCH"])
    work, options = path.parent, json.loads(path.read_text())
    put(dut, options["settings"])
    put(dut, {"load": 0, "dump": 0, "renew": 0})
    names = ("awvalid", "wvalid", "arvalid", "bready", "rready", "awaddr", "wdata", "wstrb", "araddr")
    put(dut, {f"host_{name}": 0 for name in names})
    Clock(dut.clk, PERIOD, unit="ns").start()
    await reset(dut)
    host, results = Host(dut), []
    for number, step in enumerate(options["steps"]):
        for port in range(options["ports"]):
            shutil.copy(work / f"{step['image']}-{port}.bin", work / f"port{port}.bin")
        put(dut, {"bad_read": 0, "bad_write": 0, "bad_kind": 0} | step["memory"])
        await pulse(dut.load)
        for name, value in step["registers"].items():
            await host.write(name, value)
        await host.write("CONTROL", CONTROL_START)
        if step["after"] is not None:
            await ClockCycles(dut.clk, step["after"])
            if step["reset"]:
                await reset(dut)
            elif step["control"]:
                await host.write("CONTROL", step["control"])
        if not step["reset"]:
            await ended(host, dut, options["limit"])
        values = {r.name: await host.read(r.name) for r in HOST_REGISTERS}
        await host.write("CONTROL", CONTROL_START if step["too_early"] else 0)
        put(dut, {"bad_kind": 0})  # memory that kept silent answers
        await ClockCycles(dut.clk, options["drain"])
        values["LATER"] = await host.read("STATUS")
        results.append(values)
        await pulse(dut.dump)
        for port in range(options["ports"]):
            (work / f"port{port}.hex").rename(work / f"result{number}-{port}.hex")
    (work / "result.json").write_text(json.dumps(results))
