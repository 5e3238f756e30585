"""Whose results are aligned, against a plain choice: one instruction's, its unit's writes or the words that ALIGN shows."""

from __future__ import annotations

import random

from amaranth.sim import SimulatorContext

from hw.vector.source import AlignSource
from skipopu.isa.spec import AlignTarget, Unit
from skipopu.machine.config import Machine
from tests.hw.bench import simulation

MACHINE = Machine.load("tiny")


def test_who_aligns() -> None:
    """A cycle later, a write in every one; at most one of the running instructions aligns."""
    dut, source = AlignSource(MACHINE), random.Random(8)
    results = [
        (dut.product, Unit.ARRAY),
        (dut.attention, Unit.ATTENTION),
        (dut.embedding, Unit.VECTOR),
        (dut.scan, Unit.VECTOR),
    ]
    cases = set()

    def word() -> dict[str, int]:
        lanes = MACHINE.vector_lanes
        return {
            "address": source.getrandbits(20),
            "data": source.getrandbits(32 * lanes),
            "enable": source.getrandbits(lanes),
            "slot": source.randrange(MACHINE.tokens),
        }

    async def bench(ctx: SimulatorContext) -> None:
        for _ in range(300):
            who = source.choice([None, *range(len(results))])
            shows = who == 3
            masks = [source.getrandbits(MACHINE.tokens) for _ in results]
            targets = [source.choice(list(AlignTarget)) for _ in results]
            group, head_dim = source.choice((32, 64, 128, 512)), source.choice((24, 32, 60, 64, 256))
            finish = who is not None and source.random() < 0.3
            for k, (result, _) in enumerate(results):
                # Others run without aligning, or do not run; the scan always aligns.
                runs = k == who or (k != 3 and source.random() < 0.5)
                if k == who:
                    targets[k] = source.choice(list(AlignTarget)[1:])
                elif runs:
                    targets[k] = AlignTarget.NONE
                ctx.set(result.active, runs)
                ctx.set(result.target, targets[k])
                ctx.set(result.mask, masks[k])
                ctx.set(result.finish, finish and k == who)
            written, shown, valid, showing = word(), word(), source.random() < 0.7, source.random() < 0.7
            by = source.choice(list(Unit))
            for port, value in (
                (dut.group, group),
                (dut.head_dim, head_dim),
                (dut.written, written),
                (dut.written_valid, valid),
                (dut.written_by, by),
                (dut.shown, shown),
                (dut.shown_valid, showing),
            ):
                ctx.set(port, value)
            await ctx.tick()
            target = AlignTarget.NONE if who is None else targets[who]
            assert ctx.get(dut.target) == target
            assert ctx.get(dut.finish) == finish
            assert ctx.get(dut.queries) == (target == AlignTarget.QUERY)
            if who is not None:
                assert ctx.get(dut.mask) == masks[who]
                assert ctx.get(dut.unit) == results[who][1]
            if target == AlignTarget.QUERY:
                assert ctx.get(dut.elements) == head_dim
                assert ctx.get(dut.padded) == -(-head_dim // MACHINE.kv_lanes) * MACHINE.kv_lanes
            else:
                assert ctx.get(dut.elements) == ctx.get(dut.padded) == group
            follows = who is not None and (showing if shows else valid and by == results[who][1])
            assert ctx.get(dut.write_valid) == follows
            if follows:
                write = ctx.get(dut.write)
                assert {name: write[name] for name in written} == (shown if shows else written)
            cases.add((who, target, follows))
            await ctx.tick()

    simulator = simulation(dut)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(cases) == 1 + len(results) * 3 * 2
