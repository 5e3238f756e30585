"""Whether ports will have a beat when they are told to take one."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from amaranth.hdl import Module, Mux, Value

from hw.arithmetic.pipeline import delay_valid

Pair = tuple[Value, Value]


def enough(m: Module, ready: Value, behind: Value, further: Value | None, some: Value, take: Value) -> list[Pair]:
    """Of the next cycle, if none is taken in this one, and if one is (``take``): whether all ports have a beat, and whether ``some`` have.

    ready: ports with a beat. behind: with one in the next cycle, even if the present one is taken. further: and in the one after it, even if that is
    taken too; where ports are told a cycle later.
    """
    beats = [ready | behind, behind]
    if further is not None:
        beats[1] &= ready
        beats.append(ready & further)
    # Whether they have as many beats and one more
    found: list[Pair] = [(there.all(), (there | ~some).all()) for there in beats]
    if further is None:
        return found
    # What ports were told to take last is still there.
    taken = delay_valid(m, take, 1, "taken")
    pairs = (map(partial(Mux, taken), more, less) for less, more in pairwise(found))
    return [(every, these) for every, these in pairs]
