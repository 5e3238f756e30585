"""A tile as attention sees it."""

from __future__ import annotations

from typing import cast

from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, In, Out

from hw.component import AnyBundle, Bundle, Port, Spread, gives
from hw.kv.phases import Phase
from hw.kv.port import Lockstep, Scores, Work
from hw.pe.dot import WEIGHTED_BITS
from skipopu.machine.config import Machine


class TileResults(Bundle):
    """What a tile gives beside its port's scores."""

    def __init__(self, machine: Machine) -> None:
        self.products = gives(WEIGHTED_BITS * machine.kv_lanes, "weighted values, signed")
        self.score_saturated = gives(1, "a score was clipped")
        super().__init__()


class AttentionSide:
    """The ports of ``tile`` that attention drives and reads: those of :class:`hw.kv.port.AttentionPort` with their names, and products."""

    def __init__(self, machine: Machine, tile: wiring.Component) -> None:
        self.phase = by_name(tile, In, Phase())
        self.lockstep = by_name(tile, In, Lockstep(machine))
        self.work = by_name(tile, In, Work(machine))
        self.scores = by_name(tile, Out, Scores())
        self.results = by_name(tile, Out, TileResults(machine))


def by_name(unit: wiring.Component, flow: Flow, bundle: AnyBundle) -> AnyBundle:
    """The ports of ``unit`` that have the names of ``bundle``'s."""
    return cast(AnyBundle, Spread(Port(flow, bundle, "", "{}"), unit))
