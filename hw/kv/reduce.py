"""What attention reduces over ports: largest scores and exponents, sums of probabilities and of weighted values."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import adder_tree, bits_for_index, delay, delay_valid, pipelined_tree
from hw.component import Component, given, gives
from hw.kv.phases import Phase
from hw.kv.port import EXPONENT_BITS, AttentionPort, from_key
from hw.kv.query import query_depth
from hw.kv.walk import KvStep, SoftmaxStep
from hw.library import Library
from hw.pe.dot import PROBABILITY_BITS, WEIGHTED_BITS
from hw.pe.slice import Slice
from skipopu.machine.config import QUERY_LANES, Machine

SUM_BITS = 58  # sum of p' v: 25 + 17 + 15 bits and sign
TOTAL_BITS = 41  # sum of p


def larger(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)


def lane_of(words: Sequence[Value], width: int, lane: int) -> list[Value]:
    """Lane ``lane`` of every word, lanes ``width`` bits wide."""
    return [word[width * lane : width * (lane + 1)] for word in words]


class PortSum(Component):
    """Exact sum of one element's weighted values over all ports.

    Latency: a cycle per level of the tree over the ports. Throughput: a sum per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.ports = machine.ports
        self.product = [given(WEIGHTED_BITS, f"port {p}'s value, signed") for p in range(machine.ports)]
        self.sum = gives(WEIGHTED_BITS + (machine.ports - 1).bit_length(), "their sum, signed")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, _ = adder_tree(m, [product.as_signed() for product in self.product])
        m.d.comb += self.sum.eq(total)
        return m


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
        number, ports = bits_for_index(query_depth(machine)), range(machine.ports)
        self.score_keys = [given(32 * QUERY_LANES, f"port {p}'s keys of scores") for p in ports]
        self.value_exponents = [given(EXPONENT_BITS * QUERY_LANES, f"port {p}'s exponents of V, with them") for p in ports]
        self.weight = [given(PROBABILITY_BITS, f"port {p}'s probability") for p in ports]
        self.products = [given(WEIGHTED_BITS * machine.kv_lanes, f"port {p}'s weighted values") for p in ports]
        self.step = given(KvStep(machine), "what the ports do")
        self.first_round = given(1, "in the phase's first round")
        self.sum_number = given(number, "number of the step's (head, beat, block) within the entry")
        self.phase = given(Phase(), "phase", "{}")
        self.softmax_step = given(SoftmaxStep(machine), "the probability that the ports make")
        self.softmax_first_round = given(1, "in the first round of probabilities")
        self.read_number = given(number, "query word to read, when not in the values' phase")
        self.read_lane = given(2, "its lane")
        self.sum_address = given(number, "number of (head, beat, block) whose sums to read, likewise")
        self.sum_lane = given(2, "their lane")
        self.maximum = gives(32, "largest score of the last cycle's softmax step, or of the query to read; FP32")
        self.exponent = gives(EXPONENT_BITS, "largest exponent of V of the same")
        self.total = gives(TOTAL_BITS, "sum of probabilities of the query to read, a cycle later")
        self.sums = gives(SUM_BITS * machine.kv_lanes, "sums of weighted values, a cycle after their address")
        self.settled = gives(1, "everything given is in")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        latest = max(self._maxima(m), self._totals(m), self._sums(m)) + 1
        quiet = Signal(range(latest + 1))
        with m.If(self.step.work | self.step.header | self.softmax_step.work | ~(self.phase.keys | self.phase.values)):
            m.d.sync += quiet.eq(0)
        with m.Elif(quiet != latest):
            m.d.sync += quiet.eq(quiet + 1)
        m.d.comb += self.settled.eq(quiet == latest)
        return m

    def _maxima(self, m: Module) -> int:
        """Largest score and V exponent per query; returns the cycles from a step until they are in."""
        step, lanes = self.step, range(QUERY_LANES)
        pieces = []
        depth = 0
        for q in lanes:
            for name, members, width in (
                ("score_keys", self.score_keys, 32),
                ("value_exponents", self.value_exponents, EXPONENT_BITS),
            ):
                value, depth = pipelined_tree(m, lane_of(members, width, q), larger, f"{name}_{q}_")
                pieces.append(value)
        at = AttentionPort.score_latency(self.machine) + depth
        memory = Memory(shape=(32 + EXPONENT_BITS) * QUERY_LANES, depth=query_depth(self.machine), init=[])
        m.submodules.maxima = memory
        write, old, read = memory.write_port(), memory.read_port(domain="comb"), memory.read_port()
        first = delay(m, self.first_round, at, "maxima_first")
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
            read.addr.eq(Mux(self.phase.values, self.softmax_step.number, self.read_number)),
        ]
        lane = delay(m, Mux(self.phase.values, self.softmax_step.lane, self.read_lane), 1, "read_lane")
        word = Signal(32 + EXPONENT_BITS)
        m.d.comb += [
            word.eq(read.data.word_select(lane, 32 + EXPONENT_BITS)),
            self.maximum.eq(from_key(word[:32])),
            self.exponent.eq(word[32:]),
        ]
        return at

    def _totals(self, m: Module) -> int:
        step = self.softmax_step
        weight, depth = adder_tree(m, self.weight, "weight")
        at = AttentionPort.WEIGHT_LATENCY + depth
        memory = Memory(shape=TOTAL_BITS, depth=QUERY_LANES * query_depth(self.machine), init=[])
        m.submodules.totals = memory
        write, old, read = memory.write_port(), memory.read_port(domain="comb"), memory.read_port()
        m.d.comb += [
            old.addr.eq(delay(m, Cat(step.lane, step.number), at, "total_address")),
            write.addr.eq(old.addr),
            write.data.eq(weight + Mux(delay(m, self.softmax_first_round, at, "total_first"), 0, old.data)),
            write.en.eq(delay_valid(m, step.work, at, "total_valid")),
            read.addr.eq(Cat(self.read_lane, self.read_number)),
            self.total.eq(read.data),
        ]
        return at

    def _sums(self, m: Module) -> int:
        """The same sum is read one cycle before it is written; a round takes at least two."""
        step, machine = self.step, self.machine
        added = []
        depth = (machine.ports - 1).bit_length()
        for k in range(machine.kv_lanes):
            products = lane_of(self.products, WEIGHTED_BITS, k)
            if machine.ports == 1:
                added.append(products[0].as_signed())
                continue
            m.submodules[f"port_sum_{k}"] = unit = self.library.use("port_sum", lambda: PortSum(machine), f"port_sum_{k}")
            m.d.comb += [port.eq(product) for port, product in zip(unit.product, products, strict=True)]
            added.append(unit.sum.as_signed())
        at = Slice.product_latency(machine) + depth
        memory = Memory(shape=SUM_BITS * machine.kv_lanes, depth=QUERY_LANES * query_depth(machine), init=[])
        m.submodules.sums = memory
        write, read = memory.write_port(), memory.read_port()
        address = delay(m, Cat(step.lane, self.sum_number), at - 1, "sum_address")
        first = delay(m, self.first_round, at, "sum_first")
        sums = []
        for k, value in enumerate(added):
            old = Mux(first, 0, read.data[SUM_BITS * k : SUM_BITS * (k + 1)])
            total = Signal(signed(SUM_BITS), name=f"sum_{k}")
            m.d.comb += total.eq(value + old.as_signed())
            sums.append(total)
        m.d.comb += [
            read.addr.eq(Mux(self.phase.values, address, Cat(self.sum_lane, self.sum_address))),
            write.addr.eq(delay(m, address, 1, "sum_written")),
            write.data.eq(Cat(sums)),
            write.en.eq(delay_valid(m, step.work & self.phase.values, at, "sum_valid")),
            self.sums.eq(read.data),
        ]
        return at
