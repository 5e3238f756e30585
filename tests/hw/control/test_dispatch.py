"""A program walked by a plain interpreter and by the dispatcher: the same instructions with the same state, the same tokens."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from amaranth.hdl import Signal
from amaranth.sim import SimulatorContext

from hw.control.configuration import setting
from hw.control.dispatch import Dispatcher
from hw.control.faults import Faults
from skipopu.isa import spec
from skipopu.isa.fields import WORD_BITS
from skipopu.isa.registers import (
    MASK_PROMPT,
    NO_POSITION,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_OWED,
    STATUS_RUNNING,
    Config,
    Error,
)
from skipopu.isa.spec import AlignTarget, TokenList, Unit
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT, LARGEST_VOCABULARY
from tests.hw.bench import exercise

TINY = Machine.load("tiny")
ABOVE_4_GB = 1 << 27  # 64-byte units
CONTEXT, LAYERS, ADVANCE, TRACE_ROW, EOS = 20, 2, 100, 5, 6
TOKENS, TRACE, PREDICTED = ABOVE_4_GB + 33, ABOVE_4_GB + 44, ABOVE_4_GB + 77
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
START, MAX_NEW = len(SETTINGS), 3
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
Words = list[tuple[spec.Instruction, dict[str, int]] | int]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a run is asked for: ``tokens`` are generated at most."""

    prompt: int
    tokens: tuple[int, ...] = ()
    behind: int = 0
    first: int = 0
    predict_from: int = NO_POSITION

    @property
    def known(self) -> int:
        return self.prompt + self.behind


@dataclasses.dataclass(frozen=True)
class Write:
    """Of an argmax token, after so many slots without one were passed."""

    address: int
    slot: int
    token: int
    passed: int = 0


@dataclasses.dataclass
class Walked:
    """What an interpreter makes of the program."""

    issued: dict[Unit, list[dict[str, Any]]]
    decisions: list[tuple[int, int]]
    writes: list[Write]
    generated: int
    cycles: int


def walk(run: Asked, source: random.Random) -> Walked:
    """Executes PROGRAM. A predicted token is an end of sequence, which ends nothing."""
    walked = Walked({unit: [] for unit in Unit}, [], [], 0, 0)
    position, layer = run.first, 0
    trace = sequence = entries = pc = count = 0
    asked: list[int] = []
    lists: dict[int, int] = {}
    while True:
        instruction, fields = PROGRAM[pc]
        walked.cycles += 3 + (instruction is spec.MATMUL)
        pc += 1
        if instruction is spec.HALT:
            walked.cycles += Faults.LATENCY + 1
            return walked
        if instruction is spec.CHUNK:
            walked.cycles += 1
            count = max(1, min(TINY.tokens, (run.prompt if position < run.prompt else run.known) - position))
            every, asked = (1 << count) - 1, [slot for slot in range(count) if position + slot >= run.predict_from]
            lists = {TokenList.ALL: every, TokenList.ATTENTION: every, TokenList.FFN: every}
            last = {count - 1} if position + count >= run.known else set()
            lists[TokenList.LAST] = sum(1 << slot for slot in last.union(asked))
        elif instruction is spec.LOOP:
            layer, trace = 0, TRACE
        elif instruction is spec.END:
            layer, trace = layer + 1, trace + TRACE_ROW
            pc -= (len(BODY) + 1) * (layer < LAYERS)
        elif instruction is spec.NEXT:
            for slot in asked:
                passed = slot if slot == asked[0] else 0
                walked.writes.append(Write(64 * PREDICTED + 4 * (position + slot), slot, EOS, passed))
                walked.cycles += passed + 6  # start, three to done, NEXT read and decoded again
            position += count
            again = position < run.known
            if not again and run.tokens:
                token = run.tokens[walked.generated]
                walked.writes.append(Write(64 * TOKENS + 4 * position, count - 1, token))
                walked.generated += 1
                walked.cycles += 4
                again = walked.generated < len(run.tokens) and token != EOS
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
    assert TINY.port_bits == WORD_BITS
    return [word if isinstance(word, int) else word[0].encode(word[1]) for word in words]


