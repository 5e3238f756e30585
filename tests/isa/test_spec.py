"""Every instruction survives encoding, the hardware's field slices, and the assembler."""

from __future__ import annotations

import pytest
from amaranth.hdl import Const, Module, Signal
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hw.control.issue import field
from skipopu.errors import ProgramError
from skipopu.isa.asm import assemble, disassemble
from skipopu.isa.fields import Field, Instruction, check_opcodes
from skipopu.isa.spec import BY_OPCODE, INSTRUCTIONS, MATMUL, OPCODE_BITS, matmul_rows, matmul_shape

instructions = st.sampled_from(INSTRUCTIONS)


@st.composite
def encoded(draw: st.DrawFn) -> tuple[Instruction, dict[str, int]]:
    instruction = draw(instructions)
    values = {f.name: draw(st.integers(0, (1 << f.width) - 1)) for f in instruction.fields if f.name != "opcode"}
    return instruction, values


@given(encoded())
def test_round_trip(case: tuple[Instruction, dict[str, int]]) -> None:
    instruction, values = case
    word = instruction.encode(values)
    assert BY_OPCODE[word & (1 << OPCODE_BITS) - 1] is instruction
    assert instruction.decode(word) == values
    assert assemble(disassemble(word)) == [word]


def test_hardware_reads_the_same_fields() -> None:
    """One signal per field of every instruction, each with its own pattern."""
    m, word = Module(), Signal(128)
    cases = []
    for instruction in INSTRUCTIONS:
        values = {
            f.name: (0x155555555 >> (i % 2)) & (1 << f.width) - 1
            for i, f in enumerate(instruction.fields)
            if f.name != "opcode"
        }
        outputs = {name: Signal(instruction.by_name[name].width, name=f"{instruction.name}_{name}") for name in values}
        m.d.comb += [signal.eq(field(word, instruction, name)) for name, signal in outputs.items()]
        cases.append((instruction.encode(values), values, outputs))
    m.d.comb += Signal().eq(Const(0))

    async def bench(ctx) -> None:
        for encoded_word, values, outputs in cases:
            ctx.set(word, encoded_word)
            await ctx.delay(1e-9)
            assert {name: ctx.get(signal) for name, signal in outputs.items()} == values

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()


def test_clashes_are_refused() -> None:
    a = Instruction("A", 1, "control", "", (Field("opcode", 5, ""),))
    b = Instruction("B", 1, "control", "", (Field("opcode", 5, ""),))
    with pytest.raises(ValueError, match="share an opcode"):
        check_opcodes((a, b))
    with pytest.raises(ValueError, match="do not fit"):
        Instruction("C", 2, "control", "", (Field("opcode", 5, ""), Field("wide", 124, "")))


def test_errors_name_the_field() -> None:
    with pytest.raises(ProgramError, match=r"MATMUL\.groups is 1024; accepted: 0\.\.1023"):
        MATMUL.encode({"groups": 1024})
    with pytest.raises(ProgramError, match="no field 'gruops'"):
        MATMUL.encode({"gruops": 1})
    with pytest.raises(ProgramError, match="line 2: mnemonic 'MATMULL'"):
        assemble("HALT\nMATMULL rows=1")


@given(st.integers(1, 30000), st.integers(1, 33))
def test_matmul_shape(rows: int, ports: int) -> None:
    assert matmul_rows(matmul_shape(rows, ports), ports) == rows
