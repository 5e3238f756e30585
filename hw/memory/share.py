"""One side of a memory port for several users, of which one is connected at a time."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Value
from amaranth.lib.stream import Interface

from hw.component import Component, given, gives
from hw.memory.reader import Loads
from hw.memory.writer import Writes
from skipopu.machine.config import Machine


def merge(m: Module, users: Sequence[Interface], chosen: Value, to: Interface) -> None:
    """Connects the chosen one of ``users`` to ``to``: what is valid is gated, what it says is chosen among those who could say it."""
    m.d.comb += to.valid.eq(Cat(user.valid & here for user, here in zip(users, chosen, strict=True)).any())
    for k, (user, here) in enumerate(zip(users, chosen, strict=True)):
        m.d.comb += user.ready.eq(to.ready & here)
        with m.If(here if k else Const(1, 1)):
            m.d.comb += to.payload.eq(user.payload)


class SharedLoader(Component):
    """Reads for several users.

    Latency: none, combinational. Throughput: a run and a beat per cycle.

    Parameters:
        machine: the machine.
        users: their number.
    """

    def __init__(self, machine: Machine, users: int) -> None:
        self.users = [given(Loads(machine), f"user {k}", f"user_{k}_{{}}") for k in range(users)]
        self.chosen = given(users, "which of them is connected: one bit at most")
        self.loads = gives(Loads(machine), "to the port", "{}")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        merge(m, [user.runs for user in self.users], self.chosen, self.loads.runs)
        beats = self.loads.beats
        m.d.comb += beats.ready.eq(
            Cat(user.beats.ready & here for user, here in zip(self.users, self.chosen, strict=True)).any()
        )
        for user, here in zip(self.users, self.chosen, strict=True):
            m.d.comb += [user.beats.valid.eq(beats.valid & here), user.beats.payload.eq(beats.payload)]
        return m


class SharedWriter(Component):
    """Writes for several users.

    Latency: none, combinational. Throughput: a run and a beat per cycle.

    Parameters:
        machine: the machine.
        users: their number.
    """

    def __init__(self, machine: Machine, users: int) -> None:
        self.users = [given(Writes(machine), f"user {k}", f"user_{k}_{{}}") for k in range(users)]
        self.chosen = given(users, "which of them is connected: one bit at most")
        self.writes = gives(Writes(machine), "to the port", "{}")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        merge(m, [user.runs for user in self.users], self.chosen, self.writes.runs)
        merge(m, [user.beats for user in self.users], self.chosen, self.writes.beats)
        return m
