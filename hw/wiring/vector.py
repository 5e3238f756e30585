"""The vector queue's units."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib import stream
from amaranth.lib.stream import Interface
from amaranth.lib.wiring import connect

from hw.arithmetic.pipeline import registered
from hw.memory.buffer import WordWrite
from hw.memory.share import merge
from hw.vector.adjust import AdjustUnit
from hw.wiring.units import Units
from skipopu.isa.fields import Instruction
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADJUST, ALIGN, EMBED, KVWRITE, ROUTE, STORE, Unit


def chosen_words(m: Module, units: Units, adjust: AdjustUnit) -> Interface:
    """Words of EMBED or of ADJUST, and what ADJUST is told of the configuration."""
    words = stream.Signature(WordWrite(units.machine)).create(path=("words",))
    m.d.comb += [
        adjust.rope_row.eq(units.setting(Config.ROPE_ROW)),
        adjust.head_dim.eq(units.setting(Config.HEAD_DIM)),
        adjust.activation.eq(units.setting(Config.ACTIVATION)),
        adjust.parameter.eq(units.setting(Config.PARAMETER)),
    ]
    # Words come cycles behind their instruction, and are taken before it is done.
    adjusting = registered(m, units.switch.chosen(ADJUST), "adjusting")
    merge(m, (units.embed.words, adjust.words), Cat(~adjusting, adjusting), words)
    return words


def join(m: Module, units: Units) -> None:
    queue, switch, setting = units.queues[Unit.VECTOR], units.switch, units.setting
    embed, scan, route, kv_write, store = units.embed, units.scan, units.route, units.kv_write, units.store
    words = embed.words
    adjusting: list[tuple[Instruction, AdjustUnit]] = []
    if (adjust := units.adjust) is not None:
        adjusting, words = [(ADJUST, adjust)], chosen_words(m, units, adjust)
    for instruction, unit in ((EMBED, embed), (ALIGN, scan), (ROUTE, route), (KVWRITE, kv_write), (STORE, store), *adjusting):
        connect(m, switch.of(instruction), unit.task)
    for instruction, unit in ((ALIGN, scan), (ROUTE, route), (KVWRITE, kv_write), (STORE, store), *adjusting):
        connect(m, unit.read, switch.reader(instruction))
    connect(m, switch.read, units.buffer.reads[1])
    connect(m, kv_write.map, units.map.reads[1])
    connect(m, kv_write.map_write, units.map.write)
    m.d.comb += [
        switch.queue.active.eq(queue.active),
        switch.queue.instruction.eq(queue.instruction),
        switch.aligned_digest.eq(units.aligner.digest),
        queue.done.eq(switch.queue.done),
        queue.digest.eq(switch.queue.digest),
        route.next.eq(queue.next & switch.chosen(ROUTE)),
        route.inverse_rms.eq(units.aligner.inverse_rms),
        embed.vocabulary.eq(setting(Config.VOCABULARY)),
        embed.tokens.eq(setting(Config.TOKENS)),
        embed.rope.eq(setting(Config.ROPE)),
        embed.rope_row.eq(setting(Config.ROPE_ROW)),
        embed.half_head.eq(setting(Config.HEAD_DIM) >> 1),
        units.buffer.vector.valid.eq(words.valid & ~units.groups.pause),
        units.buffer.vector.payload.eq(words.payload),
        words.ready.eq(units.buffer.vector.ready),
        kv_write.restart.eq(units.dispatch.restart),
        kv_write.first.eq(units.dispatch.request.first),
        kv_write.hold.eq(registered(m, units.array.active, "kv_write_hold")),
        kv_write.kv_heads.eq(setting(Config.KV_HEADS)),
        kv_write.head_dim.eq(setting(Config.HEAD_DIM)),
        kv_write.kv_slots.eq(setting(Config.KV_SLOTS)),
        kv_write.context.eq(setting(Config.CONTEXT)),
    ]
