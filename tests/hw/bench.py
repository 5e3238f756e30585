"""The shared bench of hardware units: streams with random stalls on both sides, and pipelines of fixed latency.

::

    dut = Adder(8)
    run = exercise(dut, feed={dut.terms: [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}, expect={dut.sums: [3, 7]})
    assert run.cycles == 2 - 1 + Adder.LATENCY
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Elaboratable, Module, Signal, Value, ValueCastable
from amaranth.lib import data, stream
from amaranth.sim import Simulator, SimulatorContext

Payload = int | Mapping[str, Any]
Part = Callable[[SimulatorContext, random.Random | None], Awaitable[None]]
Values = Sequence[int] | np.ndarray

SHARES = (0.0, 0.2, 0.5, 0.9)  # of the cycles in which a stream holds back
AFTERWARDS = 16  # cycles in which nothing more may come


@dataclass
class Run:
    """The run without stalls.

    Attributes:
        taken: cycles in which each fed stream's payloads were taken; the first one after reset is 0.
        given: cycles in which each expected stream's payloads came.
    """

    taken: dict[stream.Interface, list[int]]
    given: dict[stream.Interface, list[int]]

    @property
    def cycles(self) -> int:
        """From the first payload taken to the last one given: 0 where one follows from the other in the same cycle."""
        starts = [times[0] for times in self.taken.values() if times]
        return max((times[-1] for times in self.given.values() if times), default=0) - min(starts, default=0)


def name_of(port: stream.Interface) -> str:
    return port.valid.name.removesuffix("__valid")


def plain(value: object) -> object:
    """A constant of a layout as mappings (arrays too, by index) of ints."""
    if isinstance(value, data.Const):
        shape = value.shape()
        assert isinstance(shape, data.Layout)
        return {key: plain(value[key]) for key, _ in shape}
    return int(value)


def agrees(seen: object, expected: object) -> bool:
    """Fields that ``expected`` does not name may be anything."""
    if isinstance(expected, Mapping):
        return isinstance(seen, Mapping) and all(agrees(seen[key], value) for key, value in expected.items())
    return seen == expected


class Source:
    """Feeds ``payloads``, each after a pause of random length; what is shown stands until it is taken."""

    def __init__(self, port: stream.Interface, payloads: Iterable[Payload], stalls: random.Random | None) -> None:
        self.port, self.payloads, self.stalls = port, list(payloads), stalls
        self.share = stalls.choice(SHARES) if stalls else 0.0
        self.times: list[int] = []
        self.shown = False

    @property
    def done(self) -> bool:
        return len(self.times) == len(self.payloads)

    def waits(self) -> str:
        number = f"payload {len(self.times)} of {len(self.payloads)}"
        return f"{name_of(self.port)} is not ready for {number}: {self.payloads[len(self.times)]}"

    def show(self, ctx: SimulatorContext) -> None:
        if not self.shown:
            self.shown = not self.done and not (self.stalls and self.stalls.random() < self.share)
            if self.shown:
                ctx.set(self.port.payload, self.payloads[len(self.times)])
            else:
                # What is not valid means nothing.
                bits = Value.cast(self.port.payload)
                ctx.set(bits, random.Random(len(self.times)).getrandbits(len(bits)) if len(bits) else 0)
            ctx.set(self.port.valid, self.shown)

    def step(self, cycle: int, valid: int, ready: int, payload: object) -> bool:
        moved = bool(valid and ready)
        if moved:
            self.times.append(cycle)
            self.shown = False
        return moved


class Sink:
    """Takes what comes in cycles of its own choice and holds it against ``payloads``."""

    def __init__(self, port: stream.Interface, payloads: Iterable[Payload], stalls: random.Random | None) -> None:
        self.port, self.payloads, self.stalls = port, list(payloads), stalls
        self.share = stalls.choice(SHARES) if stalls else 0.0
        self.times: list[int] = []
        self.stands: object = None

    @property
    def done(self) -> bool:
        return len(self.times) == len(self.payloads)

    def waits(self) -> str:
        return f"{name_of(self.port)} gives no payload {len(self.times)} of {len(self.payloads)}"

    def show(self, ctx: SimulatorContext) -> None:
        ctx.set(self.port.ready, not (self.stalls and self.stalls.random() < self.share))

    def step(self, cycle: int, valid: int, ready: int, payload: object) -> bool:
        name, number = name_of(self.port), len(self.times)
        seen = plain(payload) if valid else None
        if self.stands is not None:
            assert valid, f"{name}: payload {number} was withdrawn before it was taken"
            assert seen == self.stands, f"{name}: payload {number} was {self.stands}, is {seen} before it was taken"
        self.stands = None if ready else seen
        if not valid:
            return False
        assert not self.done, f"{name}: more than {number} payloads: {seen}"
        expected = self.payloads[number]
        assert agrees(seen, expected), f"{name}: payload {number} is {seen}, expected {expected}"
        if ready:
            self.times.append(cycle)
        return bool(ready)


def simulation(dut: Elaboratable) -> Simulator:
    """With a clock, which a unit without registers has none of."""
    m = Module()
    m.submodules.dut = dut
    m.d.sync += Signal(name="clocked").eq(1)
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    return simulator


def exercise(
    dut: Elaboratable,
    feed: Mapping[stream.Interface, Iterable[Payload]],
    expect: Mapping[stream.Interface, Iterable[Payload]],
    *,
    constants: Iterable[tuple[Value | ValueCastable, Any]] = (),
    drive: Part | None = None,
    beside: Part | None = None,
    seeds: Iterable[int] = range(3),
    patience: int = 500,
) -> Run:
    """Runs ``dut`` once per seed with random stalls of all streams, then once without any.

    Every run begins with a reset, feeds all payloads, sees exactly the expected ones, in each stream's order, and nothing for some
    cycles after them; a valid payload has to stand unchanged until it is taken.

    Args:
        dut: the unit.
        feed: input stream to its payloads: ints, or mappings for layouts.
        expect: output stream to its payloads; a field that a mapping does not name may be anything.
        constants: input and its value, for all of a run.
        drive: what the streams do not do, for instance a start; a run lasts until it returned. It is given the run's source of
            random numbers, None in the run without stalls.
        beside: the same, without an end: a memory, for instance.
        seeds: one run with stalls for each.
        patience: cycles in which no stream moves until the test fails.

    Returns:
        The cycles of the run without stalls.
    """
    feed, expect = {s: list(p) for s, p in feed.items()}, {s: list(p) for s, p in expect.items()}
    simulator = simulation(dut)
    stalls: random.Random | None = None
    sources: dict[stream.Interface, Source] = {}
    sinks: dict[stream.Interface, Sink] = {}
    driven, label = True, ""

    async def driver(ctx: SimulatorContext) -> None:
        nonlocal driven
        if drive:
            driven = False
            await drive(ctx, stalls)
        driven = True

    async def model(ctx: SimulatorContext) -> None:
        if beside:
            await beside(ctx, stalls)

    async def streams(ctx: SimulatorContext) -> None:
        for target, value in constants:
            ctx.set(target, value)
        ends = [*sources.values(), *sinks.values()]
        watched = [signal for end in ends for signal in (end.port.valid, end.port.ready, end.port.payload)]
        moved, cycle, rest = 0, -1, AFTERWARDS
        while rest:
            cycle += 1
            for end in ends:
                end.show(ctx)
            _, _, *seen = await ctx.tick().sample(*watched)
            for k, end in enumerate(ends):
                try:
                    if end.step(cycle, *seen[3 * k : 3 * k + 3]):
                        moved = cycle
                except AssertionError as error:
                    raise AssertionError(f"{label}, cycle {cycle}: {error}") from None
            waiting = [end.waits() for end in ends if not end.done] + ([] if driven else ["what drives the unit goes on"])
            if waiting and cycle - moved >= patience:
                raise AssertionError(f"{label}, cycle {cycle}: nothing moved for {patience} cycles; {'; '.join(waiting)}")
            rest = AFTERWARDS if waiting else rest - 1

    simulator.add_testbench(streams)
    simulator.add_testbench(driver, background=True)
    simulator.add_testbench(model, background=True)
    for number, seed in enumerate((*seeds, None)):
        if number:
            simulator.reset()
        stalls = None if seed is None else random.Random(seed)
        label = "without stalls" if seed is None else f"seed {seed}"
        sources.update((port, Source(port, payloads, stalls)) for port, payloads in feed.items())
        sinks.update((port, Sink(port, payloads, stalls)) for port, payloads in expect.items())
        driven = drive is None
        simulator.run()
    return Run({s: source.times for s, source in sources.items()}, {s: sink.times for s, sink in sinks.items()})


def pipeline(
    dut: Elaboratable,
    operands: Sequence[tuple[Signal, Values] | tuple[Signal, Values, int]],
    results: Sequence[tuple[Signal, Values]],
    latency: int,
) -> None:
    """Feeds an operand set per cycle without gaps; the results have to follow ``latency`` cycles later.

    Args:
        dut: the unit.
        operands: input, its values and, where it comes later than the others, by how many cycles.
        results: output and its values.
        latency: cycles from the operands to the results.
    """
    count = len(results[0][1])
    inputs = [(operand[0], operand[1], operand[2] if len(operand) == 3 else 0) for operand in operands]
    last = max((len(values) + late for _, values, late in inputs), default=0)

    async def bench(ctx: SimulatorContext) -> None:
        for cycle in range(max(count + latency, last)):
            for signal, values, late in inputs:
                if 0 <= cycle - late < len(values):
                    ctx.set(signal, int(values[cycle - late]))
            if 0 <= (number := cycle - latency) < count:
                for signal, values in results:
                    seen, expected = ctx.get(signal), int(values[number])
                    given = {s.name: int(v[number]) for s, v, _ in inputs if number < len(v)}
                    assert seen == expected, f"{signal.name} of set {number} is {seen:#x}, expected {expected:#x}: {given}"
            await ctx.tick()

    simulator = simulation(dut)
    simulator.add_testbench(bench)
    simulator.run()
