"""A buffer that turns beats of one channel of many rows into beats of two rows of many channels."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, delay, registered
from hw.component import given, gives
from hw.pe.variants.variant import Variant


class Transposing(Variant):
    """Tiles of ``rows`` times ``rows`` nibbles, one read while the next is written.

    Pair j of channel c lies in bank (j + c) modulo the number of pairs: a channel's pairs are one write to all banks, a pair's channels one
    read of all. Either turns a beat by as many places. Channels that do not come keep what stood there; their activations are 0.

    Latency: ``latency`` cycles from ``pair`` to ``beat``; a channel can be read 3 cycles after it came. Throughput: a channel and a pair
    per cycle.

    Parameters:
        rows: of a beat, and channels of a tile.
    """

    latency = 3

    def __init__(self, rows: int) -> None:
        self.rows, self.pairs = rows, rows // 2
        index = bits_for_index(rows)
        self.channel = given(4 * rows, "a weight per row")
        self.valid = given(1, "it comes")
        self.number = given(index, "of the channel in its tile")
        self.bank = given(1, "tile that it belongs to")
        self.pair = given(bits_for_index(self.pairs), "pair of rows to read, of the other tile")
        self.beat = gives(8 * rows, "a byte per channel: its weights of both rows")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pairs, places = self.pairs, self.pairs.bit_length() - 1
        turned = turn(m, self.channel, self.number[:places], "in")
        number, bank = delay(m, self.number, 2, "number"), delay(m, self.bank, 2, "bank")
        half, valid = number[places], delay(m, self.valid, 2, "valid")
        pair, other = registered(m, self.pair, "pair_1"), registered(m, ~self.bank, "other")
        found: list[Value] = []
        for part in range(2):
            bytes = []
            for k in range(pairs):
                m.submodules[f"bank_{part}_{k}"] = memory = Memory(shape=8, depth=2 * pairs, init=[])
                write, read = memory.write_port(), memory.read_port(domain="comb")
                m.d.comb += [
                    write.addr.eq(Cat(number[:places], bank)),
                    write.data.eq(turned[8 * k : 8 * k + 8]),
                    write.en.eq(valid & (half == part)),
                    read.addr.eq(Cat((k - pair)[:places], other)),
                ]
                bytes.append(registered(m, read.data, f"read_{part}_{k}"))
            found.append(turn(m, Cat(bytes), registered(m, -pair, "back")[:places], f"out_{part}", stages=1))
        m.d.comb += self.beat.eq(Cat(found))
        return m


def turn(m: Module, beat: Value, places: Value, name: str, stages: int = 2) -> Value:
    """``beat`` with each byte ``places`` bytes higher, those beyond the end from below; ``stages`` cycles later."""
    steps = [8 << k for k in range(len(places))]
    value: Value = beat
    for k, step in enumerate(steps):
        if stages == 2 and k == len(steps) // 2:
            value, places = registered(m, value, f"{name}_half"), registered(m, places, f"{name}_places")
        turned = Signal(len(beat), name=f"{name}_{k}")
        m.d.comb += turned.eq(Mux(places[k], Cat(value[-step:], value[:-step]), value))
        value = turned
    return registered(m, value, f"{name}_turned")
