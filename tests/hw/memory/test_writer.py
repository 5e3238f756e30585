"""A port's writes: every beat at its place, bursts inside pages, who goes first, what a stop leaves."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.memory.axi import ADDRESS_BITS
from hw.memory.writer import WRITE_CLIENTS, WritePort
from skipopu.errors import ConfigError
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_RUN
from tests.hw.bench import exercise

MONO = Machine.load("mono")
HIGHEST = (1 << ADDRESS_BITS) // MONO.beat_bytes  # beats of all addresses


def test_two_clients() -> None:
    """What both write stands at its place, byte by byte; each hears of every run that is done, and of no other."""
    dut, source, page = WritePort(MONO), random.Random(1), 4096 // MONO.beat_bytes
    model: dict[int, int] = {}
    runs: list[list[dict[str, int]]] = []
    beats: list[list[dict[str, int]]] = []
    for client in range(WRITE_CLIENTS):
        # Each begins before the end of a page of its own.
        pages = range(client, 2 * 4, WRITE_CLIENTS)
        runs.append([{"beat": page * (p + 1) - source.randrange(30), "count": source.randrange(1, 41)} for p in pages])
        beats.append([])
        for run in runs[client]:
            for k in range(run["count"]):
                beat = {"data": source.getrandbits(MONO.port_bits), "strobe": source.getrandbits(MONO.beat_bytes)}
                beats[client].append(beat)
                for b in range(MONO.beat_bytes):
                    if beat["strobe"] >> b & 1:
                        model[(run["beat"] + k) * MONO.beat_bytes + b] = beat["data"] >> 8 * b & 255
    cycles: list[int] = []

    async def memory(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        """Ends when both clients' runs are done."""
        axi, written, done = dut.axi, dict[int, int](), [0] * WRITE_CLIENTS
        address, left, answer, bursts, cycle = 0, 0, False, 0, 0
        came_before = 0

        def goes() -> bool:
            return not stalls or stalls.random() < 0.6

        while done != [len(r) for r in runs]:
            ctx.set(axi.awready, not left and not answer and goes())
            ctx.set(axi.wready, bool(left) and goes())
            ctx.set(axi.bvalid, answer and goes())
            _, _, *seen = await ctx.tick().sample(
                axi.awvalid & axi.awready, axi.awaddr, axi.awlen, axi.wvalid & axi.wready, axi.wdata, axi.wstrb, axi.wlast,
                axi.bvalid & axi.bready, *dut.done, dut.beat, dut.error, dut.quiet,
            )  # fmt: skip
            announced, first, length, came, data, strobe, last, answered, *signs = seen
            cycle += 1
            if announced:
                address, left, bursts = first, length + 1, bursts + 1
                assert address // 4096 == (address + left * MONO.beat_bytes - 1) // 4096
                assert left <= MONO.longest_write
            if came:
                written.update({address + b: data >> 8 * b & 255 for b in range(MONO.beat_bytes) if strobe >> b & 1})
                address, left = address + MONO.beat_bytes, left - 1
                assert last == (left == 0)
                answer = left == 0
            if answered:
                answer = False
            done = [count + sign for count, sign in zip(done, signs, strict=False)]
            assert answered or not any(signs[:WRITE_CLIENTS])
            assert signs[WRITE_CLIENTS] == came_before
            came_before = came
            assert not signs[WRITE_CLIENTS + 1]
        assert written == model
        cycles[:] = [cycle, bursts]

    exercise(dut, dict(zip([*dut.runs, *dut.beats], [*runs, *beats], strict=True)), {}, drive=memory)
    # Address, then a beat per cycle, then the response; one cycle more per run, and as many before the first.
    count = sum(len(b) for b in beats)
    assert cycles[0] == count + 2 * cycles[1] + sum(len(r) for r in runs)


def test_longest_write() -> None:
    with pytest.raises(ConfigError, match="write_burst is 600; accepted: 0, or up to 256 beats"):
        dataclasses.replace(MONO, write_burst=600)


