"""The functional engine: independence of machine and chunk, agreement with the reference, run-time errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.frontend.checkpoint import Router
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.reference import engine as reference
from sim.result import logits_of
from sim.timing import engine as timing
from skipopu.errors import MachineHalt, ProgramError
from skipopu.isa import spec
from skipopu.isa.registers import Error
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

PROMPT = tuple(range(3, 26))


def logits(target: str, kv: str, tokens: int | None = None) -> np.ndarray:
    machine = Machine.load(target)
    if tokens is not None:
        machine = dataclasses.replace(machine, tokens=tokens)
    program = compile_checkpoint(random_checkpoint(small_config(num_layers=3), 5), machine, kv, logits=True, context=40)
    result = functional.run(program, Run(PROMPT, 6))
    return logits_of(program, result, len(PROMPT) + 5)


@pytest.mark.parametrize("kv", ["dense", "reuse"])
def test_no_result_depends_on_machine_or_chunk(kv: str) -> None:
    expected = logits("tiny", kv)
    for target, tokens in (("tiny", 1), ("tiny", 7), ("mono", None), ("trio", None), ("u280-slice4", None)):
        assert (logits(target, kv, tokens).view(np.uint32) == expected.view(np.uint32)).all(), (target, tokens)


@pytest.mark.parametrize("kv", ["dense", "reuse"])
def test_agrees_with_the_reference_within_the_derived_bound(kv: str) -> None:
    config = small_config(num_layers=3, head_dim=24, hidden_size=72)
    program = compile_checkpoint(random_checkpoint(config, 7), Machine.load("tiny"), kv, logits=True)
    options = Run(PROMPT, 12)
    result = functional.run(program, options)
    sequence = [*PROMPT, *result.tokens]
    count = len(sequence) - 1
    a = reference.agreement(
        program, options, [sequence], len(PROMPT), result.routing[None, ..., :count], logits_of(program, result, count)[None]
    )
    assert a.ok
    assert a.max_logit_error is not None
    assert 0 < a.max_logit_error < a.logit_bound
    assert reference.run(program, options).tokens == result.tokens


def test_allocated_entries_are_the_executed_share_of_attention() -> None:
    program = compile_checkpoint(random_checkpoint(small_config(num_layers=5), 2), Machine.load("tiny"), "reuse")
    result = functional.run(program, Run(PROMPT, 5))
    assert result.kv_entries == int(result.routing[:, 0].sum())
    assert 0 < result.routing[1:, 0].mean() < 1


def test_traces_and_constants_decide() -> None:
    program = compile_checkpoint(random_checkpoint(small_config(), 2), Machine.load("tiny"), "reuse")
    free = functional.run(program, Run(PROMPT, 4))
    replayed = functional.run(program, Run(PROMPT, 4, routing=free.routing))
    assert replayed.tokens == free.tokens
    assert (replayed.routing == free.routing).all()
    assert functional.run(program, Run(PROMPT, 4, routing="always")).routing.all()
    never = functional.run(program, Run(PROMPT, 1, routing=np.zeros((2, 2, len(PROMPT)), bool)))
    assert never.routing[0, 0].all(), "layer 0's attention is forced"
    assert not never.routing[1:].any()
    assert functional.run(program, Run(PROMPT, 1, dial=1e9)).routing[1:].sum() == 0


def test_end_of_sequence_is_emitted_and_stops() -> None:
    checkpoint = random_checkpoint(small_config(), 2)
    program = compile_checkpoint(checkpoint, Machine.load("tiny"))
    tokens = functional.run(program, Run(PROMPT, 8)).tokens
    checkpoint.config = dataclasses.replace(checkpoint.config, eos_token_ids=(tokens[2],))
    stopped = functional.run(compile_checkpoint(checkpoint, Machine.load("tiny")), Run(PROMPT, 8)).tokens
    assert stopped == tokens[: tokens.index(tokens[2]) + 1]


def test_a_context_of_one_token() -> None:
    """Every layer has a KV map, whatever its width."""
    program = compile_checkpoint(random_checkpoint(small_config(), 2), Machine.load("tiny"), context=1)
    assert functional.run(program, Run((5,))).routing.shape == (2, 2, 1)
    with pytest.raises(ProgramError, match="exceeds the program's context of 1"):
        functional.run(program, Run((5,), 1))


@pytest.mark.parametrize("vocabulary", range(1, 10))
def test_small_vocabularies_and_equal_logits(vocabulary: int) -> None:
    """The lowest id wins, whatever fills a block of rows up; a prompt may fill the context."""
    config = small_config(vocab_size=vocabulary, num_layers=1, num_heads=1, num_kv_heads=1)
    checkpoint = random_checkpoint(config, 2)
    prompt = tuple(n % vocabulary for n in range(9))
    program = compile_checkpoint(checkpoint, Machine.load("tiny"), context=12)
    tokens = functional.run(program, Run(prompt, 3)).tokens
    assert tokens == reference.run(program, Run(prompt, 3)).tokens
    sequence = [*prompt, *tokens]
    result = functional.run(program, Run((*prompt, *tokens), 0))
    assert result.tokens == []
    a = reference.agreement(program, Run(prompt, 3), [sequence], 9, functional.run(program, Run(prompt, 3)).routing[None])
    assert a.ok
    checkpoint.tensors["lm_head.weight"] = np.tile(checkpoint.tensors["lm_head.weight"][:1], (vocabulary, 1))
    assert functional.run(compile_checkpoint(checkpoint, Machine.load("tiny")), Run(prompt, 3)).tokens == [0, 0, 0]


def test_a_model_of_zeros() -> None:
    checkpoint = random_checkpoint(small_config(), 2)
    checkpoint.tensors = {name: np.zeros_like(tensor) for name, tensor in checkpoint.tensors.items()}
    program = compile_checkpoint(checkpoint, Machine.load("tiny"))
    assert functional.run(program, Run(PROMPT, 3)).tokens == reference.run(program, Run(PROMPT, 3)).tokens == [0, 0, 0]


def test_subnormal_router_biases_are_zero() -> None:
    checkpoint = random_checkpoint(small_config(), 2)
    router = Router(np.zeros(96, np.float32), -1e-45)
    checkpoint.routers = [(router, router)] * 2
    program = compile_checkpoint(checkpoint, Machine.load("tiny"))
    first, _ = program.router_record
    assert program.memory[0][first : first + 8].view(np.float32).tolist() == [0, 0]
    assert functional.run(program, Run(PROMPT)).routing.all(), "a tie executes"


def altered(program: Program, index: int, word: int) -> Program:
    words = list(program.instructions)
    words[index] = word
    return dataclasses.replace(program, instructions=words)


def test_illegal_programs_halt_with_a_code() -> None:
    program = compile_checkpoint(random_checkpoint(small_config(), 2), Machine.load("tiny"))
    at = next(i for i, w in enumerate(program.instructions) if w & 31 == spec.EMBED.opcode)
    with pytest.raises(MachineHalt) as caught:
        functional.run(altered(program, at, 31), Run(PROMPT, 1))
    assert (caught.value.code, caught.value.pc) == (Error.ILLEGAL_INSTRUCTION, at)
    fields = spec.EMBED.decode(program.instructions[at])
    with pytest.raises(MachineHalt) as caught:
        functional.run(altered(program, at, spec.EMBED.encode({**fields, "dst": 1 << 15})), Run(PROMPT, 1))
    assert caught.value.code == Error.BUFFER_RANGE


def test_timing_counts_what_the_functional_engine_executes() -> None:
    program = compile_checkpoint(random_checkpoint(small_config(), 2), Machine.load("tiny"))
    on, off = functional.run(program, Run(PROMPT, 4)), functional.run(program, Run(PROMPT, 4, routing="always"))
    fewer = timing.run(program, Run(PROMPT, 4), timing.Options(on))
    all_of_it = timing.run(program, Run(PROMPT, 4, routing="always"))  # the routing is the functional engine's
    assert (all_of_it.routing == off.routing).all()
    assert fewer.counters["CYCLES"] < all_of_it.counters["CYCLES"]
    assert fewer.counters["READ_BEATS"] < all_of_it.counters["READ_BEATS"]
    assert fewer.kv_entries == on.kv_entries
    assert timing.run(program, Run(PROMPT, 4)).counters == fewer.counters
