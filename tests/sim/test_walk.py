"""What control instructions mean, on programs of nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.walk import UNKNOWN, Walk, decode
from skipopu.errors import MachineHalt
from skipopu.isa.registers import NO_TOKEN, Config, Error
from skipopu.isa.spec import CHUNK, END, HALT, LOOP, NEXT, SET, TokenList
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import Followed, small_config

LAYERS = 3
HEAD = [SET.encode({"register": Config.CONTEXT, "value": 10})]
HEAD += [SET.encode({"register": Config.EOS0 + k, "value": NO_TOKEN}) for k in range(4)]
START = len(HEAD)
BODY = [CHUNK.encode({}), LOOP.encode({"count": LAYERS, "advance": 5}), END.encode({}), NEXT.encode({"target": START})]
PROGRAM = [*HEAD, *BODY, HALT.encode({})]


def program(words: list[int]) -> Program:
    base = compile_checkpoint(outline("", config=small_config()), Machine.load("tiny"), context=10, group=128)
    return replace(base, instructions=words)


def walk(words: list[int], prompt: int, most: int, ids: list[int | None]) -> tuple[Walk, list[tuple[str, ...]], Followed]:
    """A finished walk, its steps with layer, layer base, position and count, what was told."""
    followed, left = Followed(), iter(ids)
    found = Walk(program(words), Run((0,) * prompt, most), lambda: next(left), followed)
    seen = [(s.instruction.name, found.layer, found.layer_base, found.position, found.count) for s in found]
    return found, seen, followed


def test_a_prompt_in_chunks_then_token_by_token() -> None:
    tokens = Machine.load("tiny").tokens
    found, seen, followed = walk(PROGRAM, tokens + 2, 3, [7, 8, 9])
    assert followed.done == [tokens, tokens + 2, tokens + 3, tokens + 4]
    assert found.generated == 3
    assert seen[-1][0] == "HALT"
    ends = [step for step in seen if step[0] == "END"]
    assert ends[:LAYERS] == [("END", layer, 5 * layer, 0, tokens) for layer in range(LAYERS)]
    assert len(ends) == 4 * LAYERS
    assert ends[-1][3:] == (tokens + 3, 1)


def test_only_the_last_chunk_of_a_prompt_has_a_last_slot() -> None:
    tokens = Machine.load("tiny").tokens
    found = Walk(program(PROGRAM), Run((0,) * (tokens + 2), 1), lambda: None)
    last = [found.lists[TokenList.LAST].tolist() for step in found if step.instruction is NEXT]
    assert last == [[], [1]]


def test_generation_ends_with_an_end_of_sequence_or_when_enough_was_generated() -> None:
    words = [*PROGRAM]
    words[1] = SET.encode({"register": Config.EOS0, "value": 8})
    assert walk(words, 2, 5, [7, 8])[0].generated == 2
    assert walk(words, 2, 2, [None, None])[0].generated == 2, "ids that nobody knows end nothing"
    assert walk(words, 2, 0, [])[2].done == [2]


def test_a_caller_may_take_the_layers_itself() -> None:
    flat, taken = [], []
    found = Walk(program(PROGRAM), Run((0, 0), 2), lambda: None)
    for step in found:
        if step.instruction is LOOP:
            assert found.body() == range(START + 2, START + 2)
            taken += [(layer, found.layer_base, found.position) for layer in found.layers()]
        else:
            assert step.instruction is not END
    other = Walk(program(PROGRAM), Run((0, 0), 2), lambda: None)
    for step in other:
        if step.instruction is END:
            flat.append((other.layer, other.layer_base, other.position))
    assert taken == flat
    assert (found.layer, found.layer_base) == (other.layer, other.layer_base) == (LAYERS, 5 * LAYERS)


@pytest.mark.parametrize(
    ("words", "prompt", "code", "pc"),
    [
        (PROGRAM[:-1], 2, Error.PROGRAM_RANGE, START + 4),
        ([*HEAD, 31, *BODY], 2, Error.ILLEGAL_INSTRUCTION, START),
        (PROGRAM, 11, Error.CONTEXT_FULL, START),
    ],
)
def test_what_stops_a_machine(words: list[int], prompt: int, code: Error, pc: int) -> None:
    with pytest.raises(MachineHalt, match=f"instruction {pc}: .*{code.name}") as caught:
        walk(words, prompt, 1, [1])
    assert (caught.value.code, caught.value.pc) == (code, pc)


def test_words_that_say_nothing_are_decoded_too() -> None:
    steps = decode(program([31, *PROGRAM]))
    assert steps[0] == (0, UNKNOWN, {})
    assert steps[1].fields == {"register": Config.CONTEXT, "value": 10}
