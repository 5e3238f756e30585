"""The slowest path between registers of a netlist, and the clock that it allows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw.clock.delays import NOTHING, Delays, Family, Range
from hw.clock.netlist import NONE, Netlist, Numbers
from skipopu.errors import SkipopuError

Times = NDArray[np.float64]
NEVER = -1e9
ONE: Range = (1.0, 1.0, 1.0)


class Step(NamedTuple):
    """A way through a cell, the first one out of a register: ``kind``, the net behind it, its loads; ``at``: ns, behind the cell."""

    kind: str
    net: str
    loads: int
    at: float


@dataclass(frozen=True)
class Path:
    """The slowest one. ns: with the clock's uncertainty. end: how it goes into a register."""

    ns: float
    steps: tuple[Step, ...]
    end: str

    @property
    def mhz(self) -> float:
        return 1e3 / self.ns

    @property
    def levels(self) -> int:
        """Lookup tables on it, those of distributed RAM included."""
        return sum(step.kind in ("LUT", "LUT RAM") for step in self.steps)


class Places(NamedTuple):
    """Dies by their numbers in a row: (nets,) of nets' drivers, (cells,) of cells."""

    nets: NDArray[np.int8]
    cells: NDArray[np.int8]


def slowest(netlist: Netlist, delays: Delays, borders: bool = True, places: Places | None = None) -> Path:
    """With ``borders`` a signal at an input comes from a register outside, and one at an output goes to one. With ``places`` wires between
    dies take longer.

    Raises:
        SkipopuError: the netlist has a loop without a register.
    """
    names = [*netlist.kinds, "data"]
    kinds, loads = delays.of(names), np.bincount(netlist.loads, minlength=netlist.count)

    def wire(rows: Numbers) -> Times:
        """To pins of ``rows`` of a net and a kind."""
        return delays.wire(loads[rows[:, 0]], rows[:, -1], names)

    arrival = np.full(netlist.count, NEVER)
    np.maximum.at(arrival, netlist.starts[:, 0], kinds[netlist.starts[:, 1]])
    ends = netlist.ends
    if borders:
        np.maximum.at(arrival, _nets(netlist.inputs), delays.register)
        leaving = _nets(netlist.outputs)
        ends = np.concatenate([ends, np.stack([leaving, np.full_like(leaving, len(names) - 1)], 1)])
    arcs = netlist.arcs[np.argsort(netlist.arcs[:, 0], kind="stable")]
    takes, at_end = kinds[arcs[:, 2]] + wire(arcs), wire(ends) + kinds[ends[:, 1]]
    if places is not None:
        takes += delays.border * np.abs(places.nets[arcs[:, 0]] - places.nets[arcs[:, 1]])
        own = netlist.ends[:, 0]
        at_end[: len(own)] += delays.border * np.abs(places.nets[own] - places.cells[netlist.receivers])
    _spread(arrival, arcs, takes)
    last = arrival[ends[:, 0]] + at_end
    if not len(last) or last.max() < 0:
        return Path(delays.register + delays.uncertainty, (), "")
    net, kind = ends[last.argmax()].tolist()
    started = {int(n): names[k] for n, k in netlist.starts[np.argsort(kinds[netlist.starts[:, 1]], kind="stable")].tolist()}
    steps = [
        Step(
            started.get(net, "input") if arc is None else names[arcs[arc, 2]],
            netlist.label(net),
            int(loads[net]),
            float(arrival[net]),
        )
        for net, arc in _back(net, arrival, arcs, takes)
    ]
    return Path(float(last.max()) + delays.uncertainty, tuple(reversed(steps)), names[kind])


def levels(netlist: Netlist) -> int:
    """The largest number of lookup tables between registers, those of distributed RAM included."""
    counted: defaultdict[str, Range] = defaultdict(lambda: NOTHING, {"LUT": ONE, "LUT RAM": ONE})
    nothing = Family(counted, (NOTHING, NOTHING, NOTHING), NOTHING, NOTHING, NOTHING, frozenset(), frozenset(), NOTHING)
    return round(slowest(netlist, Delays(nothing, 0)).ns)


def _nets(ports: dict[str, Numbers]) -> Numbers:
    every = np.concatenate([np.zeros(0, np.int32), *ports.values()])
    return every[every != NONE]


def _spread(arrival: Times, arcs: Numbers, takes: Times) -> None:
    """Longest ways along arcs that are sorted by their first net, level by level."""
    count = len(arrival)
    first = np.searchsorted(arcs[:, 0], np.arange(count + 1))
    waiting = np.bincount(arcs[:, 1], minlength=count)
    front, seen = np.flatnonzero((waiting == 0) & (np.diff(first) > 0)), 0
    while len(front):
        sizes = first[front + 1] - first[front]
        chosen = np.repeat(first[front] - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        sources, targets = arcs[chosen, 0], arcs[chosen, 1]
        np.maximum.at(arrival, targets, arrival[sources] + takes[chosen])
        np.subtract.at(waiting, targets, 1)
        seen += len(chosen)
        reached = np.unique(targets)
        front = reached[(waiting[reached] == 0) & (first[reached + 1] > first[reached])]
    if seen != len(arcs):
        raise SkipopuError("the netlist has a loop without a register")


def _back(net: int, arrival: Times, arcs: Numbers, takes: Times) -> list[tuple[int, int | None]]:
    """Nets of the way that led to ``net``, from there back, each with the number of the arc into it."""
    found: list[tuple[int, int | None]] = []
    arc: int | None = 0
    while arc is not None:
        into = np.flatnonzero(arcs[:, 1] == net)
        on_time = into[np.isclose(arrival[arcs[into, 0]] + takes[into], arrival[net], rtol=0, atol=1e-9)]
        arc = int(on_time[0]) if len(on_time) else None
        found.append((net, arc))
        if arc is not None:
            net = int(arcs[arc, 0])
    return found
