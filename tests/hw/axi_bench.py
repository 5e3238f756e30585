"""cocotb side of test_axi: an independent AXI model on every port, random pauses on every channel."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from skipopu.isa.registers import HOST, STATUS_DONE, STATUS_ERROR


def pauses(seed: int, share: float) -> Iterator[int]:
    source = random.Random(seed)
    return (int(source.random() < share) for _ in itertools.count())


@cocotb.test()
async def run(dut: object) -> None:
    path = Path(os.environ["SKIPOPU_BENCH"])
    options = json.loads(path.read_text())
    Clock(dut.clk, 10, unit="ns").start()
    dut.rst.value = 1
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "host"), dut.clk, dut.rst)
    memories = []
    for port in range(options["ports"]):
        memory = AxiRam(AxiBus.from_prefix(dut, f"port{port}"), dut.clk, dut.rst, size=options["size"])
        memory.write(0, (path.parent / f"port{port}.bin").read_bytes())
        channels = (
            memory.write_if.aw_channel,
            memory.write_if.w_channel,
            memory.write_if.b_channel,
            memory.read_if.ar_channel,
            memory.read_if.r_channel,
        )
        for number, channel in enumerate(channels):
            channel.set_pause_generator(pauses(options["seed"] + 10 * port + number, options["share"]))
        memories.append(memory)
    for number, channel in enumerate(
        (
            master.write_if.aw_channel,
            master.write_if.w_channel,
            master.write_if.b_channel,
            master.read_if.ar_channel,
            master.read_if.r_channel,
        )
    ):
        channel.set_pause_generator(pauses(99 + number, 0.3))
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    for name, value in options["registers"].items():
        await master.write_dword(HOST[name].address, value)
    await master.write_dword(HOST["CONTROL"].address, 1)
    for _ in range(options["patience"]):
        await ClockCycles(dut.clk, 500)
        status = await master.read_dword(HOST["STATUS"].address)
        if status & (STATUS_DONE | STATUS_ERROR):
            break
    for port, memory in enumerate(memories):
        (path.parent / f"final{port}.bin").write_bytes(memory.read(0, options["size"]))
    (path.parent / "result.json").write_text(json.dumps({"status": status}))
