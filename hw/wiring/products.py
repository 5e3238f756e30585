"""The array: its queue, activations, weights and results."""

from __future__ import annotations

from amaranth.hdl import Module, Mux
from amaranth.lib.wiring import connect

from hw.arithmetic.pipeline import delay
from hw.wiring.units import Units
from skipopu.isa.registers import WEIGHTS_ON_DEMAND, Config
from skipopu.isa.spec import Unit


def join(m: Module, units: Units) -> None:
    queue, array, sharing, setting = units.queues[Unit.ARRAY], units.array, units.sharing, units.setting
    schedule = setting(Config.SCHEDULE)
    connect(m, array.epilogue.read, units.buffer.reads[0])
    connect(m, units.embed.rotary, array.epilogue.rotary)
    m.d.comb += [
        sharing.array.eq(queue.active),
        array.active.eq(sharing.array_active),
        array.instruction.eq(queue.instruction),
        queue.done.eq(array.epilogue.done),
        queue.digest.eq(array.epilogue.digest + Mux(array.epilogue.finish, units.aligner.digest, 0)),
        units.activation.read_slot.eq(array.sequencer.activation_slot),
        units.activation.read_word.eq(array.sequencer.activation_word),
        units.activation.read_group.eq(array.sequencer.activation_group),
        sharing.activations.eq(units.activation.data if units.spread is None else units.spread.operands),
        array.exponent.eq(delay(m, units.activation.exponent, 1, "exponent")),
        array.group.eq(setting(Config.GROUP)),
        array.sequencer.inner.eq(setting(Config.INNER)),
        array.epilogue.inverse_rms.eq(units.aligner.inverse_rms),
        array.epilogue.last_slot.eq(units.dispatch.last_slot),
        array.epilogue.chunk.eq(units.dispatch.chunk),
        array.epilogue.half_head.eq(setting(Config.HEAD_DIM) >> 1),
        array.epilogue.activation.eq(setting(Config.ACTIVATION)),
        array.epilogue.parameter.eq(setting(Config.PARAMETER)),
        units.buffer.array.valid.eq(array.epilogue.write_valid),
        units.buffer.array.payload.eq(array.epilogue.write),
        units.weights.group.eq(setting(Config.GROUP)),
        units.weights.on_demand.eq((schedule & WEIGHTS_ON_DEMAND) != 0),
        units.weights.started.eq(array.started),
        *(tile.slice.activation.eq(sharing.operands) for tile in units.tiles),
    ]
    if (spread := units.spread) is not None:
        walk = array.sequencer
        m.d.comb += [
            spread.word.eq(units.activation.data),
            spread.place.eq(delay(m, walk.activation_group[:2], 1, "place")),
            spread.piece.eq(delay(m, walk.activation_piece, 1, "piece")),
            spread.half.eq(walk.half),
            spread.quarter.eq(walk.quarter),
            units.embed.pause.eq(units.groups.pause),
        ]
    if units.machine.zero_points:
        total = delay(m, units.activation.sum, 1, "sum")
        m.d.comb += [tile.slice.sum.eq(total) for tile in units.tiles]
