"""The shape of a stationary array's tiles; :mod:`skipopu.channel_stream` has it for the bytes."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value

from skipopu.channel_stream import ChannelStream
from skipopu.isa.spec import BLOCK_ROWS
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4, INT4Z


def tile_size(m: Module, machine: Machine, left: Value, digits: Value) -> tuple[Signal, Signal]:
    """Of the next tile of a product with ``left`` rounds: its rounds and the channels of its beats, logarithms; combinational."""
    most = machine.channel_slots.bit_length() - 1
    size, channels, full = (Signal(range(most + 1), name=name) for name in ("tile_size", "tile_channels", "tile_full"))
    largest = Signal(range(most + 1), name="tile_largest")
    for k in range(most + 1):
        with m.If((left >> k) != 0):
            m.d.comb += largest.eq(k)
    m.d.comb += [full.eq(most - digits), size.eq(largest), channels.eq(full - size)]
    with m.If(largest > full):
        m.d.comb += size.eq(full)
    return size, channels


def head_beats(m: Module, machine: Machine, size: Value) -> tuple[Signal, Signal]:
    """Beats of a group's scales, and of its zero points, in a tile of 2 ** ``size`` rounds; combinational."""
    most = machine.channel_slots.bit_length() - 1
    scales, zeros = (Signal(range(largest(machine, name) + 1), name=f"{name}_beats") for name in ("scale", "zero"))
    with m.Switch(size):
        for k in range(most + 1):
            with m.Case(k):
                m.d.comb += [scales.eq(beats(machine, "scale", 1 << k)), zeros.eq(beats(machine, "zero", 1 << k))]
    return scales, zeros


def leading_groups(machine: Machine, groups: Value, group: Value) -> Value:
    """:meth:`Machine.leading_groups`; combinational."""
    most, shortest = machine.leading_channels, min((machine.weight_lanes, *machine.groups_in_beats))
    leading: Value = sum((group <= most // number for number in range(1, most // shortest + 1)), start=Const(0, 1))
    return Mux(leading < groups, leading, 0)[: max(1, (most // shortest).bit_length())]


def beats(machine: Machine, what: str, rounds: int) -> int:
    """Beats of a group's "scale"s or "zero" points in a tile of ``rounds``."""
    form = INT4Z if what == "zero" else INT4
    stream = ChannelStream(rounds * BLOCK_ROWS, 1, machine.weight_lanes, 1, machine.weight_lanes, form)
    return (stream.zero_bytes(rounds) if what == "zero" else stream.scale_bytes(rounds)) // machine.beat_bytes


def largest(machine: Machine, what: str) -> int:
    """Beats of the largest tile's."""
    return beats(machine, what, machine.channel_slots)
