"""What attention takes, and what is fetched ahead of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.timing.bus import REQUEST, behind_weights, following, undecided
from sim.timing.costs import SERIAL_DIVIDE, Attention
from sim.timing.reader import PUSHED, READABLE
from sim.timing.state import State
from sim.walk import Fields
from skipopu.isa.registers import Config
from skipopu.layout import port_of


def attend(s: State, f: Fields, slots: int, start: int) -> int:
    queries, dim = s.walk.config[Config.QUERY_GROUP], s.walk.config[Config.HEAD_DIM]
    part, times = s.part, s.times
    assert part is not None
    spacing = queries * (dim // s.machine.vector_lanes + SERIAL_DIVIDE * s.serial)
    tail = s.aligned(f["align"], slots, s.entry.kv_heads * queries * dim, spacing)
    late = behind_weights(s, start, following(s))
    late += times.writes.hold(start + part.read + late)
    written = times.last.entries_done + part.read
    late += max(0, written + times.writes.hold(written) + part.own - start - late - part.keys)
    s.book("ATTENTION", part.busy, part.cycles + tail + late, MEMORY=part.memory + late)
    times.last.since = start + s.costs.read + late
    times.last.until = times.last.since + part.bus
    return part.cycles + tail + late


def quiet(s: State) -> int:
    """When the first beat can come that is fetched ahead: behind the last weights asked for, once attention is done."""
    last, attention = s.times.present()
    return max(last.sent + PUSHED + READABLE, max(attention, s.times.now + REQUEST) + s.costs.read)


def missing(s: State) -> bool:
    """Whether more has to be fetched ahead of the present layer than there was room for ahead of the one before."""
    walk = s.walk
    return s.history.missing(walk.layer, walk.position, walk.config[Config.HISTORY], s.first(walk.layer)) > s.room


def fetch_ahead(s: State, since: int, sent: int) -> NDArray[np.int64]:
    """Fills the history buffer from ``since`` until the decision, in ports with routers' weights behind those, of which the last was
    ``sent``; (ports,) beats still to come then."""
    walk, last = s.walk, s.times.present()[0]
    # Behind the routers' weights in the ports that have some; a FIFO may not hold all of them.
    begins = np.maximum(since, np.where(undecided(s, 0) > 0, sent + PUSHED + READABLE, since))
    beats = ((last.route_done + REQUEST + s.costs.read - begins).clip(0) * s.machine.memory.rate).astype(int)
    s.room = int(beats[0])
    begun, coming = s.history.fetch_ahead(walk.layer, walk.position, walk.config[Config.HISTORY], beats, s.first(walk.layer))
    s.counters["READ_BEATS"] += begun
    s.counters["AHEAD_BEATS"] += begun
    return coming


def read_history(s: State, listed: list[int], coming: NDArray[np.int64]) -> Attention | None:
    """What the present layer's attention takes, for the ``listed`` slots; counts the beats that it reads.

    ``coming``: (ports,) beats that were asked for ahead and go first.
    """
    if not listed:
        return None
    walk, entry, ports = s.walk, s.entry, s.machine.ports
    first, last = s.first(walk.layer), walk.position + listed[-1] + 1
    tokens = last - first
    hits, misses = s.history.attend(walk.layer, last, walk.config[Config.HISTORY], first)
    key_run, value_run = entry.key_beats, entry.beats - entry.key_beats
    key_hits, value_hits = hits.sum(1).tolist()
    kept = key_hits * key_run + value_hits * value_run
    s.counters["READ_BEATS"] += tokens * entry.beats - kept
    s.counters["HISTORY_BEATS"] += kept
    keys = misses[0] * key_run + coming
    if s.late(s.kvwrites):
        keys[port_of(last - 1, ports)] += s.costs.kvwrite_bus(entry)
    fewest = int(hits[0].min()) if tokens >= ports else 0
    key = (tuple(listed), -(-tokens // ports), min(tokens, ports), (int(keys.max()), int(misses[1].max()) * value_run), fewest)
    if key not in s.parts:
        queries, dim = walk.config[Config.QUERY_GROUP], walk.config[Config.HEAD_DIM]
        s.parts[key] = s.costs.attend(*key, entry, queries, dim, s.serial, s.capped)
    return s.parts[key]
