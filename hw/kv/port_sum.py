"""One element's weighted values summed over the ports."""

from __future__ import annotations

from amaranth.hdl import Module

from hw.arithmetic.pipeline import adder_tree
from hw.component import Component, given, gives
from hw.pe.dot import WEIGHTED_BITS
from hw.pe.stationary.lanes import ADDED_BITS
from skipopu.machine.config import Machine


def weighted_bits(machine: Machine) -> int:
    """Width of what a port brings of an element: a weighted value, or the sum of several entries'."""
    return ADDED_BITS if machine.stationary else WEIGHTED_BITS


class PortSum(Component):
    """Exact sum of one element's weighted values over all ports.

    Latency: a cycle per level of the tree over the ports. Throughput: a sum per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.ports = machine.ports
        bits = weighted_bits(machine)
        self.product = [given(bits, f"port {p}'s value, signed") for p in range(machine.ports)]
        self.sum = gives(bits + (machine.ports - 1).bit_length(), "their sum, signed")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, _ = adder_tree(m, [product.as_signed() for product in self.product])
        m.d.comb += self.sum.eq(total)
        return m