RUNS = [
    Asked(5, (1, 2)),
    Asked(4, (EOS, 3)),
    Asked(1),
    Asked(6, (1, 2), first=3, predict_from=4),
    Asked(2, (1,), behind=7, first=1, predict_from=0),
    Asked(3, behind=5, first=5, predict_from=6),
    Asked(5, (EOS, 1), behind=6, predict_from=7),
    Asked(2, (1, 2, 3), behind=1, first=2),
]


def behind_a_run(position: int, machine: Machine = TINY) -> Dispatcher:
    """A dispatcher whose last run ended at ``position``."""
    dut = Dispatcher(machine)
    dut.state.position = Signal(32, init=position)
    return dut


@pytest.mark.parametrize("run", RUNS)
def test_a_run(run: Asked) -> None:
    dut = behind_a_run(run.first)
    expected = walk(run, random.Random(run.prompt))
    vector = dut.issue[Unit.VECTOR]
    cycles = 0

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal cycles

        def now(chance: float = 0.6) -> bool:
            return stalls is None or stalls.random() < chance

        decisions, writes = iter(expected.decisions), iter(expected.writes)
        deciding, writing, waited = False, None, 0
        status = written = cycles = 0
        idle: list[bool] = []
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        while not status & STATUS_DONE:
            idle.append(now())
            ctx.set(dut.units_idle, idle[-1])
            ctx.set(dut.attention_quiet, now())
            decide = deciding and now()
            ctx.set(dut.route_done, decide)
            if decide:
                attention, ffn = next(decisions)
                ctx.set(dut.routed.attention, attention)
                ctx.set(dut.routed.ffn, ffn)
                deciding = False
            done = waited == 2 and now()  # no write takes less than a run, a beat, an answer
            waited = min(waited + 1, 2) if writing is not None and not done else 0
            ctx.set(dut.write_token.done, done)
            write = dut.write_token
            ports = (vector.valid & vector.ready, vector.payload.word, write.start, write.address, dut.token_slot)
            *_, issued, word, start, address, slot, status, loading = await ctx.tick().sample(
                *ports, dut.state.status, dut.loading
            )
            assert not status & STATUS_ERROR
            cycles += not loading
            deciding |= issued and word & 31 == spec.ROUTE.opcode
            if start:
                assert writing is None
                writing = next(writes)
                assert idle[-2 - writing.passed]  # when NEXT was decoded
                ctx.set(dut.token, writing.token)
            if writing:
                assert (address, slot) == (writing.address, writing.slot)
            if done:
                written, writing = written + 1, None
        assert ctx.get(dut.state.generated) == expected.generated
        assert written == len(expected.writes)
        executed = [sum(decision[k].bit_count() for decision in expected.decisions) for k in range(2)]
        assert [ctx.get(dut.state.executed_attention), ctx.get(dut.state.executed_ffn)] == executed
        assert next(decisions, None) is None

    request = dut.request
    constants = [(request.program, ABOVE_4_GB + 5), (request.program_length, len(PROGRAM))]
    constants += [(request.prompt_length, run.prompt), (request.known_length, run.known), (request.max_new, len(run.tokens))]
    constants += [(request.first, run.first), (request.predict_from, run.predict_from), (request.predicted, PREDICTED)]
    streams = {dut.issue[unit]: issued for unit, issued in expected.issued.items()}
    fetched = [i for i in expected.issued[Unit.ARRAY] if i["mask"]]
    streams |= {
        dut.fetch: len(fetched) * [{"rounds": 1, "groups": 1}],
        dut.runs: [{"beat": 4 * (ABOVE_4_GB + 5), "count": len(PROGRAM)}],
    }
    # A product needs two queues at once, either of which may hold back in nine cycles of ten.
    exercise(dut, {dut.beats: beats_of(PROGRAM)}, streams, constants=constants, drive=drive, seeds=range(1), patience=2000)
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
    "abort": (PROGRAM, Error.ABORTED, None),
    "silence": (PROGRAM, Error.WATCHDOG, None),
}


