"""Records and tokens lie in memory where they belong, and nothing beside them is written."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.issue import UNITS
from hw.control.record import RecordWriter
from skipopu.machine.config import Machine
from skipopu.records import RING_RECORD
from tests.hw.bench import exercise

RING, RECORDS, CYCLE = (1 << 27) + 3, 16, 77  # the ring above 4 GB
LATENCY = 3


class Memory:
    """Takes runs and beats; what is written is kept by byte address."""

    def __init__(self, dut: RecordWriter, beat_bytes: int) -> None:
        self.dut, self.beat_bytes = dut, beat_bytes
        self.bytes: dict[int, int] = {}

    async def run(self, ctx: SimulatorContext, stalls: random.Random | None) -> None:
        def goes() -> bool:
            return stalls is None or stalls.random() < 0.6

        async def take(stream: object) -> object:
            while True:
                ready = goes()
                ctx.set(stream.ready, ready)
                *_, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
                ctx.set(stream.ready, 0)
                if valid and ready:
                    return payload

        self.bytes.clear()
        while True:
            run = await take(self.dut.runs)
            for beat in range(run.beat, run.beat + run.count):
                payload = await take(self.dut.beats)
                for k in range(self.beat_bytes):
                    if payload.strobe >> k & 1:
                        self.bytes[beat * self.beat_bytes + k] = payload.data >> 8 * k & 255
            while not goes():
                await ctx.tick()
            ctx.set(self.dut.written, 1)
            await ctx.tick()
            ctx.set(self.dut.written, 0)


@pytest.mark.parametrize("target", ["mono", "tiny", "u280-slice4"])
def test_records_and_a_token(target: str) -> None:
    machine, source = Machine.load(target), random.Random(4)
    dut = RecordWriter(machine)
    memory = Memory(dut, machine.beat_bytes)
    order = list(range(500, 500 + RECORDS - 3))
    records = [{"sequence": s, "pc": source.getrandbits(12), "signature": source.getrandbits(32)} for s in order]
    source.shuffle(records)
    feed = {retired: records[u::UNITS] for u, retired in enumerate(dut.retired)}
    expected: dict[int, int] = {}
    for record in records:
        words = [record["sequence"] + 1, record["pc"], record["signature"], CYCLE]
        place = 64 * RING + RING_RECORD.size * (record["sequence"] % RECORDS)
        expected.update(enumerate(b"".join(word.to_bytes(4, "little") for word in words), place))
    token, address = 0xDEADBEEF, (1 << 39) + 64 * 40 + 4 * source.randrange(16)
    expected.update(enumerate(token.to_bytes(4, "little"), address))

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        memory.bytes.clear()
        while len(memory.bytes) < RING_RECORD.size * len(records) or not ctx.get(dut.idle):
            await ctx.tick()
        ctx.set(dut.token, token)
        ctx.set(dut.write_token.address, address)
        ctx.set(dut.write_token.start, 1)
        await ctx.tick()
        ctx.set(dut.write_token.start, 0)
        assert ctx.get(dut.runs.valid)
        done = 0
        while not done:
            *_, done = await ctx.tick().sample(dut.write_token.done)
        assert memory.bytes == expected

    constants = [(dut.check, 1), (dut.ring, RING), (dut.ring_records, RECORDS), (dut.cycle, CYCLE)]
    exercise(dut, feed, {}, constants=constants, drive=drive, beside=memory.run)


def test_cycles_of_a_record() -> None:
    machine = Machine.load("mono")
    dut, beats = RecordWriter(machine), RING_RECORD.size // machine.beat_bytes
    records = [{"sequence": k, "pc": k, "signature": k} for k in range(10)]
    constants = [(dut.check, 1), (dut.ring_records, RECORDS), (dut.written, 1)]
    runs = [{"beat": k * beats, "count": beats} for k in range(10)]
    run = exercise(
        dut, {dut.retired[0]: records}, {dut.runs: runs, dut.beats: 10 * beats * [{}]}, constants=constants, seeds=()
    )
    assert run.given[dut.runs] == [LATENCY + (3 + beats) * k for k in range(10)]
    assert run.given[dut.beats][0] == LATENCY + 1


def test_without_check_records_are_dropped() -> None:
    dut = RecordWriter(Machine.load("tiny"))
    run = exercise(dut, {dut.retired[1]: [{"sequence": k} for k in range(20)]}, {dut.runs: []}, seeds=range(1))
    assert run.taken[dut.retired[1]] == list(range(20))


def test_places_in_the_largest_ring() -> None:
    """Up to its end, from its start again behind that, and behind the last number of a record."""
    machine, size = Machine.load("mono"), 1 << 28
    dut, beats = RecordWriter(machine), RING_RECORD.size // machine.beat_bytes
    numbers = [0, size // 2, size - 1, size, 3 * size + 5, (1 << 32) - 1]
    records = [{"sequence": k, "pc": (1 << 12) - 1, "signature": (1 << 32) - 1} for k in numbers]
    runs = [{"beat": (64 * RING + RING_RECORD.size * (k % size)) // machine.beat_bytes, "count": beats} for k in numbers]
    constants = [(dut.check, 1), (dut.ring, RING), (dut.ring_records, size), (dut.cycle, (1 << 32) - 1), (dut.written, 1)]
    data = [word for k in numbers for word in ((k + 1) % (1 << 32) | ((1 << 12) - 1) << 32, (1 << 64) - 1)]
    streams = {dut.runs: runs, dut.beats: [{"data": word} for word in data]}
    exercise(dut, {dut.retired[0]: records}, streams, constants=constants, seeds=())
