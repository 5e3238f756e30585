"""Traces of a ring against those of the functional engine; what a check is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from sim.check import check, first_difference
from sim.functional import engine as functional
from sim.result import Retired
from skipopu.isa.spec import BY_OPCODE, OPCODE_BITS
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config


@pytest.fixture(scope="module")
def program() -> Program:
    machine = replace(Machine.load("tiny"), trace_records=8)
    return compile_checkpoint(random_checkpoint(small_config(), 1), machine, context=4)


@pytest.fixture(scope="module")
def expected(program: Program) -> list[Retired]:
    return functional.run(program, Run((1, 2), 1, check=True)).trace


def ring(expected: list[Retired], order: list[int]) -> list[Retired]:
    """What eight places hold when instructions retire in ``order``."""
    places = {number % 8: replace(expected[number], sequence=number) for number in order}
    return sorted(places.values(), key=lambda record: record.sequence)


def test_a_ring_holds_the_last_records(program: Program, expected: list[Retired]) -> None:
    count = len(expected)
    assert count > 16
    assert first_difference(program, expected, ring(expected, list(range(count)))) is None


def test_an_older_instruction_of_a_slower_unit_may_keep_its_place(program: Program, expected: list[Retired]) -> None:
    count = len(expected)
    late = count - 9  # of the vector unit; its place was the array's before
    units = [BY_OPCODE[program.instructions[expected[n].pc] & (1 << OPCODE_BITS) - 1].unit for n in (late, late + 8)]
    assert units == ["vector", "array"]
    seen = ring(expected, [number for number in range(count) if number != late] + [late])
    assert seen[0].sequence == late
    assert first_difference(program, expected, seen) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda record: replace(record, signature=record.signature ^ 1),
        lambda record: replace(record, pc=record.pc + 1),
        lambda record: replace(record, sequence=1 << 20),
        None,
    ],
)
def test_a_wrong_or_missing_record_is_found(program: Program, expected: list[Retired], wrong) -> None:
    seen = ring(expected, list(range(len(expected))))
    seen[3:4] = [] if wrong is None else [wrong(seen[3])]
    assert first_difference(program, expected, seen) is not None


@pytest.mark.parametrize("retired", [8, 12, -4])
def test_a_machine_that_stopped_early_is_found(program: Program, expected: list[Retired], retired: int) -> None:
    seen = ring(expected, list(range(len(expected)))[:retired])
    assert len(seen) == 8
    assert first_difference(program, expected, seen) is not None


def test_a_check_that_compares_nothing_says_so() -> None:
    program = compile_checkpoint(random_checkpoint(small_config(), 1), Machine.load("tiny"), context=8)
    whole = check(program, Run((1, 2, 3), 0), with_rtl=False)
    assert whole.agreement.routing_positions == 9, "of three tokens, the last one too; layer 0's attention is not decided"
    assert check(program, Run((1,), 0), with_rtl=False).ok
    everything = compile_checkpoint(random_checkpoint(small_config(), 1, False, 1e-5), Machine.load("tiny"), context=8)
    region = everything.regions["embedding"]
    for port in everything.memory:
        port[region.address : region.address + region.size] = 0
    assert check(everything, Run((1, 2), 2), with_rtl=False).remarks, "all logits are zero"
    large = random_checkpoint(small_config(), 1, False)
    for name, tensor in large.tensors.items():
        if "v_proj" in name:
            large.tensors[name] = tensor * np.float32(1e5)  # the reference's V is infinite, the machine's saturates
    found = check(compile_checkpoint(large, Machine.load("tiny"), context=8), Run((1, 2), 2), with_rtl=False)
    assert not found.ok
    assert "NaN or infinite" in found.problems[0]
    assert "saturated" in found.remarks[0]
