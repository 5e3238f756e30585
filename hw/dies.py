"""What connects the units of a port with the rest of an overlay: the signals that cross where they stand on another die."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hw.clock.netlist import NONE, Netlist, Numbers
from hw.wiring.units import PER_PORT

OF_PORT = re.compile(rf"(?:{'|'.join(PER_PORT)})_(\d+)$")
CLOCK = ("clk", "rst")  # on their own wires
REST = -1


class Connections(NamedTuple):
    """Signals of an overlay.

    own: between the units of one port and the rest, of the port that has fewest; common: that units of several ports have.
    """

    own: int
    common: int


def port_of(instance: str) -> int:
    """Whose of the ports an instance in the overlay is, or REST."""
    found = OF_PORT.match(instance)
    return int(found[1]) if found else REST


def connections(overlay: Netlist, modules: Mapping[str, Netlist]) -> Connections:
    """Of the top level with its units as instances of ``modules``. What only passes through a unit is not connected with it."""
    same = _passed_through(overlay, modules)
    one, several, rest = np.full(overlay.count, REST), np.zeros(overlay.count, bool), np.zeros(overlay.count, bool)
    rest[same[_own(overlay)]] = True
    own = {name: np.isin(np.arange(module.count), _own(module, inner=True)) for name, module in modules.items()}
    for instance in overlay.instances:
        module, port = modules[instance.module], port_of(instance.name)
        for name, outer in instance.ports.items():
            inner = module.inputs[name] if name in module.inputs else module.outputs[name]
            there = (outer != NONE) & (inner != NONE)
            nets = same[outer[there][own[instance.module][inner[there]]]]
            if port == REST:
                rest[nets] = True
            else:
                several[nets] |= (one[nets] != REST) & (one[nets] != port)
                one[nets] = port
    for name in CLOCK:
        several[overlay.inputs[name]] = rest[overlay.inputs[name]] = False
    counts = np.bincount(one[rest & ~several & (one != REST)], minlength=1)
    return Connections(int(counts.min()), int(several.sum()))


def _own(module: Netlist, inner: bool = False) -> Numbers:
    """Nets of a module's own cells, and of its instances if ``inner``."""
    tables = [module.arcs[:, :-1], module.starts[:, :-1], module.ends[:, :-1], module.loads]
    if inner:
        tables += [nets for instance in module.instances for nets in instance.ports.values()]
    nets = np.concatenate([table.ravel() for table in tables])
    return nets[nets != NONE]


def _passed_through(overlay: Netlist, modules: Mapping[str, Netlist]) -> Numbers:
    """Of each net the one that it is, where a unit's output is its input."""
    same = np.arange(overlay.count, dtype=np.int32)
    for instance in overlay.instances:
        module = modules[instance.module]
        outside = np.full(module.count, NONE, np.int32)
        for name, inner in module.inputs.items():
            outside[inner[inner != NONE]] = instance.ports[name][inner != NONE]
        for name, inner in module.outputs.items():
            outer = instance.ports.get(name, np.full(len(inner), NONE, np.int32))
            through = (inner != NONE) & (outer != NONE)
            through[through] = outside[inner[through]] != NONE
            same[outer[through]] = outside[inner[through]]
    while (same[same] != same).any():
        same = same[same]
    return same
