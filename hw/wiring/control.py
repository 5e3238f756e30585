"""Host registers, dispatch, queues and dependence tokens."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib.wiring import connect

from hw.wiring.units import Units


def join(m: Module, units: Units) -> None:
    host, dispatch = units.registers, units.dispatch
    saturated = (
        units.array.saturated
        | units.attention.saturated
        | units.aligner.saturated
        | units.route.saturated
        | units.kv_write.saturated
    )
    if units.adjust is not None:
        saturated |= units.adjust.saturated
    connect(m, host.request, dispatch.request)
    connect(m, dispatch.state, host.state)
    connect(m, dispatch.write_token, units.records.write_token)
    connect(m, units.route.routed, dispatch.routed)
    m.d.comb += [
        host.kv_entries.eq(units.kv_write.entries),
        units.route.dial.eq(host.dial),
        units.route.decoding.eq(dispatch.decoding),
        units.records.check.eq(host.check[0]),
        units.records.ring.eq(host.ring),
        units.records.ring_records.eq(host.ring_records),
        units.records.cycle.eq(units.counters.of("CYCLES")),
        units.records.token.eq(units.array.epilogue.best_token),
        dispatch.token.eq(units.array.epilogue.best_token),
        dispatch.route_done.eq(units.route.task.done),
        dispatch.attention_quiet.eq(units.attention.quiet),
        dispatch.units_idle.eq(Cat(queue.idle for queue in units.queues).all() & units.weights.idle & units.records.idle),
        dispatch.ports_quiet.eq(Cat(port.quiet for port in (*units.readers, *units.writers)).all()),
        dispatch.saturated.eq(saturated),
    ]

    connect(m, units.dispatch.fetch, units.weights.issue)
    m.d.comb += units.tokens.restart.eq(units.dispatch.restart)
    for unit, queue in enumerate(units.queues):
        connect(m, units.dispatch.issue[unit], queue.issue)
        connect(m, queue.retired, units.records.retired[unit])
        m.d.comb += [
            units.tokens.give[unit].eq(queue.give),
            units.tokens.take[unit].eq(queue.take),
            queue.tokens.eq(units.tokens.available[unit]),
        ]
