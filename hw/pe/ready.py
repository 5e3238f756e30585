"""Whether ports will have a beat when they are told to take one."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from amaranth.hdl import Module, Mux, Value

from hw.arithmetic.pipeline import delay_valid

Pair = tuple[Value, Value]


def enough(m: Module, ready: Value, behind: Value, further: Value | None, last_ports: Value, take: Value) -> list[Pair]:
    """Of the next cycle, if none is taken in this one, and if one is (``take``): whether all ports have a beat, and those of the last tile or
    round.

    ready: ports with a beat. behind: with one in the next cycle, even if the present one is taken. further: and in the one after it, even if that is
    taken too; where ports are told a cycle later.
    """
    beats = [ready | behind, behind]
    if further is not None:
        beats[1] &= ready
        beats.append(ready & further)
    # Whether all ports have as many beats and one more, of a round that is not the last, and of one that is
    found: list[Pair] = [(there.all(), (there | ~last_ports).all()) for there in beats]
    if further is None:
        return found
    # What ports were told to take last is still there.
    taken = delay_valid(m, take, 1, "taken")
    pairs = (map(partial(Mux, taken), more, less) for less, more in pairwise(found))
    return [(others, last) for others, last in pairs]
