"""Declared ports: lists, spread bundles, and ports that an inner unit's surroundings pass on."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from hw.component import Bundle, Component, given, gives, pass_on, passes
from tests.hw.bench import exercise


class Word(Bundle):
    def __init__(self) -> None:
        self.address = gives(4, "where")
        self.data = given(8, "what stands there")
        super().__init__()


class Inner(Component):
    """Adds what it reads to what passes. Latency: none. Throughput: a payload per cycle."""

    def __init__(self) -> None:
        self.word = gives(Word(), "a memory", "word_{}")
        self.source = [given(stream.Signature(8), f"stream {k}") for k in range(2)]
        self.sink = [gives(stream.Signature(8), f"stream {k} with the word added") for k in range(2)]
        self.hidden = given(8, "added too")
        self.lamp = gives(1, "always lit", init=1)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.word.address.eq(3)
        for source, sink in zip(self.source, self.sink, strict=True):
            m.d.comb += [
                sink.valid.eq(source.valid),
                source.ready.eq(sink.ready),
                sink.payload.eq(source.payload + self.word.data + self.hidden),
            ]
        return m


class Outer(Component):
    """An inner unit whose hidden port is fixed. Latency and throughput: its."""

    def __init__(self, part: bool = False) -> None:
        self.unit = unit = Inner()
        without = [unit.hidden, unit.lamp, *([unit.source[1], unit.sink[1], unit.word] if part else [])]
        self.inner = passes(unit, without=without)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = self.unit
        pass_on(m, self.unit, self.inner)
        m.d.comb += self.unit.hidden.eq(100)
        return m


def test_members_and_meanings() -> None:
    dut = Inner()
    assert {name: member.flow for name, member in dut.signature.members.items()} == {
        **{"word_address": Out, "word_data": In, "hidden": In, "lamp": Out},
        **{f"source_{k}": In for k in range(2)},
        **{f"sink_{k}": Out for k in range(2)},
    }
    assert dut.declared.meanings["word_data"] == "a memory: what stands there"
    assert dut.declared.meanings["sink_1"] == "stream 1 with the word added"
    assert dut.lamp.init == 1
    with pytest.raises(ValueError, match="a port needs a meaning"):
        given(1, "")


def test_passed_ports_are_the_inner_ones() -> None:
    dut = Outer()
    inner = dut.inner
    run = exercise(
        dut,
        {inner.source[0]: [1, 2, 3], inner.source[1]: [50, 60]},
        {inner.sink[0]: [108, 109, 110], inner.sink[1]: [157, 167]},
        constants=[(inner.word.data, 7)],
    )
    assert run.cycles == 2
    assert dut.declared.meanings["source_1"] == "of an inner unit: stream 1"
    assert set(Outer(part=True).signature.members) == {"source_0", "sink_0"}


def test_only_some_ports() -> None:
    unit = Inner()

    class Some(Component):
        def __init__(self) -> None:
            self.chosen = passes(unit, only=[unit.lamp, unit.word], named="its_{}")
            super().__init__()

    dut = Some()
    assert set(dut.signature.members) == {"its_lamp", "its_word_address", "its_word_data"}
    assert dut.chosen.word.address is dut.its_word_address
