"""A program walked by a plain interpreter and by the dispatcher: the same instructions with the same state, the same tokens."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from amaranth.sim import SimulatorContext

from hw.control.dispatch import Dispatcher
from skipopu.isa import spec
from skipopu.isa.registers import STATUS_DONE, STATUS_ERROR, STATUS_RUNNING, Config, Error
from skipopu.isa.spec import TokenList, Unit
from skipopu.machine.config import Machine
from tests.hw.bench import exercise

TINY = Machine.load("tiny")
CONTEXT, LAYERS, ADVANCE, TOKENS, TRACE, TRACE_ROW, EOS = 20, 2, 100, 33, 44, 5, 6
SETTINGS = {
    Config.CONTEXT: CONTEXT,
    Config.TOKENS: TOKENS,
    Config.TRACE: TRACE,
    Config.TRACE_ROW: TRACE_ROW,
    Config.GROUP: 32,
    Config.EOS2: EOS,
}
BODY = [
    (spec.ALIGN, {}),
    (spec.ROUTE, {"address": 9, "layered": 1}),
    (spec.MATMUL, {"list": TokenList.ATTENTION, "address": 50, "layered": 1, "rounds": 1, "ports": 2, "groups": 1}),
    (spec.KVWRITE, {"list": TokenList.ATTENTION}),
    (spec.ATTEND, {"list": TokenList.ATTENTION}),
    (spec.MATMUL, {"list": TokenList.FFN, "rounds": 1, "ports": 1, "groups": 1}),
]
START = len(SETTINGS)
PROGRAM = [
    *((spec.SET, {"register": register, "value": value}) for register, value in SETTINGS.items()),
    (spec.CHUNK, {}),
    (spec.EMBED, {"address": 7}),
    (spec.LOOP, {"count": LAYERS, "advance": ADVANCE}),
    *BODY,
    (spec.END, {}),
    (spec.MATMUL, {"list": TokenList.LAST, "address": 70, "rounds": 1, "ports": 1, "groups": 1}),
    (spec.NEXT, {"target": START}),
    (spec.HALT, {}),
]
Words = list[tuple[spec.Instruction, dict[str, int]]]


@dataclasses.dataclass
class Walked:
    """What an interpreter makes of the program."""

    issued: dict[Unit, list[dict[str, Any]]]
    decisions: list[tuple[int, int]]
    token_addresses: list[int]
    cycles: int


def walk(prompt: int, tokens: list[int], source: random.Random) -> Walked:
    """Executes PROGRAM; ``tokens`` are generated at most."""
    walked = Walked({unit: [] for unit in Unit}, [], [], 0)
    position = layer = trace = sequence = entries = pc = count = 0
    lists: dict[int, int] = {}
    while True:
        instruction, fields = PROGRAM[pc]
        walked.cycles += 3
        pc += 1
        if instruction is spec.HALT:
            return walked
        if instruction is spec.CHUNK:
            walked.cycles += 1
            count = min(TINY.tokens, prompt - position) if position < prompt else 1
            every = (1 << count) - 1
            lists = {TokenList.ALL: every, TokenList.ATTENTION: every, TokenList.FFN: every}
            lists[TokenList.LAST] = 1 << count - 1 if position + count >= prompt else 0
        elif instruction is spec.LOOP:
            layer, trace = 0, TRACE
        elif instruction is spec.END:
            layer, trace = layer + 1, trace + TRACE_ROW
            pc -= (len(BODY) + 1) * (layer < LAYERS)
        elif instruction is spec.NEXT:
            position += count
            again = position < prompt
            if not again:
                number = len(walked.token_addresses)
                if number < len(tokens):
                    walked.token_addresses.append(64 * TOKENS + 4 * position)
                    walked.cycles += 2
                again = number + 1 < len(tokens) and tokens[number] != EOS
            pc = fields["target"] if again else pc
        elif instruction is not spec.SET:
            mask = lists[fields.get("list", 0)]
            walked.issued[Unit[instruction.unit.upper()]].append(
                {
                    "word": instruction.encode(fields),
                    "mask": mask,
                    "address": fields.get("address", 0) + layer * ADVANCE * fields.get("layered", 0),
                    "position": position,
                    "count": count,
                    "map_row": layer * CONTEXT,
                    "trace_row": trace,
                    "first_layer": layer == 0,
                    "empty": mask == 0 and instruction is not spec.KVWRITE,
                    "pc": pc - 1,
                    "sequence": sequence,
                    "entries": entries,
                }
            )
            sequence, entries = sequence + 1, entries + (instruction is spec.KVWRITE)
            if instruction is spec.ROUTE:
                decision = source.getrandbits(count), source.getrandbits(count)
                walked.decisions.append(decision)
                lists[TokenList.ATTENTION], lists[TokenList.FFN] = decision


def beats_of(words: Words) -> list[int]:
    assert TINY.port_bits == 8 * spec.WORD_BYTES
    return [instruction.encode(fields) for instruction, fields in words]


@pytest.mark.parametrize(("prompt", "tokens"), [(5, [1, 2]), (4, [EOS, 3]), (1, [])])
def test_a_run(prompt: int, tokens: list[int]) -> None:
    dut = Dispatcher(TINY)
    expected = walk(prompt, tokens, random.Random(prompt))
    vector = dut.issue[Unit.VECTOR]
    cycles = 0

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal cycles

        def now(chance: float = 0.6) -> bool:
            return stalls is None or stalls.random() < chance

        decisions, addresses = iter(expected.decisions), iter(expected.token_addresses)
        deciding = writing = False
        status = written = cycles = 0
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        while not status & STATUS_DONE:
            ctx.set(dut.units_idle, now())
            ctx.set(dut.attention_quiet, now())
            decide = deciding and now()
            ctx.set(dut.route_done, decide)
            if decide:
                attention, ffn = next(decisions)
                ctx.set(dut.routed.attention, attention)
                ctx.set(dut.routed.ffn, ffn)
                deciding = False
            done = writing and now()
            ctx.set(dut.write_token.done, done)
            written += done
            writing &= not done
            ports = (vector.valid & vector.ready, vector.payload.word, dut.write_token.start, dut.write_token.address)
            *_, issued, word, start, address, status, loading = await ctx.tick().sample(*ports, dut.state.status, dut.loading)
            assert not status & STATUS_ERROR
            cycles += not loading
            deciding |= issued and word & 31 == spec.ROUTE.opcode
            if start:
                writing = True
                assert address == next(addresses)
                ctx.set(dut.token, tokens[written])
        assert ctx.get(dut.state.generated) == len(expected.token_addresses) == written
        executed = [sum(decision[k].bit_count() for decision in expected.decisions) for k in range(2)]
        assert [ctx.get(dut.state.executed_attention), ctx.get(dut.state.executed_ffn)] == executed
        assert next(decisions, None) is None

    request = dut.request
    constants = [(request.program, 5), (request.program_length, len(PROGRAM))]
    constants += [(request.prompt_length, prompt), (request.max_new, len(tokens))]
    streams = {dut.issue[unit]: issued for unit, issued in expected.issued.items()}
    fetched = [i for i in expected.issued[Unit.ARRAY] if i["mask"]]
    streams |= {dut.fetch: len(fetched) * [{"rounds": 1, "groups": 1}], dut.runs: [{"beat": 20, "count": len(PROGRAM)}]}
    exercise(dut, {dut.beats: beats_of(PROGRAM)}, streams, constants=constants, drive=drive, seeds=range(1))
    assert cycles == expected.cycles + 1


def changed(at: int, instruction: spec.Instruction, **fields: int) -> Words:
    words = list(PROGRAM)
    words[at] = (instruction, fields)
    return words


ATTEND = START + 3 + 4
FAILURES = {
    "context": (changed(0, spec.SET, register=Config.CONTEXT, value=3), Error.CONTEXT_FULL, START),
    "configuration": (changed(1, spec.SET, register=Config.HEAD_DIM, value=3), Error.CONFIGURATION, 1),
    "format": (changed(ATTEND, spec.MATMUL, format=7), Error.ILLEGAL_INSTRUCTION, ATTEND),
    "activations": (changed(ATTEND, spec.MATMUL, groups=1000), Error.BUFFER_RANGE, ATTEND),
    "counter": (changed(len(PROGRAM) - 2, spec.NEXT, target=40), Error.PROGRAM_RANGE, 40),
    "empty": ([], Error.PROGRAM_RANGE, 0),
    "unit": (PROGRAM, Error.KV_POOL_FULL, 3),
}


@pytest.mark.parametrize("name", FAILURES)
def test_errors(name: str) -> None:
    """The first one is kept, and the machine runs until memory owes nothing; then it does not start again."""
    words, code, at = FAILURES[name]
    dut = Dispatcher(TINY)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        constants = [(dut.request.program_length, len(words)), (dut.request.prompt_length, 5), (dut.units_idle, 1)]
        constants += [(port.ready, 1) for port in (dut.runs, dut.fetch, *dut.issue)]
        beats = iter(beats_of(words))
        for port, value in constants:
            ctx.set(port, value)
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        shown = next(beats, None)
        for cycle in range(300):
            ctx.set(dut.beats.valid, shown is not None)
            ctx.set(dut.beats.payload, shown or 0)
            ctx.set(dut.route_done, 1)
            ctx.set(dut.fault, name == "unit" and cycle == 100)
            ctx.set(dut.fault_code, code)
            ctx.set(dut.fault_pc, at)
            *_, taken, stop = await ctx.tick().sample(dut.beats.ready, dut.stop)
            if taken and shown is not None:
                shown = next(beats, None)
            if stop:
                break
        state = dut.state
        ctx.set(dut.fault, 1)
        ctx.set(dut.fault_code, Error.DEPENDENCE)
        await ctx.tick().repeat(5)
        assert ctx.get(state.status) == STATUS_RUNNING
        ctx.set(dut.ports_quiet, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 1)
        await ctx.tick().repeat(5)
        assert (ctx.get(state.status), ctx.get(state.error), ctx.get(state.error_pc)) == (STATUS_ERROR, code, at)

    exercise(dut, {}, {}, drive=drive, seeds=())
