"""Program files: what is written is read back, and every kind of damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from skipopu.errors import ProgramError
from skipopu.isa.program import Program, Run
from skipopu.machine.config import Machine
from tests.support import random_checkpoint, small_config


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_checkpoint(random_checkpoint(small_config()), Machine.load("tiny"), context=32)


def test_round_trip_is_exact(program: Program, tmp_path: Path) -> None:
    path = program.save(tmp_path)
    again = Program.load(tmp_path)
    assert again.instructions == program.instructions
    assert again.model == program.model
    assert all((a == b).all() for a, b in zip(again.memory, program.memory, strict=True))
    assert again.save(tmp_path / "again").read_bytes() == path.read_bytes()


def test_damage_is_named(program: Program, tmp_path: Path) -> None:
    path = program.save(tmp_path)
    data = path.read_bytes()

    def load_of(changed: bytes) -> None:
        path.write_bytes(changed)
        Program.load(path)

    with pytest.raises(ProgramError, match="truncated"):
        load_of(data[:-1])
    with pytest.raises(ProgramError, match="not a skipopu program"):
        load_of(b"\x7fELF" + data[4:])
    with pytest.raises(ProgramError, match="checksum mismatch"):
        load_of(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ProgramError, match="version 1"):
        load_of(data[:8] + b"\x01" + data[9:])
    with pytest.raises(ProgramError, match="no such file"):
        Program.load(tmp_path / "missing")


def test_wrong_machine(program: Program) -> None:
    with pytest.raises(ProgramError, match="compiled for machine tiny"):
        program.require_machine(Machine.load("mono"))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run(()), "prompt is empty"),
        (Run((1, 70)), "token 70 is out of range"),
        (Run((1,) * 30, 3), "exceeds the program's context of 32"),
        (Run((1,), 1, dial=float("nan")), "dial is nan"),
        (Run((1, 2), 1, routing=np.ones((3, 2, 2), bool)), "routing trace has shape"),
    ],
)
def test_runs_are_validated(program: Program, run: Run, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        run.prepare(program)
