"""What instructions of the vector unit take; what it is busy with is counted on the way."""

from __future__ import annotations

from sim.timing import adjust
from sim.timing.bus import held, undecided
from sim.timing.costs import HANDOVER, SETTLE, WRITE_OVERHEAD, short_read
from sim.timing.state import State
from sim.walk import Fields
from skipopu.adjust_record import ADJUST_RECORD
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADDRESS_UNIT, AlignTarget, Finish, Unit


def booked(s: State, busy: int, memory: int, cycles: int, read: int = 0, written: int = 0) -> int:
    """Counts an instruction and its beats; returns its cycles."""
    s.book("VECTOR", busy, cycles, MEMORY=memory)
    s.counters["READ_BEATS"] += read
    s.counters["WRITE_BEATS"] += written
    return cycles


def embed(s: State, f: Fields, slots: int, start: int) -> int:
    config, costs, machine = s.walk.config, s.costs, s.machine
    half, group, beat = config[Config.HEAD_DIM] // 2, config[Config.GROUP], machine.beat_bytes
    ports = min(machine.ports, -(-f["elements"] // (f["row"] * ADDRESS_UNIT // 2)))
    beats = slots * (1 + ports * f["row"] * ADDRESS_UNIT // beat + -(-8 * half // beat))
    tail = s.aligned(AlignTarget.RESIDUAL, slots, f["elements"], 1 << 20)
    if f["elements"] % group == 0:
        # The last slot's group was aligned while its rotary row came.
        tail -= min(2 * half + costs.read, max(0, costs.group_cycles(group, True) - machine.tokens - 1))
    cycles = costs.embed(slots, f["elements"], f["row"], half)
    cycles += slots * costs.align_waits(f["elements"], group, machine.tokens + 2)
    busy = costs.embed_busy(slots, f["elements"], half)
    # The first layer's entries are fetched ahead meanwhile.
    ahead = s.history.missing(0, s.walk.position, config[Config.HISTORY], s.first(0)) if s.prefetch else 0
    reads = min(3 * slots, ahead // max(1, int(costs.read * machine.memory.rate)))
    behind_entries = min(reads * costs.behind_ahead(s.entry), int(ahead / machine.memory.rate))
    # The first row waits for the weights that are asked for behind the first token.
    behind = 0 if s.on_demand else min(int(undecided(s, 0)[0]), costs.in_flight) / machine.memory.rate
    cycles += s.times.writes.hold(start + costs.read, 0)
    cycles += behind_entries + max(0, int(behind) + 2 - machine.memory.latency)
    return booked(s, busy, max(0, cycles - busy - 6 * slots), cycles + tail, beats)


def align(s: State, f: Fields, slots: int, start: int) -> int:
    busy = s.costs.scan_busy(slots, f["elements"])
    tail = s.aligned(f["align"], slots, f["elements"], busy // slots)
    waits = (
        slots * s.costs.align_waits(f["elements"], s.walk.config[Config.GROUP], 0) if f["align"] == AlignTarget.RESIDUAL else 0
    )
    return booked(s, busy, 0, s.costs.scan(slots, f["elements"]) + waits + tail)


def normalise(s: State, f: Fields, slots: int, start: int) -> int:
    machine, config = s.machine, s.walk.config
    part = (0, f["elements"], config[Config.HEAD_DIM])[f["reduce"]]
    twice = f["finish"] in (Finish.ACTIVATE, Finish.RESIDUAL)
    row = -(-4 * config[Config.HEAD_DIM] // machine.beat_bytes) if f["finish"] == Finish.ROTATE else 0
    shape = adjust.Shape(f["elements"], part, twice, row)
    one, record = adjust.slot(machine, shape), ADJUST_RECORD.size // machine.beat_bytes
    came = short_read(machine, record, 0)
    read = s.costs.read + 1 + came[-1] - came[0] + held(s, start + s.costs.read)
    cycles = 2 + read + slots * one.cycles + 2 * (machine.tokens - slots) + 1 + adjust.WRITTEN + SETTLE
    tail = s.aligned(f["align"], slots, f["elements"], one.cycles)
    beats = record + slots * (row + adjust.beats(machine, f["elements"]))
    return booked(s, slots * adjust.busy(machine, shape), read + slots * one.waits, cycles + tail, beats)


def route(s: State, f: Fields, slots: int, start: int) -> int:
    read, traced = s.costs.read, s.traced
    asked = start - s.waited
    record = max(0, read + 2 + held(s, asked + read) - s.waited)  # read while the instruction waits
    waits = slots * traced * s.ahead * s.costs.behind_ahead(s.entry)
    if slots and traced:
        waits += held(s, start + record + read)
    memory = record + slots * traced * read + waits
    beats = s.costs.router_beats() + slots * traced
    return booked(s, 4 * slots, memory, record + s.costs.route(slots, traced, s.ranked) + waits, beats)


def kvwrite(s: State, f: Fields, slots: int, start: int) -> int:
    s.entries += slots
    waits = slots * -(-s.entry.beats // s.machine.longest_write) * WRITE_OVERHEAD
    cycles, late = s.costs.kvwrite(slots, s.walk.count - slots, s.entry), s.late(f)
    if slots and late:
        behind = s.times.free[Unit.ARRAY] - HANDOVER + s.costs.kvwrite_tail(s.entry)
        cycles = max(cycles, behind - start)
    s.times.last.entries_done = start + cycles
    if not late:
        s.times.writes.add(s.costs.kvwrite_bursts(start, s.ports_of(f), s.entry))
    return booked(s, s.costs.kvwrite_busy(slots, s.entry), waits, cycles, 0, slots * s.entry.beats)


def store(s: State, f: Fields, slots: int, start: int) -> int:
    beats = slots * -(-4 * f["elements"] // s.machine.beat_bytes)
    busy = s.costs.store_busy(slots, f["elements"])
    s.times.writes.add(s.costs.store_bursts(start, slots, f["elements"]))
    return booked(s, busy, slots * 2 * WRITE_OVERHEAD, s.costs.store(slots, f["elements"]), 0, beats)
