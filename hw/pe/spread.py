"""Activations of short groups where the pair that they meet stands in the beat."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux

from hw.component import Component, given, gives
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BITS

PIECES = 4  # of a beat, at most


class Spread(Component):
    """Moves a group's activations from its place in a word to a piece of the lanes; the other lanes get zeros.

    A group as long as a word stays as it is. Latency: none. Throughput: a word per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.word = given(ALIGNED_BITS * machine.weight_lanes, "a word of the aligned memory")
        self.place = given(2, "quarter of it in which the group begins")
        self.piece = given(2, "place of the pair in its beats")
        self.half = given(1, "groups are halves of a word")
        self.quarter = given(1, "groups are quarters of it")
        self.operands = gives(ALIGNED_BITS * machine.weight_lanes, "of the lanes")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = ALIGNED_BITS * self.machine.weight_lanes // PIECES
        quarters = Array(self.word[bits * k : bits * (k + 1)] for k in range(PIECES))
        for k in range(PIECES):
            own = self.operands[bits * k : bits * (k + 1)]
            with m.If(self.quarter):
                m.d.comb += own.eq(Mux(self.piece == k, quarters[self.place], Const(0, bits)))
            with m.Elif(self.half):
                halves = Mux(self.place[1], quarters[2 + k % 2], quarters[k % 2])
                m.d.comb += own.eq(Mux(self.piece == k // 2, halves, Const(0, bits)))
            with m.Else():
                m.d.comb += own.eq(quarters[k])
        return m
