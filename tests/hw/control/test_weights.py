"""Runs of weights are as long as the weight streams that the compiler lays out."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.weights import WeightFetch
from skipopu.isa.spec import BLOCK_ROWS, MATMUL, matmul_shape
from skipopu.layout import WeightStream
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_GROUP, LARGEST_RUN
from skipopu.numerics.formats import BY_NAME, INT4, INT4Z, USUAL, Format
from tests.hw.bench import exercise

PERIOD, LATENCY = 4, 5


@pytest.mark.parametrize("formats", [USUAL, tuple(BY_NAME)], ids=["usual", "all"])
@pytest.mark.parametrize("target", ["mono", "trio", "u280-slice4"])
def test_runs(target: str, formats: tuple[str, ...]) -> None:
    """On machines with all formats also groups of which several stand in a beat."""
    machine = dataclasses.replace(Machine.load(target), formats=formats)
    fetched(machine, machine.weight_lanes * random.Random(1).randrange(1, 4))
    short = dataclasses.replace(machine, short_groups=True)
    for group in (*short.groups_in_beats, machine.weight_lanes) if formats != USUAL else ():
        fetched(short, group)


def fetched(machine: Machine, group: int) -> None:
    source, ports = random.Random(2), machine.ports
    # Every port is busy first and last, so that the cycles of all requests are seen.
    sizes = [BLOCK_ROWS * ports, *(source.randrange(1, 9 * BLOCK_ROWS) for _ in range(12)), BLOCK_ROWS * ports]
    products = [(rows, source.randrange(1, 40), source.choice(machine.weight_formats)) for rows in sizes]
    products[1:1] = [(6, groups, weights) for groups in (1, 4, 5) for weights in machine.weight_formats]
    products[1:1] = [(BLOCK_ROWS, (1 << MATMUL.by_name["groups"].width) - 1, machine.weight_formats[0])]
    asked_for(machine, group, products)


def asked_for(machine: Machine, group: int, products: list[tuple[int, int, Format]]) -> int:
    """Beats of the longest run of (rows, groups, format) ``products``; the first port has blocks of all."""
    dut, source, ports = WeightFetch(machine), random.Random(3), machine.ports
    requests, expected = [], {runs: [] for runs in dut.runs}
    for rows, groups, weights in products:
        shape, address = matmul_shape(rows, ports), source.getrandbits(30)
        laid = WeightStream(rows, groups, group, ports, machine.weight_lanes, weights)
        requests.append(
            {
                "address": address,
                "rounds": shape["rounds"],
                "ports": shape["ports"],
                "groups": groups,
                "two_digits": weights.two_digits,
                "short": laid.block_rows < BLOCK_ROWS,
            }
            | ({"zero_points": weights.zero_points} if machine.zero_points else {})
        )
        for port, runs in enumerate(dut.runs):
            if size := laid.port_bytes(port):
                expected[runs].append({"beat": address * 64 // machine.beat_bytes, "count": size // machine.beat_bytes})
    run = exercise(dut, {dut.issue: requests}, expected, constants=[(dut.group, group)])
    assert run.given[dut.runs[0]] == [LATENCY + PERIOD * k for k in range(len(requests))]
    return max(asked["count"] for runs in expected.values() for asked in runs)


MOST_ROUNDS, MOST_GROUPS = ((1 << MATMUL.by_name[name].width) - 1 for name in ("rounds", "groups"))


@pytest.mark.parametrize(
    ("target", "group", "groups", "weights"),
    [
        ("tiny", 8, MOST_GROUPS, INT4),  # a quarter of a beat, as many as can be
        ("tiny", 8, MOST_GROUPS, INT4Z),
        ("mono", LARGEST_GROUP, 15, INT4),
    ],
    ids=["quarters", "zero points", "mono"],
)
def test_the_longest_runs(target: str, group: int, groups: int, weights: Format) -> None:
    """In the most rounds, in the last of which the last port has no block; more than half of what a run can have."""
    machine = Machine.load(target)
    blocks = [machine.ports * MOST_ROUNDS, machine.ports * (MOST_ROUNDS - 1) + 1]
    longest = asked_for(machine, group, [(BLOCK_ROWS * count, groups, weights) for count in (blocks[0], *blocks)])
    assert LARGEST_RUN // 2 < longest <= LARGEST_RUN


def test_on_demand_each_product_asks_for_one() -> None:
    machine = Machine.load("tiny")
    dut = WeightFetch(machine)
    request = {"address": 4, "rounds": 1, "ports": 2, "groups": 1, "two_digits": 0, "short": 0}

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        seen = 0
        for started in range(3):
            for _ in range(12):
                *_, valid, ready = await ctx.tick().sample(dut.runs[0].valid, dut.runs[0].ready)
                seen += valid and ready
            assert stalls or seen == started
            assert seen <= started
            ctx.set(dut.started, 1)
            *_, valid, ready = await ctx.tick().sample(dut.runs[0].valid, dut.runs[0].ready)
            seen += valid and ready
            ctx.set(dut.started, 0)

    constants = [(dut.on_demand, 1), (dut.group, machine.weight_lanes)]
    exercise(dut, {dut.issue: 3 * [request]}, {runs: 3 * [{}] for runs in dut.runs}, constants=constants, drive=drive)


def test_not_idle_with_something_inside() -> None:
    dut = WeightFetch(Machine.load("mono"))

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        assert ctx.get(dut.idle)
        ctx.set(dut.issue.payload, {"rounds": 1, "ports": 1, "groups": 1})
        ctx.set(dut.issue.valid, 1)
        idle = []
        for cycle in range(LATENCY + 3):
            ctx.set(dut.issue.valid, cycle == 0)
            idle.append(ctx.get(dut.idle))
            await ctx.tick()
        assert idle == [1] + LATENCY * [0] + 2 * [1]

    exercise(dut, {}, {dut.runs[0]: [{}]}, constants=[(dut.group, 32)], drive=drive, seeds=())
