"""Places of new KV entries."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import bits_for_index, delay_valid
from hw.component import Component, given, gives
from hw.kv.map import MapEntry
from hw.widths import PLACE_BITS, POSITION_BITS
from skipopu.machine.config import Machine


class TokenPort(Component):
    """Token t's entries lie in port t mod ports.

    Latency: a cycle for every token between the present one and the one that is wanted, none to ``there`` for the same one.
    Throughput: a token per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.ports = machine.ports
        self.restart = given(1, "go to token 0, at once")
        self.find = given(1, "go to the token that is wanted, level")
        self.wanted = given(POSITION_BITS, "that token")
        self.there = gives(1, "the present token is it")
        self.port = gives(bits_for_index(machine.ports), "the present token's port")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        token, ports = Signal.like(self.wanted), self.ports
        m.d.comb += self.there.eq(token == self.wanted)
        with m.If(self.restart):
            m.d.sync += [token.eq(0), self.port.eq(0)]
        with m.Elif(self.find & (token < self.wanted)):
            m.d.sync += [token.eq(token + 1), self.port.eq(next_port(self.port, ports))]
        with m.Elif(self.find & ~self.there):
            m.d.sync += [token.eq(token - 1), self.port.eq(Mux(self.port == 0, ports - 1, self.port - 1))]
        return m


def next_port(port: Value, ports: int) -> Value:
    """The port behind ``port``, whose token follows its."""
    return Mux(port == ports - 1, 0, port + 1)


class EntryPlaces(Component):
    """Each port hands out its places in turn, to tokens in rising order.

    A run that begins behind token 0 finds its places where the runs before it left them: a port goes back to the place of the first
    layer's entry of its first token from there on. So a chunk is given back whole where several of its tokens share a port.

    Latency: a cycle from ``find`` to ``found`` for every token between the chunk found last and this one, none for the same chunk, one more
    in the cycle behind a run's start or behind the last in which places are given back. Places are given back in 2 cycles, 1 more for
    every token between the chunk found last and the run's first token, and 2 for each token, of as many as there are ports, that has
    entries from there on. 1 from ``found``, ``following`` and ``use`` to what they change. Throughput: a token and a place per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.restart = given(1, "a run begins, for a cycle")
        self.first = given(POSITION_BITS, "with restart: its first token; the places of tokens from there on are free")
        self.going_back = gives(1, "they are given back")
        self.map_token = gives(POSITION_BITS, "then: a token whose first layer's entry is wanted")
        self.entry = given(MapEntry(), "that entry, a cycle later")
        self.position = given(
            POSITION_BITS, "a chunk's first token, not below that of the chunk before it, from a cycle before find"
        )
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
        m.submodules.chunk = chunk = TokenPort(self.machine)
        first, back, looked = Signal(POSITION_BITS), Signal(range(ports + 1)), Signal()
        # Tokens below ``mapped`` have entries.
        present, mapped = Signal(POSITION_BITS), Signal(POSITION_BITS)
        places = Array(Signal.like(self.place, name=f"places_{p}") for p in range(ports))
        goes_back, after = self.restart & (self.first != 0), present + 1
        # What a port goes back to, and by how many places, a cycle later
        given_back, back_port, back_place = Signal(), Signal.like(self.port), Signal.like(self.place)
        fewer = Signal(signed(PLACE_BITS + 1))
        to_first = self.restart | self.going_back  # the token that is wanted a cycle later is the run's first one
        m.d.sync += chunk.wanted.eq(Mux(self.restart, self.first, Mux(self.going_back, first, self.position)))
        m.d.comb += [
            chunk.restart.eq(self.restart & ~goes_back),
            chunk.find.eq(self.find | self.going_back),
            self.place.eq(places[self.port]),
            self.found.eq(self.find & chunk.there & ~self.going_back & ~delay_valid(m, to_first, 1, "to_first")),
            self.map_token.eq(first + back),
        ]
        with m.If(self.found):
            m.d.sync += [self.port.eq(chunk.port), present.eq(self.position)]
        with m.If(self.following):
            m.d.sync += [self.port.eq(next_port(self.port, ports)), present.eq(after)]
            with m.If(after > mapped):
                m.d.sync += mapped.eq(after)
        with m.If(self.use):
            m.d.sync += [places[self.port].eq(self.place + 1), self.used.eq(self.used + 1)]
        arrived = delay_valid(m, self.going_back & chunk.there, 1, "arrived")
        m.d.sync += given_back.eq(0)
        with m.If(given_back):
            m.d.sync += [places[back_port].eq(back_place), self.used.eq(self.used - fewer)]
        with m.If(self.restart):
            m.d.sync += [first.eq(self.first), back.eq(0), looked.eq(0), self.going_back.eq(goes_back)]
            with m.If(~goes_back):
                m.d.sync += [s.eq(0) for s in (self.used, mapped, *places)]
        with m.Elif(~self.going_back | ~arrived):
            pass
        with m.Elif((back == ports) | (self.map_token >= mapped)):
            m.d.sync += [self.going_back.eq(0), mapped.eq(first)]
        with m.Elif(~looked):
            m.d.sync += looked.eq(1)
            with m.If(back == 0):
                m.d.sync += self.port.eq(chunk.port)
        with m.Else():
            m.d.sync += [
                given_back.eq(1),
                back_port.eq(self.port),
                back_place.eq(self.entry.place),
                fewer.eq(self.place - self.entry.place),
                self.port.eq(next_port(self.port, ports)),
                back.eq(back + 1),
                looked.eq(0),
            ]
        return m
