"""Dependence tokens: how many each unit has given to each other that are not taken yet."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal

from hw.component import Component, given, gives
from hw.control.issue import UNITS
from skipopu.isa.spec import Unit


class DependenceTokens(Component):
    """Masks have one bit per unit, as in ``pop`` and ``push``.

    Latency: 1 cycle from a token given to it being there. Throughput: every unit gives and takes one of each per cycle.
    """

    BITS = 4  # of a count

    def __init__(self) -> None:
        names = [unit.name.lower() for unit in Unit]
        self.restart = given(1, "a run begins: there are no tokens")
        self.give = [given(UNITS, f"units that {name} gives a token to") for name in names]
        self.take = [given(UNITS, f"units that {name} takes a token from") for name in names]
        self.available = [gives(UNITS, f"units from which there are tokens for {name}") for name in names]
        self.overflow = [gives(UNITS, f"units to which {name} gave more tokens than can be counted") for name in names]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        counts = [[Signal(self.BITS, name=f"tokens_{a}_{b}") for b in range(UNITS)] for a in range(UNITS)]
        for a in range(UNITS):
            for b in range(UNITS):
                count, give, take = counts[a][b], self.give[a][b], self.take[b][a]
                m.d.sync += count.eq(Mux(self.restart, 0, count + give - take))
                m.d.comb += self.overflow[a][b].eq(give & ~take & count.all())
            m.d.comb += self.available[a].eq(Cat(counts[b][a] != 0 for b in range(UNITS)))
        return m
