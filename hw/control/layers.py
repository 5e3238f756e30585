"""The loop over layers."""

from __future__ import annotations

from amaranth.hdl import Module, Signal

from hw.component import Bundle, Component, given, gives
from hw.control.configuration import config_bits, setting
from hw.widths import MAP_ROW_BITS
from skipopu.isa.registers import Config
from skipopu.isa.spec import LOOP
from skipopu.machine.config import Machine


class Layer(Bundle):
    """Where the present layer has its own."""

    def __init__(self) -> None:
        self.first = gives(1, "it is layer 0")
        self.base = gives(32, "added to addresses of layered instructions, 64-byte units")
        self.map_row = gives(MAP_ROW_BITS, "KV map index of its token 0")
        self.trace_row = gives(32, "address of its trace, 64-byte units")
        super().__init__()


class LayerLoop(Component):
    """Counts layers from LOOP to END; what a layer has of its own advances with them.

    Latency: 1 cycle from ``begin`` or ``end`` to the layer, none to the row. Throughput: a layer per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.restart = given(1, "a run starts, for a cycle")
        self.begin = given(1, "LOOP is executed, for a cycle")
        self.count = given(LOOP.by_name["count"].width, "its layers")
        self.advance = given(LOOP.by_name["advance"].width, "what the base grows by, 64-byte units")
        self.end = given(1, "END is executed, for a cycle")
        self.config = given(config_bits(machine), "configuration registers")
        self.again = gives(1, "with end: there is another layer")
        self.layer = gives(Layer(), "where the present layer has its own", "layer_{}")
        self.row_start = gives(1, "a layer begins, for a cycle")
        self.next_row = gives(MAP_ROW_BITS, "with row_start: its row of the KV map")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        number, layers, advance = Signal.like(self.count), Signal.like(self.count), Signal.like(self.advance)
        layer, below = self.layer, self.layer.map_row + setting(self.config, Config.CONTEXT)
        m.d.comb += [
            layer.first.eq(number == 0),
            self.again.eq(number + 1 < layers),
            self.row_start.eq(self.begin | (self.end & self.again)),
        ]
        with m.If(self.begin):
            m.d.sync += [
                layers.eq(self.count),
                advance.eq(self.advance),
                layer.trace_row.eq(setting(self.config, Config.TRACE)),
            ]
        with m.If(self.restart | self.begin):
            m.d.sync += [number.eq(0), layer.base.eq(0), layer.map_row.eq(0)]
        with m.If(self.end):
            m.d.comb += self.next_row.eq(below)
            m.d.sync += [
                number.eq(number + 1),
                layer.base.eq(layer.base + advance),
                layer.map_row.eq(below),
                layer.trace_row.eq(layer.trace_row + setting(self.config, Config.TRACE_ROW)),
            ]
        return m
