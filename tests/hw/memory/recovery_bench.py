"""cocotb side of test_recovery: runs that are ended in the middle, followed by the shell's reset or by nothing, and then one that is left
alone."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from skipopu import shell
from skipopu.isa.registers import (
    CONTROL_ABORT,
    CONTROL_START,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_OWED,
    STATUS_RUNNING,
    Error,
)
from tests.hw.memory.axi_bench import Bench, around, finished, left

CHANNELS = ("arvalid", "awvalid", "wvalid")


async def nothing_moves(dut: object, bench: Bench, ports: int) -> None:
    """A machine that stopped asks memory for nothing."""
    for _ in range(60):
        await RisingEdge(bench.core)
        for port in range(ports):
            assert not any(int(getattr(dut, f"m_axi_{port:02}_{name}").value) for name in CHANNELS)


async def stopped(bench: Bench) -> int:
    """The status once there is no run and memory owes nothing."""
    for _ in range(400):
        if not (status := await bench.read("STATUS")) & (STATUS_RUNNING | STATUS_OWED):
            return status
        await ClockCycles(bench.core, 10)
    raise AssertionError("memory's answers did not end")


@cocotb.test()
async def run(dut: object) -> None:
    path = Path(os.environ["SKIPOPU_BENCH"])
    options = json.loads(path.read_text())
    bench, ports = await around(dut, path, options), len(options["bases"])

    async def begin(**other: int) -> None:
        for name, value in {**options["registers"], **other}.items():
            await bench.write(name, value)
        await bench.write("CONTROL", CONTROL_START)

    async def again() -> None:
        """Every other time with a reset: a start does without one."""
        await nothing_moves(dut, bench, ports)
        if next(turns):
            await bench.master.write_dword(shell.RESET, 1)
            assert await bench.read("STATUS") == 0

    turns = itertools.cycle((True, False, False))
    # Nothing to abort.
    await bench.write("CONTROL", CONTROL_ABORT)
    assert await bench.read("STATUS") == 0
    for cycles in options["aborts"]:
        await begin()
        await ClockCycles(bench.core, cycles)
        assert await bench.read("STATUS") == STATUS_RUNNING, f"after {cycles} cycles"
        await bench.write("CONTROL", CONTROL_ABORT)
        assert (await stopped(bench), await bench.read("ERROR")) == (STATUS_ERROR, Error.ABORTED)
        await again()
    # A program that there is none of, and one whose end is missing.
    for length in (0, options["registers"]["PROGRAM_LENGTH"] // 2):
        await begin(PROGRAM_LENGTH=length)
        await finished(bench, options["patience"])
        assert (await stopped(bench), await bench.read("ERROR")) == (STATUS_ERROR, Error.PROGRAM_RANGE)
        await again()
    if options["still"]:
        # A memory that goes silent, and answers after all.
        await begin()
        await ClockCycles(bench.core, options["aborts"][0])
        channel = bench.memories[0].read_if.r_channel
        channel.set_pause_generator(itertools.repeat(1))
        await ClockCycles(bench.core, 3 * options["still"])
        assert (await bench.read("STATUS"), await bench.read("ERROR")) == (STATUS_ERROR | STATUS_OWED, Error.WATCHDOG)
        # Nothing starts while what comes would be taken for another run's.
        await bench.write("CONTROL", CONTROL_START)
        assert await bench.read("STATUS") == STATUS_ERROR | STATUS_OWED
        channel.clear_pause_generator()
        channel.pause = False
        assert await stopped(bench) == STATUS_ERROR
        await again()
    for port, (memory, base) in enumerate(zip(bench.memories, options["bases"], strict=True)):
        memory.write(base, (path.parent / f"port{port}.bin").read_bytes())
    await begin()
    await ClockCycles(bench.core, options["aborts"][0])
    # A start while a run is under way is ignored.
    await bench.write("CONTROL", CONTROL_START)
    status = await finished(bench, options["patience"])
    left(path, options, bench, status=status)
    assert status & STATUS_DONE
