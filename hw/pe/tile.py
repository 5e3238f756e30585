"""What repeats per memory port: a slice of the array and the port's part of attention, around one set of multipliers."""

from __future__ import annotations

from typing import cast

from amaranth.hdl import Module

from hw.component import Component, gives, pass_on, passes
from hw.kv.port import AttentionPort
from hw.library import Library
from hw.pe.slice import Slice
from hw.pe.stationary.slice import StationarySlice
from skipopu.machine.config import Machine


class Tile(Component):
    """The ports of :class:`hw.pe.slice.Slice` (or :class:`hw.pe.stationary.slice.StationarySlice`) and :class:`hw.kv.port.AttentionPort`, less what runs between them.

    Latency and throughput: theirs.

    Parameters:
        machine: the machine.
        library: takes what repeats in a slice.
    """

    def __init__(self, machine: Machine, library: Library | None = None) -> None:
        unit = StationarySlice(machine, library) if machine.stationary else Slice(machine)
        port = AttentionPort(machine)
        self.inner_slice, self.inner_attention = unit, port
        between = [unit.keys, unit.values, unit.element, unit.probability, unit.dots, unit.saturated]
        self.slice = cast(Slice, passes(unit, without=between))
        self.attention = passes(port, without=[port.element, port.probability, port.dots])
        self.slice_saturated = gives(1, "a sum of the slice was beyond FP32")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.slice, m.submodules.attention = unit, port = self.inner_slice, self.inner_attention
        pass_on(m, unit, self.slice)
        pass_on(m, port, self.attention)
        m.d.comb += [
            unit.keys.eq(self.attention.phase.keys),
            unit.values.eq(self.attention.phase.values),
            unit.element.eq(port.element),
            unit.probability.eq(port.probability),
            port.dots.eq(unit.dots),
            self.slice_saturated.eq(unit.saturated),
        ]
        return m
