"""A mapped netlist as arrays: which nets a signal goes between, where it starts and where it ends."""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw.clock.cells import Cell, Ends, Starts

Numbers = NDArray[np.int32]
NONE = -1  # a constant, or nothing
MADE_UP = re.compile(r"_(LUT4|PFUMX|L6MUX21|CCU2C|TRELLIS_\w+?)_[A-Z]")  # names that synthesis gives after cells


DATA, CONTROL, DRIVEN = range(3)  # what a net is to a cell; control: enables and resets of registers


class Inside(NamedTuple):
    """Where a module was put in: its first net and cell, the instance's name."""

    net: int
    cell: int
    name: str


class Instance(NamedTuple):
    """Another module inside; nets by its ports."""

    module: str
    name: str
    ports: dict[str, Numbers]


@dataclass
class Netlist:
    """One module, or with those below it.

    Attributes:
        count: of nets. names: of those that have one in the source. kinds: of ways, by their numbers.
        arcs: (arcs, 3) nets that a signal passes from and to, and how.
        starts, ends: (n, 2) nets behind registers, and in front of them, and how.
        loads: (pins,) the net of every input of a cell.
        cells: how many. pins: (pins, 3) a cell, a net, and what it is to the cell: DATA, CONTROL or DRIVEN; those of clocks are left out.
        receivers: (ends,) the cells that the ends are of.
        inputs, outputs: nets by port. instances: of other modules.
        insides: first nets and cells of modules that were put in, rising, with their instances' names.
    """

    count: int
    names: dict[int, str]
    kinds: list[str]
    arcs: Numbers
    starts: Numbers
    ends: Numbers
    loads: Numbers
    cells: int
    pins: Numbers
    receivers: Numbers
    inputs: dict[str, Numbers]
    outputs: dict[str, Numbers]
    instances: list[Instance] = field(default_factory=list)
    insides: list[Inside] = field(default_factory=list)

    def label(self, net: int) -> str:
        """Its name, or that of the instance it lies in."""
        if net in self.names:
            return self.names[net]
        place = bisect.bisect_right([inside.net for inside in self.insides], net)
        return f"in {self.insides[place - 1].name}" if place else ""


class Pattern(NamedTuple):
    """Places in the row of a cell's pins: of both ends of its arcs, of its starts and ends, with kinds; of its inputs; of its pins, with
    what they are to the cell."""

    arcs: Numbers
    starts: Numbers
    ends: Numbers
    inputs: list[int]
    pins: Numbers


def read(module: Mapping[str, Any], cells: Mapping[str, Cell]) -> Netlist:
    """``module`` of a JSON netlist by Yosys; types not among ``cells`` are other modules.

    Clocks are ideal: no way begins or ends at one.
    """
    number: dict[int, int] = {}
    kinds: dict[str, int] = {}

    def nets(bits: Sequence[int | str]) -> list[int]:
        return [number.setdefault(bit, len(number)) if isinstance(bit, int) else NONE for bit in bits]

    ports: dict[str, dict[str, Numbers]] = {"input": {}, "output": {}, "inout": {}}
    for name, port in module["ports"].items():
        ports[port["direction"]][name] = np.array(nets(port["bits"]), np.int32)
    alike: defaultdict[tuple[Any, ...], list[list[int]]] = defaultdict(list)
    instances: list[Instance] = []
    for name, cell in module["cells"].items():
        kind, connections = cell["type"], cell["connections"]
        if kind in cells:
            chosen = tuple(
                sorted((key, value) for key, value in cell["parameters"].items() if "REG" in key or key == "USE_MULT")
            )
            layout = tuple((port, len(bits), cell["port_directions"][port]) for port, bits in sorted(connections.items()))
            alike[kind, chosen, layout].append([net for port, _, _ in layout for net in nets(connections[port])])
        elif not kind.startswith("$"):
            instances.append(Instance(kind, name, {port: np.array(nets(bits), np.int32) for port, bits in connections.items()}))
    arcs, starts, ends, loads, every_pin, receivers = ([np.zeros((0, width), np.int32)] for width in (3, 2, 2, 1, 3, 1))
    count = 0  # of cells
    for (kind, chosen, layout), rows in alike.items():
        pattern, table = _pattern(cells[kind], dict(chosen), layout, kinds), np.array(rows, np.int32)
        here = np.arange(count, count + len(table), dtype=np.int32)
        for found, places in ((arcs, pattern.arcs), (starts, pattern.starts), (ends, pattern.ends)):
            kind_of = np.broadcast_to(places[:, -1:], (len(table), len(places), 1))
            every = np.concatenate([table[:, places[:, :-1]], kind_of], axis=2).reshape(-1, places.shape[1])
            used = (every[:, :-1] != NONE).all(1)
            found.append(every[used])
            if places is pattern.ends:
                receivers.append(np.repeat(here, len(places))[used].reshape(-1, 1))
        for place, role in pattern.pins.tolist():
            every_pin.append(np.stack([here, table[:, place], np.full_like(here, role)], 1)[table[:, place] != NONE])
        count += len(table)
        driven = table[:, pattern.inputs].reshape(-1, 1)
        loads.append(driven[driven[:, 0] != NONE])
    names = {
        number[bit]: f"{name}[{k}]" if len(net["bits"]) > 1 else name
        for name, net in module["netnames"].items()
        if not net["hide_name"] and not MADE_UP.search(name)
        for k, bit in enumerate(net["bits"])
        if bit in number
    }
    return Netlist(
        len(number),
        names,
        list(kinds),
        np.concatenate(arcs),
        np.concatenate(starts),
        np.concatenate(ends),
        np.concatenate(loads)[:, 0],
        count,
        np.concatenate(every_pin),
        np.concatenate(receivers)[:, 0],
        ports["input"],
        ports["output"],
        instances,
    )


def _pattern(cell: Cell, chosen: dict[str, str], layout: tuple[tuple[str, int, str], ...], kinds: dict[str, int]) -> Pattern:
    pins = [(port, bit, direction) for port, width, direction in layout for bit in range(width)]

    def which(names: str, direction: str) -> list[int]:
        return [k for k, (port, _, way) in enumerate(pins) if way == direction and re.fullmatch(names, port)]

    arcs: list[tuple[int, ...]] = []
    starts: list[tuple[int, ...]] = []
    ends: list[tuple[int, ...]] = []
    for way in cell.of(chosen):
        kind = kinds.setdefault(way.kind, len(kinds))
        if isinstance(way, Starts):
            starts += [(k, kind) for k in which(way.outputs, "output")]
        elif isinstance(way, Ends):
            ends += [(k, kind) for k in which(way.inputs, "input")]
        else:
            arcs += [
                (i, j, kind)
                for i in which(way.inputs, "input")
                for j in which(way.outputs, "output")
                if way.order is None or pins[j][1] - pins[i][1] >= way.order
            ]

    def table(rows: list[tuple[int, ...]], width: int) -> Numbers:
        return np.array(rows, np.int32).reshape(-1, width)

    controls = {k for k, kind in ends if list(kinds)[kind] in ("enable", "reset")}
    roles = (
        dict.fromkeys((k for k, _ in ends), DATA)
        | dict.fromkeys((i for i, _, _ in arcs), DATA)
        | dict.fromkeys(controls, CONTROL)
    )
    roles |= dict.fromkeys((k for k, (_, _, way) in enumerate(pins) if way == "output"), DRIVEN)
    inputs = [k for k, (_, _, way) in enumerate(pins) if way == "input"]
    return Pattern(table(arcs, 3), table(starts, 2), table(ends, 2), inputs, table(list(roles.items()), 2))
