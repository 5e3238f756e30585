"""An outpost: what is sent comes to its port, all of it and in order, however late who sends hears that there is room."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Cat
from amaranth.sim import SimulatorContext

from hw.memory.outpost import DEPTH, UNDER_WAY, Outpost
from skipopu.machine.config import Machine
from tests.hw.bench import Payload, Run, exercise

MACHINE, PORTS = Machine.load("trio"), 2
ENTRY_SENDER = 2  # cycles from room to the beat that it allows, of hw/kv/send.py
LATE = [ENTRY_SENDER, UNDER_WAY - 1]  # the latter are the most that UNDER_WAY is enough for
# (port, beats) of runs; None: to a port of another outpost
RUNS = [(0, 12), (1, 30), (None, 20), (1, 1), (None, 3), (0, 40), (0, 2), (1, 9)]


def beats_of(number: int, count: int) -> list[int]:
    return [random.Random(100 * number + k).getrandbits(MACHINE.port_bits) for k in range(count)]


def where(number: int, count: int) -> dict[str, int]:
    return {"beat": (1 << 30) + number, "count": count}


class Sender:
    """Sends runs, one after the other, and a beat whenever there was room ``late`` cycles ago.

    Attributes:
        began: cycles in which a run of each port did.
        sent: cycles in which each port's beats were.
        most: the most beats that were inside at once.
    """

    def __init__(self, dut: Outpost, runs: list[tuple[int | None, int]], late: int, still: range = range(0)) -> None:
        self.dut, self.runs, self.late, self.still = dut, runs, late, still
        self.began: list[list[int]] = []
        self.sent: list[list[int]] = []
        self.most = 0

    async def drive(self, ctx: SimulatorContext, stalls: random.Random | None) -> None:
        dut, sent = self.dut, self.dut.sent
        self.began, self.sent = ([[] for _ in range(PORTS)] for _ in range(2))
        cycle, inside, asked, came, answered, room = 0, 0, 0, 0, False, [True] * self.late
        run_moves = Cat(writes.runs.valid & writes.runs.ready for writes in dut.writes)
        beat_moves = Cat(writes.beats.valid & writes.beats.ready for writes in dut.writes)

        async def tick() -> None:
            nonlocal cycle, inside, asked, came, answered
            if cycle in self.still:
                for writes in dut.writes:
                    ctx.set(writes.beats.ready, 0)
            watched = sent.room, sent.done, run_moves, beat_moves, sent.valid, sent.here, dut.written
            _, _, there, done, run, beat, valid, here, written = await ctx.tick().sample(*watched)
            assert there == (inside <= DEPTH - UNDER_WAY)
            assert done == answered
            answered = written & here != 0
            inside += (valid and here != 0) - (beat != 0)
            assert 0 <= inside <= DEPTH
            self.most = max(self.most, inside)
            asked, came, cycle = asked + (run != 0), came + (beat != 0), cycle + 1
            room.append(bool(there))
            room.pop(0)

        for number, (port, count) in enumerate(self.runs):
            here = 0 if port is None else 1 << port
            ctx.set(sent.here, here)
            ctx.set(sent.run, where(number, count))
            await tick()
            asked = came = 0
            ctx.set(sent.begin, 1)
            if port is not None:
                self.began[port].append(cycle)
            await tick()
            ctx.set(sent.begin, 0)
            for beat in beats_of(number, count):
                while not room[0]:
                    await tick()
                ctx.set(sent.valid, 1)
                ctx.set(sent.beat, beat)
                if port is not None:
                    self.sent[port].append(cycle)
                await tick()
                ctx.set(sent.valid, 0)
                ctx.set(sent.beat, ~beat & (1 << MACHINE.port_bits) - 1)
            while port is not None and (not asked or came < count):
                await tick()
            ctx.set(dut.written, (1 << PORTS) - 1 - here)  # another port's write says nothing
            for _ in range(stalls.randrange(4) if stalls else 2):
                await tick()
            assert (asked, came) == ((0, 0) if port is None else (1, count))
            ctx.set(dut.written, here)
            await tick()
            ctx.set(dut.written, 0)
            await tick()


def run(sender: Sender) -> Run:
    strobe, expect = (1 << MACHINE.beat_bytes) - 1, {}
    for p, writes in enumerate(sender.dut.writes):
        mine = [(number, count) for number, (port, count) in enumerate(sender.runs) if port == p]
        asked: list[Payload] = [where(number, count) for number, count in mine]
        beats: list[Payload] = [{"data": beat, "strobe": strobe} for number, count in mine for beat in beats_of(number, count)]
        expect |= {writes.runs: asked, writes.beats: beats}
    return exercise(sender.dut, {}, expect, drive=sender.drive)


@pytest.mark.parametrize("late", LATE)
def test_runs_of_all_ports(late: int) -> None:
    """What goes to another outpost's port asks nobody here and leaves nothing behind."""
    sender = Sender(Outpost(MACHINE, PORTS), RUNS, late)
    seen = run(sender)
    for p, writes in enumerate(sender.dut.writes):
        assert seen.given[writes.runs] == [cycle + 1 for cycle in sender.began[p]]
        assert seen.given[writes.beats] == [cycle + 2 for cycle in sender.sent[p]]
        first, counts = iter(sender.sent[p]), [count for port, count in RUNS if port == p]
        for count, began in zip(counts, sender.began[p], strict=True):  # a beat per cycle
            assert [next(first) for _ in range(count)] == list(range(began + 1, began + 1 + count))


@pytest.mark.parametrize("late", LATE)
def test_a_port_that_stands_still(late: int) -> None:
    """What is under way then finds its places; from the entry sender more comes before they are empty."""
    still, count = range(10, 60), 40
    sender = Sender(Outpost(MACHINE, 1), [(0, count)], late, still)
    seen = run(sender)
    assert sender.most == DEPTH - UNDER_WAY + 1 + late <= DEPTH
    assert late > ENTRY_SENDER or sender.most >= 2 * late + 3
    times, more = list(range(4, still.start)), still.stop + max(sender.most, 2 * late + 3)
    times += [*range(still.stop, still.stop + sender.most), *range(more, more + count - len(times) - sender.most)]
    assert seen.given[sender.dut.writes[0].beats] == times
