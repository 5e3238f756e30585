"""Every instruction reaches its unit's queue once, in order, with the state it depends on; what needs a decision waits for it."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.issuer import Issuer
from skipopu.isa import spec
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import TokenList, Unit
from skipopu.machine import pipeline
from skipopu.machine.accepted import LARGEST_BUFFER, LARGEST_MAP
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT, LARGEST_GROUP
from skipopu.numerics.formats import BY_CODE, INT4Z, INT8
from tests.hw.bench import exercise

TINY = Machine.load("tiny")
ECP5 = dataclasses.replace(TINY, multiplier="18x18")
GROUP, INNER, BASE = 32, 500, 1 << 29


def instructions(source: random.Random, count: int) -> list[tuple[spec.Instruction, dict[str, int]]]:
    of_units = [i for i in spec.INSTRUCTIONS if i.unit != "control"]
    chosen = []
    for _ in range(count):
        instruction = source.choice(of_units)
        fields = {f.name: source.getrandbits(f.width) for f in instruction.fields if f.name != "opcode"}
        if instruction is spec.MATMUL:
            # A third of them has a format that there is not, or activations beyond the memory.
            fields |= {"format": source.choice([0, 1, 2, 3, 1, 6]), "groups": source.choice([0, 1, 16, 17, 33])}
            fields["rounds"] = source.choice([0, 1, 9])
        chosen.append((instruction, fields))
    return chosen


@pytest.mark.parametrize("machine", [TINY, ECP5], ids=["27x18", "18x18"])
def test_instructions_are_handed_over(machine: Machine) -> None:
    dut, source = Issuer(machine), random.Random(1)
    chosen = instructions(source, 200)
    masks = [source.choice([0, source.randrange(1, 1 << TINY.tokens)]) for _ in chosen]
    expected: dict[object, list] = {stream: [] for stream in (*dut.issue, dut.fetch)}
    outcome: list[tuple[Error, bool]] = []  # and whether it waits for a decision that is under way
    pending, entries, sequence = False, 0, 0
    for pc, ((instruction, fields), mask) in enumerate(zip(chosen, masks, strict=True)):
        product, route = instruction is spec.MATMUL, instruction is spec.ROUTE
        waits = pending and (route or fields["list"] in (TokenList.ATTENTION, TokenList.FFN))
        pending &= not waits
        error = Error.NONE
        if product and fields["format"] not in BY_CODE:
            error = Error.ILLEGAL_INSTRUCTION
        elif product and fields["groups"] * GROUP + INNER * fields["source"] > TINY.activation:
            error = Error.BUFFER_RANGE
        outcome.append((error, waits))
        if error:
            continue
        address = (fields.get("address", 0) + BASE * fields.get("layered", 0)) % (1 << 32)
        word = instruction.encode(fields)
        issued = {"word": word, "mask": mask, "pc": pc, "sequence": sequence, "entries": entries, "count": 3, "position": 9}
        issued |= {"map_row": 11, "trace_row": 12, "first_layer": 1, "empty": not mask and instruction is not spec.KVWRITE}
        if "address" in fields:
            issued["address"] = address
        expected[dut.issue[Unit[instruction.unit.upper()]]].append(issued)
        if product and mask and fields["rounds"]:
            short = fields["rounds"] == 1 and fields["ports"] == 1 and fields["spare"] >= 2
            request = {name: fields[name] for name in ("rounds", "ports", "groups")}
            expected[dut.fetch].append(
                request
                | {"address": address, "two_digits": fields["format"] == INT8.code, "short": short}
                | {"zero_points": fields["format"] == INT4Z.code}
            )
        sequence, entries = sequence + 1, entries + (instruction is spec.KVWRITE)
        pending |= route and mask != 0
    cycles = 0

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal cycles
        cycles = 0
        config = {Config.GROUP: GROUP, Config.INNER: INNER}
        ctx.set(dut.config, sum(value << 32 * register for register, value in config.items()))
        for port, value in (("first", 1), ("base", BASE), ("map_row", 11), ("trace_row", 12)):
            ctx.set(getattr(dut.layer, port), value)
        for pc, ((instruction, fields), mask) in enumerate(zip(chosen, masks, strict=True)):
            error, waits = outcome[pc]
            ctx.set(dut.coming, instruction.encode(fields))
            await ctx.tick()
            ctx.set(dut.word, instruction.encode(fields))
            ctx.set(dut.pc, pc)
            ctx.set(dut.mask, mask)
            while stalls and stalls.random() < 0.3:
                assert not ctx.get(dut.taken)
                await ctx.tick()
            ctx.set(dut.attempt, 1)
            for left in range(3 if waits else 0, 0, -1):
                ctx.set(dut.route_done, left == 1)
                *_, waiting, taken, refused = await ctx.tick().sample(dut.wait_route, dut.taken, dut.refused)
                assert (waiting, taken, refused) == (1, 0, 0)
            ctx.set(dut.route_done, 0)
            taken = refused = 0
            while not (taken or refused):
                *_, waiting, taken, refused, reason = await ctx.tick().sample(
                    dut.wait_route, dut.taken, dut.refused, dut.reason
                )
                assert not waiting
                cycles += 1
            assert (reason if refused else Error.NONE) == error
            ctx.set(dut.attempt, 0)

    exercise(dut, {}, expected, constants=[(dut.count, 3), (dut.position, 9)], drive=drive, seeds=range(2))
    checked = sum(instruction is spec.MATMUL for instruction, _ in chosen)
    assert cycles == len(chosen) + checked * pipeline.sized(machine), (
        "an instruction per cycle, a product's size before it is handed over"
    )


def test_a_start_counts_from_zero() -> None:
    dut = Issuer(TINY)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for word in (dut.coming, dut.word):
            ctx.set(word, spec.KVWRITE.encode({}))
        await ctx.tick()
        for _ in range(2):
            ctx.set(dut.attempt, 1)
            await ctx.tick().repeat(3)
            ctx.set(dut.attempt, 0)
            assert ctx.get(dut.retired) == 3
            ctx.set(dut.restart, 1)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            assert ctx.get(dut.retired) == 0

    issued = 2 * [{"sequence": k, "entries": k} for k in range(3)]
    exercise(dut, {}, {dut.issue[Unit.VECTOR]: issued}, constants=[(dut.mask, 1)], drive=drive, seeds=())


WIDEST = dataclasses.replace(TINY, activation=LARGEST_BUFFER)
MOST_GROUPS = (1 << spec.MATMUL.by_name["groups"].width) - 1
FILLED = MOST_GROUPS * LARGEST_GROUP


@pytest.mark.parametrize(
    ("machine", "group", "groups", "inner", "error"),
    [
        (TINY, GROUP, TINY.activation // GROUP, 0, Error.NONE),
        (TINY, GROUP, TINY.activation // GROUP, 1, Error.BUFFER_RANGE),
        (ECP5, GROUP, TINY.activation // GROUP, 0, Error.NONE),
        (ECP5, GROUP, TINY.activation // GROUP, 1, Error.BUFFER_RANGE),
        (WIDEST, LARGEST_GROUP, MOST_GROUPS, 0, Error.NONE),
        (WIDEST, LARGEST_GROUP, MOST_GROUPS, LARGEST_BUFFER - FILLED, Error.NONE),
        (WIDEST, LARGEST_GROUP, MOST_GROUPS, LARGEST_BUFFER - FILLED + 1, Error.BUFFER_RANGE),
        (WIDEST, LARGEST_GROUP, 1, LARGEST_BUFFER, Error.BUFFER_RANGE),
        (WIDEST, LARGEST_GROUP, 0, LARGEST_BUFFER, Error.NONE),
    ],
)
def test_activations_fill_their_memory_and_no_more(machine: Machine, group: int, groups: int, inner: int, error: Error) -> None:
    dut = Issuer(machine)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.config, group << 32 * Config.GROUP | inner << 32 * Config.INNER)
        for word in (dut.coming, dut.word):
            ctx.set(word, spec.MATMUL.encode({"groups": groups, "source": 1}))
        await ctx.tick()
        ctx.set(dut.attempt, 1)
        await ctx.tick().repeat(pipeline.sized(machine))
        refused = ctx.get(dut.refused)
        assert (ctx.get(dut.reason) if refused else Error.NONE) == error

    exercise(dut, {}, {}, drive=drive, seeds=())


def test_state_at_its_largest() -> None:
    """The last instruction of the longest program, at a chunk's end of the largest context."""
    dut, most = Issuer(TINY), (1 << 32) - 1
    state = {"position": LARGEST_CONTEXT - TINY.tokens, "count": TINY.tokens, "pc": (1 << spec.PC_BITS) - 1}
    state |= {"mask": (1 << TINY.tokens) - 1}
    layer = {"map_row": LARGEST_MAP - LARGEST_CONTEXT, "trace_row": most}
    base, address = 1 << 31, (1 << spec.MATMUL.by_name["address"].width) - 1
    fields = {"address": address, "layered": 1, "rounds": 1, "ports": 2, "groups": 1}

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for name, value in (layer | {"base": base}).items():
            ctx.set(getattr(dut.layer, name), value)
        for word in (dut.coming, dut.word):
            ctx.set(word, spec.MATMUL.encode(fields))
        await ctx.tick()
        ctx.set(dut.attempt, 1)
        await ctx.tick().repeat(2)
        ctx.set(dut.attempt, 0)

    issued = state | layer | {"address": base + address}
    constants = [(getattr(dut, name), value) for name, value in state.items()] + [(dut.config, GROUP << 32 * Config.GROUP)]
    streams = {dut.issue[Unit.ARRAY]: [issued], dut.fetch: [{"address": base + address}]}
    exercise(dut, {}, streams, constants=constants, drive=drive, seeds=())
