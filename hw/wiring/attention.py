"""Attention: its queue, the KV map, what it may fetch ahead."""

from __future__ import annotations

from amaranth.hdl import Module, Mux
from amaranth.lib.wiring import connect

from hw.arithmetic.pipeline import registered
from hw.kv.stationary.attention import HeldAttention
from hw.wiring.units import Units
from skipopu.isa.registers import PREFETCH, SERIAL_ATTENTION, Config
from skipopu.isa.spec import Unit


def join(m: Module, units: Units) -> None:
    queue, attention, dispatch, setting = units.queues[Unit.ATTENTION], units.attention, units.dispatch, units.setting
    schedule = setting(Config.SCHEDULE)
    connect(m, attention.words, units.buffer.attention)
    connect(m, attention.map, units.map.reads[0])
    m.d.comb += [
        units.sharing.attention.eq(queue.active),
        units.sharing.attended.eq(attention.done),
        units.sharing.queries.eq(attention.query),
        attention.active.eq(units.sharing.attention_active),
        attention.instruction.eq(queue.instruction),
        queue.done.eq(attention.done),
        queue.digest.eq(attention.digest + Mux(attention.finish, units.aligner.digest, 0)),
        attention.restart.eq(dispatch.restart),
        attention.serial.eq((schedule & SERIAL_ATTENTION) != 0),
        attention.kv_heads.eq(setting(Config.KV_HEADS)),
        attention.query_group.eq(setting(Config.QUERY_GROUP)),
        attention.head_dim.eq(setting(Config.HEAD_DIM)),
        attention.layer.history.eq(setting(Config.HISTORY)),
        attention.layer.may_prefetch.eq(registered(m, queue.idle & ((schedule & PREFETCH) != 0), "may_prefetch")),
        attention.layer.row_start.eq(dispatch.row_start),
        attention.layer.next_row.eq(dispatch.next_row),
        attention.layer.known.eq(dispatch.state.position),
        attention.layer.row_end.eq(dispatch.row_end),
        units.unwritten.restart.eq(dispatch.restart),
        units.unwritten.written.eq(units.kv_write.task.done),
        units.unwritten.before.eq(queue.instruction.entries),
        attention.unwritten.eq(units.unwritten.unwritten),
    ]
    if isinstance(attention, HeldAttention):
        m.d.comb += [
            units.array.attending.eq(units.sharing.attention_active),
            units.array.attention_beat.eq(attention.beat),
            units.array.attention_lane.eq(attention.lane),
        ]
    if units.machine.window:
        m.d.comb += [dispatch.window.eq(units.route.window), attention.layer.next_window.eq(units.route.window_next)]
    if units.machine.soft_cap:
        m.d.comb += attention.soft_cap.eq(setting(Config.SOFT_CAP))
    for unit in (attention, units.kv_write):
        m.d.comb += [unit.pool.base.eq(setting(Config.KV_BASE)), unit.pool.entry.eq(setting(Config.KV_ENTRY))]
