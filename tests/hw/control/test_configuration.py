"""Every register holds what was written to it last; what a machine cannot execute is said."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.configuration import Configuration
from skipopu.isa.registers import Config
from skipopu.machine.accepted import LARGEST_BUFFER, LARGEST_MAP
from skipopu.machine.config import Machine
from skipopu.machine.limits import ranges, registers_of
from tests.hw.bench import exercise

TINY = Machine.load("tiny")
LARGEST = dataclasses.replace(
    TINY,
    activation=LARGEST_BUFFER,
    map_entries=LARGEST_MAP,
    kv_heads=64,
    query_group=16,
    history=1 << 20,
    stationary=True,
    masks=True,
)


@pytest.mark.parametrize("machine", [TINY, LARGEST], ids=["tiny", "largest"])
def test_registers_and_their_ranges(machine: Machine) -> None:
    dut, legal, source = Configuration(machine), ranges(machine), random.Random(1)
    borders = [
        (r, v) for r, a in legal.items() for v in (a.least - 1, a.least, a.least + a.step, a.most, a.most + a.step, a.most - 1)
    ]
    borders += [(r, v + d) for r, a in legal.items() for v in a.also for d in (-1, 0, 1)]
    writes = [(source.randrange(64), source.getrandbits(32)) for _ in range(150)] + [(r, v % (1 << 32)) for r, v in borders]
    source.shuffle(writes)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        held = dict.fromkeys(registers_of(machine), 0)
        for register, value in writes:
            write = stalls is None or stalls.random() < 0.7
            ctx.set(dut.register, register)
            ctx.set(dut.value, value)
            restart = not source.randrange(8)
            ctx.set(dut.write, write)
            ctx.set(dut.restart, restart)
            unknown = register not in held
            illegal = unknown or (register in legal and value not in legal[Config(register)])
            await ctx.tick()
            ctx.set(dut.write, 0)
            ctx.set(dut.restart, 0)
            assert ctx.get(dut.rejected) == (write and illegal), (register, value)
            await ctx.tick()
            if restart:
                held |= dict.fromkeys((r for r in held if r >= Config.SOFT_CAP), 0)
            if write and register in held:
                held[Config(register)] = value
            assert ctx.get(dut.config) == sum(value << 32 * register for register, value in held.items())

    exercise(dut, {}, {}, drive=drive, seeds=range(1))


def test_a_machine_without_soft_caps_has_no_register_for_them() -> None:
    plain = dataclasses.replace(TINY, soft_cap=False)
    assert registers_of(plain) == [r for r in Config if r < Config.SOFT_CAP] == registers_of(TINY)[:-1]
    assert len(Configuration(plain).config) == 32 * len(registers_of(plain))
