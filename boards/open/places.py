"""Places for multipliers and block RAM. nextpnr's placer strews these over their rows, and long wires to them set the clock.

They are put where there is room while everything else still moves. So a design is placed twice: in the first placement it is seen where
the rest wants to be, each block is given the site at which its wires to the rest are shortest, and all the rest is placed around them.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

BLOCKS = ("MULT18X18D", "DP16KD")  # kinds of cells that stand in rows of their own
ROUNDS = 3  # blocks are connected to blocks: in each round those of a kind are moved as all others stand by then
WIDE = 64  # cells of a net; one of as many reaches over the device wherever a block stands
PLACED = "placed.json"
PLACE_ONLY = ("--no-route", "--write", PLACED)  # arguments of nextpnr
_BEL = re.compile(r"X(\d+)/Y(\d+)/(.+)")

Place = tuple[int, int, str]  # column, row, name of the site there


def better_places(placed: Path, top: str) -> dict[str, str]:
    """Bels for the blocks of a netlist that nextpnr has placed and written, by their names.

    A site costs a block, for each of its wires, by how much the wire reaches beyond the box around the net's other cells (half the
    perimeter, as placers count). Blocks of a kind get sites so that the sum is smallest. Sites are those where a column and a row meet in
    which blocks of the kind stand: an ECP5 has all its rows alike.
    """
    cells: dict[str, Any] = json.loads(placed.read_text())["modules"][top]["cells"]
    places: dict[str, Place] = {}
    on: defaultdict[int, set[str]] = defaultdict(set)
    for name, cell in cells.items():
        if found := _BEL.fullmatch(cell["attributes"].get("NEXTPNR_BEL", "")):
            places[name] = (int(found[1]), int(found[2]), found[3])
            for bit in _nets(cell):
                on[bit].add(name)
    blocks = [[name for name in sorted(places) if cells[name]["type"] == kind] for kind in BLOCKS]
    for names in ROUNDS * [names for names in blocks if names]:
        columns, rows = {(places[name][0], places[name][2]) for name in names}, {places[name][1] for name in names}
        sites = sorted((x, y, site) for x, site in columns for y in rows)
        costs = []
        for name in names:
            others = [on[bit] - {name} for bit in _nets(cells[name])]
            costs.append(_reach([[places[other][:2] for other in net] for net in others if 0 < len(net) < WIDE], sites))
        chosen = linear_sum_assignment(np.array(costs))[1]
        places |= {name: sites[site] for name, site in zip(names, chosen, strict=True)}
    return {name: "X{}/Y{}/{}".format(*places[name]) for names in blocks for name in names}


def _nets(cell: dict[str, Any]) -> Iterator[int]:
    """Of each connected pin; constants are none."""
    return (bit for bits in cell["connections"].values() for bit in bits if isinstance(bit, int))


def _reach(nets: list[list[tuple[int, int]]], sites: list[Place]) -> NDArray[np.int64]:
    """(sites,): by how much wires from there reach beyond the boxes of ``nets``, places of cells."""
    at, total = np.array([site[:2] for site in sites]), np.zeros(len(sites), np.int64)
    for net in nets:
        total += (np.maximum(0, np.min(net, 0) - at) + np.maximum(0, at - np.max(net, 0))).sum(1)
    return total


def fix(netlist: Path, top: str, bels: dict[str, str]) -> None:
    """Writes into a netlist by Yosys where nextpnr has to put cells."""
    design = json.loads(netlist.read_text())
    for name, bel in bels.items():
        design["modules"][top]["cells"][name]["attributes"]["BEL"] = bel
    netlist.write_text(json.dumps(design))
