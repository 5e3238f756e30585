"""What one unit writes to any port, on its last way there."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal

from hw.arithmetic.pipeline import registered
from hw.component import Bundle, Component, given, gives
from hw.memory.places import BeatPlaces
from hw.memory.reader import Run
from hw.memory.writer import Writes
from skipopu.machine.config import Machine

DEPTH = 8  # beats that wait beside the ports
UNDER_WAY = 4  # that may be sent before it is seen at the sender that one was, and one to spare


class Sent(Bundle):
    """Writes from afar to one of so many ports, seen by who sends: by registers, or it stands for cycles, and nothing answers within one."""

    def __init__(self, machine: Machine, ports: int) -> None:
        self.here = gives(
            ports, "one-hot, or none: the port; stands from a cycle before the run until it is done, as ``run`` does"
        )
        self.run = gives(Run(machine), "where to write")
        self.begin = gives(1, "the run begins, for a cycle; the one before it is done")
        self.beat = gives(machine.port_bits, "what to write there")
        self.valid = gives(1, "such a beat; there was room two cycles before")
        self.room = given(1, "for what is not sent yet and all that may be under way")
        self.done = given(1, "the run is done, one cycle")
        super().__init__()


class Outpost(Component):
    """Stands beside ``ports``, far from who sends.

    Latency: 1 cycle from ``begin`` to the port's run, 2 from a beat to the port's, 1 from ``written`` to ``done``. Throughput: a beat per
    cycle.
    """

    def __init__(self, machine: Machine, ports: int) -> None:
        self.machine = machine
        self.sent = given(Sent(machine, ports), "what is sent", "{}")
        self.writes = [gives(Writes(machine), f"port {p}", f"{{}}_{p}") for p in range(ports)]
        self.written = given(ports, "per port: the write is done, one cycle")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m, sent = Module(), self.sent
        asked, here = Signal(), registered(m, sent.here, "here")
        m.submodules.waiting = waiting = BeatPlaces(self.machine.port_bits, DEPTH)
        for writes, chosen in zip(self.writes, here, strict=True):
            m.d.comb += [
                writes.runs.valid.eq(asked & chosen),
                writes.runs.payload.eq(sent.run),
                writes.beats.valid.eq(waiting.beats.valid & chosen),
                writes.beats.payload.data.eq(waiting.beats.payload),
                writes.beats.payload.strobe.eq(-1),
            ]
        with m.If(sent.begin & here.any()):
            m.d.sync += asked.eq(1)
        with m.Elif((Cat(writes.runs.ready for writes in self.writes) & here).any()):
            m.d.sync += asked.eq(0)
        m.d.comb += [
            waiting.push_data.eq(sent.beat),
            waiting.push.eq(sent.valid & here.any()),
            waiting.beats.ready.eq((Cat(writes.beats.ready for writes in self.writes) & here).any()),
            sent.room.eq(waiting.level <= DEPTH - UNDER_WAY),
        ]
        m.d.sync += sent.done.eq((self.written & here).any())
        return m
