"""What orders instructions: entries of the KVWRITEs before an ATTEND, dependence tokens."""

from __future__ import annotations

import dataclasses

import pytest

from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.rtl import engine as rtl
from skipopu.errors import MachineHalt
from skipopu.isa import spec
from skipopu.isa.registers import Error
from skipopu.isa.spec import Unit
from skipopu.machine.config import Machine
from skipopu.program.program import Program, place_instructions
from skipopu.program.run import Run
from tests.agreement.test_rtl import agree
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.rtl, pytest.mark.timeout(600)]  # the first test builds the simulation
RUN = Run((1, 2, 3), 1, check=True)


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_checkpoint(random_checkpoint(small_config(num_layers=3), 1), Machine.load("mono"), "reuse", context=24)


def replaced(program: Program, words: list[int]) -> Program:
    region, memory = program.regions["program"], [port.copy() for port in program.memory]
    assert len(words) * spec.WORD_BYTES <= region.size
    place_instructions(words, memory[0], region.address)
    return dataclasses.replace(program, instructions=words, notes=["..."] * len(words), memory=memory)


def first(program: Program, instruction: spec.Instruction) -> tuple[int, dict[str, int]]:
    pc = next(k for k, word in enumerate(program.instructions) if word & 31 == instruction.opcode)
    return pc, instruction.decode(program.instructions[pc])


def test_attention_waits_for_earlier_entries_only(program: Program) -> None:
    """A second KVWRITE behind ATTEND is dispatched while ATTEND waits, and may itself wait for it."""
    words = list(program.instructions)
    attend, fields = first(program, spec.ATTEND)
    _, write = first(program, spec.KVWRITE)
    array, vector, attention = (1 << unit for unit in (Unit.ARRAY, Unit.VECTOR, Unit.ATTENTION))
    # ATTEND, the same entries once more in place of what follows the output product's alignment, then that product.
    follower = spec.MATMUL.decode(words[attend + 2])
    assert words[attend + 1] & 31 == words[attend + 2] & 31 == spec.MATMUL.opcode
    words[attend] = spec.ATTEND.encode({**fields, "push": vector})
    words[attend + 1] = spec.KVWRITE.encode({**write, "pop": attention, "late": 0, "push": array})
    words[attend + 2] = spec.MATMUL.encode({**follower, "pop": vector})
    agree(replaced(program, words), RUN, rtl.Memory())


def test_more_tokens_than_are_counted_halt(program: Program) -> None:
    words = list(program.instructions)
    chunk = next(pc for pc, word in enumerate(words) if word & 31 == spec.CHUNK.opcode)
    words[chunk + 1 : chunk + 4] = [
        spec.LOOP.encode({"count": 40}),
        spec.MATMUL.encode({"push": 1 << Unit.ATTENTION}),
        spec.END.encode({}),
    ]
    with pytest.raises(MachineHalt) as caught:
        rtl.run(replaced(program, words), RUN, rtl.Options(cycle_limit=100_000))
    assert (caught.value.code, caught.value.pc) == (Error.DEPENDENCE, chunk + 2)


def test_operands_that_no_unit_takes_are_refused(program: Program) -> None:
    """EXTEND without operands changes nothing, with one of them it halts; in front of a product of a layer and of the head."""
    at, _ = first(program, spec.MATMUL)
    head = max(pc for pc, word in enumerate(program.instructions) if word & 31 == spec.MATMUL.opcode)
    for pc in (at, head):
        words = list(program.instructions)
        words.insert(pc, spec.EXTEND.encode({}))
        extended = replaced(program, words)
        agree(extended, RUN, rtl.Memory())
        for field in spec.EXTEND.fields[1:]:
            words[pc] = spec.EXTEND.encode({field.name: 1})
            for engine in (functional, rtl):
                with pytest.raises(MachineHalt) as caught:
                    engine.run(replaced(program, words), RUN)
                assert (caught.value.code, caught.value.pc) == (Error.ILLEGAL_INSTRUCTION, pc)
