"""Beats of a model's heads and entries."""

from __future__ import annotations

from amaranth.hdl import Module

from hw.component import Component, given, gives
from hw.kv.shapes import Heads, HeadShapes
from skipopu.machine.config import Machine


class HeadSizes(Component):
    """Rounds heads up to whole beats, and the header's exponents, a byte for each head of K and of V.

    Latency: up to 3 cycles from the configuration, which stands long before its first use. Throughput: a configuration per 4
    cycles, in the last of which all of it is given.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        self.kv_heads = given(shapes.kv_heads, "heads of K, as many of V")
        self.query_group = given(shapes.query_group, "queries per KV head")
        self.head_dim = given(shapes.head_dim, "elements of a head")
        self.heads = gives(Heads(machine), "those and their beats")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, beat_bytes, heads = self.machine.kv_lanes, self.machine.beat_bytes, self.heads
        m.d.comb += [
            heads.kv_heads.eq(self.kv_heads),
            heads.query_group.eq(self.query_group),
            heads.head_dim.eq(self.head_dim),
        ]
        m.d.sync += [
            heads.head_beats.eq((self.head_dim + (lanes - 1)) >> (lanes.bit_length() - 1)),
            heads.header_beats.eq((2 * self.kv_heads + (beat_bytes - 1)) >> (beat_bytes.bit_length() - 1)),
            heads.kv_words.eq(self.kv_heads * heads.head_beats),
            heads.key_beats.eq(heads.header_beats + heads.kv_words),
        ]
        return m
