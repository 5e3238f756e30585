"""What the units of a comparison have in common."""

from __future__ import annotations

from amaranth.hdl import Signal
from amaranth.lib.wiring import Flow, In, Out

from hw.component import Component


class Variant(Component):
    """A pipeline whose ports are plain signals.

    Latency: ``latency`` cycles, fixed. Throughput: a set of operands per cycle.
    """

    latency: int

    def _ports(self, flow: Flow) -> dict[str, Signal]:
        return {name: getattr(self, name) for name, member in self.signature.members.items() if member.flow is flow}

    @property
    def inputs(self) -> dict[str, Signal]:
        return self._ports(In)

    @property
    def outputs(self) -> dict[str, Signal]:
        return self._ports(Out)
