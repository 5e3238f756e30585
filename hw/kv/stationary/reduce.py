"""What attention reduces over ports where one query after another is taken out of the multipliers."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import delay, delay_valid, pipelined_tree
from hw.component import given
from hw.kv.lockstep import EXPONENT_BITS
from hw.kv.numbers import from_key
from hw.kv.query import query_depth
from hw.kv.reduce import Reduction, larger
from hw.kv.stationary.port import HeldPort
from hw.kv.stationary.walk import Taken
from hw.pe.stationary.slice import StationarySlice
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine


class HeldReduction(Reduction):
    """The same trees and accumulators, one query's score and one query's weighted values at a time.

    Latency: 1 cycle from an address to what stands there; what the ports deliver is in when ``settled``. Throughput: a query's sums and a
    softmax step per cycle.
    """

    def _walked(self, machine: Machine) -> None:
        self.taken = given(Taken(machine), "what is taken out of the multipliers")
        self.walking = given(1, "a step, whose sums may be taken out later")

    def _working(self) -> Value:
        return self.walking | self.taken.valid

    def _maxima(self, m: Module) -> int:
        taken, softmax, reduced = self.taken, self.softmax.step, self.reduced
        key, depth = pipelined_tree(m, [port.score_keys for port in self.scores], larger, "score_keys_")
        exponent, _ = pipelined_tree(m, [port.value_exponents for port in self.scores], larger, "value_exponents_")
        at = HeldPort.score_latency(self.machine) + depth
        width = 32 + EXPONENT_BITS
        m.submodules.maxima = memory = Memory(shape=width, depth=QUERY_LANES * query_depth(self.machine), init=[])
        write, old, read = memory.write_port(), memory.read_port(domain="comb"), memory.read_port()
        first = delay(m, taken.first, at, "maxima_first")
        m.d.comb += [
            old.addr.eq(delay(m, Cat(taken.lane, taken.number), at, "maxima_address")),
            write.addr.eq(old.addr),
            write.en.eq(delay_valid(m, taken.valid & self.phase.keys, at, "maxima_valid")),
            write.data.eq(Mux(first, Cat(key, exponent), Cat(larger(key, old.data[:32]), larger(exponent, old.data[32:])))),
            read.addr.eq(
                Mux(self.phase.values, Cat(softmax.lane, softmax.number), Cat(reduced.read_lane, reduced.read_number))
            ),
            self.maximum.eq(from_key(read.data[:32])),
            reduced.exponent.eq(read.data[32:]),
        ]
        return max(at, StationarySlice.PUT_ASIDE + pipeline.told(self.machine))

    def _weighted(self) -> tuple[int, Value, Value, Value]:
        taken = self.taken
        return 1, Cat(taken.lane, taken.sum_number), taken.first, taken.valid
