"""Places of entries: each port hands out each of its places once."""

from __future__ import annotations

from amaranth.hdl import Array, Mux, Signal

from hw.kv.places import EntryPlaces
from hw.widths import PLACE_BITS
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit

MACHINE = Machine.load("tiny")


def laws() -> Laws:
    laws, places = Laws(), EntryPlaces(MACHINE)
    m = laws.m
    m.submodules.places = places
    restart = laws.free(1, "restart")
    m.d.comb += places.restart.eq(restart)
    # What is done besides comes while no run begins.
    for port in (places.find, places.following, places.use):
        m.d.comb += port.eq(laws.free(1) & ~restart & ~laws.before(restart))
    laws.drive(places.position)
    laws.assume(~places.find | (places.position == laws.before(places.position)))
    uses = Array(Signal(PLACE_BITS, name=f"uses_{p}") for p in range(MACHINE.ports))
    every, token = Signal(32), Signal.like(places.position)
    m.d.sync += every.eq(Mux(restart, 0, every + places.use))
    for p, count in enumerate(uses):
        m.d.sync += count.eq(Mux(restart, 0, count + (places.use & (places.port == p))))
    with m.If(places.found):
        m.d.sync += token.eq(places.position)
    with m.Elif(places.following):
        m.d.sync += token.eq(token + 1)
    laws.assume(~(places.found & places.following))
    known = Signal()
    m.d.sync += known.eq(~restart & (known | places.found))
    laws.law(
        "a port's first place is 0, the next one after each use: none is handed out twice",
        places.place == uses[places.port],
    )
    laws.law("the places used are counted", places.used == every)
    laws.law("token t has port t modulo the ports", ~known | (places.port == token[: len(places.port)]))
    laws.law("nothing is given back where a run begins at token 0", ~places.going_back)
    laws.reached(
        "the third place of the last port is used", places.use & (places.port == MACHINE.ports - 1) & (places.place == 2)
    )
    return laws


UNITS = (Unit("hw/kv/places.py", laws, "2 ports, runs that begin at token 0"),)