@pytest.mark.parametrize("name", FAILURES)
def test_errors(name: str) -> None:
    """The first one is kept, and the machine runs until memory owes nothing; then it does not start again."""
    words, code, place = FAILURES[name]
    dut = Dispatcher(TINY)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        at = place
        constants = [(dut.request.program_length, len(words)), (dut.units_idle, 1), (dut.request.predict_from, NO_POSITION)]
        constants += [(dut.request.prompt_length, 5), (dut.request.known_length, 5)]
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
            ctx.set(dut.fault_pc, at or 0)
            ctx.set(dut.request.abort, name == "abort" and cycle == 100)
            ctx.set(dut.silent, name == "silence" and cycle == 100)
            if at is None and cycle == 100:
                at = ctx.get(dut.pc)  # where it is
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
        ctx.set(dut.silent if name == "silence" else dut.ports_quiet, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 1)
        await ctx.tick().repeat(5)
        owed = STATUS_OWED if name == "silence" else 0
        assert (ctx.get(state.status), ctx.get(state.error), ctx.get(state.error_pc)) == (STATUS_ERROR | owed, code, at)

    exercise(dut, {}, {}, drive=drive, seeds=())


def test_set_and_halt_wait_until_units_are_idle() -> None:
    dut = Dispatcher(TINY)
    words: Words = [(spec.SET, {"register": Config.TOKENS, "value": TOKENS}), (spec.HALT, {})]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        for expected in ((0, STATUS_RUNNING), (TOKENS, STATUS_RUNNING), (TOKENS, STATUS_DONE)):
            ctx.set(dut.units_idle, 0)
            await ctx.tick().repeat(30)
            assert (ctx.get(setting(dut.config, Config.TOKENS)), ctx.get(dut.state.status)) == expected
            ctx.set(dut.units_idle, 1)
            await ctx.tick().repeat(Faults.LATENCY + 2)

    constants = [(dut.request.program_length, len(words)), (dut.attention_quiet, 1), (dut.ports_quiet, 1)]
    exercise(dut, {dut.beats: beats_of(words)}, {dut.runs: [{}]}, constants=constants, drive=drive, seeds=())


@pytest.mark.parametrize("late", range(Faults.LATENCY + 1))
def test_a_fault_of_the_last_instruction_is_no_done_run(late: int) -> None:
    """Units are idle in the cycle in which a fault happens, or the next one; it is told ``Faults.LATENCY`` later."""
    dut = Dispatcher(TINY)
    words: Words = [(spec.HALT, {})]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        await ctx.tick().repeat(30)
        ctx.set(dut.units_idle, 1)
        for _ in range(late):
            await ctx.tick()
        ctx.set(dut.fault, 1)
        ctx.set(dut.fault_code, Error.AXI_WRITE)
        await ctx.tick()
        ctx.set(dut.fault, 0)
        await ctx.tick().repeat(10)
        assert (ctx.get(dut.state.status), ctx.get(dut.state.error)) == (STATUS_ERROR, Error.AXI_WRITE)

    constants = [(dut.request.program_length, len(words)), (dut.attention_quiet, 1), (dut.ports_quiet, 1)]
    exercise(dut, {dut.beats: beats_of(words)}, {dut.runs: [{}]}, constants=constants, drive=drive, seeds=())


def outcome(
    words: Words,
    known: int,
    first: int = 0,
    token: int = EOS,
    machine: Machine = TINY,
    patience: int = 500,
    kept: int | None = None,
) -> tuple[int, int, int, int]:
    """(status, error, tokens generated, the error's instruction) of a run of ``known`` tokens from ``first`` on.

    The run before it ended there, or at ``kept``.

    Units are idle, every token generated is ``token``.
    """
    dut, seen = behind_a_run(first if kept is None else kept, machine), list[int]()

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        while not ctx.get(dut.state.status) & (STATUS_DONE | STATUS_ERROR):
            await ctx.tick()
        state = dut.state
        seen.extend(ctx.get(port) for port in (state.status, state.error, state.generated, state.error_pc))

    request = dut.request
    constants = [(port, 1) for port in (dut.units_idle, dut.attention_quiet, dut.ports_quiet, dut.write_token.done)]
    constants += [(dut.token, token), (request.program_length, len(words)), (request.predict_from, NO_POSITION)]
    constants += [
        (request.prompt_length, known),
        (request.known_length, known),
        (request.first, first),
        (request.max_new, MAX_NEW),
    ]
    streams = {dut.runs: [{"count": len(words)}]}
    exercise(dut, {dut.beats: beats_of(words)}, streams, constants=constants, drive=drive, seeds=(), patience=patience)
    status, error, generated, place = seen
    return status, error, generated, place


NO_ID, LAST_ID = 0xFFFF_FFFF, LARGEST_VOCABULARY - 1


