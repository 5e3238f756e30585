"""The check can fail: one weight bit, one routing bit, one rounding; and the machine halts with a code on bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Mux, Value

import hw.vector.aligner
from compiler.pipeline import compile_checkpoint
from hw.emit import overlay_verilog
from sim.check import check
from sim.functional import engine as functional
from sim.rtl import engine as rtl
from skipopu.errors import MachineHalt, ProgramError
from skipopu.isa import spec
from skipopu.isa.registers import Config, Error
from skipopu.layout import WeightStream
from skipopu.machine.config import Machine
from skipopu.program.program import Program, place_instructions
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

pytestmark = pytest.mark.rtl
RUN = Run(tuple(range(1, 8)), 3)


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_checkpoint(random_checkpoint(small_config(num_layers=3), 1), Machine.load("mono"), "reuse", context=24)


def changed(program: Program, address: int, bit: int) -> Program:
    memory = [port.copy() for port in program.memory]
    memory[0][address] ^= 1 << bit
    return dataclasses.replace(program, memory=memory)


def test_untouched_program_passes(program: Program) -> None:
    result = check(program, RUN)
    assert result.ok, result.problems
    assert result.differing_bits == 0


def test_one_weight_bit_is_reported_with_its_instruction_and_layer(program: Program) -> None:
    d = program.matrices["down"]
    stream = WeightStream(d["rows"], d["groups"], d["group"], 1, 16)
    # Behind the first word of scales, in layer 1: a code of row 0.
    assert stream.size > 64
    damaged = changed(program, d["address"] + d["layer_stride"] + 64 + 5, 3)
    result = check(damaged, RUN, golden=program)
    assert not result.ok
    assert result.difference is not None
    assert "mlp.down_proj" in result.difference.note
    assert result.difference.expected.layer == 1


def test_one_routing_bit_is_reported_at_the_routing_instruction(program: Program) -> None:
    # The mode field of layer 2's attention: router becomes always.
    damaged = changed(program, program.router_record[0] + 2 * program.router_record[1] + 8, 0)
    result = check(damaged, RUN, golden=program)
    assert not result.ok
    assert result.difference is not None
    assert "routing bits" in result.difference.note
    assert result.difference.expected.layer == 2


def test_one_rounding_is_reported_where_it_happens(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hw.vector.aligner, "align_lane", lambda m, x, e, n: _truncate(x, e))
    verilog = overlay_verilog.__wrapped__(program.machine)
    result = check(program, RUN, verilog=verilog)
    assert not result.ok
    assert result.difference is not None
    assert result.difference.note == "chunk: token embedding, rotary rows"
    assert (result.difference.expected.layer, result.difference.expected.position) == (0, 0)


def _truncate(x: Value, exponent: Value) -> Value:
    """Alignment that rounds towards zero."""
    distance = (exponent - x[23:31])[:8]
    magnitude = Mux(x[23:31] == 0, 0, Cat(x[:23], Const(1, 1)) >> (7 + Mux(distance > 18, 18, distance)[:5]))
    return Mux(x[31], -magnitude, magnitude)[:18].as_signed()


def rewritten(program: Program, index: int, word: int) -> Program:
    words = list(program.instructions)
    words[index] = word
    memory = [port.copy() for port in program.memory]
    place_instructions(words, memory[0], program.regions["program"].address)
    return dataclasses.replace(program, instructions=words, memory=memory)


def find(program: Program, instruction: spec.Instruction) -> tuple[int, dict[str, int]]:
    index = next(
        i
        for i, w in enumerate(program.instructions)
        if w & 31 == instruction.opcode and instruction.decode(w).get("rounds") != 0
    )
    return index, instruction.decode(program.instructions[index])


def halts(program: Program, run: Run = RUN, memory: rtl.Memory | None = None) -> tuple[int, int]:
    with pytest.raises(MachineHalt) as caught:
        rtl.run(program, run, rtl.Options(memory=memory, cycle_limit=400_000))
    return caught.value.code, caught.value.pc


def test_illegal_opcode_and_format_halt(program: Program) -> None:
    index, fields = find(program, spec.MATMUL)
    assert halts(rewritten(program, index, 31)) == (Error.ILLEGAL_INSTRUCTION, index)
    assert halts(rewritten(program, index, spec.MATMUL.encode({**fields, "format": 2}))) == (Error.ILLEGAL_INSTRUCTION, index)


def test_addresses_beyond_a_buffer_or_the_memory_halt(program: Program) -> None:
    index, fields = find(program, spec.EMBED)
    assert halts(rewritten(program, index, spec.EMBED.encode({**fields, "dst": 1 << 15}))) == (Error.BUFFER_RANGE, index)
    assert halts(rewritten(program, index, spec.EMBED.encode({**fields, "address": (1 << 28) - 1}))) == (Error.AXI_READ, index)
    index, fields = find(program, spec.MATMUL)
    assert halts(rewritten(program, index, spec.MATMUL.encode({**fields, "dst": 1 << 15}))) == (Error.BUFFER_RANGE, index)


def test_aligning_beyond_the_activation_memory_halts_at_the_instruction_that_aligns(program: Program) -> None:
    index = program.notes.index("INNER")
    word = spec.SET.encode({"register": Config.INNER, "value": program.machine.activation})
    attend, _ = find(program, spec.ATTEND)
    damaged = rewritten(program, index, word)
    # Products that read the inner region are refused when they are dispatched, ahead of the write: let them read the residual.
    for pc, instruction in enumerate(damaged.instructions):
        if instruction & 31 == spec.MATMUL.opcode and spec.MATMUL.decode(instruction)["source"]:
            fields = spec.MATMUL.decode(instruction) | {"source": 0, "groups": 1}
            damaged = rewritten(damaged, pc, spec.MATMUL.encode(fields))
    assert halts(damaged) == (Error.BUFFER_RANGE, attend)
    with pytest.raises(MachineHalt) as caught:
        functional.run(damaged, RUN)
    assert (caught.value.code, caught.value.pc) == (Error.BUFFER_RANGE, attend)


def test_bad_token_full_pool_and_lost_program_halt(program: Program) -> None:
    memory = [port.copy() for port in program.memory]
    damaged = dataclasses.replace(program, memory=memory)
    index, _ = find(program, spec.EMBED)
    vocabulary = next(i for i, w in enumerate(program.instructions) if w & 31 == spec.SET.opcode)
    smaller = rewritten(damaged, vocabulary, spec.SET.encode({"register": 0, "value": 5}))
    assert halts(smaller) == (Error.TOKEN_OUT_OF_RANGE, index)
    slots = next(i for i, n in enumerate(program.notes) if n == "KV_SLOTS")
    fields = spec.SET.decode(program.instructions[slots])
    write, _ = find(program, spec.KVWRITE)
    assert halts(rewritten(program, slots, spec.SET.encode({**fields, "value": 2}))) == (Error.KV_POOL_FULL, write)
    context = next(i for i, n in enumerate(program.notes) if n == "CONTEXT")
    chunk, _ = find(program, spec.CHUNK)
    assert halts(rewritten(program, context, spec.SET.encode({"register": 1, "value": 4}))) == (Error.CONTEXT_FULL, chunk)
    group = next(i for i, n in enumerate(program.notes) if n == "GROUP")
    assert halts(rewritten(program, group, spec.SET.encode({"register": 13, "value": 9}))) == (Error.CONFIGURATION, group)
    halt = len(program.instructions) - 1
    assert halts(rewritten(program, halt, spec.NEXT.encode({"target": 4000})))[0] == Error.PROGRAM_RANGE


def test_nothing_produced_is_lost_when_the_machine_halts(program: Program) -> None:
    good = rtl.run(program, RUN).tokens
    slots = next(i for i, n in enumerate(program.notes) if n == "KV_SLOTS")
    entries = 3 * len(RUN.prompt) - 2
    word = spec.SET.encode({**spec.SET.decode(program.instructions[slots]), "value": entries})
    with pytest.raises(MachineHalt) as caught:
        rtl.run(rewritten(program, slots, word), Run(RUN.prompt, 12), rtl.Options(cycle_limit=1_000_000))
    assert caught.value.code == Error.KV_POOL_FULL
    assert caught.value.tokens[: len(good)] == good[: len(caught.value.tokens)]
    assert np.size(caught.value.tokens) > 0


def test_a_program_for_other_hardware_is_refused(program: Program) -> None:
    other = dataclasses.replace(program, machine=dataclasses.replace(program.machine, query=program.machine.query // 2))
    with pytest.raises(ProgramError, match="MACHINE register is"):
        rtl.run(other, RUN, rtl.Options(verilog=overlay_verilog(program.machine)))
