"""The shared bench: it passes a queue, counts its cycles, and notices every way in which one can be broken."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.sim import SimulatorContext

from hw.component import Component, given, gives
from tests.hw.bench import exercise, pipeline

PAIR = data.StructLayout({"low": 4, "high": data.StructLayout({"value": 8})})
PAYLOADS = [{"low": k % 16, "high": {"value": 3 * k}} for k in range(40)]


class Queue(Component):
    """A queue of four pairs; ``fault`` breaks it.

    Latency: 2 cycles. Throughput: a pair per cycle.
    """

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.source = given(stream.Signature(PAIR), "pairs")
        self.sink = gives(stream.Signature(PAIR), "the same ones")
        self.open = given(1, "pairs are let in")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=12, depth=4)
        count = Signal(6)
        m.d.sync += count.eq(count + 1)
        full = self.fault == "drops when full"
        m.d.comb += [
            self.source.ready.eq((1 if full else fifo.w_rdy) & self.open),
            fifo.w_en.eq(self.open if self.fault == "takes what is not valid" else self.source.valid & self.open),
            fifo.w_data.eq(self.source.payload),
            self.sink.valid.eq(fifo.r_rdy & ((count[:2] == 0) if self.fault == "withdraws" else 1)),
            self.sink.payload.eq(fifo.r_data ^ (count[0] if self.fault == "changes" else 0)),
            fifo.r_en.eq(self.sink.ready & self.sink.valid & ((count != 7) if self.fault == "repeats" else 1)),
        ]
        return m


def passed(fault: str = "", expected: list | None = None) -> int:
    dut = Queue(fault)
    wanted = PAYLOADS if expected is None else expected
    run = exercise(dut, {dut.source: PAYLOADS}, {dut.sink: wanted}, constants=[(dut.open, 1)], patience=60)
    assert run.taken[dut.source] == list(range(len(PAYLOADS)))
    return run.cycles


def test_a_queue_passes_and_its_cycles_are_counted() -> None:
    assert passed() == len(PAYLOADS) - 1 + 2
    assert passed(expected=[{"high": pair["high"]} for pair in PAYLOADS]) == len(PAYLOADS) - 1 + 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("drops when full", r"seed 0, cycle \d+: sink: payload \d+ is {'low'"),
        ("takes what is not valid", r"sink: payload \d+ is"),
        ("withdraws", r"sink: payload \d+ was withdrawn before it was taken"),
        ("changes", r"sink: payload \d+ (is|was)"),
        ("repeats", r"sink: payload \d+ is"),
    ],
)
def test_a_broken_queue_fails(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        passed(fault)


def test_too_few_and_too_many() -> None:
    with pytest.raises(AssertionError, match="sink: more than 39 payloads"):
        passed(expected=PAYLOADS[:-1])
    with pytest.raises(AssertionError, match="nothing moved for 60 cycles; sink gives no payload 40 of 41"):
        passed(expected=[*PAYLOADS, PAYLOADS[0]])


def test_who_waits_is_said() -> None:
    dut = Queue()
    with pytest.raises(AssertionError, match=r"source is not ready for payload 0 of 40: .*; sink gives no payload 0 of 40"):
        exercise(dut, {dut.source: PAYLOADS}, {dut.sink: PAYLOADS}, patience=60)


def test_a_run_waits_for_what_drives_the_unit() -> None:
    dut, opened = Queue(), []

    async def open_late(ctx: SimulatorContext, stalls: object) -> None:
        await ctx.tick().repeat(30)
        ctx.set(dut.open, 1)
        await ctx.tick().repeat(90)
        opened.append(stalls is None)

    run = exercise(dut, {dut.source: PAYLOADS}, {dut.sink: PAYLOADS}, drive=open_late, seeds=(5,))
    assert opened == [False, True]
    assert run.taken[dut.source][0] == 30
    assert run.cycles == len(PAYLOADS) - 1 + 2


class Sum(Component):
    """Adds; the second operand comes a cycle after the first.

    Latency: 2 cycles from the first operand. Throughput: a sum per cycle.
    """

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.first, self.second = given(8, "an operand"), given(8, "the other, a cycle later")
        self.total = gives(9, "their sum")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m, held = Module(), Signal(8)
        m.d.sync += [held.eq(self.first), self.total.eq(held + Mux(self.broken & (held == 7), 0, self.second))]
        return m


def test_pipeline() -> None:
    first, second = range(50), range(100, 150)
    for broken in (False, True):
        dut = Sum(broken)
        operands, results = [(dut.first, first), (dut.second, second, 1)], [(dut.total, range(100, 200, 2))]
        if broken:
            with pytest.raises(AssertionError, match=r"total of set 7 is 0x7, expected 0x72: {'first': 7, 'second': 107}"):
                pipeline(dut, operands, results, 2)
        else:
            pipeline(dut, operands, results, 2)
        with pytest.raises(AssertionError):
            pipeline(dut, operands, results, 3)
