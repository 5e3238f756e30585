"""What attention reduces over ports: largest scores and exponents, sums of probabilities and of weighted values."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import adder_tree, bits_for_index, delay, delay_valid, pipelined_tree
from hw.kv.port import AttentionPort, from_key
from hw.kv.query import query_depth
from hw.kv.walk import KvStep, SoftmaxStep
from hw.library import Library
from hw.pe.dot import PROBABILITY_BITS, WEIGHTED_BITS
from hw.pe.slice import Slice
from skipopu.machine.config import QUERY_LANES, Machine

SUM_BITS = 58  # sum of p' v: 25 + 17 + 15 bits and sign
TOTAL_BITS = 41  # sum of p
EXPONENT_BITS = 5


def larger(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)


class PortSum(Component):
    """Exact sum of one element's weighted values over all ports: products_p (in), sum (out), a register per tree level."""

    def __init__(self, machine: Machine) -> None:
        self.ports = machine.ports
        bits = WEIGHTED_BITS + (machine.ports - 1).bit_length()
        super().__init__({**{f"product_{p}": In(WEIGHTED_BITS) for p in range(machine.ports)}, "sum": Out(bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, _ = adder_tree(m, [getattr(self, f"product_{p}").as_signed() for p in range(self.ports)])
        m.d.comb += self.sum.eq(total)
        return m


class Reduction(Component):
    """Trees over the ports and accumulators behind them, all exact, so that no order matters.

    All ports take the same step, so what they deliver together belongs to the same query. Members: step, first_round,
    softmax_step, softmax_first_round (in), keys, values (in, levels); score_keys_p, value_exponents_p, weight_p, products_p (in,
    of port p); maximum, exponent (out: of the previous cycle's softmax step, or of ``read_number`` and ``read_lane`` when
    not in the values' phase); total
    (out, of the same); sum_address, sum_lane (in: number of (head, beat, block) and lane), sums (out, one cycle later); settled (out:
    everything given is in).
    """

    def __init__(self, machine: Machine, library: Library) -> None:
        self.machine, self.library = machine, library
        number = bits_for_index(query_depth(machine))
        members = {}
        for p in range(machine.ports):
            members |= {
                f"score_keys_{p}": In(32 * QUERY_LANES),
                f"value_exponents_{p}": In(EXPONENT_BITS * QUERY_LANES),
                f"weight_{p}": In(PROBABILITY_BITS),
                f"products_{p}": In(WEIGHTED_BITS * machine.kv_lanes),
            }
        super().__init__(
            {
                **members,
                "step": In(KvStep(machine)),
                "first_round": In(1),
                "sum_number": In(number),
                "keys": In(1),
                "softmax_step": In(SoftmaxStep(machine)),
                "softmax_first_round": In(1),
                "values": In(1),
                "read_number": In(number),
                "read_lane": In(2),
                "sum_address": In(number),
                "sum_lane": In(2),
                "maximum": Out(32),
                "exponent": Out(EXPONENT_BITS),
                "total": Out(TOTAL_BITS),
                "sums": Out(SUM_BITS * machine.kv_lanes),
                "settled": Out(1),
            }
        )

    def _ports(self, name: str, width: int, lane: int) -> Sequence[Value]:
        return [getattr(self, f"{name}_{p}")[width * lane : width * (lane + 1)] for p in range(self.machine.ports)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        latest = max(self._maxima(m), self._totals(m), self._sums(m)) + 1
        quiet = Signal(range(latest + 1))
        with m.If(self.step.work | self.step.header | self.softmax_step.work | ~(self.keys | self.values)):
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
            for name, width in (("score_keys", 32), ("value_exponents", EXPONENT_BITS)):
                value, depth = pipelined_tree(m, self._ports(name, width, q), larger, f"{name}_{q}_")
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
            write.en.eq(delay_valid(m, step.work & self.keys & step.last_beat, at, "maxima_valid")),
            write.data.eq(
                Cat(
                    Mux(first, piece, larger(piece, old.data[a:b]))
                    for piece, a, b in zip(pieces, bounds, bounds[1:], strict=False)
                )
            ),
            read.addr.eq(Mux(self.values, self.softmax_step.number, self.read_number)),
        ]
        lane = delay(m, Mux(self.values, self.softmax_step.lane, self.read_lane), 1, "read_lane")
        word = Signal(32 + EXPONENT_BITS)
        m.d.comb += [
            word.eq(read.data.word_select(lane, 32 + EXPONENT_BITS)),
            self.maximum.eq(from_key(word[:32])),
            self.exponent.eq(word[32:]),
        ]
        return at

    def _totals(self, m: Module) -> int:
        step = self.softmax_step
        weight, depth = adder_tree(m, self._ports("weight", PROBABILITY_BITS, 0), "weight")
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
            products = self._ports("products", WEIGHTED_BITS, k)
            if machine.ports == 1:
                added.append(products[0].as_signed())
                continue
            m.submodules[f"port_sum_{k}"] = unit = self.library.use("port_sum", lambda: PortSum(machine), f"port_sum_{k}")
            m.d.comb += [getattr(unit, f"product_{p}").eq(product) for p, product in enumerate(products)]
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
            read.addr.eq(Mux(self.values, address, Cat(self.sum_lane, self.sum_address))),
            write.addr.eq(delay(m, address, 1, "sum_written")),
            write.data.eq(Cat(sums)),
            write.en.eq(delay_valid(m, step.work & self.values, at, "sum_valid")),
            self.sums.eq(read.data),
        ]
        return at
