"""Where an overlay's cells stand on a device of several dies in a row, and what goes between these."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from amaranth.hdl import Shape
from numpy.typing import NDArray

from hw.clock.netlist import DATA, DRIVEN, NONE, Netlist
from hw.component import Bundle
from hw.memory.axi import AxiRead, AxiWrite
from hw.shell.bases import BASE_BITS
from hw.shell.shell import Shell
from hw.vector.row import TOGETHER
from skipopu.machine.config import Machine

Dies = NDArray[np.int8]
BESIDE_TILE = ("tile", "read", "fetch", "held")  # units of a port that stand together
BESIDE_MEMORY = ("write",)  # that stand where its memory is
OUTPOST = "outpost"  # that stands beside the ports' memory and is no port's
AT_HOME = ("loader", "writer")  # without registers, beside their users
PLACED = re.compile(rf"(?:^|\.)(?:({'|'.join(BESIDE_TILE + BESIDE_MEMORY + AT_HOME)})_(\d+)|({OUTPOST}))(?:\.|$)")
CLOCK = ("clk", "rst")  # on their own wires
FAR = 64  # loads of a signal that goes everywhere: it does not hold what reads it to its own die
FREE = -1


class Plan(NamedTuple):
    """Where ports stand on ``dies`` in a row: ``tiles``, the die of each port's; ``home``, that of what is no port's, and of all that is
    port 0's, whose memory holds program and records; ``memory``, that of the ports' memory."""

    dies: int
    tiles: tuple[int, ...]
    home: int
    memory: int = 0

    @staticmethod
    def of(counts: Sequence[int]) -> Plan:
        """So many ports on each die: the first ones at home, in the middle, of two on the second."""
        home = len(counts) // 2
        order = [home, *(die for die in range(len(counts)) if die != home)]
        return Plan(len(counts), tuple(die for die in order for _ in range(counts[die])), home)

    @property
    def counts(self) -> list[int]:
        """Ports of each die."""
        return [self.tiles.count(die) for die in range(self.dies)]

    def writes(self, port: int) -> int:
        """The die of what writes to a port's memory."""
        return self.memory if port else self.home


class Luts(NamedTuple):
    """What is to be placed: ``tile``, with what stands beside it, ``write``, what writes to a port's memory, and all the ``rest``, among it the
    outpost and the first levels of what is reduced over ports, though they stand with those."""

    tile: float
    write: float
    rest: float


def plan(ports: int, dies: int, luts: Luts) -> Plan:
    """The most even plan: its fullest die has the fewest LUTs.

    Fours of ports stay together, as choices among ports are made of fours, and the first four are at home.
    """
    home, fours = dies // 2, -(-ports // TOGETHER)

    def fullest(counts: Sequence[int]) -> float:
        at = [luts.tile * TOGETHER * count for count in counts]
        at[home] += luts.rest
        at[0] += luts.write * ports
        return max(at)

    every = itertools.product(range(fours + 1), repeat=dies)
    counts = min((counts for counts in every if sum(counts) == fours and counts[home]), key=fullest)
    return Plan(dies, Plan.of([TOGETHER * count for count in counts]).tiles[:ports], home)


def standing(instance: str) -> tuple[str, int] | None:
    """(unit, port) of what stands where its port does, by the way to an instance from the overlay; None of anything else. Of the outpost it is
    the last port that there may be."""
    found = PLACED.search(instance)
    return None if found is None else (OUTPOST, -1) if found[3] else (found[1], int(found[2]))


def luts_of(ports: int, modules: Mapping[str, Netlist], luts: Mapping[str, float], whole: float) -> Luts:
    """Of a design of ``whole`` LUTs whose ``modules`` have so many ``luts`` each, without those of their instances."""
    counts: defaultdict[str, float] = defaultdict(float)
    for instance in (instance for module in modules.values() for instance in module.instances):
        if place := standing(instance.name):
            counts[place[0]] += luts[instance.module]
    tile, write = (sum(counts[unit] for unit in units) / ports for units in (BESIDE_TILE, BESIDE_MEMORY))
    return Luts(tile, write, whole - ports * (tile + write))


