"""What the hardware's dispatch refuses, functional and timing engine refuse with the same code at the same instruction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from skipopu.errors import MachineHalt, ProgramError
from skipopu.isa import spec
from skipopu.isa.registers import Config, Error
from skipopu.machine.config import Machine
from skipopu.program.program import Program, place_instructions
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

RUN = Run((1, 2, 3), 1)
Words = list[int]


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_checkpoint(random_checkpoint(small_config(num_layers=3), 1), Machine.load("mono"), "reuse", context=24)


def place(words: Words, instruction: spec.Instruction) -> int:
    return next(pc for pc, word in enumerate(words) if word & 31 == instruction.opcode)


def changed(program: Program, words: Words) -> Program:
    memory = [port.copy() for port in program.memory]
    place_instructions(words, memory[0], program.regions["program"].address)
    return dataclasses.replace(program, instructions=words, notes=["..."] * len(words), memory=memory)


def configured(register: Config, value: int) -> Callable[[Words], int]:
    def change(words: Words) -> int:
        pc = next(
            pc
            for pc, word in enumerate(words)
            if word & 31 == spec.SET.opcode and spec.SET.decode(word)["register"] == register
        )
        words[pc] = spec.SET.encode({"register": register, "value": value})
        return pc

    return change


def extended(words: Words) -> int:
    pc = place(words, spec.MATMUL)
    words.insert(pc, spec.EXTEND.encode({"rank": 1}))
    return pc


def unknown_format(words: Words) -> int:
    pc = place(words, spec.MATMUL)
    words[pc] = spec.MATMUL.encode({**spec.MATMUL.decode(words[pc]), "format": 7, "rounds": 0})
    return pc


def unknown_opcode(words: Words) -> int:
    pc = place(words, spec.ATTEND)
    words[pc] = 31
    return pc


CASES = [
    (configured(Config.GROUP, 0), Error.CONFIGURATION),
    (configured(Config.HISTORY, 1 << 20), Error.CONFIGURATION),
    (configured(Config.HEAD_DIM, 512), Error.CONFIGURATION),
    (extended, Error.ILLEGAL_INSTRUCTION),
    (unknown_opcode, Error.ILLEGAL_INSTRUCTION),
]
ENGINES = [functional, timing, pytest.param(rtl, marks=pytest.mark.rtl)]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize(("change", "code"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_bad_programs_halt(program: Program, change: Callable[[Words], int], code: Error, engine: object) -> None:
    words = list(program.instructions)
    pc = change(words)
    options = timing.Options(functional.run(program, RUN)) if engine is timing else None
    with pytest.raises(MachineHalt) as caught:
        engine.run(changed(program, words), RUN, options)
    assert (caught.value.code, caught.value.pc) == (code, pc)


@pytest.mark.parametrize("engine", [functional, pytest.param(rtl, marks=pytest.mark.rtl)], ids=lambda engine: engine.name)
def test_an_unknown_format_halts_whatever_is_listed(program: Program, engine: object) -> None:
    words = list(program.instructions)
    pc = unknown_format(words)
    with pytest.raises(MachineHalt) as caught:
        engine.run(changed(program, words), RUN)
    assert (caught.value.code, caught.value.pc) == (Error.ILLEGAL_INSTRUCTION, pc)


@pytest.mark.parametrize("instruction", [spec.LOOP, spec.END])
def test_loops_end(program: Program, instruction: spec.Instruction) -> None:
    words = list(program.instructions)
    words[place(words, instruction)] = spec.CHUNK.encode({})
    with pytest.raises(ProgramError, match=r"LOOP|END"):
        functional.run(changed(program, words), RUN)