def generated(ids: dict[int, int], token: int) -> int:
    """Tokens generated where EOS0 to EOS3 are ``ids`` by number, none of the others."""
    settings = {Config.CONTEXT: CONTEXT} | {Config.EOS0 + k: ids.get(k, NO_ID) for k in range(4)}
    words: Words = [(spec.SET, {"register": register, "value": value}) for register, value in settings.items()]
    words += [(spec.CHUNK, {}), (spec.NEXT, {"target": len(words)}), (spec.HALT, {})]
    status, error, count, _ = outcome(words, 1, token=token)
    assert (status, error) == (STATUS_DONE, Error.NONE)
    return count


@pytest.mark.parametrize("token", [0, EOS, LAST_ID])
@pytest.mark.parametrize("number", range(4))
def test_each_end_of_sequence_ends_a_run(number: int, token: int) -> None:
    assert generated({number: token}, token) == 1


@pytest.mark.parametrize("number", range(4))
def test_another_token_ends_none(number: int) -> None:
    """One that differs in the highest bit of an id, the lowest one, or any where registers say that there is no id."""
    assert generated({number: LAST_ID}, LAST_ID >> 1) == MAX_NEW
    assert generated({number: LAST_ID}, LAST_ID - 1) == MAX_NEW
    assert generated({}, 0) == MAX_NEW


@pytest.mark.parametrize("kept", [0, 5, (1 << 32) - 2])
def test_a_run_begins_where_one_before_it_came_to(kept: int) -> None:
    """Or in front of that, never behind it."""
    words: Words = [(spec.HALT, {})]
    assert outcome(words, kept, first=kept)[:2] == (STATUS_DONE, Error.NONE)
    assert outcome(words, kept, first=kept // 2, kept=kept)[:2] == (STATUS_DONE, Error.NONE)
    assert outcome(words, kept + 1, first=kept + 1, kept=kept) == (STATUS_ERROR, Error.CONFIGURATION, 0, 0)


@pytest.mark.parametrize("instruction", [i for i in spec.INSTRUCTIONS if i.used_bits < WORD_BITS], ids=lambda i: i.name)
def test_bits_of_no_field_are_refused(instruction: spec.Instruction) -> None:
    """The first one behind the fields and the word's last."""
    for bit in (instruction.used_bits, WORD_BITS - 1):
        assert outcome([instruction.encode({}) | 1 << bit, (spec.HALT, {})], 1)[1::2] == (Error.ILLEGAL_INSTRUCTION, 0)


@pytest.mark.parametrize(("short", "expected"), [(0, (STATUS_DONE, Error.NONE)), (1, (STATUS_ERROR, Error.CONTEXT_FULL))])
@pytest.mark.parametrize("context", [TINY.tokens, LARGEST_CONTEXT])
def test_a_context_is_full_with_its_last_token(context: int, short: int, expected: tuple[int, int]) -> None:
    machine = dataclasses.replace(TINY, map_entries=LARGEST_CONTEXT)
    words: Words = [(spec.SET, {"register": Config.CONTEXT, "value": context - short}), (spec.CHUNK, {}), (spec.HALT, {})]
    assert outcome(words, context, first=context - TINY.tokens, machine=machine)[:2] == expected


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (spec.HALT, (STATUS_DONE, Error.NONE, 1, 0)),
        (spec.CHUNK, (STATUS_ERROR, Error.PROGRAM_RANGE, 1, 1 << spec.PC_BITS)),
    ],
)
def test_the_end_of_the_longest_program(last: spec.Instruction, expected: tuple[int, int, int, int]) -> None:
    """A loop, the chunk's end and what follows it in its last words; behind them there is nothing."""
    length = 1 << spec.PC_BITS
    machine = dataclasses.replace(TINY, instructions=length)
    words: Words = [
        (spec.SET, {"register": Config.EOS0, "value": EOS}),
        (spec.SET, {"register": Config.CONTEXT, "value": CONTEXT}),
    ]
    words += [(spec.CHUNK, {}), (spec.NEXT, {"target": length - 4})]
    words += [(spec.EXTEND, {"rank": 1})] * (length - 4 - len(words))  # which the machine refuses
    words += [(spec.LOOP, {"count": 2}), (spec.END, {}), (spec.NEXT, {"target": 0}), (last, {})]
    assert outcome(words, 2 * TINY.tokens, machine=machine, patience=2 * length) == expected


