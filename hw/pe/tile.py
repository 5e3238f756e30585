"""What repeats per memory port: a slice of the array and the port's part of attention, around one set of multipliers."""

from __future__ import annotations

from typing import cast

from amaranth.hdl import Module, Signal

from hw.arithmetic.pipeline import delay_valid
from hw.component import Component, gives, pass_on, passes
from hw.kv.port import AttentionPort
from hw.kv.stationary.port import HeldPort
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
        unit = StationarySlice(machine, library) if machine.stationary else Slice(machine, library)
        port = HeldPort(machine) if machine.stationary else AttentionPort(machine)
        self.inner_slice, self.inner_attention = unit, port
        # (of the slice, of attention): operands go to the slice, sums come from there
        self.operands: list[tuple[Signal, Signal]] = [(unit.element, port.element)]
        self.sums: list[tuple[Signal, Signal]]
        if isinstance(unit, StationarySlice) and isinstance(port, HeldPort):
            self.operands.append((unit.probabilities, port.probabilities))
            self.sums = [(unit.kept_beat, port.beat), (unit.dot, port.dot)]
        else:
            rows = cast(Slice, unit)
            self.operands.append((rows.probability, port.probability))
            self.sums = [(rows.dots, port.dots)]
        own, others = zip(*self.operands, *self.sums, strict=True)
        self.slice = cast(Slice, passes(unit, without=[unit.keys, unit.values, unit.saturated, *own]))
        self.attention = passes(port, without=others)
        self.slice_saturated = gives(1, "a sum of the slice was beyond FP32")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.slice, m.submodules.attention = unit, port = self.inner_slice, self.inner_attention
        pass_on(m, unit, self.slice)
        pass_on(m, port, self.attention)
        m.d.comb += [
            unit.keys.eq(delay_valid(m, self.attention.phase.keys, 1, "keys")),
            unit.values.eq(delay_valid(m, self.attention.phase.values, 1, "values")),
            *(own.eq(other) for own, other in self.operands),
            *(other.eq(own) for own, other in self.sums),
            self.slice_saturated.eq(unit.saturated),
        ]
        return m
