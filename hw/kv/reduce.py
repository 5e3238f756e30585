"""What attention reduces over ports: largest scores and exponents, sums of probabilities and of weighted values."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import adder_tree, bits_for_index, delay, delay_valid, pipelined_tree
from hw.component import Bundle, Component, given, gives
from hw.kv.lockstep import EXPONENT_BITS, Scores
from hw.kv.numbers import from_key
from hw.kv.phases import Phase
from hw.kv.port import AttentionPort
from hw.kv.port_sum import PortSum, weighted_bits
from hw.kv.query import query_depth
from hw.kv.softmax import SoftmaxRound
from hw.kv.walk import Round
from hw.library import Library
from hw.pe.slice import Slice
from skipopu.machine.config import QUERY_LANES, Machine

SUM_BITS = 58  # sum of p' v: 25 + 17 + 15 bits and sign
TOTAL_BITS = 41  # sum of p


def larger(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)


def lane_of(words: Sequence[Value], width: int, lane: int) -> list[Value]:
    """Lane ``lane`` of every word, lanes ``width`` bits wide."""
    return [word[width * lane : width * (lane + 1)] for word in words]


class ReducedRead(Bundle):
    """Reads of what was reduced, seen by who reads when no phase is under way."""

    def __init__(self, machine: Machine) -> None:
        number = bits_for_index(query_depth(machine))
        self.read_number = gives(number, "query word to read")
        self.read_lane = gives(2, "the query's place among that word's four")
        self.total = given(TOTAL_BITS, "sum of the query's probabilities, a cycle later")
        self.exponent = given(EXPONENT_BITS, "largest exponent of V that it saw, with that")
        self.sum_address = gives(number, "number of (head, beat, block) whose sums to read")
        self.sum_lane = gives(2, "for which of that block's four queries")
        self.sums = given(SUM_BITS * machine.kv_lanes, "sums of weighted values, a cycle after their address")
        super().__init__()


class Reduction(Component):
    """Trees over the ports and accumulators behind them, all exact, so that no order matters.

    All ports take the same step, so what they deliver together belongs to the same query.

    Latency: 1 cycle from an address to what stands there; what the ports deliver is in when ``settled``. Throughput: a step of either
    kind per cycle.

    Parameters:
        machine: the machine.
        library: takes the modules that occur once per element.
    """

    def __init__(self, machine: Machine, library: Library) -> None:
        self.machine, self.library = machine, library
        ports = range(machine.ports)
        self.scores = [given(Scores(machine), f"port {p}", f"{{}}_{p}") for p in ports]
        self.products = [given(weighted_bits(machine) * machine.kv_lanes, f"port {p}'s weighted values") for p in ports]
        self.phase = given(Phase(), "what attention is at", "{}")
        self._walked(machine)
        self.softmax = given(SoftmaxRound(machine), "the probabilities that they make")
        if machine.soft_cap:
            self.weighed = given(SoftmaxRound(machine), "the same, once its scores are capped")
        self.reduced = given(ReducedRead(machine), "reads of sums", "{}")
        self.maximum = gives(32, "largest score of the last cycle's softmax step, or of the query to read; FP32")
        self.settled = gives(1, "everything given is in")
        super().__init__()

    def _walked(self, machine: Machine) -> None:
        """Declares what the ports are told."""
        self.round = given(Round(machine), "what the ports do")

    def _working(self) -> Value:
        return self.round.step.work | self.round.step.header

    def elaborate(self, platform: object) -> Module:
        m = Module()
        latest = max(self._maxima(m), self._totals(m), self._sums(m)) + 1
        quiet = Signal(range(latest + 1))
        with m.If(self._working() | self.softmax.step.work | ~(self.phase.keys | self.phase.values)):
            m.d.sync += quiet.eq(0)
        with m.Elif(quiet != latest):
            m.d.sync += quiet.eq(quiet + 1)
        m.d.comb += self.settled.eq(quiet == latest)
        return m

    def _maxima(self, m: Module) -> int:
        """Largest score and V exponent per query; returns the cycles from a step until they are in."""
        step, lanes = self.round.step, range(QUERY_LANES)
        keys, exponents = [port.score_keys for port in self.scores], [port.value_exponents for port in self.scores]
        pieces = []
        depth = 0
        for q in lanes:
            for name, members, width in (("score_keys", keys, 32), ("value_exponents", exponents, EXPONENT_BITS)):
                value, depth = pipelined_tree(m, lane_of(members, width, q), larger, f"{name}_{q}_")
                pieces.append(value)
        at = AttentionPort.score_latency(self.machine) + depth
        memory = Memory(shape=(32 + EXPONENT_BITS) * QUERY_LANES, depth=query_depth(self.machine), init=[])
        m.submodules.maxima = memory
        write, old, read = memory.write_port(), memory.read_port(domain="comb"), memory.read_port()
        first = delay(m, self.round.first, at, "maxima_first")
        bounds = [0]
        for piece in pieces:
            bounds.append(bounds[-1] + len(piece))
        m.d.comb += [
            old.addr.eq(delay(m, step.number, at, "maxima_number")),
            write.addr.eq(old.addr),
            write.en.eq(delay_valid(m, step.work & self.phase.keys & step.last_beat, at, "maxima_valid")),
            write.data.eq(
                Cat(
                    Mux(first, piece, larger(piece, old.data[a:b]))
                    for piece, a, b in zip(pieces, bounds, bounds[1:], strict=False)
                )
            ),
            read.addr.eq(Mux(self.phase.values, self.softmax.step.number, self.reduced.read_number)),
        ]
        lane = delay(m, Mux(self.phase.values, self.softmax.step.lane, self.reduced.read_lane), 1, "read_lane")
        word = Signal(32 + EXPONENT_BITS)
        m.d.comb += [
            word.eq(read.data.word_select(lane, 32 + EXPONENT_BITS)),
            self.maximum.eq(from_key(word[:32])),
            self.reduced.exponent.eq(word[32:]),
        ]
        return at

    def _totals(self, m: Module) -> int:
        """Sums of probabilities; the cycles until they are in. Capped ones come later, and are in before their values are."""
        softmax = self.weighed if self.machine.soft_cap else self.softmax
        step = softmax.step
        weight, depth = adder_tree(m, [port.weight for port in self.scores], "weight")
        at = AttentionPort.WEIGHT_LATENCY + depth
        memory = Memory(shape=TOTAL_BITS, depth=QUERY_LANES * query_depth(self.machine), init=[])
        m.submodules.totals = memory
        write, old, read = memory.write_port(), memory.read_port(domain="comb"), memory.read_port()
        m.d.comb += [
            old.addr.eq(delay(m, Cat(step.lane, step.number), at, "total_address")),
            write.addr.eq(old.addr),
            write.data.eq(weight + Mux(delay(m, softmax.first, at, "total_first"), 0, old.data)),
            write.en.eq(delay_valid(m, step.work, at, "total_valid")),
            read.addr.eq(Cat(self.reduced.read_lane, self.reduced.read_number)),
            self.reduced.total.eq(read.data),
        ]
        return at

    def _weighted(self) -> tuple[int, Value, Value, Value]:
        """(cycles until ports have their weighted values, of what: lane and number of the sum, whether it is the first one, whether it is one)."""
        step = self.round.step
        return Slice.product_latency(self.machine), Cat(step.lane, self.round.sum_number), self.round.first, step.work

    def _sums(self, m: Module) -> int:
        """The same sum is read one cycle before it is written; a round takes at least two."""
        machine = self.machine
        added = []
        depth = (machine.ports - 1).bit_length()
        for k in range(machine.kv_lanes):
            products = lane_of(self.products, weighted_bits(machine), k)
            if machine.ports == 1:
                added.append(products[0].as_signed())
                continue
            m.submodules[f"port_sum_{k}"] = unit = self.library.use("port_sum", lambda: PortSum(machine), f"port_sum_{k}")
            m.d.comb += [port.eq(product) for port, product in zip(unit.product, products, strict=True)]
            added.append(unit.sum.as_signed())
        before, place, begins, valid = self._weighted()
        at = before + depth
        memory = Memory(shape=SUM_BITS * machine.kv_lanes, depth=QUERY_LANES * query_depth(machine), init=[])
        m.submodules.sums = memory
        write, read = memory.write_port(), memory.read_port()
        address = delay(m, place, at - 1, "sum_address")
        first = delay(m, begins, at, "sum_first")
        sums = []
        for k, value in enumerate(added):
            old = Mux(first, 0, read.data[SUM_BITS * k : SUM_BITS * (k + 1)])
            total = Signal(signed(SUM_BITS), name=f"sum_{k}")
            m.d.comb += total.eq(value + old.as_signed())
            sums.append(total)
        m.d.comb += [
            read.addr.eq(Mux(self.phase.values, address, Cat(self.reduced.sum_lane, self.reduced.sum_address))),
            write.addr.eq(delay(m, address, 1, "sum_written")),
            write.data.eq(Cat(sums)),
            write.en.eq(delay_valid(m, valid & self.phase.values, at, "sum_valid")),
            self.reduced.sums.eq(read.data),
        ]
        return at
