"""ADJUST against the numerics: runs, words and their signature, with a memory and a buffer that hold back; fields that do not exist."""

from __future__ import annotations

import dataclasses
import random
from collections import deque

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.vector.adjust import AdjustUnit
from hw.vector.adjust_results import AdjustResults
from skipopu.adjust_record import ADJUST_RECORD, adjust_size
from skipopu.isa.spec import ADJUST, BUFFER_UNIT, Finish, Reduce
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics import adjust, fp32
from skipopu.numerics.activation import Activation, activate
from skipopu.numerics.adjust import PARTIALS
from skipopu.numerics.signature import signature
from tests.hw.bench import exercise
from tests.hw.vector.support import buffer

ABOVE_4_GB = 1 << 27  # 64-byte units
TOKENS, ADDRESS, ROPE, ROPE_ROW, POSITION, PARAMETER = 3, ABOVE_4_GB + 40, ABOVE_4_GB + 4, 2, 5, np.float32(1.702)
MACHINES = {
    bits: dataclasses.replace(Machine.load("tiny"), tokens=TOKENS, vector_lanes=lanes, port_bits=bits)
    for bits, lanes in ((64, 2), (128, 4), (512, 8))
}


class Case:
    """An instruction, what memory and buffer hold, what comes of it."""

    def __init__(
        self,
        bits: int,
        reduce: Reduce,
        finish: Finish,
        elements: int,
        head_dim: int,
        mask: int,
        function: Activation,
        relu: int = 0,
    ) -> None:
        self.relu = relu
        self.machine, rng = MACHINES[bits], np.random.default_rng(elements + 8 * finish + bits)
        self.reduce, self.finish, self.elements, self.head_dim, self.mask, self.function = (
            *(reduce, finish, elements, head_dim),
            *(mask, function),
        )
        self.stride, self.dst_stride = elements // 8 + 1, elements // 8 + 2
        self.src, self.dst = 1, 4 + TOKENS * self.stride
        size = BUFFER_UNIT * (self.dst + TOKENS * self.dst_stride)
        self.x = (rng.standard_normal(size) * 10.0 ** rng.integers(-2, 2, size)).astype(np.float32)
        self.gain, self.bias = rng.standard_normal((2, elements)).astype(np.float32)
        count = head_dim if reduce is Reduce.HEADS else elements
        self.inverse_size, self.epsilon = np.float32(1 / count), np.float32(1e-5)
        address, rope = (64 * (unit - ABOVE_4_GB) for unit in (ADDRESS, ROPE))
        memory = rng.integers(0, 256, address + 64 + adjust_size(elements), dtype=np.uint8)
        constants = {
            name: int(fp32.bits(value)) for name, value in (("inverse_size", self.inverse_size), ("epsilon", self.epsilon))
        }
        memory[address:][: ADJUST_RECORD.size] = ADJUST_RECORD.pack(**constants, rope=ROPE)
        blocks = np.stack([self.gain.reshape(-1, 8), self.bias.reshape(-1, 8)], 1)
        memory[address + ADJUST_RECORD.size :][: blocks.nbytes] = blocks.reshape(-1).view(np.uint8)
        self.rotary = rng.standard_normal((16, ROPE_ROW * 8, 2)).astype(np.float32)
        memory[rope:][: self.rotary.nbytes] = self.rotary.reshape(-1).view(np.uint8)
        self.memory = memory

    @property
    def listed(self) -> list[int]:
        return [slot for slot in range(TOKENS) if self.mask >> slot & 1]

    @property
    def word(self) -> int:
        names = ("elements", "src", "dst", "stride", "dst_stride", "reduce", "finish", "relu")
        return ADJUST.encode({name: int(getattr(self, name)) for name in names})

    def runs(self) -> list[dict[str, int]]:
        def run(unit: int, units: int) -> dict[str, int]:
            return {"beat": 64 * unit // self.machine.beat_bytes, "count": 64 * units // self.machine.beat_bytes}

        found = [run(ADDRESS, 1)]
        for slot in self.listed:
            if self.finish is Finish.ROTATE:
                row = run(ROPE + (POSITION + slot) * ROPE_ROW, 1)
                found.append(row | {"count": -(-4 * self.head_dim // self.machine.beat_bytes)})
            found.append(run(ADDRESS + 1, self.elements // 8))
        return found

    def results(self, slot: int) -> np.ndarray:
        start = BUFFER_UNIT * (self.src + slot * self.stride)
        y = self.x[start : start + self.elements]
        if self.reduce is not Reduce.NONE:
            parts = y.reshape(-1, self.head_dim if self.reduce is Reduce.HEADS else self.elements)
            y = fp32.multiply(parts, adjust.inverse_rms(parts, self.inverse_size, self.epsilon)[:, None]).reshape(-1)
        y = adjust.affine(y, self.gain, self.bias)
        y = adjust.relu(y) if self.relu else y
        if self.finish is Finish.ROTATE:
            cos, sin = self.rotary[POSITION + slot, : self.head_dim // 2].T
            even, odd = y.reshape(-1, self.head_dim // 2, 2).transpose(2, 0, 1)
            turned = (
                fp32.add(fp32.multiply(even, cos), -fp32.multiply(odd, sin)),
                fp32.add(fp32.multiply(odd, cos), fp32.multiply(even, sin)),
            )
            y = np.stack(turned, -1).reshape(-1)
        elif self.finish is Finish.ACTIVATE:
            y = activate(self.function, y, PARAMETER)
        elif self.finish is Finish.RESIDUAL:
            start = BUFFER_UNIT * (self.dst + slot * self.dst_stride)
            y = fp32.add(self.x[start : start + self.elements], y)
        return fp32.bits(y)

    def words(self) -> list[dict[str, int]]:
        """Lanes that are not enabled may hold anything: the test puts them out."""
        lanes, wide = pipeline.adjust_lanes(self.machine), self.machine.vector_lanes
        found: list[dict[str, int]] = []
        for slot in self.listed:
            results, start = self.results(slot), BUFFER_UNIT * (self.dst + slot * self.dst_stride)
            for first in range(0, self.elements, lanes):
                address = start + first
                for half in range(2 if self.finish is Finish.ACTIVATE else 1):
                    own = [k for k in range(lanes) if self.finish is not Finish.ACTIVATE or k % 2 == half]
                    enable = sum(1 << address % wide + k for k in own)
                    data = sum(int(results[first + k]) << 32 * (address % wide + k) for k in own)
                    found.append({"address": address, "slot": slot, "enable": enable, "data": data})
        return found

    def where(self) -> np.ndarray:
        starts = [BUFFER_UNIT * (self.dst + slot * self.dst_stride) for slot in self.listed]
        return np.concatenate([np.arange(start, start + self.elements) for start in starts])


CASES = [
    (64, Reduce.NONE, Finish.STORE, 40, 8, 0b101, Activation.SWISH),
    (128, Reduce.HEADS, Finish.ROTATE, 24, 12, 0b101, Activation.SWISH),
    (128, Reduce.WHOLE, Finish.RESIDUAL, 72, 8, 0b010, Activation.SWISH),
    (128, Reduce.NONE, Finish.ACTIVATE, 24, 8, 0b011, Activation.GELU_TANH),
    (512, Reduce.HEADS, Finish.STORE, 320, 160, 0b100, Activation.SWISH),
    (512, Reduce.WHOLE, Finish.ROTATE, 128, 32, 0b001, Activation.SWISH),
    (512, Reduce.WHOLE, Finish.ACTIVATE, 136, 8, 0b001, Activation.RELU2),
    (64, Reduce.HEADS, Finish.RESIDUAL, 16, 8, 0b110, Activation.SWISH),
    (128, Reduce.NONE, Finish.STORE, 48, 8, 0b111, Activation.SWISH, 1),
    (512, Reduce.WHOLE, Finish.RESIDUAL, 136, 8, 0b010, Activation.SWISH, 1),
    (512, Reduce.NONE, Finish.ROTATE, 48, 24, 0b101, Activation.SWISH),  # one and a half beats of rotary row
]


@pytest.mark.units
@pytest.mark.parametrize(
    "case", [Case(*case) for case in CASES], ids=lambda case: f"{case.reduce.name}-{case.finish.name}{'-RELU' * case.relu}"
)
def test_results(case: Case) -> None:
    machine, dut, words = case.machine, AdjustUnit(case.machine), case.words()
    times: list[int] = []  # of words

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        """Is the memory and takes the words: lanes that are not enabled may hold anything."""
        pending: deque[int] = deque()
        seen: list[dict[str, int]] = []
        for name, value in (("rope_row", ROPE_ROW), ("head_dim", case.head_dim), ("activation", int(case.function))):
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.parameter, int(fp32.bits(PARAMETER)))
        ctx.set(dut.task.instruction, {"word": case.word, "mask": case.mask, "address": ADDRESS, "position": POSITION})
        ctx.set(dut.task.active, 1)
        shown = done = digest = cycle = 0
        times.clear()
        while not done:
            assert cycle < 9000, f"{len(seen)} of {len(words)} words"
            if not shown:
                shown = int(bool(pending) and not (stalls and stalls.random() < 0.4))
                ctx.set(dut.beats.valid, shown)
                if shown:
                    at = pending[0] * machine.beat_bytes - 64 * ABOVE_4_GB
                    ctx.set(dut.beats.payload, int.from_bytes(case.memory[at : at + machine.beat_bytes].tobytes(), "little"))
            ready = int(not stalls or stalls.random() < 0.6)
            ctx.set(dut.words.ready, ready)
            of_memory = (dut.runs.valid, dut.runs.ready, dut.runs.payload, dut.beats.ready)
            of_buffer = (dut.words.valid, dut.words.payload, dut.task.done, dut.task.digest)
            _, _, asked, granted, run, taken, valid, word, done, digest = await ctx.tick().sample(*of_memory, *of_buffer)
            if shown and taken:
                pending.popleft()
                shown = 0
            if asked and granted:
                pending.extend(range(run.beat, run.beat + run.count))
            if valid and ready:
                kept = sum(0xFFFFFFFF << 32 * k for k in range(machine.vector_lanes) if word.enable >> k & 1)
                times.append(cycle)
                seen.append({"address": word.address, "slot": word.slot, "enable": word.enable, "data": word.data & kept})
            cycle += 1
        ctx.set(dut.task.active, 0)
        for number, (one, other) in enumerate(zip(seen, words, strict=False)):
            assert one == other, f"word {number}"
        assert len(seen) == len(words)
        assert not pending
        assert digest == signature(case.where(), np.concatenate([case.results(slot) for slot in case.listed]))

    answers = buffer(dut.read, fp32.bits(case.x), machine.vector_lanes)
    seen = exercise(dut, {}, {dut.runs: case.runs()}, drive=drive, beside=answers, seeds=range(2), patience=9000)
    assert seen.given[dut.runs][0] == 1
    if machine.port_bits > 64:  # else gains and biases come more slowly
        lanes, size = pipeline.adjust_lanes(machine), case.head_dim if case.reduce is Reduce.HEADS else case.elements
        pace = 2 if case.finish is Finish.RESIDUAL else 1
        again = 5 + -(-size // PARTIALS) * PARTIALS // lanes + pipeline.adjust_reduce(machine)  # the next head's squares
        per_part = size // lanes * (2 if case.finish is Finish.ACTIVATE else 1)
        slot = times[: len(words) // len(case.listed)]
        assert np.diff(slot).tolist() == [pace if k % per_part else again for k in range(1, len(slot))]


def test_results_wait_until_the_buffer_takes_them() -> None:
    """As many as there is room for are on their way when it begins to."""
    dut, announced, seen = AdjustResults(MACHINES[128]), 0, list[int]()

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal announced
        coming: deque[int | None] = deque(pipeline.ADJUST * [None])
        ctx.set(dut.enable, -1)
        for cycle in range(200):
            room = ctx.get(dut.room) and cycle < 120
            coming.append(announced if room else None)
            announced += bool(room)
            result = coming.popleft()
            ctx.set(dut.announce, room)
            ctx.set(dut.valid, result is not None)
            ctx.set(dut.results, result or 0)
            ctx.set(dut.words.ready, cycle >= 80)
            if ctx.get(dut.words.valid) and cycle >= 80:
                seen.append(ctx.get(dut.words.payload.data) & 0xFFFF_FFFF)
            await ctx.tick()
        assert ctx.get(dut.empty)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert announced > AdjustResults.PLACES
    assert seen == list(range(announced))
