"""Every row leaves the array through the lane it belongs to, whatever the ports and the buffer's words."""

from __future__ import annotations

import random

import numpy as np
import pytest
from amaranth.hdl import Module, Mux
from amaranth.sim import Simulator, SimulatorContext

import hw.pe.epilogue
from hw.arithmetic.pipeline import delay
from hw.pe.epilogue import EpilogueUnit
from hw.pe.finish import Finish
from skipopu.isa.spec import BUFFER_UNIT, MATMUL, Epilogue, matmul_shape
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.machine.pipeline import results_known
from skipopu.numerics import fp32
from skipopu.numerics.signature import index, signature
from tests.hw.vector.support import packed, unpacked

HALF_HEAD = 16


class Sums(Finish):
    """In place of :class:`Finish`: says by its results which numbers met. A gated pair is 3 * even + odd."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        residual, gated = self.kind == Epilogue.RESIDUAL, self.kind == Epilogue.GATED
        rotated = Mux(self.rotate, self.cos, 0)
        even = self.even + Mux(residual, self.residual_even, rotated)
        odd = self.odd + Mux(residual, self.residual_odd, rotated)
        m.d.comb += [
            self.result_even.eq(delay(m, Mux(gated, 3 * self.even + self.odd, even), self.LATENCY, "even_sum")),
            self.result_odd.eq(delay(m, odd, self.LATENCY, "odd_sum")),
        ]
        return m


def described(lanes: int, ports: int) -> Machine:
    bits = max(64, 16 * lanes)
    return Machine("drained", ports, bits, 1, lanes, 4096, bits, bits, 64, 64)


@pytest.mark.parametrize("kind", [Epilogue.STORE, Epilogue.ROPE, Epilogue.GATED, Epilogue.RESIDUAL])
@pytest.mark.parametrize(("lanes", "ports"), [(2, 1), (8, 3), (16, 2), (16, 3), (32, 1), (32, 2), (32, 4), (32, 6)])
def test_rows_and_lanes(lanes: int, ports: int, kind: Epilogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hw.pe.epilogue, "Finish", Sums)
    machine, rows, base, rotated = described(lanes, ports), 8 * (ports + ports // 2) + 6, LARGEST_BUFFER - 128, 10
    dut = EpilogueUnit(machine)
    shape = matmul_shape(rows, ports)
    word = MATMUL.encode({**shape, "dst": base // BUFFER_UNIT, "epilogue": kind, "aux": rotated})
    seen: dict[int, int] = {}

    def drained(address: int, odd: int) -> int:
        """1000 + row of every port side by side."""
        pair, bank = address >> 1 & 3, address >> 3  # above one bit of token
        return sum((1000 + 8 * (bank * ports + p) + 2 * pair + odd) << (32 * p) for p in range(ports))

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.half_head, HALF_HEAD)
        ctx.set(dut.rope_enable, 1)
        for number in range(2 * HALF_HEAD):
            ctx.set(dut.rope_word, number)
            ctx.set(dut.rope_data, 1 << 20 | number >> 1 << 12)
            await ctx.tick()
        ctx.set(dut.rope_enable, 0)
        ctx.set(dut.token_count, 1)
        ctx.set(dut.instruction.word, word)
        await ctx.tick()
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.active, 1)
        rounds = shape["rounds"]
        pending = [(r & 1, r == rounds - 1) for r in range(rounds)]
        for _ in range(60 + 8 * ports + EpilogueUnit.LATENCY):
            ctx.set(dut.round_done, bool(pending))
            if pending:
                bank, last = pending.pop(0)
                ctx.set(dut.round_bank, bank)
                ctx.set(dut.round_last, last)
                ctx.set(dut.round_ports, (1 << (shape["ports"] if last else ports)) - 1)
            drain, read = ctx.get(dut.drain_address), ctx.get(dut.read_address) // lanes * lanes
            if ctx.get(dut.write_valid):
                first, enable, data = (ctx.get(getattr(dut.write, n)) for n in ("address", "enable", "data"))
                for k in range(lanes):
                    if enable >> k & 1:
                        place = first // lanes * lanes + k
                        assert place not in seen
                        seen[place] = data >> 32 * k & 0xFFFF_FFFF
            await ctx.tick()
            ctx.set(dut.drain_even, drained(drain, 0))
            ctx.set(dut.drain_odd, drained(drain, 1))
            ctx.set(dut.read_data, sum((4096 * (read + k)) << 32 * k for k in range(lanes)))

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    expected = {base + row: 1000 + row for row in range(rows)}
    if kind is Epilogue.ROPE:
        for row in range(rotated):
            expected[base + row] += 1 << 20 | row // 2 % HALF_HEAD << 12
    elif kind is Epilogue.RESIDUAL:
        expected = {place: value + 4096 * place for place, value in expected.items()}
    elif kind is Epilogue.GATED:
        expected = {base + row // 2: 3 * (1000 + row) + 1001 + row for row in range(0, rows, 2)}
    assert seen == expected


@pytest.mark.parametrize("kind", [Epilogue.STORE, Epilogue.NONE])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_products_of_several_tokens(kind: Epilogue, seed: int | None) -> None:
    """Twice: 1/rms, addresses, the signature, the argmax; a pair a cycle, its write and the end at the promised cycles."""
    ports, lanes, slots, rows, base, stride, first = 3, 8, [0, 2], 38, LARGEST_BUFFER - 144, 48, (1 << 15) - 5
    machine = Machine("drained", ports, 128, 3, lanes, 4096, 128, 128, 64, 64)
    rng, stalls = np.random.default_rng(9), None if seed is None else random.Random(seed)
    shape = matmul_shape(rows, ports)
    sums = rng.standard_normal((2, ports, 8, len(slots))).astype(np.float32)
    rms = rng.standard_normal(machine.tokens).astype(np.float32)
    results = {
        (row, slot): int(fp32.bits(fp32.multiply(sums[row // 24, row // 8 % 3, row % 8, token], rms[slot])))
        for row in range(rows)
        for token, slot in enumerate(slots)
    }
    align = 2 if kind is Epilogue.STORE else 0
    fields = {"dst": base // BUFFER_UNIT, "stride": stride // BUFFER_UNIT, "epilogue": kind, "norm": 1, "align": align}
    word = MATMUL.encode({**shape, **fields, "argmax": int(not align), "aux": 0 if align else first})
    where = [base + slot * stride + row if align else index(0, slot, 8 * first + row) for row, slot in results]
    best = [max(range(rows), key=lambda row: np.uint32(results[row, slot]).view(np.float32)) for slot in slots]
    assert best[0] != best[1]
    dut = EpilogueUnit(machine)
    stored: dict[tuple[int, int], int] = {}
    pairs, writes, ends = [], [], []

    async def bench(ctx: SimulatorContext) -> None:
        for port, value in (
            (dut.instruction.word, word),
            (dut.token_count, len(slots)),
            (dut.inverse_rms, packed(fp32.bits(rms))),
            (dut.half_head, HALF_HEAD),
        ):
            ctx.set(port, value)
        await ctx.tick()
        for _ in range(2):
            for kept in (stored, pairs, writes, ends):
                kept.clear()
            ctx.set(dut.start, 1)
            ctx.set(dut.chunk, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.chunk, 0)
            await ctx.tick().repeat(machine.tokens)
            ctx.set(dut.active, 1)
            done, cycle = 0, 0
            while not done:
                ctx.set(dut.round.done, cycle < 2)
                ctx.set(dut.round.bank, cycle & 1)
                ctx.set(dut.round.last, cycle & 1)
                ctx.set(dut.round.ports, (1 << shape["ports"]) - 1 if cycle else 7)
                ctx.set(dut.pause, stalls.random() < 0.4 if stalls else 0)
                ctx.set(dut.slot, slots[ctx.get(dut.token)])
                ctx.set(dut.aligned, bool(ends and cycle > ends[0] + 5))
                address = ctx.get(dut.drain_address)
                token, pair, bank = address & 3, address >> 2 & 3, address >> 4
                if ctx.get(dut.draining):
                    pairs.append(cycle)
                if ctx.get(dut.finish):
                    ends.append(cycle)
                if ctx.get(dut.write_valid):
                    writes.append(cycle)
                    place, slot = ctx.get(dut.write.address), ctx.get(dut.write.slot)
                    for k, value in enumerate(unpacked(ctx.get(dut.write.data), lanes)):
                        if ctx.get(dut.write.enable) >> k & 1:
                            stored[place // lanes * lanes + k - base - slot * stride, slot] = value
                done = ctx.get(dut.done)
                if done:
                    assert ctx.get(dut.digest) == signature(where, list(results.values()))
                    ends.append(cycle)
                await ctx.tick()
                for odd, port in enumerate((dut.drain_even, dut.drain_odd)):
                    ctx.set(port, packed(fp32.bits(sums[bank, :, 2 * pair + odd, min(token, 1)])))
                cycle += 1
                assert cycle < 400
            for slot, row in zip(slots, best, strict=True):
                ctx.set(dut.best_slot, slot)
                assert ctx.get(dut.best_token) == (0 if align else 8 * first + row)
            ctx.set(dut.active, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    assert stored == (results if align else {})
    assert ends[0] == pairs[-1] + 1 + (EpilogueUnit.WRITTEN if align else EpilogueUnit.LATENCY + results_known(machine))
    if align:
        real = [k for k in range(len(pairs)) if k // 8 < 4 or k % 4 < 3]  # the last block's last pair does not exist
        assert writes == [pairs[k] + EpilogueUnit.WRITTEN for k in real]
        assert ends[-1] == ends[0] + 6
    if stalls is None:
        assert pairs == list(range(1, 1 + 5 * 4 * len(slots)))
