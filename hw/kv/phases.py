"""The phases of attention."""

from __future__ import annotations

from amaranth.hdl import Module

from hw.component import Bundle, Component, given, gives


class Phase(Bundle):
    """What attention is at; between instructions, and while it changes, neither."""

    def __init__(self) -> None:
        self.keys = gives(1, "keys meet the queries, level")
        self.values = gives(1, "values meet the probabilities, level")
        super().__init__()


class Phases(Component):
    """Lists an instruction's queries, then keys, values, divisions, one after another.

    Latency: none from ``active`` to ``begin``; 2 cycles from ``listed`` and from the end of the keys to the next phase.
    Throughput: an instruction at a time; the next may begin a cycle after ``divided``.
    """

    def __init__(self) -> None:
        self.active = given(1, "the instruction runs, level")
        self.idle = gives(1, "no instruction was begun")
        self.begin = gives(1, "the instruction begins, one cycle")
        self.listed = given(1, "its queries are listed")
        self.start_keys = gives(1, "the phase of keys begins in the next cycle")
        self.phase = gives(Phase(), "what attention is at", "{}")
        self.soon = gives(Phase(), "the same, from a cycle before until its end", "to_{}")
        self.keys_done = given(1, "all keys met the queries, and their scores are in")
        self.values_done = given(1, "all values met the probabilities, and their sums are in")
        self.divide = gives(1, "the divisions begin, one cycle")
        self.divided = given(1, "the last of them is done")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), self.begin.eq(self.active)]
                with m.If(self.active):
                    m.next = "LIST"
            with m.State("LIST"):
                with m.If(self.listed):
                    m.next = "KEYS START"
            with m.State("KEYS START"):
                m.d.comb += [self.start_keys.eq(1), self.soon.keys.eq(1)]
                m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += [self.phase.keys.eq(1), self.soon.keys.eq(1)]
                with m.If(self.keys_done):
                    m.next = "VALUES START"
            with m.State("VALUES START"):
                m.d.comb += self.soon.values.eq(1)
                m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += [self.soon.values.eq(1), self.phase.values.eq(1), self.divide.eq(self.values_done)]
                with m.If(self.values_done):
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                with m.If(self.divided):
                    m.next = "IDLE"
        return m
