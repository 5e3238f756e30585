"""Blocks of a placed netlist get the sites that make their wires shortest."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from boards.open.places import WIDE, better_places, fix

TOP = "top"
Net = list[tuple[str, str]]  # cells and their pins


def design(path: Path, cells: dict[str, tuple[str, str]], nets: list[Net]) -> Path:
    """A placed netlist as nextpnr writes it: cells with kind and bel, connected by ``nets``."""
    written: dict[str, Any] = {
        name: {"type": kind, "attributes": {"NEXTPNR_BEL": bel} if bel else {}, "connections": {}}
        for name, (kind, bel) in cells.items()
    }
    for bit, net in enumerate(nets):
        for name, pin in net:
            written[name]["connections"].setdefault(pin, []).append(bit)
    path.write_text(json.dumps({"modules": {TOP: {"cells": written}}}))
    return path


def test_two_that_stand_crossed_change_places(tmp_path: Path) -> None:
    cells = {
        "left": ("TRELLIS_FF", "X2/Y5/SLICEA.FF0"),
        "right": ("TRELLIS_FF", "X90/Y5/SLICEB.FF1"),
        "a": ("MULT18X18D", "X88/Y10/MULT18_0"),
        "b": ("MULT18X18D", "X4/Y10/MULT18_0"),
        "ram": ("DP16KD", "X50/Y22/EBR0"),
        "pll": ("EHXPLLL", ""),
    }
    placed = design(tmp_path / "placed.json", cells, [[("left", "Q"), ("a", "A0")], [("right", "Q"), ("b", "A0")]])
    assert better_places(placed, TOP) == {"a": "X4/Y10/MULT18_0", "b": "X88/Y10/MULT18_0", "ram": "X50/Y22/EBR0"}


@pytest.mark.parametrize("seed", range(5))
def test_no_order_has_shorter_wires(seed: int, tmp_path: Path) -> None:
    """Against every order of four blocks on their sites; a net's wires are what a block's reach beyond the box of the others."""
    source = random.Random(seed)
    at = {f"cell{k}": (source.randrange(100), source.randrange(90)) for k in range(30)}
    sites = [(x, y) for x in (4, 60) for y in (10, 58)]
    blocks = [f"block{k}" for k in range(len(sites))]
    nets = {name: [source.sample(sorted(at), source.randrange(1, 6)) for _ in range(5)] for name in blocks}
    cells = {name: ("TRELLIS_COMB", f"X{x}/Y{y}/SLICEA.COMB0") for name, (x, y) in at.items()}
    cells |= {name: ("MULT18X18D", f"X{x}/Y{y}/MULT18_0") for name, (x, y) in zip(blocks, sites, strict=True)}
    wires = [[(name, f"A{k}"), *((cell, "Q") for cell in net)] for name in blocks for k, net in enumerate(nets[name])]

    def reach(name: str, site: tuple[int, int]) -> int:
        total = 0
        for net in nets[name]:
            for axis in (0, 1):
                others = [at[cell][axis] for cell in net]
                total += max(0, min(others) - site[axis], site[axis] - max(others))
        return total

    found = better_places(design(tmp_path / "placed.json", cells, wires), TOP)
    place = {f"X{x}/Y{y}/MULT18_0": (x, y) for x, y in sites}
    assert sorted(found.values()) == sorted(place)
    best = min(sum(map(reach, blocks, order)) for order in itertools.permutations(sites))
    assert sum(reach(name, place[bel]) for name, bel in found.items()) == best


def test_blocks_pull_each_other_and_wide_nets_nothing(tmp_path: Path) -> None:
    """The memory follows the multiplier that it gives operands to; a reset to all cells counts nothing."""
    cells = {f"cell{k}": ("TRELLIS_FF", f"X2/Y{k}/SLICEA.FF0") for k in range(WIDE)}
    cells |= {"a": ("MULT18X18D", "X90/Y10/MULT18_0"), "b": ("MULT18X18D", "X4/Y10/MULT18_0")}
    cells |= {"c": ("DP16KD", "X90/Y22/EBR0"), "d": ("DP16KD", "X4/Y22/EBR0")}
    reset = [(name, "RST") for name in cells if name not in ("a", "c")]
    nets = [[("cell10", "Q"), ("a", "A0")], [("a", "B0"), ("c", "DOA0")], reset, reset, reset]
    assert better_places(design(tmp_path / "placed.json", cells, nets), TOP) == {
        "a": "X4/Y10/MULT18_0",
        "b": "X90/Y10/MULT18_0",
        "c": "X4/Y22/EBR0",
        "d": "X90/Y22/EBR0",
    }


def test_places_are_written_into_the_netlist(tmp_path: Path) -> None:
    netlist = tmp_path / "top.json"
    netlist.write_text(json.dumps({"modules": {TOP: {"cells": {"a": {"attributes": {}}, "b": {"attributes": {"keep": 1}}}}}}))
    fix(netlist, TOP, {"b": "X4/Y10/MULT18_0"})
    cells = json.loads(netlist.read_text())["modules"][TOP]["cells"]
    assert cells == {"a": {"attributes": {}}, "b": {"attributes": {"keep": 1, "BEL": "X4/Y10/MULT18_0"}}}


def test_a_design_without_blocks(tmp_path: Path) -> None:
    assert better_places(design(tmp_path / "placed.json", {"a": ("TRELLIS_FF", "X2/Y5/SLICEA.FF0")}, []), TOP) == {}
