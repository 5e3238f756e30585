"""A tile's slice and attention as one: operands go from one to the other, each result comes when its unit says."""

from __future__ import annotations

import numpy as np
from amaranth.sim import SimulatorContext

from hw.kv.port import AttentionPort
from hw.kv.soft_cap import CappedStep
from hw.pe.dot import WEIGHTED_BITS
from hw.pe.slice import Slice
from hw.pe.tile import Tile
from skipopu.isa.spec import SHORT_BLOCK_ROWS
from skipopu.layout import KvEntry, WeightStream
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.machine.pipeline import OPERANDS
from skipopu.numerics import align, fp16, fp32
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS
from skipopu.numerics.formats import INT4
from skipopu.numerics.profile import PROFILES
from skipopu.numerics.tables import exp2_negative
from tests.hw.kv.support import Schedule, joined, simulate
from tests.hw.kv.test_format import packed

MACHINE, ROWS = Machine.load("tiny"), SHORT_BLOCK_ROWS
ENTRY = KvEntry(1, 2 * MACHINE.kv_lanes, MACHINE)


def test_weights() -> None:
    """A short block with one group; then a pair whose sums are beyond FP32."""
    dut, rng, plan, lanes = Tile(MACHINE), np.random.default_rng(1), Schedule(), MACHINE.weight_lanes
    unit = dut.slice
    x = rng.standard_normal((1, lanes)).astype(np.float32)
    mantissas, exponents = align.align(x, lanes)
    q = rng.choice(INT4.values, (ROWS, 1, lanes)).astype(np.int8)
    q[:, :, 0] = 7
    scale = rng.random((ROWS, 1)).astype(np.float16)
    stream = WeightStream(ROWS, 1, lanes, 1, lanes, INT4)
    data = stream.pack(q, scale)[0][: stream.port_bytes(0)].reshape(-1, MACHINE.beat_bytes)
    beats = [int.from_bytes(beat.tobytes(), "little") for beat in data]
    takes = [{"scale": 1, "scale_beat": k} for k in range(len(beats) - ROWS)]
    takes += [take for pair in range(ROWS // 2) for take in ({"first": 1}, {"second": 1, "scale_index": 2 * pair})]
    sums = fp32.bits(PROFILES["exact18"].group_products(mantissas[:, 0], exponents[:, 0], q[:, 0], scale[:, 0])[0])
    for port, value in ((unit.taking, 1), (unit.active, 1), (unit.beats.valid, 1), (unit.format, INT4.code)):
        plan.set(0, port, value)
    saturated = set()
    for cycle, (take, beat) in enumerate(zip(takes, beats, strict=True), 1):
        plan.pulse(cycle, unit.take, take, {})
        plan.set(cycle, unit.beats.payload, beat)
        plan.expect(cycle, unit.beats.ready, 1, "ready")
        if "second" in take:
            row, step = take["scale_index"], cycle + 1
            word = {"product": 1, "first_beat": 1, "last_beat": 1, "first_group": 1, "row": row}
            plan.pulse(step, unit.step, word, {})
            plan.pulse(step + OPERANDS, unit.activation, joined(mantissas[0, 0], ALIGNED_BITS), 0)
            plan.pulse(step + OPERANDS, unit.exponent, int(exponents[0, 0]), 0)
            done = step + Slice.latency(MACHINE)
            plan.set(done, unit.drain_address, row // 2 << (MACHINE.tokens - 1).bit_length())
            plan.expect(done + 1, unit.drain_even, int(sums[row]), "even row")
            plan.expect(done + 1, unit.drain_odd, int(sums[row + 1]), "odd row")
    # The last pair again, under the largest exponent there is.
    at = len(takes) + 2 + Slice.latency(MACHINE)
    plan.pulse(at, unit.step, {"product": 1, "last_beat": 1, "first_beat": 1, "first_group": 1, "row": ROWS - 2}, {})
    plan.pulse(at + OPERANDS, unit.activation, joined([2**17 - 1] * lanes, ALIGNED_BITS), 0)
    plan.pulse(at + OPERANDS, unit.exponent, 255, 0)
    plan.set(at + Slice.latency(MACHINE) + 2, unit.taking, 0)

    async def watch(ctx: SimulatorContext) -> None:
        for cycle in range(at + Slice.latency(MACHINE)):
            if ctx.get(dut.slice_saturated):
                saturated.add(cycle)
            await ctx.tick()

    simulate(dut, plan.play, watch)
    assert saturated
    assert min(saturated) > at


def test_attention() -> None:
    """Keys meet the queries, and their products become scores; values meet a probability that attention made of them."""
    dut, rng, plan, lanes = Tile(MACHINE), np.random.default_rng(2), Schedule(), MACHINE.kv_lanes
    port, unit = dut.attention, dut.slice
    step, softmax = port.lockstep.kv_step, port.lockstep.softmax_step
    halves, fields, beats = packed(ENTRY, rng.normal(0, 1, (2, 1, ENTRY.head_dim)).astype(np.float32))
    keys, values = (fp16.align(halves[v], fields[:, v, None])[0].astype(np.int64) for v in (0, 1))
    query = rng.integers(-(1 << 17) + 1, 1 << 17, (QUERY_LANES, ENTRY.head_dim))
    exponent = ALIGNED_BIAS - 18
    scale = exponent - ALIGNED_BIAS + int(fields[0, 0]) - fp16.ALIGNED_BIAS
    scores = fp32.narrow(np.ldexp((query @ keys).astype(np.float64), scale))
    for signal in (port.phase.keys, port.work.working):
        plan.set(0, signal, 1)
    header = {"header": 1, "header_number": 0}
    plan.pulse(1, step, header, {})
    plan.set(1, port.work.kv_beat, beats[0])
    for b in range(ENTRY.head_beats):
        cycle, part = 2 + b, slice(lanes * b, lanes * (b + 1))
        what = {"work": 1, "lanes": 15, "first_beat": b == 0, "last_beat": b == ENTRY.head_beats - 1}
        plan.pulse(cycle, step, what, {})
        plan.set(cycle, port.work.kv_beat, beats[ENTRY.header_beats + b])
        plan.pulse(cycle + 1, port.lockstep.query_exponents, joined([exponent] * QUERY_LANES, 8), 0)
        plan.pulse(cycle + OPERANDS, unit.activation, joined(query[:, part].reshape(-1), ALIGNED_BITS), 0)
    at = 1 + ENTRY.head_beats + AttentionPort.score_latency(MACHINE)
    bits = [int(pattern) for pattern in fp32.bits(scores)]
    order = [b ^ 0xFFFFFFFF if b >> 31 else b | 1 << 31 for b in bits]
    plan.expect(at, port.scores.score_keys, joined(order, 32), "score keys")
    plan.set(at + 2, port.phase.keys, 0)
    plan.set(at + 2, port.phase.values, 1)
    plan.set(at + 2, port.work.weighing, 1)
    maximum = fp32.add(scores, rng.uniform(0, 3, QUERY_LANES).astype(np.float32))
    probabilities = exp2_negative(fp32.add(maximum, -scores))
    cycle = at + 3
    for q in range(QUERY_LANES):
        plan.pulse(cycle + q, softmax, {"work": 1, "lane": q}, {})
        plan.pulse(cycle + q, port.lockstep.capped, CappedStep(MACHINE).const({"lane": q}).as_bits(), 0)
        plan.set(cycle + q + 2, port.lockstep.maximum, int(fp32.bits(maximum[q])))
        plan.set(cycle + q + 2, port.lockstep.shared_exponent, int(fields[0, 1]))
    cycle += AttentionPort.WRITTEN + QUERY_LANES
    for b in range(ENTRY.head_beats):
        for q in range(QUERY_LANES):
            plan.pulse(cycle, step, {"work": 1, "lane": q}, {})
            plan.set(cycle, port.work.kv_beat, beats[ENTRY.key_beats + b])
            products = int(probabilities[q]) * values[lanes * b : lanes * (b + 1)]
            plan.expect(cycle + Slice.product_latency(MACHINE), unit.products, joined(products, WEIGHTED_BITS), "products")
            cycle += 1
    simulate(dut, plan.play)
