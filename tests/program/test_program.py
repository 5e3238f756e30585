"""Program files: what is written is read back, and every kind of damage is named."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.pipeline import compile_checkpoint
from skipopu.errors import ProgramError, SkipopuError
from skipopu.machine.config import Machine
from skipopu.program.file import HEADER, MAGIC
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import ANYTHING, random_checkpoint, small_config
from tests.variants import VARIANTS


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


@pytest.mark.parametrize("name", VARIANTS)
def test_every_model_comes_back(name: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(small_config(**VARIANTS[name]))
    path = (program := compile_checkpoint(checkpoint, Machine.load("tiny"), context=16)).save(tmp_path)
    again = Program.load(path)
    assert (again.model, again.adjusts) == (program.model, program.adjusts)


def test_altered_records_are_named(tmp_path: Path) -> None:
    program = compile_checkpoint(random_checkpoint(small_config(gated=False, post_norm=True)), Machine.load("tiny"), context=16)
    for change, message in (
        (lambda d: d["adjusts"]["o"].pop("order") and None, "adjusts: o: order is missing"),
        (lambda d: d["adjusts"].update(o=4), "adjusts: o is 4; accepted: a mapping"),
        (lambda d: d["adjusts"]["o"].update(elements=1 << 20), "adjust record o ends at"),
        (lambda d: d["matrices"].pop("up") and None, "matrices: gate_up is missing"),
    ):
        with pytest.raises(ProgramError, match=message):
            Program.load(rewritten(program, tmp_path, change))


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
    path.unlink()
    path.mkdir()
    with pytest.raises(ProgramError, match="cannot be read"):
        Program.load(tmp_path)


def rewritten(program: Program, directory: Path, change: Callable[[dict], object]) -> Path:
    """The program's file with an altered description under a right checksum."""
    path = program.save(directory)
    body = path.read_bytes()[HEADER.size :]
    _, version, described, imaged, _ = HEADER.unpack_from(path.read_bytes())
    data = json.loads(body[:described])
    text = json.dumps(change(data) or data).encode()
    body = text + body[described:]
    path.write_bytes(HEADER.pack(MAGIC, version, len(text), imaged, hashlib.sha256(body).digest()) + body)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [4], r"the content is \[4\]; accepted: a mapping"),
        (lambda d: d.pop("kv") and None, "kv is missing; accepted: 'dense' or 'reuse'"),
        (lambda d: d.update(context="32"), "context is '32'; accepted: an integer from 1"),
        (lambda d: d.update(instructions=["12"]), r"instructions is \['12'\]; accepted: a list \(of a word of 32 hexadecimal"),
        (lambda d: d["notes"].pop() and None, "notes are 41; accepted: one for each of 42 instructions"),
        (lambda d: d["regions"].update(kv=[1]), r"regions: kv is \[1\]; accepted: a list of two counts"),
        (lambda d: d["regions"].update(kv=[1, 1 << 30]), "region kv ends at 0x40000001; accepted: up to"),
        (lambda d: d["regions"].update(tokens=[0, 64]), "content of region tokens ends at 0x80; accepted: up to 0x40"),
        (lambda d: d["matrices"].pop("q") and None, "matrices: q is missing"),
        (lambda d: d["matrices"]["q"].update(format="int3"), "matrices: q: format is 'int3'; accepted: 'int4' or 'int8'"),
        (lambda d: d["matrices"]["q"].update(rows=1 << 20), "matrix q ends at"),
        (lambda d: d["matrices"]["q"].update(group=17), "matrix q has group 17; accepted: 8, 16 or a multiple of 32"),
        (lambda d: d.update(port_bytes=64), "port_bytes is 64; [0-9]+ bytes of memory for 2 ports follow"),
        (lambda d: d["machine"].update(ports=None), "machine: ports is None; accepted: an integer"),
        (lambda d: d["model"].update(hidden_size=[]), r"model: hidden_size is \[\]; accepted"),
        (lambda d: d["source"].update(routers=1), "source: routers is 1; accepted: true or false"),
    ],
)
def test_altered_descriptions_are_named(program: Program, tmp_path: Path, change: Callable, message: str) -> None:
    with pytest.raises(SkipopuError, match=f"program.skpu: .*{message}"):
        Program.load(rewritten(program, tmp_path, change))


def test_a_format_that_the_machine_has_not(tmp_path: Path) -> None:
    program = compile_checkpoint(random_checkpoint(small_config()), Machine.load("mono"), context=8)
    changed = rewritten(program, tmp_path, lambda d: d["matrices"]["q"].update(format="fp4"))
    with pytest.raises(ProgramError, match="matrix q has format fp4; accepted: int4, int8"):
        Program.load(changed)


@given(st.data())
def test_any_description_is_taken_or_refused(
    program: Program, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    def change(described: dict) -> None:
        inner = data.draw(
            st.sampled_from(
                [described, *(v for v in described.values() if isinstance(v, dict) and v), described["matrices"]["q"]]
            )
        )
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(ANYTHING)

    with contextlib.suppress(SkipopuError):
        Program.load(rewritten(program, tmp_path_factory.getbasetemp(), change))


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
        (Run((1,), -1), "-1 new tokens are asked for"),
        (Run((1, 2), 1, routing=np.ones((3, 2, 2), bool)), "routing trace has shape"),
    ],
)
def test_runs_are_validated(program: Program, run: Run, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        run.prepare(program)


def test_a_run_has_no_negative_length(program: Program) -> None:
    with pytest.raises(ProgramError, match="-1 new tokens"):
        Run((1,), -1).validate(program)
