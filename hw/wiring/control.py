"""Host registers, dispatch, queues and dependence tokens."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Value
from amaranth.lib.wiring import connect

from hw.arithmetic.pipeline import delay_valid
from hw.control.host import RunRequest
from hw.wiring.units import Units
from skipopu.machine import pipeline


def moves(units: Units) -> list[Value]:
    """What shows that a run goes on."""
    streams = (stream for queue in units.queues for stream in (queue.issue, queue.retired))
    return [*(port.beat for port in (*units.readers, *units.writers)), *(s.valid & s.ready for s in streams)]


def join(m: Module, units: Units) -> None:
    host, dispatch, recovery, watchdog = units.registers, units.dispatch, units.recovery, units.watchdog
    saturated = (
        units.array.saturated
        | units.attention.saturated
        | units.aligner.saturated
        | units.route.saturated
        | units.kv_write.saturated
    )
    if units.adjust is not None:
        saturated |= units.adjust.saturated
    # Ports hear of a halt late and are heard late; a burst of the last cycle before shows a cycle after it.
    apart = pipeline.apart(units.machine)
    quiet = Cat(port.quiet for port in (*units.readers, *units.writers)).all()
    if apart:
        quiet &= ~dispatch.stop | delay_valid(m, dispatch.stop, apart + 1 + apart, "heard")
    idle = Cat(queue.idle for queue in units.queues).all() & units.weights.idle & units.records.idle
    for name in RunRequest().members:
        source = recovery.start if name == "start" else getattr(host.request, name)
        m.d.comb += getattr(dispatch.request, name).eq(source)
    connect(m, dispatch.state, host.state)
    connect(m, dispatch.write_token, units.records.write_token)
    connect(m, units.route.routed, dispatch.routed)
    m.d.comb += [
        host.hold.eq(recovery.busy),
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
        dispatch.units_idle.eq(delay_valid(m, idle, 1, "units_idle")),
        dispatch.ports_quiet.eq(quiet),
        dispatch.saturated.eq(saturated),
        dispatch.silent.eq(watchdog.silent),
        recovery.asked.eq(host.request.start),
        recovery.failed.eq(dispatch.stop),
        recovery.running.eq(dispatch.running),
        recovery.ports_quiet.eq(dispatch.ports_quiet),
        watchdog.running.eq(dispatch.running),
        watchdog.moves.eq(Cat(moves(units))),
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
