"""A netlist with the modules below it in their places, so that paths across their borders are paths."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hw.clock.netlist import NONE, Inside, Instance, Netlist, Numbers


def linked(top: str, netlists: Mapping[str, Netlist]) -> Netlist:
    """``top`` with all instances of other modules replaced by these.

    Raises:
        KeyError: a module that is not among ``netlists``.
    """
    known: dict[str, Netlist] = {}

    def flat(name: str) -> Netlist:
        if name not in known:
            own = netlists[name]
            known[name] = (
                _joined(own, [(instance, flat(instance.module)) for instance in own.instances]) if own.instances else own
            )
        return known[name]

    return flat(top)


def _joined(own: Netlist, below: list[tuple[Instance, Netlist]]) -> Netlist:
    kinds = list(dict.fromkeys([*own.kinds, *(kind for _, child in below for kind in child.kinds)]))
    same = np.arange(own.count, dtype=np.int32)  # nets of ``own`` that are one
    places, count = list[Numbers](), own.count  # of each child's nets
    cells = [own.cells]  # first one of each child, and behind the last
    insides: list[Inside] = []
    for instance, child in below:
        insides.append(Inside(count, cells[-1], instance.name))
        insides += [Inside(count + net, cells[-1] + cell, f"{instance.name}.{name}") for net, cell, name in child.insides]
        cells.append(cells[-1] + child.cells)
        bound = _bound(instance, child, same)
        places.append(np.where(bound != NONE, bound, np.arange(count, count + child.count, dtype=np.int32)))
        count += child.count
    while (same[same] != same).any():
        same = same[same]
    every = np.concatenate([same, np.arange(own.count, count, dtype=np.int32)])
    parts = [(own, same), *((child, every[nets]) for (_, child), nets in zip(below, places, strict=True))]
    names = {int(same[net]): name for net, name in own.names.items()}
    for (instance, child), (_, nets) in zip(below, parts[1:], strict=True):
        for net, name in child.names.items():
            names.setdefault(int(nets[net]), f"{instance.name}.{name}")

    def moved(field: str) -> Numbers:
        """All parts' rows of nets and a kind."""
        rows: list[Numbers] = []
        for part, nets in parts:
            own_rows: Numbers = getattr(part, field)
            numbers = np.array([kinds.index(kind) for kind in part.kinds], np.int32)
            rows.append(np.concatenate([nets[own_rows[:, :-1]], numbers[own_rows[:, -1:]]], axis=1))
        return np.concatenate(rows)

    loads = np.concatenate([nets[part.loads] for part, nets in parts])
    firsts = [0, *cells]
    pins = np.concatenate(
        [
            np.stack([part.pins[:, 0] + first, nets[part.pins[:, 1]], part.pins[:, 2]], axis=1)
            for (part, nets), first in zip(parts, firsts, strict=False)
        ]
    )
    receivers = np.concatenate([part.receivers + first for (part, _), first in zip(parts, firsts, strict=False)])
    inputs, outputs = (
        {port: np.where(bits == NONE, NONE, same[bits]) for port, bits in ports.items()} for ports in (own.inputs, own.outputs)
    )
    return Netlist(
        count,
        names,
        kinds,
        moved("arcs"),
        moved("starts"),
        moved("ends"),
        loads,
        cells[-1],
        pins,
        receivers,
        inputs,
        outputs,
        insides=insides,
    )


def _bound(instance: Instance, child: Netlist, same: Numbers) -> Numbers:
    """(nets of ``child``,): those of the module around it at its ports, NONE for the others; notes in ``same`` which of them are one."""
    bound = np.full(child.count, NONE, np.int32)
    for port, inner in child.inputs.items():
        outer = instance.ports.get(port, np.full(len(inner), NONE, np.int32))
        used = (inner != NONE) & (outer != NONE)
        bound[inner[used]] = outer[used]
    for port, inner in child.outputs.items():
        outer = instance.ports.get(port, np.full(len(inner), NONE, np.int32))
        for net, outside in zip(inner.tolist(), outer.tolist(), strict=True):
            if NONE in (net, outside):
                continue
            if bound[net] == NONE:
                bound[net] = outside
            else:  # a wire through the module, or one of two outputs of a net
                same[outside] = bound[net]
    return bound
