"""Places of new KV entries."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, Value

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Component, given, gives
from hw.widths import PLACE_BITS, POSITION_BITS
from skipopu.machine.config import Machine


class EntryPlaces(Component):
    """Token t's entries lie in port t mod ports, whatever the layer; each port hands out its places in turn.

    Latency: a cycle from ``find`` to ``found`` for every token between the chunk found last and this one, none for the same chunk;
    1 from ``found``, ``following`` and ``use`` to what they change. Throughput: a token and a place per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.restart = given(1, "no place is used any more")
        self.position = given(POSITION_BITS, "a chunk's first token, not below that of the chunk before it")
        self.find = given(1, "go to that token, level")
        self.found = gives(1, "its port is the present one from the next cycle on")
        self.following = given(1, "go to the following token")
        self.use = given(1, "the place is used")
        self.port = gives(bits_for_index(machine.ports), "port of the present token")
        self.place = gives(PLACE_BITS, "its next place")
        self.used = gives(32, "places used so far, in all ports")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ports = self.machine.ports
        first, token = Signal.like(self.port), Signal.like(self.position)
        places = Array(Signal.like(self.place, name=f"places_{p}") for p in range(ports))

        def next_port(port: Value) -> Value:
            return Mux(port == ports - 1, 0, port + 1)

        m.d.comb += [self.place.eq(places[self.port]), self.found.eq(self.find & (token == self.position))]
        with m.If(self.restart):
            m.d.sync += [s.eq(0) for s in (first, token, self.used, *places)]
        with m.If(self.found):
            m.d.sync += self.port.eq(first)
        with m.Elif(self.find):
            m.d.sync += [token.eq(token + 1), first.eq(next_port(first))]
        with m.If(self.following):
            m.d.sync += self.port.eq(next_port(self.port))
        with m.If(self.use):
            m.d.sync += [places[self.port].eq(self.place + 1), self.used.eq(self.used + 1)]
        return m
