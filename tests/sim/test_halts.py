"""Programs that are damaged, by the public command: one line that names code and instruction, or the file; what came before is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from skipopu import cli
from skipopu.errors import MachineHalt
from skipopu.isa import spec
from skipopu.isa.fields import WORD_BITS
from skipopu.isa.registers import Config, Error
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.agreement.test_faults import rewritten
from tests.agreement.test_recovery import failing
from tests.support import random_checkpoint, said, small_config

PROMPT, NEW = (1, 2, 3, 4, 5), 12
ENGINES = ["functional", pytest.param("rtl", marks=pytest.mark.rtl)]


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_checkpoint(random_checkpoint(small_config(), 1), Machine.load("tiny"), "reuse", context=24)


def ask(program: Program, engine: str, folder: Path) -> list[object]:
    program.save(folder)
    return ["run", folder, "--engine", engine, "--tokens", ",".join(map(str, PROMPT)), "--max-new", NEW]


def reserved(program: Program) -> dict[str, tuple[Program, int]]:
    """By instruction: a bit set that no field has, in the first one of the program. Without LOOP or END the other one is refused, too."""
    damaged = {}
    for pc, word in enumerate(program.instructions):
        instruction = spec.instruction_of(word)
        assert instruction is not None
        if instruction.name not in (*damaged, "LOOP", "END") and instruction.used_bits < WORD_BITS:
            damaged[instruction.name] = rewritten(program, pc, word | 1 << (instruction.used_bits + pc % 3)), pc
    return damaged


@pytest.mark.parametrize("engine", ENGINES)
def test_a_halt_is_told_with_its_code_and_instruction(
    program: Program, engine: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Every error that a program can bring, but dependence tokens, which the functional engine does not count, and what takes a second."""
    cases = {code.name: (code, damaged) for code, damaged in failing(program).items()}
    del cases["DEPENDENCE"], cases["WATCHDOG"]
    if engine == "functional":
        del cases["AXI_READ"]  # of a memory that ends
    cases |= {name: (Error.ILLEGAL_INSTRUCTION, damaged) for name, (damaged, _) in reserved(program).items()}
    first = spec.SET.encode({"register": 50, "value": 1})
    cases["register"] = (Error.CONFIGURATION, rewritten(program, 0, first))
    for name, (error, damaged) in cases.items():
        code, text = said(ask(damaged, engine, tmp_path / name), capsysbinary)
        assert (code, text.count("\n")) == (2, 1), (name, text)
        assert error.name in text, (name, text)
        assert "instruction " in text, (name, text)


def test_bits_of_no_field_halt_at_their_instruction(program: Program) -> None:
    damaged = reserved(program)
    assert {"SET", "CHUNK", "NEXT", "EMBED", "KVWRITE", "ATTEND", "HALT"} <= damaged.keys()
    for name, (wrong, pc) in damaged.items():
        with pytest.raises(MachineHalt) as halt:
            functional.run(wrong, Run(PROMPT, NEW))
        assert (halt.value.code, halt.value.pc) == (Error.ILLEGAL_INSTRUCTION, pc), name


@pytest.mark.parametrize("engine", ENGINES)
def test_tokens_before_a_halt_are_written(
    program: Program, engine: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    slots = program.notes.index("KV_SLOTS")
    few = rewritten(program, slots, spec.SET.encode({"register": Config.KV_SLOTS, "value": 9}))
    tokens = functional.run(program, Run(PROMPT, NEW)).tokens
    capsysbinary.readouterr()
    assert cli.main([str(a) for a in ask(few, engine, tmp_path)]) == 2
    written = [int(word) for word in capsysbinary.readouterr().out.split()]
    assert 0 < len(written) - len(PROMPT) < NEW
    assert written == [*PROMPT, *tokens][: len(written)]


def cut(file: bytes) -> bytes:
    return file[:-100]


def flipped(file: bytes) -> bytes:
    return file[:-100] + bytes([file[-100] ^ 1]) + file[-99:]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_file_is_named(
    program: Program, damage: Callable[[bytes], bytes], tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ask(program, "rtl", tmp_path)
    file = next(path for path in tmp_path.iterdir() if path.stat().st_size > 10_000)
    file.write_bytes(damage(file.read_bytes()))
    code, text = said(arguments, capsysbinary)
    assert code == 2
    assert file.name in text
