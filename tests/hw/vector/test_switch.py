"""The vector queue's switch against a table: one unit at a time has the queue and the port of the buffer."""

from __future__ import annotations

import random

from amaranth.sim import SimulatorContext

from hw.vector.switch import ALIGNING, VectorSwitch, units
from skipopu.isa.spec import ADJUST, ALIGN, EMBED, KVWRITE, MATMUL, ROUTE, STORE
from skipopu.machine.config import Machine
from tests.hw.bench import simulation

MACHINE = Machine.load("tiny")


def test_one_unit_at_a_time() -> None:
    """In the same cycle, what is counted a cycle later, and a new instruction in every one; of one of another queue no unit hears."""
    dut, source = VectorSwitch(MACHINE), random.Random(7)
    assert set(dut.units) == {EMBED, ALIGN, ROUTE, KVWRITE, STORE, ADJUST}
    assert set(dut.reading) == set(dut.units) - {EMBED}
    assert set(units(Machine.load("mono"))) == set(dut.units) - {ADJUST}

    said: dict[int, int] = {}

    def saying(port: object) -> int:
        return said[id(port)]

    async def bench(ctx: SimulatorContext) -> None:
        counted = [0, 0]
        for _ in range(150):
            instruction, active = source.choice([*dut.units, MATMUL]), source.random() < 0.7
            align = source.randrange(4) if instruction is ADJUST else 0
            word = {
                "word": instruction.encode({"align": align} if align else {}),
                "sequence": source.getrandbits(32),
                "count": source.getrandbits(7),
            }
            ctx.set(dut.queue.instruction, word)
            ctx.set(dut.queue.active, active)
            inputs = [port for task in dut.tasks for port in (task.done, task.digest, task.working, task.waiting)]
            inputs += [port for reader in dut.readers for port in (reader.address, reader.enable)]
            inputs += [dut.aligned_digest, dut.read.data]
            for port in inputs:
                said[id(port)] = source.getrandbits(len(port))
                ctx.set(port, said[id(port)])
            await ctx.delay(0)
            assert [ctx.get(task.active) for task in dut.tasks] == [active and one is instruction for one in dut.units]
            assert ctx.get(dut.selected) == sum(1 << k for k, one in enumerate(dut.units) if one is instruction)
            for task in dut.tasks:
                assert all(ctx.get(task.instruction)[name] == value for name, value in word.items())
            assert all(ctx.get(reader.data) == saying(dut.read.data) for reader in dut.readers)
            seen = [ctx.get(port) for port in (dut.queue.done, dut.queue.digest)]
            assert [ctx.get(dut.queue.working), ctx.get(dut.queue.waiting)] == counted
            if instruction in dut.units:
                task = dut.of(instruction)
                digest = saying(task.digest) + (saying(dut.aligned_digest) if align or instruction in ALIGNING else 0)
                counted = [active and saying(task.working), active and saying(task.waiting)]
                assert seen == [saying(task.done), digest % (1 << 32)]
                assert ctx.get(dut.chosen(instruction))
            else:
                counted = [0, 0]
                assert seen == [0, 0]
            reads = [ctx.get(dut.read.address), ctx.get(dut.read.enable)]
            if instruction in dut.reading:
                reader = dut.reader(instruction)
                assert reads == [saying(reader.address), saying(reader.enable)]
            else:
                assert reads[1] == 0
            await ctx.tick()

    simulator = simulation(dut)
    simulator.add_testbench(bench)
    simulator.run()
