"""The array: its queue, activations, weights and results."""

from __future__ import annotations

from typing import Any, cast

from amaranth.hdl import Module, Mux
from amaranth.lib.wiring import connect

from hw.arithmetic.pipeline import delay, delay_valid
from hw.control.channels import ChannelFetch
from hw.pe.activation import AlignedMemory
from hw.pe.sequencer import Sequencer
from hw.pe.stationary.mask import MaskUnit
from hw.pe.stationary.operands import Operands
from hw.pe.stationary.sequencer import StationarySequencer
from hw.wiring.units import Units
from skipopu.isa.registers import WEIGHTS_ON_DEMAND, Config
from skipopu.isa.spec import Unit
from skipopu.machine.pipeline import OPERANDS, told


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
        queue.digest.eq(array.epilogue.digest + Mux(array.epilogue.aligning, units.aligner.digest, 0)),
        *([] if units.machine.stationary else of_rows(m, units)),
        array.group.eq(setting(Config.GROUP)),
        array.sequencer.inner.eq(setting(Config.INNER)),
        array.epilogue.inverse_rms.eq(units.aligner.inverse_rms),
        array.epilogue.best_slot.eq(units.dispatch.token_slot),
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
    if units.operands is not None and units.activation_second is not None:
        join_stationary(m, units, units.operands, units.activation_second)
        return
    if (spread := units.spread) is not None:
        walk = cast(Sequencer, array.sequencer)
        m.d.comb += [
            spread.word.eq(units.activation.data),
            spread.place.eq(delay(m, walk.activation_group[:2], 1, "place")),
            spread.piece.eq(delay(m, walk.activation_piece, 1, "piece")),
            spread.half.eq(walk.half),
            spread.quarter.eq(walk.quarter),
        ]
    if units.machine.zero_points:
        total = delay(m, units.activation.sum, OPERANDS - 1, "sum")
        m.d.comb += [tile.slice.sum.eq(total) for tile in units.tiles]


def of_rows(m: Module, units: Units) -> list[Any]:
    """Whole words of activations."""
    memory, walk = units.activation, cast(Sequencer, units.array.sequencer)
    return [
        memory.read_slot.eq(walk.activation_slot),
        memory.read_word.eq(walk.activation_word),
        memory.read_group.eq(walk.activation_group),
        units.sharing.activations.eq(memory.data if units.spread is None else units.spread.operands),
        units.array.exponent.eq(delay(m, memory.exponent, OPERANDS - 1, "exponent")),
    ]


def join_stationary(m: Module, units: Units, operands: Operands, second: AlignedMemory) -> None:
    """Two tokens' activations, in the order of a stationary array's multipliers."""
    array, walk = units.array, cast(StationarySequencer, units.array.sequencer)
    m.d.comb += [
        units.sharing.activations.eq(operands.operands),
        operands.place.eq(delay(m, walk.activation_place, 1, "place")),
        operands.channels.eq(delay(m, walk.activation_channels, 1, "channels")),
        operands.product.eq(delay_valid(m, walk.step.product, 1, "product")),
        operands.first.eq(delay(m, walk.step.first, 1, "first")),
    ]
    for k, memory in enumerate((units.activation, second)):
        m.d.comb += [
            memory.read_slot.eq(walk.activation_slots[k]),
            memory.read_word.eq(walk.activation_word),
            memory.read_group.eq(walk.activation_group),
            operands.words[k].eq(memory.data),
            array.exponents[k].eq(memory.exponent),
            array.mantissas[k].eq(operands.sums[k]),
        ]
    if units.masks is not None:
        join_masks(m, units, units.masks, operands)


def join_masks(m: Module, units: Units, masks: MaskUnit, operands: Operands) -> None:
    """Which of those activations count, and which weights are fetched."""
    array, fetch = units.array, cast(ChannelFetch, units.weights)
    walk = cast(StationarySequencer, array.sequencer)
    connect(m, walk.active, masks.active_words[1])
    connect(m, fetch.active, masks.active_words[0])
    nothing = delay(m, walk.nothing, 1, "nothing")
    m.d.comb += [
        masks.begin.eq(delay_valid(m, array.begins, 1, "masks_begin")),
        masks.instruction.eq(array.instruction),
        masks.group.eq(array.group),
        masks.inner.eq(walk.inner),
        masks.read_word.eq(walk.activation_word),
        array.drop.eq(masks.taken),
        walk.masks_done.eq(masks.done),
        fetch.inner.eq(walk.inner),
        fetch.masked.eq(masks.started),
        fetch.groups_done.eq(masks.groups_done),
    ]
    for p, (ready, thresholds) in enumerate(zip(masks.ready, masks.thresholds, strict=True)):
        m.d.comb += [ready.eq(array.beats[p].valid), thresholds.eq(array.beats[p].payload)]
        if told(units.machine):
            m.d.comb += masks.behind[p].eq(array.behind[p])
    for k, slot in enumerate(masks.read_slots):
        m.d.comb += [
            slot.eq(walk.activation_slots[k]),
            operands.masks[k].eq(masks.masks[k] & ~nothing.replicate(len(masks.masks[k]))),
        ]
