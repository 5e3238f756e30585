"""Every row leaves the array through the lane it belongs to, whatever the ports and the buffer's words."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module, Mux
from amaranth.sim import Simulator, SimulatorContext

import hw.pe.epilogue
from hw.arithmetic.pipeline import delay
from hw.pe.epilogue import EpilogueUnit
from hw.pe.finish import Finish
from skipopu.isa.spec import BUFFER_UNIT, MATMUL, Epilogue, matmul_shape
from skipopu.machine.config import Machine

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
    machine, rows, base, rotated = described(lanes, ports), 8 * (ports + ports // 2) + 6, 64, 10
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
            ctx.set(dut.read_data, sum((10000 * (read + k)) << 32 * k for k in range(lanes)))

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    expected = {base + row: 1000 + row for row in range(rows)}
    if kind is Epilogue.ROPE:
        for row in range(rotated):
            expected[base + row] += 1 << 20 | row // 2 % HALF_HEAD << 12
    elif kind is Epilogue.RESIDUAL:
        expected = {place: value + 10000 * place for place, value in expected.items()}
    elif kind is Epilogue.GATED:
        expected = {base + row // 2: 3 * (1000 + row) + 1001 + row for row in range(0, rows, 2)}
    assert seen == expected
