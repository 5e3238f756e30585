"""What repeats per memory port: a slice of the array and the port's part of attention, around one set of multipliers."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, Out

from hw.kv.port import AttentionPort
from hw.pe.slice import Slice
from skipopu.machine.config import Machine

WITHIN = ("element", "probability", "dots")  # between the two


class Tile(Component):
    """Members: those of :class:`hw.pe.slice.Slice` and :class:`hw.kv.port.AttentionPort`, less what runs between them.

    The slice's ``saturated`` is ``slice_saturated`` here.
    """

    def __init__(self, machine: Machine) -> None:
        self.slice, self.port = Slice(machine), AttentionPort(machine)
        members = {k: v for k, v in self.slice.signature.members.items() if k not in (*WITHIN, "saturated")}
        members |= {k: v for k, v in self.port.signature.members.items() if k not in WITHIN}
        super().__init__({**members, "slice_saturated": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.slice, m.submodules.attention = self.slice, self.port
        for unit in (self.slice, self.port):
            for name, member in unit.signature.members.items():
                if name not in self.signature.members:
                    continue
                inner, outer = getattr(unit, name), getattr(self, name)
                if member.is_signature:
                    forward, backward = (inner, outer) if member.flow is Out else (outer, inner)
                    m.d.comb += [
                        backward.valid.eq(forward.valid),
                        backward.payload.eq(forward.payload),
                        forward.ready.eq(backward.ready),
                    ]
                else:
                    m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
        m.d.comb += [
            self.slice.element.eq(self.port.element),
            self.slice.probability.eq(self.port.probability),
            self.port.dots.eq(self.slice.dots),
            self.slice_saturated.eq(self.slice.saturated),
        ]
        return m
