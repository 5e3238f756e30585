"""What products take: the array's instruction, fed by a stream of weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sim.timing.bus import REQUEST, due
from sim.timing.costs import EPILOGUE
from sim.timing.masked import masked
from sim.timing.product import Product, beats_of, product
from sim.timing.state import State
from sim.timing.stationary import Tiles
from sim.timing.writes import Burst
from sim.walk import Fields
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS, KVWRITE


def matmul(s: State, f: Fields, slots: int, start: int) -> int:
    """A product that starts at ``start`` and whose weights could be requested when it was dispatched."""
    costs, times = s.costs, s.times
    if not f["rounds"]:
        cycles = costs.matmul_start() + EPILOGUE
        s.book("ARRAY", 0, cycles)
        return cycles
    if s.thresholds and s.masked:
        return product_with_thresholds(s, f, s.thresholds, start)
    p = remembered(s, f, slots)
    begin = start + costs.matmul_start()
    first = due(s, start + 4 if s.on_demand else times.now + REQUEST)
    ref = times.asked
    times.writes.forget(times.now)
    beside = times.writes.beside(ref, first, written_beside(s, start))
    attended = times.last.since - ref, times.last.until - ref
    stream = s.streams.flow(p.shape, times.pending, first - ref, begin - ref, attended, beside)
    tail = s.aligned(f["align"], slots, p.outputs, BLOCK_ROWS // 2 // s.machine.drain_pairs)
    end = begin + stream.drained + EPILOGUE + tail
    weights = stream.end + 1 - p.steps - stream.stalled - stream.held
    s.book("ARRAY", p.steps, end - start, WEIGHTS=weights, DRAIN=stream.stalled)
    s.counters["EPILOGUE_BUSY"] += p.drains
    times.asked, times.last.sent, times.pending = begin + stream.asked, begin + stream.sent, stream.pending
    s.span("weights", first, begin + stream.end)
    s.counters["READ_BEATS"] += p.beats
    return end - start


def product_with_thresholds(s: State, f: Fields, address: int, start: int) -> int:
    """A product that leaves out channels; its weights are asked for as it goes on."""
    times, machine = s.times, s.machine
    listed = s.walk.lists[f["list"]].tolist()
    positions = [s.walk.position + slot for slot in listed]
    group, slots = s.walk.config[Config.GROUP], len(listed)
    p = remembered(s, f, slots)
    begin = start + s.costs.matmul_start()
    first = due(s, start + 4 if s.on_demand else times.now + REQUEST)
    ref = times.asked
    times.writes.forget(times.now)
    beside = times.writes.beside(ref, first, written_beside(s, start))
    attended = times.last.since - ref, times.last.until - ref
    assert isinstance(p.shape, Tiles)
    assert s.channels is not None
    needed = np.ones(f["groups"] * group, bool)
    own = s.channels.of(s.walk.layer, address * ADDRESS_UNIT, positions)
    needed[: len(own)] = own
    key = s.pc, s.channels.about(s.walk.layer, positions), slots
    product = s.masked_products.get(key)
    if product is None:
        product = s.masked_products[key] = masked(machine, group, p.shape, needed.reshape(-1, group), slots)
    stream = s.streams.masked(product, times.pending, first - ref, begin - ref, attended, beside)
    tail = s.aligned(f["align"], slots, p.outputs, BLOCK_ROWS // 2 // machine.drain_pairs)
    end = begin + stream.drained + EPILOGUE + tail
    weights = stream.end + 1 - product.steps - stream.stalled - stream.held
    s.book("ARRAY", product.steps, end - start, WEIGHTS=weights, DRAIN=stream.stalled)
    s.counters["EPILOGUE_BUSY"] += p.drains
    times.asked, times.last.sent, times.pending = begin + stream.asked, begin + stream.sent, stream.pending
    s.span("weights", first, begin + stream.end)
    s.counters["READ_BEATS"] += beats_of(s.costs, f, group, product)
    return end - start


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
