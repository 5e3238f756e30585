"""A program comes into its memory word by word, whatever the port's width."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.program import ProgramMemory
from skipopu.isa.fields import WORD_BITS
from skipopu.isa.spec import EXTEND, INSTRUCTIONS, NO_INSTRUCTION, OPCODE_BITS, PC_BITS, WORD_BYTES, instruction_of
from skipopu.machine.config import Machine
from tests.hw.bench import exercise

ABOVE_4_GB = 1 << 31  # 64-byte units
LONGEST = dataclasses.replace(Machine.load("tiny"), instructions=1 << PC_BITS)
MACHINES = [Machine.load(name) for name in ("mono", "tiny", "tiny-masks", "u280-slice4")]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@pytest.mark.parametrize("length", [1, 6, 33])
def test_a_program_is_loaded(machine: Machine, length: int) -> None:
    loaded(machine, length)


def test_a_program_as_long_as_its_memory_is_loaded() -> None:
    loaded(dataclasses.replace(MACHINES[0], instructions=16), 16)


def test_the_longest_program_is_loaded() -> None:
    loaded(LONGEST, LONGEST.instructions, seeds=0)


def words_of(source: random.Random, count: int, machine: Machine) -> tuple[list[int], list[int]]:
    """Words, and what becomes of them: instructions, some with a bit that no field has, and what has an opcode that none has. EXTEND has the
    one operand that the machine takes, none or any."""
    words, expected = [], []
    for _ in range(count):
        instruction = source.choice(INSTRUCTIONS)
        fields = source.getrandbits(instruction.used_bits - OPCODE_BITS) << OPCODE_BITS
        if instruction is EXTEND:
            fields = source.choice((0, fields, EXTEND.encode({"mask": source.randrange(1 << EXTEND.by_name["mask"].width)})))
            fields &= -1 << OPCODE_BITS
        word = fields | source.choice((instruction.opcode, instruction.opcode, 31))
        reserved = range(instruction.used_bits, WORD_BITS)
        if reserved and source.random() < 0.5:
            word |= 1 << source.choice(reserved)
        words.append(word)
        found = instruction_of(word)
        untaken = found is EXTEND and any(v for name, v in EXTEND.decode(word).items() if name != "mask" or not machine.masks)
        expected.append(word if found and not untaken else word | NO_INSTRUCTION)
    return words, expected


def loaded(machine: Machine, length: int, seeds: int = 2) -> None:
    dut, bits, address = ProgramMemory(machine), machine.port_bits, ABOVE_4_GB + 12345
    words, expected = words_of(random.Random(length), length, machine)
    whole = b"".join(word.to_bytes(WORD_BYTES, "little") for word in words)
    beats = [int.from_bytes(whole[k : k + machine.beat_bytes], "little") for k in range(0, len(whole), machine.beat_bytes)]
    cycles = 0

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal cycles
        ctx.set(dut.address, address)
        ctx.set(dut.length, length)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        assert ctx.get(dut.loading)
        assert ctx.get(dut.runs.valid)
        cycles = 0
        done = 0
        while not done:
            *_, done = await ctx.tick().sample(dut.done)
            cycles += 1
        assert not ctx.get(dut.loading)
        for k, word in enumerate(expected):
            ctx.set(dut.pc, k)
            await ctx.tick()
            assert ctx.get(dut.word) == word

    run = {"beat": address * 512 // bits, "count": len(beats)}
    exercise(dut, {dut.beats: beats}, {dut.runs: [run]}, drive=drive, seeds=range(seeds), patience=2 * length + 500)
    assert cycles == 1 + max(length, len(beats)) + 2


@pytest.mark.parametrize(("instructions", "length"), [(16, 0), (16, 17), (16, 1 << 31), (1 << PC_BITS, (1 << PC_BITS) + 1)])
def test_a_program_that_does_not_fit_is_refused(instructions: int, length: int) -> None:
    dut = ProgramMemory(dataclasses.replace(MACHINES[0], instructions=instructions))

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.length, length)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        assert ctx.get(dut.refused)
        await ctx.tick()
        assert not ctx.get(dut.loading)

    exercise(dut, {}, {dut.runs: []}, drive=drive, seeds=())
