"""cocotb side of test_axi: an independent AXI model on every port, random pauses on every channel.

``wiring`` in the options names clocks, resets and buses of the top level: the overlay's own, or a vendor shell's.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from skipopu.isa.registers import HOST, STATUS_DONE, STATUS_ERROR


def pauses(seed: int, share: float) -> Iterator[int]:
    source = random.Random(seed)
    return (int(source.random() < share) for _ in itertools.count())


class Bench(NamedTuple):
    """What is around the top level: the core's clock, the host, a memory per port."""

    core: Any
    master: AxiLiteMaster
    memories: list[AxiRam]

    async def write(self, name: str, value: int) -> None:
        await self.master.write_dword(HOST[name].address, value)

    async def read(self, name: str) -> int:
        return await self.master.read_dword(HOST[name].address)


async def around(dut: object, path: Path, options: dict[str, Any]) -> Bench:
    """Connects all of it, with ``options``'s images in memory, and resets the top level."""
    wiring, bases = options["wiring"], options["bases"]
    low = wiring["active_low"]
    for number, (clock, reset) in enumerate(wiring["clocks"]):
        # The second clock is a little more than twice as fast, so that edges meet everywhere.
        Clock(getattr(dut, clock), (10_000, 4_734)[number], unit="ps").start()
        getattr(dut, reset).value = int(not low)
    (clock, reset), memory_pins = wiring["clocks"][0], wiring["clocks"][-1]
    core, resets = getattr(dut, clock), [getattr(dut, name) for _, name in wiring["clocks"]]
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, wiring["control"]), core, resets[0], reset_active_level=not low)
    memories = []
    for port, base in enumerate(bases):
        bus = AxiBus.from_prefix(dut, wiring["port"].format(port))
        pins = [getattr(dut, name) for name in memory_pins]
        memory = AxiRam(bus, *pins, reset_active_level=not low, size=base + options["size"])
        memory.write(base, (path.parent / f"port{port}.bin").read_bytes())
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
    await ClockCycles(core, 8)
    for pin in resets:
        pin.value = int(low)
    await ClockCycles(core, 8)
    await RisingEdge(core)
    for address, value in options["shell"].items():
        await master.write_dword(int(address), value)
    return Bench(core, master, memories)


def left(path: Path, options: dict[str, Any], bench: Bench, **found: int) -> None:
    """Writes what is in memory and what was ``found``."""
    for port, memory in enumerate(bench.memories):
        (path.parent / f"final{port}.bin").write_bytes(memory.read(options["bases"][port], options["size"]))
    (path.parent / "result.json").write_text(json.dumps(found))


async def finished(bench: Bench, patience: int) -> int:
    """The status in which a run ends."""
    status = 0
    for _ in range(patience):
        await ClockCycles(bench.core, 500)
        if (status := await bench.read("STATUS")) & (STATUS_DONE | STATUS_ERROR):
            break
    return status


@cocotb.test()
async def run(dut: object) -> None:
    path = Path(os.environ["SKIPOPU_BENCH"])
    options = json.loads(path.read_text())
    bench = await around(dut, path, options)
    for name, value in options["registers"].items():
        await bench.write(name, value)
    await bench.write("CONTROL", 1)
    left(path, options, bench, status=await finished(bench, options["patience"]))
