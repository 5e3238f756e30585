"""A group's exact sum into its row's FP32 accumulator: scaled, rounded once, added."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from hw.arithmetic.fp32 import Add, FromInteger
from hw.arithmetic.pipeline import delay, delay_valid, negate_if, registered
from skipopu.isa.spec import BLOCK_ROWS, SHORT_BLOCK_ROWS
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS

SUM_BITS = ALIGNED_BITS + 8 + 9  # of a group's sum: 512 products of an 18-bit activation with both digits of a row


@dataclass(frozen=True)
class Group:
    """Of the row of which parity, and ``at`` cycles before its sum: whether there is one, whether it is the row's first, its accumulator's
    address, and the one to drain; its exponent is given ``lag`` cycles before the sum. Where several accumulators are drained at once, ``place`` is
    which of them it is."""

    parity: int
    valid: Value
    first: Value
    address: Value
    at: int
    drain: Value
    exponent: Value
    lag: int
    place: Value | None = None


def accumulate(
    m: Module, group: Group, total: Signal, scale: Value, depth: int, transparent: bool
) -> tuple[Value, list[Value], int]:
    """Adds ``total`` times the FP16 ``scale``, given a cycle before it, under the group's exponent to one of ``depth`` accumulators.

    Returns what is drained, a cycle behind its address, flags of sums beyond FP32, and the cycles from ``group`` until it is written.
    The same accumulator is updated at most every ``SHORT_BLOCK_ROWS`` cycles, ``transparent`` every ``BLOCK_ROWS`` / 2: what is written in
    that cycle is added to then.
    """
    # A sum is read a cycle before it is added to, and stands in memory a cycle behind; ``transparent`` spares both.
    assert Add.LATENCY <= BLOCK_ROWS // 2 if transparent else Add.LATENCY + 2 <= SHORT_BLOCK_ROWS
    name = ("even", "odd")[group.parity]
    magnitude = Cat(scale[:10], scale[10:15] != 0)
    # Registered by itself, so that the multiplier can hold it.
    mantissa = registered(m, negate_if(scale[15], magnitude), f"{name}_scale_mantissa")
    scaled = Signal(signed(SUM_BITS + 12), name=f"{name}_scaled")
    m.d.sync += scaled.eq(total * mantissa)
    scale_exponent = registered(m, Mux(scale[10:15] == 0, 1, scale[10:15]), f"{name}_scale_exponent")
    exponent = Signal(signed(12), name=f"{name}_exponent")
    own = delay(m, group.exponent, group.lag, f"{name}_group_exponent")
    m.d.sync += exponent.eq(own + scale_exponent - (ALIGNED_BIAS + 25))
    at_scaled = group.at + 1
    m.submodules[f"convert_{name}"] = convert = FromInteger(SUM_BITS + 12)
    valid = delay_valid(m, group.valid, at_scaled, f"{name}_valid")
    m.d.comb += [convert.mantissa.eq(scaled), convert.exponent.eq(exponent), convert.valid.eq(valid)]

    at_result = at_scaled + FromInteger.LATENCY
    together = 1 if group.place is None else 1 << len(group.place)
    m.submodules[f"accumulators_{name}"] = memory = Memory(shape=32 * together, depth=depth, init=[])
    m.submodules[f"add_{name}"] = add = Add()
    first = delay(m, group.first, at_result, f"{name}_first")
    write = memory.write_port(granularity=32 if together > 1 else None)
    read, drain = memory.read_port(transparent_for=(write,) if transparent else ()), memory.read_port()
    before: Value = read.data
    if group.place is not None:
        before = before.word_select(delay(m, group.place, at_result, f"{name}_read_place"), 32)
    if transparent:
        assert group.place is None
        same = write.addr == delay(m, group.address, at_result, f"{name}_added_address")
        before = Mux(write.en & same, write.data, before)
    m.d.comb += [
        read.addr.eq(delay(m, group.address, at_result - 1, f"{name}_read_address")),
        add.a.eq(before),
        add.b.eq(convert.z),
        add.valid.eq(delay_valid(m, valid, FromInteger.LATENCY, f"{name}_result_valid") & ~first),
    ]
    at_write = at_result + Add.LATENCY
    value = Mux(delay(m, first, Add.LATENCY, f"{name}_f"), delay(m, convert.z, Add.LATENCY, f"{name}_z"), add.z)
    m.d.comb += [
        write.addr.eq(delay(m, group.address, at_write, f"{name}_write_address")),
        write.data.eq(value if together == 1 else value.replicate(together)),
        write.en.eq(_enable(m, group, at_write, name)),
        drain.addr.eq(group.drain),
    ]
    return drain.data, [add.saturated, convert.saturated], at_write


def _enable(m: Module, group: Group, at: int, name: str) -> Value:
    valid = delay_valid(m, group.valid, at, f"{name}_write")
    return valid if group.place is None else valid << delay(m, group.place, at, f"{name}_write_place")
