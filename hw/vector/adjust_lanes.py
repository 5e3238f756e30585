"""The arithmetic of ADJUST: sums of squares, and elements on their way to results."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory

from hw.arithmetic.fp32 import Add, Multiply
from hw.arithmetic.pipeline import delay, delay_valid, registered
from hw.component import Component, given, gives
from hw.pe.finish import ONE, Finish
from hw.vector.rms import inverse_root
from skipopu.isa import spec
from skipopu.isa.spec import Epilogue
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.adjust import PARTIALS

KINDS = {
    spec.Finish.STORE: Epilogue.STORE,
    spec.Finish.ROTATE: Epilogue.ROPE,
    spec.Finish.ACTIVATE: Epilogue.GATED,
    spec.Finish.RESIDUAL: Epilogue.RESIDUAL,
}


class AdjustLanes(Component):
    """A word of ``pipeline.adjust_lanes`` elements at a time, as :mod:`skipopu.numerics.adjust` says; lanes 2i, 2i+1 are a pair.

    A vector that is to be normalised comes twice: its squares first, in whole rounds of the partial sums, then, once
    ``inverse`` is known, its elements. To be activated, a word comes twice in a row: the even lanes' results, then the odd ones'.

    Latency: LATENCY cycles from a word to its results, pipeline.adjust_reduce from the last word of squares to ``reduced``.
    Throughput: a word per cycle.
    """

    LATENCY = pipeline.ADJUST
    FRONT = 2 * Multiply.LATENCY + Add.LATENCY  # to gain and bias included

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.lanes = lanes = pipeline.adjust_lanes(machine)
        word = 32 * lanes
        self.x = given(word, "elements, FP32; 0 behind the last one where they are squared")
        self.square = given(1, "they are squared and summed")
        self.round = given(range(PARTIALS // lanes), "which word of the partial sums they go to")
        self.first = given(1, "they are the first that go there")
        self.last = given(1, "they are the last of their vector")
        self.valid = given(1, "they are finished, by what comes with them:")
        self.gain = given(word, "factors")
        self.bias = given(word, "what is added")
        self.cos = given(word // 2, "cosine of each pair's rotation")
        self.sin = given(word // 2, "its sine")
        self.old = given(word, "what they are added to")
        self.odd = given(1, "the odd lanes are activated, not the even ones")
        self.finish = given(2, "what is done with them, a spec.Finish; stable like all that follows")
        self.relu = given(1, "behind gain and bias, negative ones are 0")
        self.normal = given(1, "they are multiplied by 1/rms")
        self.inverse_size = given(32, "1 / elements of what is normalised, FP32")
        self.epsilon = given(32, "what is added to the mean square, FP32")
        self.activation = given(3, "function, an Activation")
        self.parameter = given(32, "its parameter, FP32")
        self.reduced = gives(1, "1/rms is there, for a cycle; it stays until the next one")
        self.results = gives(word, "what the elements became, FP32")
        self.enable = gives(lanes, "which of them there are")
        self.saturated = gives(1, "a step was too large for FP32")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        depth = PARTIALS // lanes
        flags: list[Value] = []
        inverse = Signal(32)
        # Partial sums: one port reads what is added to, the other one the upper half's sums
        m.submodules.partials = partials = Memory(shape=32 * lanes, depth=depth, init=[])
        low, high, write = partials.read_port(), partials.read_port(), partials.write_port()
        halving, place, other, half = Signal(), Signal(range(depth)), Signal(range(depth)), Signal(range(PARTIALS))
        total, of_root = self._halve(m, inverse, halving, place, other, half)
        flags += of_root
        ahead = Multiply.LATENCY - 1  # the sums are read a cycle before the squares come
        m.d.comb += [
            low.addr.eq(Mux(halving, place, delay(m, self.round, ahead, "round"))),
            high.addr.eq(other),
        ]
        before = delay_valid(m, self.square, Multiply.LATENCY - 1, "squared")
        squared, halved = delay_valid(m, before, 1, "squared_now"), delay_valid(m, halving, 1, "halved")
        # The adders' choices stand in registers: which sums they add to, and whether to none.
        summing = delay_valid(m, before | halving, 1, "summing")
        fresh = delay(m, before & delay(m, self.first, Multiply.LATENCY - 1, "first"), 1, "fresh")
        factor = registered(m, Mux(self.normal, inverse, ONE), "factor")
        within = delay(m, half, 1, "within")  # one bit says how many sums a level leaves
        upper = high.data
        for k in range((lanes - 1).bit_length()):
            upper = Mux(within[k], low.data >> 32 * (1 << k), upper)
        scaled = delay_valid(m, self.valid, Multiply.LATENCY, "scaled")
        biased = delay_valid(m, scaled, Multiply.LATENCY - 1, "biased")
        adding = summing | delay_valid(m, biased, 1, "adding")
        gain = delay(m, self.gain, Multiply.LATENCY, "gain")
        # In registers, as it is 0 where none is added: out of a shift register it would come late, and the adder's way is long.
        bias = delay(m, self.bias, 2 * Multiply.LATENCY - 1, "bias")
        bias = registered(m, Mux(biased, bias, 0), "bias_there")
        sums: list[Value] = []
        for k in range(lanes):
            one, two, add = Multiply(), Multiply(), Add()
            m.submodules += [one, two, add]
            x = self.x.word_select(k, 32)
            kept = Mux(fresh, 0, low.data.word_select(k, 32))
            left = Cat(within[j] for j in range(len(within)) if k < 1 << j).any()  # of this level's sums
            m.d.comb += [
                one.a.eq(x),
                one.b.eq(Mux(self.square, x, factor)),
                one.valid.eq(self.square | self.valid),
                two.a.eq(one.z),
                two.b.eq(gain.word_select(k, 32)),
                two.valid.eq(scaled),
                add.a.eq(Mux(summing, kept, two.z)),
                add.b.eq(Mux(squared, one.z, Mux(halved, upper.word_select(k, 32), bias.word_select(k, 32)))),
                add.valid.eq(adding & (~halved | left)),
            ]
            flags += [one.saturated, two.saturated, add.saturated]
            sums.append(add.z)
        m.d.comb += [
            write.data.eq(Cat(sums)),
            write.addr.eq(delay(m, low.addr, 1 + Add.LATENCY, "written")),
            write.en.eq(delay_valid(m, summing, Add.LATENCY, "write")),
            total.eq(sums[0]),
        ]
        self._finish(m, [Mux(self.relu & y[31], 0, y) for y in sums], flags)
        m.d.comb += self.saturated.eq(Cat(flags).any())
        return m

    def _finish(self, m: Module, sums: list[Value], flags: list[Value]) -> None:
        """From elements with gain and bias on: pairs."""
        activates, rotates = (
            registered(m, self.finish == finish, name)
            for finish, name in ((spec.Finish.ACTIVATE, "activates"), (spec.Finish.ROTATE, "rotates"))
        )
        kind = Signal(3)
        with m.Switch(self.finish):
            for finish, epilogue in KINDS.items():
                with m.Case(finish):
                    m.d.comb += kind.eq(epilogue)
        valid, odd = delay_valid(m, self.valid, self.FRONT, "valid"), delay(m, self.odd, self.FRONT, "odd")
        cos, sin, old = (delay(m, getattr(self, name), self.FRONT, name) for name in ("cos", "sin", "old"))
        results: list[Value] = []
        for i in range(self.lanes // 2):
            m.submodules[f"finish_{i}"] = unit = Finish(tanh=True)
            pair = sums[2 * i], sums[2 * i + 1]
            m.d.comb += [
                unit.kind.eq(kind),
                unit.activation.eq(self.activation),
                unit.parameter.eq(self.parameter),
                unit.valid.eq(valid),
                unit.rotate.eq(rotates),
                unit.even.eq(Mux(activates & odd, pair[1], pair[0])),
                unit.odd.eq(Mux(activates, ONE, pair[1])),
                unit.scale.eq(ONE),
                unit.cos.eq(cos.word_select(i, 32)),
                unit.sin.eq(sin.word_select(i, 32)),
                unit.residual_even.eq(old.word_select(2 * i, 32)),
                unit.residual_odd.eq(old.word_select(2 * i + 1, 32)),
            ]
            flags.append(unit.saturated)
            results += [unit.result_even, Mux(activates, unit.result_even, unit.result_odd)]
        late = delay(m, odd, Finish.LATENCY, "late")
        m.d.comb += [
            self.results.eq(Cat(results)),
            self.enable.eq(Cat(~activates | (late if k % 2 else ~late) for k in range(self.lanes))),
        ]

    def _halve(
        self, m: Module, inverse: Signal, halving: Signal, place: Signal, other: Signal, half: Signal
    ) -> tuple[Signal, tuple[Value, ...]]:
        """Adds halves of the partial sums and takes the root: (input of the sum that is left, whether its steps saturated)."""
        lanes = self.lanes
        wait = Signal(range(max(pipeline.SQUARED_IN, pipeline.HALVED, pipeline.NORM) + 1))
        total, left, rooting = Signal(32), Signal(32), Signal()
        steps = Signal(range(PARTIALS // 2 // lanes + 1))
        shift = lanes.bit_length() - 1
        m.d.comb += [steps.eq(Mux(half[:shift].any(), 1, half >> shift)), other.eq(place + (half >> shift))]
        root, saturated = inverse_root(m, left, self.inverse_size, self.epsilon, rooting)

        def waited(cycles: int, then: str, also: Callable[[], None] = lambda: None) -> None:
            m.d.sync += wait.eq(wait + 1)
            with m.If(wait == cycles - 1):
                m.d.sync += wait.eq(0)
                also()
                m.next = then

        with m.FSM():
            with m.State("SQUARES"):
                m.d.sync += [half.eq(PARTIALS // 2), place.eq(0), wait.eq(0)]
                with m.If(self.square & self.last):
                    m.next = "SUMMED"
            with m.State("SUMMED"):
                waited(pipeline.SQUARED_IN - 1, "HALVE")
            with m.State("HALVE"):
                m.d.comb += halving.eq(1)
                m.d.sync += place.eq(place + 1)
                with m.If(place + 1 == steps):
                    m.d.sync += place.eq(0)
                    m.next = "LEVEL"
            with m.State("LEVEL"):

                def lower() -> None:
                    m.d.sync += half.eq(half >> 1)

                waited(pipeline.HALVED, "HALVE", lower)
                with m.If((wait == pipeline.HALVED - 1) & half[0]):
                    m.d.sync += left.eq(total)
                    m.next = "ROOT"
            with m.State("ROOT"):
                m.d.comb += rooting.eq(wait == 0)
                m.d.sync += wait.eq(wait + 1)
                with m.If(wait == pipeline.NORM):
                    m.d.comb += self.reduced.eq(1)
                    m.d.sync += inverse.eq(root)
                    m.next = "SQUARES"
        return total, saturated
