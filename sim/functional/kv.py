"""The instructions that write KV entries and read them."""

from __future__ import annotations

import numpy as np

from sim.functional.attention import attend as attention
from sim.functional.state import State
from sim.walk import Fields
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.layout import KvEntry, port_of
from skipopu.numerics import fp16, fp32
from skipopu.numerics.signature import index


def kvwrite(s: State, f: Fields) -> None:
    walk, pool, c = s.walk, s.pool, s.walk.config
    slots, layer = s.slots(f), walk.layer
    pool.plan(len(s.routing), c[Config.CONTEXT])
    if not layer and len(slots) < walk.count:
        raise walk.halt(Error.KV_MISSING, "a token skips attention at the first layer, so it has no keys and values")
    pool.inherit(layer, slice(walk.position, walk.position + walk.count))
    if len(slots):
        _write(s, f)
    if s.writes.kept:
        every = np.arange(walk.count)
        port, place = pool.port_place[pool.map[layer, walk.position + every]].T
        s.writes.add(index(2, every, 0), place << 8 | port)


def _write(s: State, f: Fields) -> None:
    """New entries of the listed slots."""
    slots, pool, c = s.slots(f), s.pool, s.walk.config
    heads, dim = c[Config.KV_HEADS], c[Config.HEAD_DIM]
    where = s.vectors(f["src"], f["stride"], slots, 2 * heads * dim)
    stored = fp16.from_fp32(s.buffer[where]).reshape(len(slots), 2, heads, dim)
    fields = fp16.exponent_field(stored).max(-1)  # (slots, 2, heads)
    ports = port_of(s.walk.position + slots, s.machine.ports)
    places = pool.take(ports)
    if pool.places.max() > c[Config.KV_SLOTS]:
        raise s.walk.halt(Error.KV_POOL_FULL, f"a port's {c[Config.KV_SLOTS]} entries are used up")
    entry = KvEntry(heads, dim, s.machine)
    for i, (port, place) in enumerate(zip(ports, places, strict=True)):
        data = entry.pack(stored[i, 0], stored[i, 1], fields[i].T)
        address = (c[Config.KV_BASE] + int(place) * c[Config.KV_ENTRY]) * ADDRESS_UNIT
        s.memory[port][address : address + len(data)] = data
    aligned = s.profile.align_half(stored, fields[..., None])
    pool.add(s.walk.layer, s.walk.position + slots, np.stack([ports, places], 1), aligned, fields)
    if s.writes.kept:
        bits = stored.reshape(len(slots), -1).view(np.uint16).astype(np.uint32)
        s.writes.add(index(0, slots[:, None], np.arange(bits.shape[1])), bits)
        s.writes.add(index(1, slots[:, None], np.arange(2 * heads)), fields.transpose(0, 2, 1).reshape(len(slots), -1))


def attend(s: State, f: Fields) -> None:
    slots, pool, c = s.slots(f), s.pool, s.walk.config
    if not len(slots):
        return
    heads, group, dim = c[Config.KV_HEADS], c[Config.QUERY_GROUP], c[Config.HEAD_DIM]
    visible = s.walk.position + slots + 1
    behind = np.maximum(visible - s.window, 0) if s.window else np.zeros_like(visible)
    first = int(behind[0])
    number = pool.map[s.walk.layer, first : visible[-1]]
    fields = pool.fields[number]
    mixed = attention(
        s.query.mantissas[slots].reshape(len(slots), heads, group, dim),
        s.query.exponents[slots].reshape(len(slots), heads, group),
        pool.keys[number],
        fields[..., 0],
        pool.values[number],
        fields[..., 1],
        visible - first,
        behind - first,
        np.uint32(c[Config.SOFT_CAP]).view(np.float32) if s.machine.soft_cap else None,
    )
    where = s.vectors(f["dst"], f["stride"], slots, heads * group * dim)
    s.buffer[where] = mixed.reshape(len(slots), -1)
    s.writes.add(where, fp32.bits(s.buffer[where]))
    s.align(f["align"], slots, where)
