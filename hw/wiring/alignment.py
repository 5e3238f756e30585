"""The aligner, the memories it writes and whoever's results it follows."""

from __future__ import annotations

from amaranth.hdl import Module, Value
from amaranth.lib.wiring import connect

from hw.arithmetic.pipeline import registered
from hw.control.issue import field
from hw.vector.source import Results
from hw.wiring.units import Units
from skipopu.isa.fields import Word
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADJUST, ALIGN, ATTEND, MATMUL, AlignTarget, Unit


def join(m: Module, units: Units) -> None:
    source, groups, aligner, buffer = units.source, units.groups, units.aligner, units.buffer
    array, attention = units.array, units.attention
    memories = [memory for memory in (units.activation, units.activation_second) if memory is not None]
    restarted = aligner.clear | registered(m, units.dispatch.restart, "restarted")
    connect(m, groups.completed, aligner.completed)
    connect(m, aligner.read, buffer.reads[2])
    adjusting: list[tuple[Results, Unit, Value, Value, tuple[Word, str]]] = []
    if units.adjust is not None and source.adjusted is not None:
        adjust = units.adjust
        adjusting = [(source.adjusted, Unit.VECTOR, adjust.task.active, adjust.finish, (ADJUST, "align"))]
        m.d.comb += adjust.aligned.eq(aligner.done)
    for results, unit, active, finish, target in (
        (source.product, Unit.ARRAY, array.active, array.epilogue.finish, (MATMUL, "align")),
        (source.attention, Unit.ATTENTION, attention.active, attention.finish, (ATTEND, "align")),
        (source.embedding, Unit.VECTOR, units.embed.task.active, units.embed.finish, None),
        (source.scan, Unit.VECTOR, units.scan.task.active, units.scan.finish, (ALIGN, "align")),
        *adjusting,
    ):
        instruction = units.queues[unit].instruction
        m.d.comb += [
            results.active.eq(active),
            results.finish.eq(finish),
            results.mask.eq(instruction.mask),
            results.target.eq(field(instruction.word, *target) if target else AlignTarget.RESIDUAL),
        ]
    m.d.comb += [
        source.group.eq(units.setting(Config.GROUP)),
        source.head_dim.eq(units.setting(Config.HEAD_DIM)),
        source.written_valid.eq(buffer.written_valid),
        source.written_by.eq(buffer.written_by),
        source.written.eq(buffer.written),
        source.shown_valid.eq(units.scan.write_valid),
        source.shown.eq(units.scan.write),
        groups.clear.eq(restarted),
        groups.group.eq(source.elements),
        groups.padded.eq(source.padded),
        groups.write_valid.eq(source.write_valid),
        groups.write.eq(source.write),
        aligner.target.eq(source.target),
        aligner.mask.eq(source.mask),
        aligner.finish.eq(source.finish),
        aligner.padded.eq(source.padded),
        aligner.inner.eq(units.setting(Config.INNER)),
        aligner.inverse_size.eq(units.setting(Config.INVERSE_SIZE)),
        aligner.epsilon.eq(units.setting(Config.EPSILON)),
        attention.clear_queries.eq(restarted),
        attention.writes.head_slot.eq(aligner.head_slot),
        attention.writes.head_end.eq(aligner.head_end),
        attention.writes.write_enable.eq(aligner.write_enable & source.queries),
        *(memory.write_slot.eq(aligner.write_slot) for memory in memories),
        *(memory.write_element.eq(aligner.write_element) for memory in memories),
        *(memory.write_enable.eq(aligner.write_enable & ~source.queries) for memory in memories),
        *(unit.aligned.eq(aligner.done) for unit in (array.epilogue, attention, units.embed, units.scan)),
        *(unit.pause.eq(groups.pause) for unit in (array.epilogue, attention, units.scan)),
    ]
    if units.masks is not None:
        m.d.comb += [
            units.masks.write_slot.eq(aligner.write_slot),
            units.masks.write_element.eq(aligner.write_element),
            units.masks.write_keys.eq(aligner.write_keys),
            units.masks.write_enable.eq(aligner.write_enable & ~source.queries),
            units.masks.inverse_rms.eq(aligner.inverse_rms),
        ]
    for memory in (attention.writes, *memories):
        m.d.comb += [
            memory.write_offset.eq(aligner.write_offset),
            memory.write_data.eq(aligner.write_data),
            memory.write_exponent.eq(aligner.write_exponent),
        ]
