"""Users of a memory port in turns: everybody's runs and beats reach the port, and no one else's, in the same cycle."""

from __future__ import annotations

import random
from collections import deque

from amaranth.lib.stream import Interface
from amaranth.sim import SimulatorContext

from hw.memory.share import SharedLoader, SharedWriter
from skipopu.machine.config import Machine
from tests.hw.bench import Part, exercise

MACHINE, USERS = Machine.load("tiny"), 3
TURNS = (2, 0, 1)  # users in the order in which they are connected; all show what they want from the start
SOURCE = random.Random(6)
RUNS = [[{"beat": SOURCE.getrandbits(20), "count": SOURCE.randrange(1, 6)} for _ in range(4)] for _ in range(USERS)]
BITS = {"data": MACHINE.port_bits, "strobe": MACHINE.beat_bytes}
WORDS = [[{name: SOURCE.getrandbits(n) for name, n in BITS.items()} for _ in range(12)] for _ in range(USERS)]


def turns(dut: SharedLoader | SharedWriter, port: tuple[Interface, Interface], beats: list[int]) -> Part:
    """Connects a user until all its runs and as many beats as it has moved through ``port``."""

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for user in TURNS:
            ctx.set(dut.chosen, 0)
            if stalls:
                await ctx.tick().repeat(stalls.randrange(1, 9))  # nobody is connected
            ctx.set(dut.chosen, 1 << user)
            left = [len(RUNS[user]), beats[user]]
            while any(left):
                _, _, *moved = await ctx.tick().sample(*(stream.valid & stream.ready for stream in port))
                left = [count - bool(one) for count, one in zip(left, moved, strict=True)]
            assert left == [0, 0]
        ctx.set(dut.chosen, 0)

    return drive


def test_loader() -> None:
    """Beats follow the runs that asked for them."""
    dut = SharedLoader(MACHINE, USERS)
    beats = [[run["beat"] + k for run in runs for k in range(run["count"])] for runs in RUNS]

    async def memory(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        due: deque[int] = deque()
        port = dut.loads
        while True:
            shown = bool(due) and not (stalls and stalls.random() < 0.3)
            ctx.set(port.beats.valid, shown)
            ctx.set(port.beats.payload, due[0] if shown else 99)
            asked = False
            while not asked or shown:
                _, _, asked, run, taken = await ctx.tick().sample(
                    port.runs.valid & port.runs.ready, port.runs.payload, port.beats.valid & port.beats.ready
                )
                if asked:
                    due.extend(run.beat + k for k in range(run.count))
                if taken:
                    due.popleft()
                if taken or not shown:
                    break

    port = (dut.loads.runs, dut.loads.beats)
    run = exercise(
        dut,
        {user.runs: runs for user, runs in zip(dut.users, RUNS, strict=True)},
        {dut.loads.runs: [r for k in TURNS for r in RUNS[k]], **{u.beats: b for u, b in zip(dut.users, beats, strict=True)}},
        drive=turns(dut, port, [len(b) for b in beats]),
        beside=memory,
    )
    start = 0
    for k in TURNS:
        asked, came = run.taken[dut.users[k].runs], run.given[dut.users[k].beats]
        assert asked == list(range(start, start + len(asked)))
        # The memory here answers a cycle after a run.
        assert came == list(range(start + 1, start + 1 + len(came)))
        start = came[-1] + 1
    assert run.given[dut.loads.runs] == [cycle for k in TURNS for cycle in run.taken[dut.users[k].runs]]


def test_writer() -> None:
    dut = SharedWriter(MACHINE, USERS)
    port = (dut.writes.runs, dut.writes.beats)
    run = exercise(
        dut,
        {
            **{user.runs: runs for user, runs in zip(dut.users, RUNS, strict=True)},
            **{user.beats: words for user, words in zip(dut.users, WORDS, strict=True)},
        },
        {port[0]: [r for k in TURNS for r in RUNS[k]], port[1]: [w for k in TURNS for w in WORDS[k]]},
        drive=turns(dut, port, [len(words) for words in WORDS]),
    )
    assert run.given[port[0]] == [cycle for k in TURNS for cycle in run.taken[dut.users[k].runs]]
    assert run.given[port[1]] == [cycle for k in TURNS for cycle in run.taken[dut.users[k].beats]]
    # A turn takes as many cycles as it has beats.
    assert run.given[port[1]] == list(range(sum(map(len, WORDS))))
