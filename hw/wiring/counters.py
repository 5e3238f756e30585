"""What is counted."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Value

from hw.arithmetic.pipeline import delay_valid, tree
from hw.wiring.units import Units
from skipopu.isa.spec import Unit


def total(bits: Sequence[Value]) -> Value:
    return tree(bits, lambda a, b: a + b)


def join(m: Module, units: Units) -> None:
    array, attention, vector = units.array, units.attention, units.switch.queue
    waiting = [queue.waiting for queue in units.queues]
    of_array, of_vector, of_attention = units.queues
    sequencer = array.sequencer
    active = delay_valid(m, of_vector.active, 1, "vector_active")  # what the vector queue's units do is told a cycle later
    amounts: dict[str, Value] = {
        "CYCLES": units.dispatch.running,
        "ARRAY_BUSY": sequencer.streaming,
        "ARRAY_WEIGHTS": sequencer.waiting_weights,
        "ARRAY_DRAIN": sequencer.waiting_drain,
        "ARRAY_EDGE": array.active & ~(sequencer.streaming | sequencer.waiting_weights | sequencer.waiting_drain),
        "ARRAY_WAIT": waiting[Unit.ARRAY] | (of_array.active & ~array.active),
        "ATTENTION_BUSY": attention.working,
        "ATTENTION_MEMORY": attention.waiting,
        "ATTENTION_EDGE": attention.active & ~(attention.working | attention.waiting),
        "ATTENTION_WAIT": waiting[Unit.ATTENTION] | (of_attention.active & ~attention.active),
        "VECTOR_BUSY": vector.working,
        "VECTOR_MEMORY": vector.waiting & ~vector.working,
        "VECTOR_EDGE": active & ~(vector.working | vector.waiting),
        "VECTOR_WAIT": waiting[Unit.VECTOR],
        "EPILOGUE_BUSY": array.epilogue.draining,
        "ALIGN_BUSY": units.aligner.busy,
        "WAIT_ROUTE": units.dispatch.wait_route,
        "READ_BEATS": total([reader.beat for reader in units.readers]),
        "WRITE_BEATS": total([writer.beat for writer in units.writers]),
        "HISTORY_BEATS": attention.hits,
        "AHEAD_BEATS": attention.fetched_ahead,
    }
    if units.masks is not None:
        amounts |= {"CHANNELS_READ": units.masks.channels_read, "CHANNELS_LEFT_OUT": units.masks.channels_left_out}
    units.counters.count(m, amounts)
    m.d.comb += [units.counters.restart.eq(units.dispatch.restart), units.counters.running.eq(units.dispatch.running)]
    for name in amounts:
        m.d.comb += units.registers.registers[name].eq(units.counters.of(name))