def placed(whole: Netlist, floor: Plan) -> Dies:
    """(cells,): the die of each cell of a linked netlist.

    Ports' units stand as planned. Any other cell stands on the die that all its data come from, and at home if that is more than one: sums
    and choices over ports are begun on the ports' dies. Enables, resets and signals with FAR or more loads do not count.
    """
    fixed = np.full(whole.cells, FREE, np.int8)
    ends = [inside.cell for inside in whole.insides[1:]] + [whole.cells]
    for inside, end in zip(whole.insides, ends, strict=True):
        if place := standing(inside.name):
            unit, port = place
            die = floor.writes(port) if unit in (*BESIDE_MEMORY, OUTPOST) else floor.tiles[port]
            fixed[inside.cell : end] = floor.home if unit in AT_HOME else die
    loads = np.bincount(whole.loads, minlength=whole.count)
    pins = whole.pins[whole.pins[:, 2] == DATA]
    pins = pins[(fixed[pins[:, 0]] == FREE) & (loads[pins[:, 1]] < FAR)]
    pins = pins[np.argsort(pins[:, 0], kind="stable")]
    first = np.flatnonzero(np.diff(pins[:, 0], prepend=-1))
    readers, sources = pins[first, 0], drivers(whole)[pins[:, 1]]

    def settled(begin: Dies) -> Dies:
        """From nothing known of free cells to what follows from the others."""
        dies = begin.copy()
        while len(first):
            known = np.where(sources == NONE, floor.home, dies[sources])
            most = np.maximum.reduceat(known, first)
            least = np.minimum.reduceat(np.where(known == FREE, np.int8(127), known), first)
            now = np.where((most == FREE) | (least == most), most, floor.home).astype(np.int8)
            if (dies[readers] == now).all():
                break
            dies[readers] = now
        return dies

    # What depends on nothing but signals that go everywhere is at home, and what reads it may be.
    dies = settled(np.where(settled(fixed) == FREE, np.int8(floor.home), fixed))
    dies[dies == FREE] = floor.home
    return dies


def drivers(netlist: Netlist) -> NDArray[np.int64]:
    """(nets,): the cell that drives each net, or NONE."""
    driven = netlist.pins[netlist.pins[:, 2] == DRIVEN]
    found = np.full(netlist.count, NONE, np.int64)
    found[driven[:, 1]] = driven[:, 0]
    return found


def die_of_nets(netlist: Netlist, dies: Dies) -> Dies:
    """(nets,): the die of each net's driver; of one from outside that of who reads it."""
    found = np.zeros(netlist.count, np.int8)
    for which in (netlist.pins[:, 2] != DRIVEN, netlist.pins[:, 2] == DRIVEN):
        found[netlist.pins[which, 1]] = dies[netlist.pins[which, 0]]
    return found


def gearbox_lines(machine: Machine) -> tuple[int, int]:
    """Signals of a gearbox that stands on another die than its memory, (to read, to write): those of its narrow side's channels."""
    read, write = (kind(Shell.width(machine, True), BASE_BITS) for kind in (AxiRead, AxiWrite))
    return bits_of(read), bits_of(write)


def bits_of(signals: Bundle) -> int:
    return sum(Shape.cast(member.shape).width for member in signals.members.values())


def lines(whole: Netlist, dies: Dies, floor: Plan, gearbox: tuple[int, int]) -> list[int]:
    """Signals over the border behind each die but the last; clocks, resets and the shell's base addresses are not counted.

    ``gearbox``: :func:`gearbox_lines`. It stands beside the tile, its side that writes beside what writes, and is not in the netlist.
    """
    low, high = np.full(whole.count, 127, np.int8), np.full(whole.count, -1, np.int8)
    cells, nets = whole.pins[:, 0], whole.pins[:, 1]
    np.minimum.at(low, nets, dies[cells])
    np.maximum.at(high, nets, dies[cells])
    for name in CLOCK:
        high[whole.inputs[name]] = -1
    away = [(gearbox[0], die) for die in floor.tiles] + [(gearbox[1], floor.writes(p)) for p in range(len(floor.tiles))]
    return [
        int(((low <= border) & (high > border)).sum()) + sum(n for n, die in away if _over(border, die, floor.memory))
        for border in range(floor.dies - 1)
    ]


def _over(border: int, a: int, b: int) -> bool:
    return min(a, b) <= border < max(a, b)