def test_an_abort_ends_what_a_full_queue_holds() -> None:
    """The instruction is not handed over when there is room again."""
    dut = Dispatcher(TINY)
    words: Words = [(spec.ALIGN, {}), (spec.HALT, {})]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        await ctx.tick().repeat(30)
        assert ctx.get(dut.state.status) == STATUS_RUNNING
        ctx.set(dut.request.abort, 1)
        await ctx.tick()
        ctx.set(dut.request.abort, 0)
        await ctx.tick().repeat(4)
        for unit in Unit:
            ctx.set(dut.issue[unit].ready, 1)
        for _ in range(10):
            assert not any(ctx.get(dut.issue[unit].valid) for unit in Unit)
            await ctx.tick()
        state = dut.state
        assert (ctx.get(state.status), ctx.get(state.error), ctx.get(state.error_pc)) == (STATUS_ERROR, Error.ABORTED, 0)

    constants = [(dut.request.program_length, len(words)), (dut.ports_quiet, 1), (dut.units_idle, 1)]
    exercise(dut, {dut.beats: beats_of(words)}, {dut.runs: [{}]}, constants=constants, drive=drive, seeds=())


def test_the_mask_of_the_product_before() -> None:
    """It is known where nothing that it follows from changed since: no other thresholds, norm, chunk or layer, no numbers aligned anew."""
    plain, normed = {"rounds": 1, "ports": 1, "groups": 1}, {"rounds": 1, "ports": 1, "groups": 1, "norm": 1}
    aligns = plain | {"align": AlignTarget.RESIDUAL}
    cases: list[
        tuple[Words, int, dict[str, int], tuple[int, int]]
    ] = [  # what stands before, thresholds, the product: masked, again
        ([], 5, plain, (1, 0)),
        ([(spec.KVWRITE, {})], 5, plain, (1, 1)),
        ([], 5, aligns, (1, 1)),
        ([], 5, plain, (1, 0)),
        ([], 6, plain, (1, 0)),
        ([], 0, plain, (0, 0)),
        ([], 6, plain, (1, 0)),
        ([(spec.ALIGN, {})], 6, plain, (1, 0)),
        ([], 6, normed, (1, 0)),
        ([], 6, normed, (1, 1)),
        ([(spec.SET, {"register": Config.GROUP, "value": 64})], 6, normed, (1, 0)),
        ([(spec.LOOP, {"count": 1})], 6, normed, (1, 0)),
        ([], 6, normed, (1, 1)),
        ([(spec.END, {})], 6, normed, (1, 0)),
        ([(spec.CHUNK, {})], 6, normed, (1, 0)),
    ]
    words: Words = [
        (spec.SET, {"register": Config.MASKING, "value": MASK_PROMPT}),
        (spec.SET, {"register": Config.CONTEXT, "value": 64}),
    ]
    words.append((spec.CHUNK, {}))
    for before, mask, product, _ in cases:
        words += [*before, *([(spec.EXTEND, {"mask": mask})] if mask else []), (spec.MATMUL, product)]
    words.append((spec.HALT, {}))
    dut = Dispatcher(Machine.load("tiny-masks"))

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        await ctx.tick().until(dut.state.status == STATUS_DONE)

    request = dut.request
    constants = [(request.program_length, len(words)), (request.prompt_length, 40), (request.known_length, 40)]
    constants += [(request.predict_from, NO_POSITION), (dut.ports_quiet, 1), (dut.units_idle, 1), (dut.attention_quiet, 1)]
    expected = [{"masked": masked, "again": again} for *_, (masked, again) in cases]
    vector = sum(i in (spec.KVWRITE, spec.ALIGN) for i, _ in (word for word in words if not isinstance(word, int)))
    streams = {dut.issue[Unit.ARRAY]: expected, dut.fetch: expected, dut.issue[Unit.VECTOR]: vector * [{}], dut.runs: [{}]}
    exercise(dut, {dut.beats: beats_of(words)}, streams, constants=constants, drive=drive, seeds=())


def test_a_program_without_an_end() -> None:
    """The instruction behind the last one is the error's."""
    words: Words = [(spec.SET, {"register": Config.CONTEXT, "value": CONTEXT}), (spec.CHUNK, {})]
    assert outcome(words, 1) == (STATUS_ERROR, Error.PROGRAM_RANGE, 0, len(words))