def simulate(dut: WritePort, bench: object) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize(
    ("longest", "count", "first"),
    [(0, 11, 0), (16, 40, 0), (16, 48, 0), (16, 40, 504), (64, 130, 500), (256, 520, 0), (256, 600, HIGHEST - 600)],
)
def test_write_bursts(longest: int, count: int, first: int) -> None:
    """As long as the description says, inside 4096-byte pages, every beat once."""
    machine = dataclasses.replace(MONO, write_burst=longest)
    dut, page = WritePort(machine), 4096 // machine.beat_bytes
    bursts: list[tuple[int, int]] = []
    written: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.axi.awready, 1)
        ctx.set(dut.axi.wready, 1)
        ctx.set(dut.runs[0].payload.beat, first)
        ctx.set(dut.runs[0].payload.count, count)
        ctx.set(dut.runs[0].valid, 1)
        ctx.set(dut.beats[0].valid, 1)
        while True:
            ctx.set(dut.beats[0].payload.data, len(written))
            ctx.set(dut.axi.bvalid, ctx.get(dut.axi.bready))
            if ctx.get(dut.axi.awvalid):
                bursts.append((ctx.get(dut.axi.awaddr) // machine.beat_bytes, ctx.get(dut.axi.awlen) + 1))
            if ctx.get(dut.axi.wvalid):
                written.append(ctx.get(dut.axi.wdata))
                assert len(written) <= count
                assert ctx.get(dut.axi.wlast) == (len(written) == sum(length for _, length in bursts))
            taken, done = ctx.get(dut.runs[0].ready), ctx.get(dut.done[0])
            await ctx.tick()
            if taken:
                ctx.set(dut.runs[0].valid, 0)
            if done:
                return

    simulate(dut, bench)
    assert written == list(range(count))
    assert max(length for _, length in bursts) <= machine.longest_write
    place = first
    for start, length in bursts:
        assert start == place
        assert start // page == (start + length - 1) // page
        place += length
    assert place == first + count


@pytest.mark.parametrize("late", [0, 3, 100])
def test_a_stopped_write_port_ends_its_burst(late: int) -> None:
    """With data while it comes, without strobes where it does not; what is shown stands until it is taken."""
    dut, sent, shown = WritePort(MONO), [], None

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal shown
        ctx.set(dut.runs[0].payload.count, 11)
        ctx.set(dut.runs[0].valid, 1)
        ctx.set(dut.beats[0].payload.strobe, -1)
        ctx.set(dut.axi.awready, 1)
        for cycle in range(80):
            ctx.set(dut.stop, cycle >= 4)
            ctx.set(dut.beats[0].valid, len(sent) < 2 or cycle >= late)
            ctx.set(dut.beats[0].payload.data, 100 + len(sent))
            ctx.set(dut.axi.wready, cycle % 3 == 0)
            ctx.set(dut.axi.bvalid, ctx.get(dut.axi.bready))
            assert cycle < 4 or not ctx.get(dut.axi.awvalid)
            now = (ctx.get(dut.axi.wdata), ctx.get(dut.axi.wstrb), ctx.get(dut.axi.wlast)) if ctx.get(dut.axi.wvalid) else None
            assert shown in (None, now)
            shown = now
            if now and ctx.get(dut.axi.wready):
                sent.append(now)
                shown = None
            taken = ctx.get(dut.runs[0].ready)
            await ctx.tick()
            if taken:
                ctx.set(dut.runs[0].valid, 0)
        assert ctx.get(dut.quiet)

    simulate(dut, bench)
    assert [last for _, _, last in sent] == [k == MONO.longest_write - 1 for k in range(MONO.longest_write)]
    assert sent[0][:2] == (100, 255)
    assert all(strobe == 0 or data == 100 + k for k, (data, strobe, _) in enumerate(sent))
    assert (sent[-1][1] == 0) == (late == 100)


@pytest.mark.parametrize("client", range(WRITE_CLIENTS))
@pytest.mark.parametrize("count", [LARGEST_RUN // 2 + 2, LARGEST_RUN])
def test_the_longest_run_goes_on(client: int, count: int) -> None:
    """Its first bursts are as long as can be, and none of them is its last."""
    dut, lengths = WritePort(MONO), list[int]()

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.axi.awready, 1)
        ctx.set(dut.axi.wready, 1)
        ctx.set(dut.axi.bvalid, 1)
        ctx.set(dut.runs[client].payload.count, count)
        ctx.set(dut.runs[client].valid, 1)
        ctx.set(dut.beats[client].valid, 1)
        while len(lengths) < 4:
            if ctx.get(dut.axi.awvalid):
                lengths.append(ctx.get(dut.axi.awlen) + 1)
            await ctx.tick()
            ctx.set(dut.runs[client].valid, 0)
            assert not ctx.get(dut.done[client] | dut.quiet)

    simulate(dut, bench)
    assert lengths == 4 * [MONO.longest_write]


@pytest.mark.parametrize("client", range(WRITE_CLIENTS))
@pytest.mark.parametrize(("resp", "other_id"), [(2, 0), (3, 0), (0, 1)])
@pytest.mark.parametrize("wrong", range(3))
def test_a_bad_response_to_any_burst_is_its_clients_error(client: int, resp: int, other_id: int, wrong: int) -> None:
    """The first, one between or the last; a response that nothing waits for is an error too, and answers nothing."""
    dut, bursts = WritePort(MONO), 0
    errors, strays = list[int](), list[int]()

    async def respond(ctx: SimulatorContext, seen: list[int], resp: int = 0, bid: int = 0) -> None:
        for port, value in ((dut.axi.bvalid, 1), (dut.axi.bresp, resp), (dut.axi.bid, bid)):
            ctx.set(port, value)
        seen.append(ctx.get(dut.error))
        assert not ctx.get(dut.error) or ctx.get(dut.error_client) == client
        await ctx.tick()
        ctx.set(dut.axi.bvalid, 0)

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal bursts
        ctx.set(dut.beats[client].valid, 1)
        ctx.set(dut.runs[client].payload.count, 2 * MONO.longest_write + 1)
        ctx.set(dut.runs[client].valid, 1)
        await ctx.tick()
        ctx.set(dut.runs[client].valid, 0)
        for burst in range(3):
            assert ctx.get(dut.axi.awvalid)
            await respond(ctx, strays)
            assert ctx.get(dut.axi.awvalid)
            length = ctx.get(dut.axi.awlen) + 1
            for port in (dut.axi.awready, dut.axi.wready):
                ctx.set(port, 1)
            await ctx.tick().repeat(1 + length)
            for port in (dut.axi.awready, dut.axi.wready):
                ctx.set(port, 0)
            assert not ctx.get(dut.done[client])
            await respond(ctx, errors, *((resp, other_id) if burst == wrong else ()))
            bursts += 1
        assert ctx.get(dut.quiet)
        await respond(ctx, strays)
        assert ctx.get(dut.quiet)

    simulate(dut, bench)
    assert bursts == 3
    assert errors == [burst == wrong for burst in range(3)]
    assert strays == 4 * [1]
