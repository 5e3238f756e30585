"""What products take: the array's instruction, fed by a stream of weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sim.timing.bus import due, requested
from sim.timing.masked import Masked, masked
from sim.timing.product import Product, beats_of, product
from sim.timing.state import State
from sim.timing.stationary import Tiles
from sim.timing.writes import Burst
from sim.walk import Fields
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS, KVWRITE, AlignTarget
from skipopu.machine import pipeline
from skipopu.masks import MASK_FIELDS


def matmul(s: State, f: Fields, slots: int, start: int) -> int:
    """A product that starts at ``start`` and whose weights could be requested when it was dispatched."""
    costs, times = s.costs, s.times
    if not f["rounds"]:
        cycles = costs.matmul_start() + costs.epilogue
        s.book("ARRAY", 0, cycles)
        return cycles
    p, product = remembered(s, f, slots), None
    if s.thresholds and s.masked:
        product = with_thresholds(s, f, p)
    begin = start + costs.matmul_start()
    first = due(s, start + 4 if s.on_demand else requested(s, times.now))
    ref = times.asked
    times.writes.forget(times.now)
    beside = times.writes.beside(ref, first, written_beside(s, start))
    attended = times.last.since - ref, times.last.until - ref
    at = times.pending, first - ref, begin - ref, attended, beside
    if product is None:
        stream, steps, beats = s.streams.flow(p.shape, *at), p.steps, p.beats
    else:
        stream, steps = s.streams.masked(product, *at), product.steps
        beats = beats_of(costs, f, s.walk.config[Config.GROUP], product)
        read = int(np.count_nonzero(product.active))
        s.counters["CHANNELS_READ"] += read
        s.counters["CHANNELS_LEFT_OUT"] += product.active.size - read
    tail = s.aligned(f["align"], slots, p.outputs, BLOCK_ROWS // 2 // s.machine.drain_pairs)
    end = begin + stream.drained + (pipeline.RESULT_WRITTEN - 1 + tail if tail else costs.epilogue)
    weights = stream.end + 1 - steps - stream.stalled - stream.held
    s.book("ARRAY", steps, end - start, WEIGHTS=weights, DRAIN=stream.stalled)
    s.counters["EPILOGUE_BUSY"] += p.drains
    times.asked, times.last.sent, times.pending = begin + stream.asked, begin + stream.sent, stream.pending
    s.span("weights", first, begin + stream.end)
    s.counters["READ_BEATS"] += beats
    return end - start


def with_thresholds(s: State, f: Fields, p: Product) -> Masked:
    """The present MATMUL less the channels that none of its tokens needs; its weights are asked for as it goes on."""
    assert isinstance(p.shape, Tiles)
    assert s.channels is not None
    listed = s.walk.lists[f["list"]].tolist()
    positions = [s.walk.position + slot for slot in listed]
    own = (s.thresholds, *(f[name] for name in MASK_FIELDS))
    again, s.last_mask = own == s.last_mask, own if f["align"] == AlignTarget.NONE else None
    key = s.pc, s.channels.about(s.walk.layer, positions), len(listed), again
    if key not in s.masked_products:
        group = s.walk.config[Config.GROUP]
        needed = np.ones(f["groups"] * group, bool)
        read = s.channels.of(s.walk.layer, s.thresholds * ADDRESS_UNIT, positions)
        needed[: len(read)] = read
        s.masked_products[key] = masked(s.machine, group, p.shape, needed.reshape(-1, group), len(listed), again)
    return s.masked_products[key]


def remembered(s: State, f: Fields, slots: int) -> Product:
    """The present MATMUL with ``slots`` tokens."""
    group = s.walk.config[Config.GROUP]
    key = (s.pc, slots, group)
    if key not in s.products:
        s.products[key] = product(s.costs, f, slots, group)
    return s.products[key]


def written_beside(s: State, start: int) -> Iterable[Burst]:
    """Bursts of the entries that are written beside the product that starts at ``start``."""
    behind = s.walk.steps[s.pc + 1]
    if behind.instruction is not KVWRITE or s.late(behind.fields):
        return ()
    return s.costs.kvwrite_bursts(start, s.ports_of(behind.fields), s.entry)
